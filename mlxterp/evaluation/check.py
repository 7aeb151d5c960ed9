"""Is this SAE any good, and does it belong here? Its figures on a component, and the likely cause where they are bad.

`check` takes the figures of `evaluate` and judges them (`judgement`): beside the mean, an untrained SAE, the SAE's
own figures and its own place. Then it tries the neighbours: other layers and components, other normalisations of
the input, the same without each text's first token. Where one of them fits far better, the report says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..anatomy.anatomy import Anatomy
from ..sae import SAE
from .diagnosis import likely_cause
from .evaluation import SAEEvaluation, evaluation_of
from .judgement import Judgement, stated
from .subject import Subject


@dataclass(frozen=True, slots=True)
class SAECheck:
    """How well an SAE fits a component of a model.

    Attributes:
        component: Path of the component.
        tokens: Number of tokens that count.
        explained_variance: 1 - sum |x - r|² / sum |x - mean x|², over all tokens but each context's first.
        fvu: 1 - explained_variance.
        l0: Active features of a token, on average.
        dead_share: Share of features active on none of these tokens (few tokens leave many features silent).
        loss: Cross-entropy of the model, nats for each token.
        loss_with_sae: The same with the reconstruction in the component's place.
        loss_recovered_zero: (loss with zeros - loss with SAE) / (loss with zeros - loss); 1 is perfect.
        loss_recovered_mean: The same against the mean activation, which is the harder comparison.
        expected: Published or trained figures that the metadata has: l0, explained_variance, loss_recovered_mean, …
        findings: What is wrong, and the likely cause; empty where all is well.
        verdict: "good" or "poor" on this component and these texts; see `check`.
        judged_variance: Explained variance on up to 2048 tokens without sinks (`activations.exclusions`): what the
            verdict is about.
        untrained_variance: Its control: the same of an SAE of this shape and L0 with random directions. The mean
            has 0.
        own_place: The component that the SAE's metadata names, where it is another than `component`.
    """

    component: str
    tokens: int
    explained_variance: float
    fvu: float
    l0: float
    dead_share: float
    loss: float
    loss_with_sae: float
    loss_recovered_zero: float
    loss_recovered_mean: float
    expected: dict[str, float] = field(default_factory=dict)
    findings: tuple[str, ...] = ()
    verdict: str = "good"
    judged_variance: float = float("nan")
    untrained_variance: float = float("nan")
    own_place: str | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @property
    def poor(self) -> bool:
        """Whether the SAE is of little use here."""
        return self.verdict == "poor"

    def __str__(self) -> str:
        lines = [
            f"SAE at {self.component}, {self.tokens} tokens: {self.verdict}",
            f"  explained variance {self.explained_variance:8.3f}   (FVU {self.fvu:.3f})",
            f"  without sinks      {self.judged_variance:8.3f}   untrained {self.untrained_variance:.3f}, the mean 0",
            f"  L0                 {self.l0:8.1f}   dead on these tokens {self.dead_share:.1%}",
            f"  loss               {self.loss:8.3f}   with SAE {self.loss_with_sae:.3f}",
            f"  loss recovered     {self.loss_recovered_zero:8.3f}   against the mean {self.loss_recovered_mean:.3f}",
        ]
        if self.expected:
            lines.append("  expected           " + ", ".join(f"{k} {v:g}" for k, v in self.expected.items()))
        return "\n".join([*lines, *(f"  ! {finding}" for finding in self.findings)])


_OF_EVALUATION = tuple(
    own.name for own in fields(SAECheck) if own.name in {figure.name for figure in fields(SAEEvaluation)}
)
"""Figures that a check has from the evaluation."""


def check(
    anatomy: Anatomy, sae: SAE, texts: Sequence[str], component: str | None = None, max_tokens: int = 8192
) -> SAECheck:
    """Figures of an SAE at a component, whether it is poor there, and the likely cause where they are bad.

    Explained variance alone says little: it depends on the layer and on L0. So what the SAE leaves unexplained is
    compared with what an untrained SAE of the same shape and L0 leaves there, which is much on hard layers and little
    on easy ones. It is poor where it

    * explains no more than the mean,
    * leaves more than 0.85 of what an untrained one leaves (0.45 where its metadata says that it was trained for fewer
      than 200 steps, or interrupted),
    * falls short of a figure in its metadata (explained variance, loss recovered) by more than 0.15 (0.3 where it
      was measured on tokens that training saw several times), or
    * fits its own place, another component, normalisation or scale so much better that less than 0.7 of
      the unexplained variance is left.

    SAEs that were trained to the end leave 0.05 to 0.7 of what untrained ones leave (`docs/saes.md`).

    Arguments and errors are those of `evaluate`.
    """
    subject = Subject.of(anatomy, sae, texts, component, max_tokens)
    figures = evaluation_of(subject)
    expected = stated(sae)
    judgement = Judgement.of(subject, figures.l0)
    against, beside = _findings(subject, figures, judgement, expected)
    return SAECheck(
        **{name: getattr(figures, name) for name in _OF_EVALUATION},
        expected=expected,
        findings=(*against, *beside),
        verdict="poor" if against else "good",
        judged_variance=judgement.value,
        untrained_variance=judgement.untrained,
        own_place=judgement.own_place,
    )


def _findings(
    subject: Subject, figures: SAEEvaluation, judgement: Judgement, expected: dict[str, float]
) -> tuple[list[str], list[str]]:
    """What makes it poor, and what else is to be said; the likely cause first."""
    against, beside, sae, place = [], [], subject.sae, subject.place
    own = judgement.elsewhere(place.name)
    if own is not None:
        (against if own[1] else beside).append(own[0])
    if not against and subject.target is place and sae.d_out == sae.d_model:
        cause, poor = likely_cause(subject.anatomy, sae, place, subject.contexts) or ("", False)
        if cause:
            (against if poor else beside).append(cause)
    recovered = {name: getattr(figures, name) for name in ("loss_recovered_mean", "loss_recovered_zero")}
    reasons = list(judgement.reasons(sae, expected, recovered))
    if reasons and not against:
        reasons.append(
            f"No layer, component or normalisation that was tried fits better than {place.name}. If this SAE was good"
            " elsewhere, it is another model's, or another checkpoint's."
        )
    against += reasons
    if "l0" in expected and not 0.5 <= figures.l0 / max(expected["l0"], 1e-9) <= 2:
        beside.append(f"L0 is {figures.l0:.1f}, {expected['l0']:g} were expected.")
    return against, beside

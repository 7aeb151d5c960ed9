"""Does this SAE belong here? Its figures on a component, and the likely cause where they are bad.

`check` takes the figures of `evaluate`, then tries the neighbours: other layers and components, other
normalisations of the input, the same without each text's first token. Where one of them fits far
better, the report says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..anatomy import Anatomy
from ..sae import SAE
from .diagnosis import likely_cause
from .evaluation import SAEEvaluation, evaluation_of
from .subject import Subject


@dataclass(frozen=True, slots=True)
class SAECheck:
    """How well an SAE fits a component of a model."""

    component: str
    tokens: int
    explained_variance: float
    """1 - sum |x - r|² / sum |x - mean x|², over all tokens but each context's first."""
    fvu: float
    """1 - explained_variance."""
    l0: float
    """Active features of a token, on average."""
    dead_share: float
    """Share of features active on none of these tokens (few tokens leave many features silent)."""
    loss: float
    """Cross-entropy of the model, nats for each token."""
    loss_with_sae: float
    """The same with the reconstruction in the component's place."""
    loss_recovered_zero: float
    """(loss with zeros - loss with SAE) / (loss with zeros - loss); 1 is perfect."""
    loss_recovered_mean: float
    """The same against the mean activation, which is the harder comparison."""
    expected: dict[str, float] = field(default_factory=dict)
    """Published or trained figures that the metadata has: l0, explained_variance."""
    findings: tuple[str, ...] = ()
    """What is wrong, and the likely cause; empty where all is well."""

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"SAE at {self.component}, {self.tokens} tokens",
            f"  explained variance {self.explained_variance:8.3f}   (FVU {self.fvu:.3f})",
            f"  L0                 {self.l0:8.1f}   dead on these tokens {self.dead_share:.1%}",
            f"  loss               {self.loss:8.3f}   with SAE {self.loss_with_sae:.3f}",
            f"  loss recovered     {self.loss_recovered_zero:8.3f}   against the mean {self.loss_recovered_mean:.3f}",
        ]
        if self.expected:
            lines.append("  expected           " + ", ".join(f"{k} {v:g}" for k, v in self.expected.items()))
        return "\n".join([*lines, *(f"  ! {finding}" for finding in self.findings)])


def check(
    anatomy: Anatomy, sae: SAE, texts: Sequence[str], component: str | None = None, max_tokens: int = 8192
) -> SAECheck:
    """Figures of an SAE at a component, and the likely cause where they are bad.

    Arguments and errors are those of `evaluate`.
    """
    subject = Subject.of(anatomy, sae, texts, component, max_tokens)
    figures = evaluation_of(subject)
    expected = _expected(sae)
    return SAECheck(
        component=figures.component,
        tokens=figures.tokens,
        explained_variance=figures.explained_variance,
        fvu=figures.fvu,
        l0=figures.l0,
        dead_share=figures.dead_share,
        loss=figures.loss,
        loss_with_sae=figures.loss_with_sae,
        loss_recovered_zero=figures.loss_recovered_zero,
        loss_recovered_mean=figures.loss_recovered_mean,
        expected=expected,
        findings=tuple(_findings(subject, figures, expected)),
    )


def _expected(sae: SAE) -> dict[str, float]:
    """Figures that the SAE's metadata promises."""
    expected = {
        key: float(sae.metadata[key])
        for key in ("l0", "explained_variance")
        if _is_number(sae.metadata.get(key))
    }
    if "l0" not in expected and sae.k is not None:
        expected["l0"] = float(sae.k)
    return expected


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _findings(subject: Subject, figures: SAEEvaluation, expected: dict[str, float]) -> list[str]:
    found, sae, place = [], subject.sae, subject.place
    if subject.target is place and sae.d_out == sae.d_model:
        cause = likely_cause(subject.anatomy, sae, place, subject.contexts)
        if cause:
            found.append(cause)
    if figures.fvu > 1 and not found:
        found.append(
            f"FVU is {figures.fvu:.2f}: a constant would reconstruct {place.name} better. No layer, component or"
            " normalisation that was tried fits; is it another model's SAE, or another checkpoint of this model?"
        )
    if "l0" in expected and not 0.5 <= figures.l0 / max(expected["l0"], 1e-9) <= 2:
        found.append(f"L0 is {figures.l0:.1f}, {expected['l0']:g} were expected.")
    said = expected.get("explained_variance")
    if said is not None and figures.explained_variance < said - 0.15:
        found.append(f"Explained variance is {figures.explained_variance:.2f}, {said:.2f} was published.")
    return found

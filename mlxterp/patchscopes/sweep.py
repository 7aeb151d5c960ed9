"""`patchscope`: a direction in the place of a token, at many lengths, and what the model says of it.

After Ghandeharioun et al., "Patchscopes" (2024), and for SAE features Kharlapenko et al., "Self-explaining SAE
features" (2024), who choose the length by the entropy of the next token and by self-similarity.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..activations.exclusions import SINK, prose
from ..activations.forward import collect
from ..anatomy.session import Model, session_of
from ..backends.base import LanguageModel
from ..backends.host.conversion import to_vector
from ..core import checks
from ..core.controls import DRAWS, Controlled, bootstrap
from ..core.integers import is_listable
from ..core.options import names_options
from ..core.sites import Component
from ..core.texts import shown_ids
from ..errors import InputError
from ..hooks.session import ModelSession
from ..tracing.continued import Continued
from ..tracing.generation import Request
from .answers import Answers, Patchscope
from .prompts import Prompt, prompts_of
from .replacement import Row, layer_of, predicted, stream_of, written
from .slopes import slopes_of
from .subject import Subject, subject_of, unit_of

NORMS = (0.1, 1.5)
"""Between these multiples of the natural length scales are spread, where none are given."""
_STEPS = 10
_LATE = 2
"""Layers before the end where self-similarity is measured."""


@names_options
def patchscope(
    model: Model, what: Any, prompt: Any = None, *, placeholder: str | int | None = None, layer: int = 2,
    scales: Iterable[float] | None = None, units: Literal["norm", "raw"] = "norm", max_tokens: int = 50,
    stop: Any = '"', temperature: float = 0.0, control: bool = True, seed: int = 0, add_mean: Any = None,
    chat: bool | None = None, derivatives: bool = False, prefill_step_size: int = 2048, verbose: bool = True,
) -> Patchscope:  # fmt: skip
    """Lets the model say what a direction means, by putting it in the place of a token of a question.

    At each scale the direction, so long, takes the place of the residual stream before `layer` at every placeholder
    while the prompt is read. All scales go on together, and what is generated is never replaced. The model must be able
    to answer the question; small models without instruction tuning are not.

    Args:
        what: (sae, feature); a vector (d_model,); a `SteeringVector`; or (component, text) or (component, text,
            position), a component's activation on another text, at its last token or at a position.
        prompt: A text with a placeholder; messages of a chat, the last of which may be the beginning of the answer;
            token ids; a name of `patchscopes.PROMPTS` ("meaning", "about", "repeat"), None for the first; or a list
            of several.
        placeholder: The text of one token, or a token id; None takes the tokenizer's unknown token or X, in the
            package's own questions whatever is one token there.
        layer: The layer that the direction enters; negative ones count from the last.
        scales: How long it is, at least 0; None takes ten from 0.1 to 1.5 natural lengths.
        units: "norm": times the median length of the stream there on the package's prose; "raw": as it is.
        max_tokens, temperature, prefill_step_size, verbose: As in `InterpretableModel.generate`.
        stop: Ends a text; None only at the text's end or `max_tokens`.
        control: Ask about a random direction and another feature too, and measure 20 random directions, which is one
            pass over the prompt for each of them and each scale.
        seed: Of the control, and of sampling.
        add_mean: A vector that is added to the direction, or True for the mean of the stream there on the prose; the
            placeholder's own activation is gone, so nothing else is left of what all activations have in common.
        chat: Whether a text is a user's turn; None: only the package's own questions are, where there is a template.
        derivatives: Also the slope of the entropy by the scale, by one backward pass.

    Raises:
        InputError: The prompt holds no placeholder or one of several tokens, a scale or setting cannot be, or the
            vector is zero or of another width.
        ComponentError: There is no such layer, or it is not one residual stream.
        UnknownFeatureError, SAEError: The SAE has no such feature, or is of another width.

    Examples:
        >>> dog = ("layers.0.resid_pre", "The big dog")
        >>> scope = model.patchscope(dog, "One day, Lily saw a X. The", layer=0, max_tokens=1, verbose=False)
        >>> scope.best(1)[0].text  # at the scale where the model is most certain of what comes next
        'dog'
    """
    settings = Request(
        max_tokens,
        temperature=temperature,
        stop=stop,
        seed=checks.seed(seed),
        prefill_step_size=prefill_step_size,
    )
    control, derivatives = checks.flag(control, "control"), checks.flag(derivatives, "derivatives")
    units, given = checks.choice(units, "units", ("norm", "raw")), _check_scales(scales)
    session = session_of(model, ModelSession)
    session.refresh()
    subject, component = subject_of(session, what), stream_of(session.anatomy, layer)
    prompts, named = prompts_of(session.plain.model, prompt, placeholder, chat)
    usual = _usual(session.anatomy.model, component)
    one = usual.length if units == "norm" else 1.0
    given = np.geomspace(*NORMS, _STEPS) * usual.length / one if given is None else given
    scope = _Scope(session, component, prompts, given * one, _mean(add_mean, usual.mean))
    directions, told = _directions(subject, control, seed)
    texts = scope.write([unit for _, unit in directions], settings, verbose)
    found = {kind: scope.answers(unit, some) for (kind, unit), some in zip(directions, texts, strict=True)}
    return Patchscope(
        subject=subject.described, component=component.name, layer=layer_of(component),
        prompts=tuple(asked.text for asked in prompts), placeholder=named, scales=given, units=units,
        unit=usual.length, mean_added=scope.mean is not None, answers=found["own"],
        random=found.get("random", ()), other=found.get("other", ()), others=told,
        derivatives=scope.slopes(subject.unit) * one if derivatives else None, seed=seed,
        certainty=_certainty(scope, found["own"], subject, control, seed),
    )  # fmt: skip


def _check_scales(given: Any) -> np.ndarray | None:
    """float64, ascending, each once.

    Raises:
        InputError: They are no numbers of at least 0, or none.
    """
    if given is None:
        return None
    if not is_listable(given):
        given = [given]
    hint = "For the opposite direction ask about -vector."
    found = sorted({checks.finite(one, "A scale", 0.0, checks.LARGEST, hint=hint) for one in given})
    if not found:
        raise InputError(
            "scales= is empty. Give numbers of at least 0, or None for ten around the natural length."
        )
    return np.array(found)


@dataclass(frozen=True, eq=False, slots=True)
class _Usual:
    """The residual stream on the package's prose, without its first token.

    Attributes:
        length: The median.
        mean: float32, (d_model,), attention sinks left out.
    """

    length: float
    mean: np.ndarray


def _usual(model: LanguageModel, component: Component) -> _Usual:
    parts = [model.backend.get(part.values) for part in collect(model, prose(model), component)]
    rows = np.concatenate(parts)[1:].astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    median = float(np.median(lengths))
    return _Usual(median, rows[lengths <= SINK * median].mean(axis=0).astype(np.float32))


def _mean(given: Any, usual: np.ndarray) -> np.ndarray | None:
    if given is None or isinstance(given, (bool, np.bool_)):
        return usual if given else None
    return to_vector(given, "add_mean", len(usual))


def _directions(
    subject: Subject, control: bool, seed: int
) -> tuple[list[tuple[str, np.ndarray]], tuple[str, str]]:
    """Units by kind, the direction first; what the other one and the random one are, in words."""
    found, told = [("own", subject.unit)], ("", "")
    if not control:
        return found, told
    described = ""
    if subject.other is not None:
        vector, described = subject.other(seed)
        found.append(("other", unit_of(vector)))
    found.append(("random", unit_of(subject.random(1, seed)[0])))
    return found, (described, f"random ({subject.kind})")


@dataclass(frozen=True, eq=False, slots=True)
class _Scope:
    """Prompts, and the lengths at which a direction is put into them."""

    session: ModelSession
    component: Component
    prompts: Sequence[Prompt]
    lengths: np.ndarray
    mean: np.ndarray | None

    def vectors(self, unit: np.ndarray) -> np.ndarray:
        """float32, (scales, d_model)."""
        found = unit * self.lengths[:, None]
        return (found if self.mean is None else found + self.mean).astype(np.float32)

    def rows(self, unit: np.ndarray, prompt: Prompt) -> list[Row]:
        """A row for each scale."""
        return [Row(prompt.ids, prompt.positions, vector[None]) for vector in self.vectors(unit)]

    def write(self, units: Sequence[np.ndarray], settings: Request, verbose: bool) -> list[list[Continued]]:
        """What is written for each direction, prompt by prompt, scale by scale; all of it together."""
        rows = [row for unit in units for prompt in self.prompts for row in self.rows(unit, prompt)]
        found = written(self.session, self.component.name, rows, settings, verbose=verbose)
        each = len(self.prompts) * len(self.lengths)
        return [found[i : i + each] for i in range(0, len(found), each)]

    def answers(self, unit: np.ndarray, texts: Sequence[Continued]) -> tuple[Answers, ...]:
        """What is said of a direction, for each prompt."""
        n = len(self.lengths)
        return tuple(
            self._answers(unit, prompt, texts[i * n : (i + 1) * n]) for i, prompt in enumerate(self.prompts)
        )

    def _answers(self, unit: np.ndarray, prompt: Prompt, texts: Sequence[Continued]) -> Answers:
        entropy, similar = self.measured(self.rows(unit, prompt), unit)
        failures = {i: str(one.failure) for i, one in enumerate(texts) if one.failure is not None}
        plain = self.session.tokenizer is None
        told = tuple(
            None if i in failures else shown_ids(one.tokens) if plain else one.text
            for i, one in enumerate(texts)
        )
        return Answers(told, entropy, similar, failures)

    def measured(self, rows: Sequence[Row], unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Next-token entropy and self-similarity of rows, float64 (rows,)."""
        anatomy = self.session.anatomy
        layers = len(anatomy.model.layers)
        late = anatomy.component(f"layers.{max(layer_of(self.component), layers - _LATE)}.resid_post")
        found = predicted(anatomy, self.component, rows, late)
        return found.entropy, _cosines(found.stream, unit)

    def slopes(self, unit: np.ndarray) -> np.ndarray:
        """float64, (scales,): of the entropy by the length of a direction."""
        return slopes_of(self.session.anatomy, self.component, self.prompts, self.vectors(unit), unit)


def _cosines(rows: np.ndarray, unit: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        lengths = np.linalg.norm(wide, axis=1)
        return np.where(lengths > 0, wide @ unit / np.where(lengths > 0, lengths, 1), 0.0)


def _certainty(
    scope: _Scope, own: Sequence[Answers], subject: Subject, control: bool, seed: int
) -> Controlled:
    """See `Patchscope.certainty`."""
    plain = [
        scope.measured([Row(prompt.ids, prompt.positions, None)], subject.unit)[0][0]
        for prompt in scope.prompts
    ]
    gains = np.array([before - _lowest(one.entropy) for before, one in zip(plain, own, strict=True)])
    drawn: list[float] = []
    if control:
        units = [unit_of(vector) for vector in subject.random(DRAWS, seed)]
        rows = [[row for unit in units for row in scope.rows(unit, prompt)] for prompt in scope.prompts]
        each = np.stack([scope.measured(some, subject.unit)[0].reshape(DRAWS, -1) for some in rows], axis=1)
        drawn = [float(np.mean([b - _lowest(e) for b, e in zip(plain, one, strict=True)])) for one in each]
    interval = bootstrap(gains, seed=seed) if len(gains) > 1 else None
    return Controlled(float(gains.mean()), interval, np.array(drawn), f"{subject.kind} directions", seed)


def _lowest(entropy: np.ndarray) -> float:
    known = entropy[np.isfinite(entropy)]
    return float(known.min()) if len(known) else float("nan")

"""`probe`: the direction of a component's activations that tells tokens with a concept from those without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..anatomy.session import Model, session_of
from ..backends.host.conversion import to_numpy
from ..core import checks
from ..core.controls import DRAWS, MOST_DRAWS, Controlled, bootstrap
from ..core.options import checks_options, names_options
from ..errors import InputError
from ..viz.lines import LinesView
from .concept_examples import ConceptExamples, concept_examples
from .logistic import fit_logistic

LEAST_F1 = 0.6
"""Below it a probe does not know the concept, and nothing can be said by it (Chanin et al. 2024)."""
_FEWEST = 5
"""Examples of each class."""


@names_options
def probe(
    model: Model | None, component: str, positive: Any, negative: Any, *, position: int = -1, C: float = 1.0,
    holdout: float = 0.3, allow_weak: bool = False, control: bool = True, draws: int = DRAWS, seed: int = 0,
    batch_tokens: int = 8192,
) -> Probe:  # fmt: skip
    """Fits a logistic probe of a concept, and tests it on texts that were held out.

    Activations are taken around their mean and in units of their root mean square, so that C means the same in every
    model; direction and threshold come back in the activations' own units. The control's probes are fitted to
    shuffled labels and tested on the true ones.

    Args:
        model: An `InterpretableModel`; None where activations are given.
        component: Path of the component that is read.
        positive: Texts, or activations (n, width), that have the concept: at least five.
        negative: The same of those that do not.
        position: Which token of each text is read; negative ones count from its end.
        C: The larger, the less the weights' length costs.
        holdout: Share of each class that the probe is tested on, in (0, 1).
        allow_weak: Whether a probe with F1 below 0.6 is returned, too.
        control: Whether probes of shuffled labels are fitted beside it.
        draws: Of them, at least 20.
        seed: Of the split and of the first draw.
        batch_tokens: Tokens that run together, about.

    Raises:
        InputError: Fewer than five examples of a class, a text on both sides, a row that is not finite, or an F1
            below 0.6.
        ComponentError: There is no such component.

    Examples:
        >>> from mlxterp import geometry
        >>> def before(word):  # beginnings of stories that end with it
        ...     return [text[: text.index(word)][-200:] + word for text in stories if word in text][:40]
        >>> found = geometry.probe(model, "layers.1.resid_post", before(" ball"), before(" dog"))
        >>> found.f1.value > 0.9
        True
    """
    C = checks.finite(C, "C", above=0.0)
    holdout = checks.finite(holdout, "holdout", above=0.0, below=1.0)
    allow_weak, control = checks.flag(allow_weak, "allow_weak"), checks.flag(control, "control")
    draws, seed = checks.count(draws, "draws", DRAWS, MOST_DRAWS), checks.seed(seed)
    examples = concept_examples(
        model, component, positive, negative, position=position, batch_tokens=batch_tokens
    )
    if model is not None and examples.texts:
        component = session_of(model).anatomy.component(component).name
    found = fitted(component, examples, C=C, holdout=holdout, draws=draws if control else 0, seed=seed)
    if found.f1.value < LEAST_F1 and not allow_weak:
        raise InputError(
            f"The probe's F1 on {int(found.held_out.sum())} held-out examples is {found.f1.value:.3f}, below"
            f" {LEAST_F1}: it does not know the concept, so nothing can be concluded by it. Give more texts, another"
            " layer or position; or allow_weak=True to look at it."
        )
    return found


def fitted(
    component: str, examples: ConceptExamples, *, C: float, holdout: float, draws: int, seed: int
) -> Probe:
    """See `probe`; a weak one comes back too.

    Raises:
        InputError: There are too few examples of a class.
    """
    held = _held_out(examples.labels, holdout, seed)
    fit = Fit(examples.take(~held).activations, C)
    direction, threshold = fit.on(examples.labels[~held])
    test = examples.take(held)
    said = test.activations @ direction > threshold
    pairs = np.stack([said, test.labels], axis=1)
    shuffled = np.zeros(draws)
    for i in range(draws):
        labels = np.random.default_rng([seed, 13, i]).permutation(examples.labels[~held])
        other, at = fit.on(labels)
        shuffled[i] = f1(np.stack([test.activations @ other > at, test.labels], axis=1))
    figure = Controlled(
        f1(pairs), bootstrap(pairs, f1, seed=seed), shuffled, "probes of shuffled labels", seed
    )
    return Probe(
        component=component, direction=direction, threshold=threshold, f1=figure,
        precision=float(test.labels[said].mean()) if said.any() else 0.0, recall=float(said[test.labels].mean()),
        examples=examples, held_out=held, C=C, seed=seed,
    )  # fmt: skip


@checks_options
@dataclass(frozen=True, eq=False, slots=True, repr=False, kw_only=True)
class Probe(LinesView):
    """A direction that tells a concept; made by `probe`.

    Attributes:
        component: Path of the component it reads.
        direction: float32, (width,), of length 1.
        threshold: A token has the concept where activation · direction is above it.
        f1: On the examples held out, with a 95 % interval over them, beside probes of shuffled labels.
        precision: Share of the held-out examples said to have the concept that have it.
        recall: Share of the held-out examples with the concept that are said to have it.
        examples: All that it was fitted and tested on.
        held_out: bool, (examples,): those it was tested on.
        C: Of the fit.
        seed: Of split and control.
    """

    component: str
    direction: np.ndarray
    threshold: float
    f1: Controlled
    precision: float
    recall: float
    examples: ConceptExamples
    held_out: np.ndarray
    C: float
    seed: int

    def says(self, activations: np.ndarray) -> np.ndarray:
        """bool, (n,): which of some activations (n, width) have the concept.

        Raises:
            InputError: They are of another width, or not finite.
        """
        rows = to_numpy(activations, "activations")
        if rows.ndim != 2 or rows.shape[1:] != self.direction.shape:
            raise InputError(f"Expected activations (n, {len(self.direction)}), got shape {rows.shape}.")
        if not np.isfinite(rows).all():
            raise InputError("Some of the activations are not finite, of which a probe can say nothing.")
        return np.asarray(rows @ self.direction > self.threshold)

    def __repr__(self) -> str:
        return f"<Probe at {self.component}: F1 {self.f1.value:.3f}>"

    def _title(self) -> str:
        return f"Probe at {self.component}"

    @property
    def _lines(self) -> list[str]:
        labels = self.examples.labels
        counts = [
            int((labels[rows] == what).sum()) for rows in (~self.held_out, self.held_out) for what in (1, 0)
        ]
        weak = "; too weak to conclude anything by" if self.f1.value < LEAST_F1 else ""
        return [
            f"Probe at {self.component}: F1 on held-out examples {self.f1}{weak}",
            f"precision {self.precision:.3f}, recall {self.recall:.3f}; fitted to {counts[0]} with and {counts[1]}"
            f" without the concept, tested on {counts[2]} and {counts[3]}",
        ]


class Fit:
    """Probes of the same activations (n, width) for any labels.

    Where there are fewer of them than columns, they are solved in the rows' own space, with the same result.

    Args:
        C: See `probe`.
    """

    def __init__(self, activations: np.ndarray, C: float):
        exact = activations.astype(np.float64)
        self._mean, self._C = exact.mean(axis=0), C
        self._rows = exact - self._mean
        self._scale = float(np.sqrt((self._rows**2).mean())) or 1.0
        self._rows /= self._scale
        self._basis: np.ndarray | None = None
        if len(exact) < exact.shape[1]:
            left, lengths, self._basis = np.linalg.svd(self._rows, full_matrices=False)
            self._rows = left * lengths

    def on(self, labels: np.ndarray) -> tuple[np.ndarray, float]:
        """Direction float32 (width,) of length 1, and threshold; a direction of zeros where rows do not differ."""
        weights, intercept = fit_logistic(self._rows, labels, self._C)
        length = float(np.linalg.norm(weights)) or 1.0
        direction = (weights if self._basis is None else weights @ self._basis) / length
        return direction.astype(np.float32), float(self._mean @ direction - intercept * self._scale / length)


def f1(pairs: np.ndarray) -> float:
    """F1 of (said, true) (n, 2); 0 where nothing is said or true."""
    said, true = pairs.T.astype(bool)
    return 2 * float((said & true).sum()) / max(1, int(said.sum() + true.sum()))


def _held_out(labels: np.ndarray, holdout: float, seed: int) -> np.ndarray:
    """bool, (n,): of each class about this share, at least two, and at least two left."""
    held = np.zeros(len(labels), dtype=bool)
    draw = np.random.default_rng([seed, 14])
    for what, name in ((True, "positive"), (False, "negative")):
        own = np.flatnonzero(labels == what)
        if len(own) < _FEWEST:
            raise InputError(
                f"{len(own)} different {name} examples; a probe needs at least {_FEWEST} of each class."
            )
        n = min(max(2, round(holdout * len(own))), len(own) - 2)
        held[draw.permutation(own)[:n]] = True
    return held

"""`absorption`: tokens of a concept on which the feature that should say it is silent, because another speaks for it.

An SAE that knows "starts with s" may have one feature for it that stays silent on "snake", whose own feature has taken
that part over (Chanin et al., "A is for Absorption", 2024). A probe says which tokens have the concept; what features
contribute to its direction says which of them is absorbed where. On small models a random direction in the probe's
place gives much the same figures, so each stands beside its controls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..anatomy.session import Model
from ..core import checks
from ..core.controls import DRAWS, MOST_DRAWS, Controlled, bootstrap, random_like
from ..core.feature_ids import Feature, feature_ids
from ..core.options import checks_options, names_options
from ..core.sparse import SparseFeatures
from ..errors import InputError, SAEError, warn
from ..sae import SAE
from ..viz.lines import LinesView, Table
from .concept_examples import ConceptExamples
from .contributions import Contributions, Limits, contributions, cosines_with, find_mains
from .mediation import Measured, Mediation, mediation
from .probes import LEAST_F1, Fit, Probe

_SHOWN, _TOKENS, _TEXT = 10, 5, 60


@dataclass(frozen=True, slots=True)
class Absorber:
    """A feature that speaks for a concept where the main features are silent.

    Attributes:
        feature: The feature.
        n: Tokens that it fully absorbs.
        cosine: Of its decoder row with the probe's direction.
        tokens: Those tokens, the commonest first; empty where activations were given.
    """

    feature: int
    n: int
    cosine: float
    tokens: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MissedToken:
    """A token that has the concept, as the probe says too, on which every main feature is silent.

    Attributes:
        row: Its number among the examples.
        text: Its text; "" where activations were given.
        token: The token; "" likewise.
        absorbed: Whether another feature takes over enough of the probe's direction: full absorption.
        feature: The other feature with the largest contribution; None where none is active.
        part: Its contribution as a share of the token's projection on the probe's direction.
    """

    row: int
    text: str
    token: str
    absorbed: bool
    feature: int | None
    part: float


@names_options
def absorption(
    sae: SAE, probe: Probe, examples: ConceptExamples | tuple[Any, Any] | None = None, *,
    mains: Sequence[Feature] | Feature | None = None, max_mains: int = 10, split_gain: float = 0.03,
    cos_full: float = 0.025, cos_share: float = 0.1, share: float = 0.4, top: int = 3, allow_weak: bool = False,
    control: bool = True, draws: int = DRAWS, seed: int = 0,
) -> Absorption:  # fmt: skip
    """How often an SAE's features for a concept are silent because another feature speaks for them.

    The main features are those whose being active says the concept best on the probe's training examples. Full
    absorption and its fraction are measured on tokens of the concept that the probe gets right; formulas and the
    default numbers are SAEBench's (see `geometry.contributions`), with the SAE's b_dec taken off the activations.

    Two controls: directions with the activations' covariance in the probe's place (turned so that the tokens lie on
    their positive side), on the same tokens with the same mains; and probe and mains of shuffled labels, on as many
    tokens that have such a label, those that the probe is surest of.

    Args:
        sae: An SAE of the component that the probe reads.
        examples: What it is measured on: `concept_examples`, or activations (n, width) with labels (n,). None takes
            those held out from the probe.
        mains: Given instead of found.
        max_mains: At most so many are found. 1 counts features that fire on a part of the concept as absorbers, and
            never as parts into which the main feature is split.
        split_gain: What a further main must add to F1.
        cos_full: Least cosine of an absorber with the probe.
        cos_share: The same for the fraction.
        share: Least part of the projection that is taken over.
        top: Features whose contributions count for the fraction.
        allow_weak: Whether a probe with F1 below 0.6 is taken.
        control: Whether the controls are computed.
        draws: Of each, at least 20.
        seed: Of the first draw.

    Raises:
        InputError: The probe is weak, it gets none of the examples right, or a number cannot be.
        SAEError: The SAE is a transcoder or rescales each token, or takes activations of another width.
        UnknownFeatureError: A main is no feature of the SAE.

    Examples:
        >>> from mlxterp import geometry
        >>> def before(word):  # beginnings of stories that end with it
        ...     return [text[: text.index(word)][-200:] + word for text in stories if word in text][:40]
        >>> known = geometry.probe(model, "layers.1.resid_post", before(" ball"), before(" dog"))
        >>> found = geometry.absorption(sae, known)
        >>> found.mains == (ball,), found.full.value
        (True, 0.0)
    """
    _check(sae, probe, checks.flag(allow_weak, "allow_weak"))
    limits = Limits(
        checks.finite(cos_full, "cos_full", -1, 1), checks.finite(cos_share, "cos_share", -1, 1),
        checks.finite(share, "share", above=0.0, most=1), checks.count(top, "top"),
    )  # fmt: skip
    most, gain = checks.count(max_mains, "max_mains"), checks.finite(split_gain, "split_gain", least=0.0)
    draws = checks.count(draws, "draws", DRAWS, MOST_DRAWS) if checks.flag(control, "control") else 0
    seed = checks.seed(seed)
    given = None if mains is None else feature_ids(mains, sae.d_hidden, "mains")
    task = _Task(sae, probe, _examples(examples, probe), given, most, gain, limits)
    chosen, scores = task.mains(task.train_labels, probe.direction)
    rows = np.flatnonzero(task.measured.labels & probe.says(task.measured.activations))
    if not len(rows):
        raise InputError(
            "The probe gets none of the examples with the concept right, so nothing can be measured."
        )
    beside = _Beside(task, rows, probe.direction, chosen, draws, seed)
    return Absorption(
        sae=sae, probe=probe, examples=task.measured, mains=tuple(chosen), main_f1=tuple(scores), rows=rows,
        found=beside.found, full=beside.directions(_full), fraction=beside.directions(_fraction),
        cosine=beside.directions(lambda one: one.cosine[one.full]), full_shuffled=beside.labels(_full),
        fraction_shuffled=beside.labels(_fraction),
    )  # fmt: skip


@checks_options
@dataclass(frozen=True, eq=False, slots=True, repr=False, kw_only=True)
class Absorption(LinesView):
    """Absorption of a concept's main features; made by `absorption`. `print` and notebooks show the absorbers.

    Attributes:
        sae: The SAE.
        probe: The probe.
        examples: What was measured on.
        mains: The concept's main features, the best first.
        main_f1: How well the first, the first two, … say the concept; empty where mains were given.
        rows: int64, (n,): the examples that count: with the concept, and the probe says so.
        found: What was found on each of them; every array is (n,).
        full: Share of them that is fully absorbed, beside random directions in the probe's place.
        fraction: Mean absorption fraction, beside the same.
        cosine: Mean cosine of the absorber with the direction, over the tokens fully absorbed (0 without any), beside
            the same. Where few features are active on a token, one of them carries enough of any direction, so that
            random ones look absorbed as often; what tells absorption is that the absorber points along the probe.
        full_shuffled: Share fully absorbed, beside shuffled labels.
        fraction_shuffled: Mean fraction, beside the same.
    """

    sae: SAE
    probe: Probe
    examples: ConceptExamples
    mains: tuple[int, ...]
    main_f1: tuple[float, ...]
    rows: np.ndarray
    found: Contributions
    full: Controlled
    fraction: Controlled
    cosine: Controlled
    full_shuffled: Controlled
    fraction_shuffled: Controlled

    @property
    def missed(self) -> tuple[MissedToken, ...]:
        """Tokens on which every main feature is silent; absorbed ones first, by the part that was taken over."""
        at, found = np.flatnonzero(self.found.missed), self.found
        order = np.lexsort((at, -found.part[at], ~found.full[at]))
        return tuple(
            MissedToken(
                int(self.rows[i]), self._text(i), self._token(i), bool(found.full[i]),
                None if found.best[i] < 0 else int(found.best[i]), float(found.part[i]),
            )
            for i in at[order].tolist()
        )  # fmt: skip

    @property
    def absorbers(self) -> tuple[Absorber, ...]:
        """Features that fully absorb some token, those of most tokens first."""
        at = np.flatnonzero(self.found.full)
        made = []
        for feature, n in Counter(self.found.best[at].tolist()).items():
            row = self.sae.W_dec[feature].astype(np.float64)
            tokens = Counter(self._token(i) for i in at[self.found.best[at] == feature].tolist())
            cosine = float(row @ self.probe.direction / np.linalg.norm(row))
            made.append(Absorber(feature, n, cosine, tuple(t for t, _ in tokens.most_common() if t)))
        return tuple(sorted(made, key=lambda one: (-one.n, one.feature)))

    def mediation(self, model: Model, n: int = 32, seed: int = 0) -> Mediation:
        """What taking features out of the model does to the probe and to the next token.

        On absorbed tokens the absorber is ablated, and another feature that is active there, chosen at random; on
        tokens that a main feature speaks for, that main. Each only where the token was read; the next token is the
        one after it.

        Args:
            n: At most so many tokens of each kind, chosen at random.
            seed: Of the choice.

        Raises:
            InputError: Activations were given instead of texts, no token is absorbed, or the model has no tokenizer.
        """
        measured = Measured(self.sae, self.probe, self.examples, self.mains, self.rows, self.found)
        return mediation(model, measured, checks.count(n, "n"), checks.seed(seed))

    # -- shown --------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"<Absorption at {self.probe.component}: {self.full.value:.3f} of {len(self.rows)} tokens>"

    def _title(self) -> str:
        return f"Absorption at {self.probe.component}"

    @property
    def _lines(self) -> list[str]:
        scores = (
            f" (F1 of all up to each {', '.join(f'{f:.2f}' for f in self.main_f1)})" if self.main_f1 else ""
        )
        outcome = {True: "", None: "", False: " (no more than the control)"}
        figures = [("full", self.full), ("full", self.full_shuffled), ("fraction", self.fraction)]
        figures += [("fraction", self.fraction_shuffled), ("absorber's cosine with the probe", self.cosine)]
        shuffled = () if len(self.full.control) else (self.full_shuffled, self.fraction_shuffled)  # said once
        return [
            f"Absorption at {self.probe.component}: {int(self.found.full.sum())} of {len(self.rows)} tokens fully"
            f" absorbed, {int(self.found.missed.sum())} missed",
            f"main features {', '.join(map(str, self.mains))}{scores}; probe F1 {self.probe.f1.value:.3f}",
            *(f"{n}: {one}{outcome[one.stands_out]}" for n, one in figures if one not in shuffled),
        ]

    @property
    def _tables(self) -> list[Table]:
        absorbers = [
            [str(a.feature), str(a.n), f"{a.cosine:.3f}", ", ".join(map(repr, a.tokens[:_TOKENS]))]
            for a in self.absorbers[:_SHOWN]
        ]
        missed = [
            [m.token or str(m.row), "" if m.feature is None else str(m.feature), f"{m.part:.2f}",
             "yes" if m.absorbed else "", m.text[-_TEXT:]]
            for m in self.missed[:_SHOWN]
        ]  # fmt: skip
        return [
            Table(("absorber", "tokens", "cosine with the probe", "which"), absorbers),
            Table(("missed token", "other feature", "its part", "absorbed", "text"), missed),
        ]

    def _text(self, i: int) -> str:
        return self.examples.texts[self.rows[i]] if self.examples.texts else ""

    def _token(self, i: int) -> str:
        return self.examples.tokens[self.rows[i]] if self.examples.tokens else ""


# -- how it is measured ---------------------------------------------------------------------------


class _Task:
    """One SAE, probe and set of examples; measures under any direction, mains and labels."""

    def __init__(
        self, sae: SAE, probe: Probe, measured: ConceptExamples, given: list[int] | None, most: int, gain: float,
        limits: Limits,
    ):  # fmt: skip
        train = probe.examples.take(~probe.held_out)
        self.measured, self.train_labels = measured, train.labels
        self._given, self._most, self._gain, self._limits = given, most, gain, limits
        self._W_dec = sae.W_dec
        self._train = sae.encode_sparse(train.activations) if given is None else None
        self._features: SparseFeatures = sae.encode_sparse(measured.activations)
        self._centred = measured.activations - sae.b_dec
        self._fit = Fit(train.activations, probe.C)

    def mains(self, labels: np.ndarray, direction: np.ndarray) -> tuple[list[int], list[float]]:
        """Main features of labels of the training examples, and their F1."""
        if self._train is None:
            return self._given or [], []
        return find_mains(self._train, labels, cosines_with(self._W_dec, direction), self._most, self._gain)

    def on(self, rows: np.ndarray, direction: np.ndarray, mains: Sequence[int]) -> Contributions:
        return contributions(
            self._features.take(rows), self._W_dec, self._centred[rows], direction, mains, self._limits
        )

    def directions(self, draws: int, seed: int) -> list[np.ndarray]:
        """Random directions of length 1 with the covariance of the measured activations."""
        around = self.measured.activations - self.measured.activations.mean(axis=0)
        found: list[np.ndarray] = []
        while len(found) < draws:
            made = random_like(around, "covariance", (seed + len(found)) % 2**64)
            found += [row / np.linalg.norm(row) for row in made[:draws] if row.any()]
        return found[:draws]

    def random(self, rows: np.ndarray, mains: Sequence[int], direction: np.ndarray) -> Contributions:
        sign = 1.0 if (self._centred[rows] @ direction).mean() >= 0 else -1.0
        return self.on(rows, sign * direction, mains)

    def shuffled(self, seed: int, i: int, n: int) -> Contributions:
        draw = np.random.default_rng([seed, 15, i])
        labels = draw.permutation(self.train_labels)
        direction, _ = self._fit.on(labels)
        rows = np.flatnonzero(draw.permutation(self.measured.labels))
        surest = np.argsort(-(self.measured.activations[rows] @ direction), kind="stable")[:n]
        return self.on(np.sort(rows[surest]), direction, self.mains(labels, direction)[0])


Figure = Callable[[Contributions], np.ndarray]
"""A figure of each token, whose mean is given."""


def _full(one: Contributions) -> np.ndarray:
    return one.full


def _fraction(one: Contributions) -> np.ndarray:
    return one.fraction


class _Beside:
    """What is found on the tokens, beside the same on each draw of both controls."""

    def __init__(
        self, task: _Task, rows: np.ndarray, direction: np.ndarray, mains: Sequence[int], draws: int, seed: int
    ):  # fmt: skip
        self.found, self._seed = task.on(rows, direction, mains), seed
        self._random = [task.random(rows, mains, other) for other in task.directions(draws, seed)]
        self._shuffled = [task.shuffled(seed, i, len(rows)) for i in range(draws)]

    def directions(self, figure: Figure) -> Controlled:
        return self._controlled(figure, self._random, "random directions of the activations' covariance")

    def labels(self, figure: Figure) -> Controlled:
        return self._controlled(figure, self._shuffled, "shuffled labels")

    def _controlled(self, figure: Figure, made: list[Contributions], kind: str) -> Controlled:
        units = figure(self.found).astype(np.float64)
        drawn = np.array([_mean(figure(one)) for one in made])
        return Controlled(_mean(units), bootstrap(units, seed=self._seed), drawn, kind, self._seed)


def _mean(values: np.ndarray) -> float:
    """Of the tokens; 0 without any."""
    return float(values.mean()) if len(values) else 0.0


def _examples(given: Any, probe: Probe) -> ConceptExamples:
    if given is None:
        return probe.examples.take(probe.held_out)
    if isinstance(given, ConceptExamples):
        return given
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise InputError(
            f"examples is {type(given).__name__}; expected concept_examples(…), or activations with their labels."
        )
    return ConceptExamples(*given)


def _check(sae: Any, probe: Any, allow_weak: bool) -> None:
    tests: list[tuple[Callable[[], bool], type[Exception], str]] = [
        (lambda: isinstance(sae, SAE) and isinstance(probe, Probe), InputError,
         f"Expected an SAE and a Probe, got {type(sae).__name__} and {type(probe).__name__}."),
        (lambda: not sae.is_transcoder and not sae.needs_input, SAEError,
         "Contributions of features to a probe are defined for SAEs whose reconstruction is a sum of decoder rows, in"
         " the activations' own units; this one is a transcoder, or depends on its input."),
        (lambda: sae.d_model == len(probe.direction), SAEError,
         f"The SAE takes activations of width {getattr(sae, 'd_model', 0)}, the probe of"
         f" {len(getattr(probe, 'direction', ()))}."),
        (lambda: allow_weak or probe.f1.value >= LEAST_F1, InputError,
         f"The probe's F1 is below {LEAST_F1}: it does not know the concept. allow_weak=True goes on."),
    ]  # fmt: skip
    for holds, error, message in tests:
        if not holds():
            raise error(message)
    if probe.examples.texts and sae.component not in (None, probe.component):
        warn(
            f"The probe reads {probe.component}, the SAE was trained on {sae.component}: its features are measured on"
            " activations of another place."
        )

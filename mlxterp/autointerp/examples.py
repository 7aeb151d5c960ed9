"""Windows of features, drawn from an index: some to explain from, others, of other texts, to score on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core import checks
from ..core.feature_ids import Feature, is_several
from ..core.options import names_options
from ..core.progress import hidden
from ..errors import InputError
from ..index.examples import FeatureExample
from ..index.feature_index import FeatureIndex
from ..index.windows import Windows
from .plan import Plan

_SAME = 5
"""Windows are the same where so many tokens on both sides of the place are."""
_TRIES = 200
"""Places that are looked at for a window, at most so many for each that is wanted."""
_TENTHS = 10


@dataclass(frozen=True, eq=False, slots=True)
class Sample:
    """A window that was drawn.

    Attributes:
        example: The tokens and the feature's activations on them.
        kind: How it was drawn; see `Plan`.
        active: Whether the feature is active anywhere in it.
        tenth: The tenth of all ranks that it comes from, 9 the strongest; None where the feature is not active.
    """

    example: FeatureExample
    kind: str
    active: bool
    tenth: int | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Drawn:
    """What was drawn for one feature.

    Attributes:
        feature_id: The feature.
        explaining: Windows to explain from, by kind, the strongest first.
        draws: Windows to score on, of other texts: those where it is active first, then those where it is not.
        contrast: Windows of texts to explain from where it is not active.
        reason: Why there are too few of them; "" where there are enough.
    """

    feature_id: int
    explaining: tuple[Sample, ...] = ()
    draws: tuple[tuple[Sample, ...], ...] = ()
    contrast: tuple[Sample, ...] = ()
    reason: str = ""


class Examples(Mapping[int, Drawn]):
    """What `collect` drew: `examples[feature]`, in the order in which features were asked for.

    Attributes:
        plan: What was asked for.
        index: What the index is of: fingerprint of the SAE, texts and tokens.
    """

    def __init__(self, drawn: Iterable[Drawn], plan: Plan, index: Mapping[str, Any]):
        self._drawn = {one.feature_id: one for one in drawn}
        self.plan, self.index = plan, index

    def __getitem__(self, feature_id: int) -> Drawn:
        return self._drawn[feature_id]

    def __iter__(self) -> Iterator[int]:
        return iter(self._drawn)

    def __len__(self) -> int:
        return len(self._drawn)

    @property
    def left_out(self) -> dict[int, str]:
        """Features with too few windows, and why."""
        return {feature: one.reason for feature, one in self.items() if one.reason}

    def __repr__(self) -> str:
        return f"Examples({len(self)} features, {len(self.left_out)} of them left out; seed {self.plan.seed})"


@names_options
def collect(
    index: FeatureIndex,
    features: Feature | Iterable[Feature],
    plan: Plan | None = None,
    *,
    verbose: bool = True,
) -> Examples:
    """Draws windows of features. Nothing is run: all of it comes from the index.

    Windows that are alike (five tokens on both sides) come once. A text, or another of the same words, gives windows
    to explain from or to score on, never both. Every window called inactive was looked up.

    Args:
        index: With its SAE attached, where `plan` asks for neighbours.
        plan: None takes `Plan()`.
        verbose: Whether a bar shows how many features are done.

    Returns:
        What was drawn by feature. Features with too few windows have a reason instead.

    Raises:
        UnknownFeatureError: A feature lies outside [0, d_hidden).
        FeatureIndexError: Neighbours are asked for, and the index has no SAE.

    Examples:
        >>> from mlxterp import autointerp
        >>> drawn = autointerp.collect(index, [ball], autointerp.Plan(least=1), verbose=False)[ball]
        >>> drawn.explaining[0].example.tokens[10]
        ' ball'
    """
    from tqdm.auto import tqdm

    plan = Plan() if plan is None else checks.instance(plan, "plan", Plan)
    ids = [index.check_feature(feature) for feature in _several(features)]
    collector = _Collector(index, plan)
    with tqdm(ids, desc="collect", unit="feature", disable=hidden(verbose), delay=1.0) as bar:
        return Examples([collector.drawn(feature) for feature in bar], plan, described(index))


def examples_for(
    index: FeatureIndex, features: Any, plan: Plan | None, examples: Examples | None, verbose: bool
) -> Examples:
    """The examples given, or new ones by the plan.

    Raises:
        InputError: Both are given, or the examples are of another index.
    """
    if examples is None:
        return collect(index, features, plan, verbose=verbose)
    checks.instance(examples, "examples", Examples, hint="autointerp.collect gives some.")
    if plan is not None or examples.index != described(index):
        raise InputError("examples= of this index take the place of plan=; give one of them.")
    return examples


def described(index: FeatureIndex) -> dict[str, Any]:
    """What an index is of."""
    return {"sae": index.fingerprint, "texts": index.n_texts, "tokens": index.n_tokens}


def _several(features: Any) -> list[Any]:
    """One feature or many; what a search returned stands for its feature."""
    return list(features) if is_several(features) else [features]


class _Collector:
    """Draws the windows of one feature after another."""

    def __init__(self, index: FeatureIndex, plan: Plan):
        self._index, self._plan = index, plan
        self._windows = Windows(index, plan.before, plan.after)
        self._for_scoring: dict[int, bool] = {}

    def drawn(self, feature: int) -> Drawn:
        """The windows of a feature, or why there are too few."""
        peaks = self._windows.peaks(feature)
        if not len(peaks):
            return Drawn(feature, reason="it is never active in this index")
        draw = np.random.default_rng([self._plan.seed, feature])
        rows = _Rows(peaks.text_ids, peaks.positions, np.abs(peaks.values))
        scoring = np.array([self._scores(int(text)) for text in peaks.text_ids])
        seen: set[Any] = set()
        explaining = self._positives(
            feature, rows, np.flatnonzero(~scoring), self._plan.explaining, draw, seen
        )
        apart = np.random.default_rng([self._plan.seed, feature, 1])
        contrast: list[Sample] = []
        for kind, n in self._plan.contrast.items():
            places = self._places(kind, feature, explaining, apart)
            contrast += self._negatives(feature, kind, places, n, seen, scoring=False)
        draws = tuple(
            self._draw(feature, rows, np.flatnonzero(scoring), explaining, seen, np.random.default_rng(child))
            for child in np.random.SeedSequence([self._plan.seed, feature]).spawn(self._plan.draws)
        )
        return self._enough(feature, explaining, draws, contrast, len(peaks))

    def _draw(
        self, feature: int, rows: _Rows, which: np.ndarray, explaining: list[Sample], seen: set[Any],
        draw: np.random.Generator,
    ) -> tuple[Sample, ...]:  # fmt: skip
        """Positives, then negatives; none is one of those to explain from."""
        mine = set(seen)
        positives = self._positives(feature, rows, which, self._plan.positives, draw, mine)
        found = list(positives)
        for kind, n in self._plan.negatives.items():
            places = self._places(kind, feature, [*positives, *explaining], draw)
            found += self._negatives(feature, kind, places, n, mine)
        return tuple(found)

    def _enough(
        self, feature: int, explaining: list[Sample], draws: tuple[tuple[Sample, ...], ...],
        contrast: list[Sample], texts: int,
    ) -> Drawn:  # fmt: skip
        least = self._plan.least
        active = min(sum(one.active for one in samples) for samples in draws)
        inactive = min(sum(not one.active for one in samples) for samples in draws)
        for have, what in (
            (len(explaining), "windows to explain from"),
            (active, "windows to score on where it is active"),
            (inactive, "windows where it is not active"),
        ):
            if have < least:
                return Drawn(
                    feature, reason=f"{have} {what}, of {texts} texts where it is active; {least} are wanted"
                )
        return Drawn(feature, tuple(explaining), draws, tuple(contrast))

    def _scores(self, text_id: int) -> bool:
        """Whether a text is for scoring; texts of the same words go the same way."""
        if text_id not in self._for_scoring:
            words = self._windows.text(text_id).encode("utf-8", "surrogatepass")
            key = self._plan.seed.to_bytes(8, "little")
            self._for_scoring[text_id] = bool(hashlib.blake2b(words, digest_size=1, key=key).digest()[0] & 1)
        return self._for_scoring[text_id]

    # -- where it is active -------------------------------------------------------------------

    def _positives(
        self, feature: int, rows: _Rows, which: np.ndarray, kinds: Mapping[str, int], draw: np.random.Generator,
        seen: set[Any],
    ) -> list[Sample]:  # fmt: skip
        found: list[Sample] = []
        for kind, n in kinds.items():
            mine: list[tuple[int, Sample]] = []
            for row in rows.ordered(kind, which, draw):
                if len(mine) == n:
                    break
                example = self._windows.at(feature, int(rows.text_ids[row]), int(rows.positions[row]))
                if _new(example, seen):
                    mine.append((int(row), Sample(example, kind, True, rows.tenth(int(row)))))
            found += [sample for _, sample in sorted(mine, key=lambda pair: pair[0])]
        return found

    # -- where it is not ----------------------------------------------------------------------

    def _negatives(
        self, feature: int, kind: str, places: Iterator[tuple[int, int]], n: int, seen: set[Any],
        scoring: bool = True,
    ) -> list[Sample]:  # fmt: skip
        found: list[Sample] = []
        for _, (text_id, position) in zip(range(n * _TRIES), places, strict=False):
            if len(found) == n:
                break
            if self._scores(text_id) != scoring or self._windows.is_active(feature, text_id, position):
                continue
            example = self._windows.at(feature, text_id, position)
            if _new(example, seen):
                found.append(Sample(example, kind, False))
        return found

    def _places(
        self, kind: str, feature: int, samples: list[Sample], draw: np.random.Generator
    ) -> Iterator[tuple[int, int]]:
        """Where a negative of a kind may stand; the place may be one where the feature is active."""
        windows = self._windows
        if kind == "random":
            return windows.any_places(draw)
        if kind == "same_token":
            peaks = [(one.example.text_id, one.example.position) for one in samples]
            tokens = dict.fromkeys(windows.token_at(*peak) for peak in peaks)
            return _in_turn([windows.places_of_token(token, draw) for token in tokens])
        by = "decoder" if kind == "neighbour" else "coactivation"
        others = [other for other, _ in self._index.similar(feature, self._plan.neighbours, by)]
        return _in_turn([self._peaks_of(other, draw) for other in others])

    def _peaks_of(self, feature: int, draw: np.random.Generator) -> Iterator[tuple[int, int]]:
        peaks = self._windows.peaks(feature)
        for row in draw.permutation(len(peaks)):
            yield int(peaks.text_ids[row]), int(peaks.positions[row])


@dataclass(frozen=True, eq=False, slots=True)
class _Rows:
    """The strongest place of each text, the strongest text first."""

    text_ids: np.ndarray
    positions: np.ndarray
    strengths: np.ndarray

    def tenth(self, row: int) -> int:
        """Of all ranks, 9 the strongest."""
        n = len(self.text_ids)
        return (n - 1 - row) * _TENTHS // n

    def ordered(self, kind: str, which: np.ndarray, draw: np.random.Generator) -> Iterable[int]:
        """Some rows in the order in which a kind takes them."""
        if kind == "top":
            return which
        if kind == "random":
            return draw.permutation(which)
        if kind == "weighted":
            return which[np.argsort(draw.exponential(size=len(which)) / self.strengths[which])]
        tenths: list[list[int]] = [[] for _ in range(_TENTHS)]
        for row in draw.permutation(which):
            tenths[self.tenth(int(row))].append(int(row))
        return _in_turn([iter(rows) for rows in reversed(tenths)])


def _in_turn(several: list[Iterator[Any]]) -> Iterator[Any]:
    """One of each in turn, until all are through."""
    nothing = object()
    while several:
        left = []
        for one in several:
            if (value := next(one, nothing)) is not nothing:
                left.append(one)
                yield value
        several = left


def _new(example: FeatureExample, seen: set[Any]) -> bool:
    """Whether no window so far has the same tokens around its place; notes them."""
    at = example.position - example.start
    first = max(0, at - _SAME)
    key = (at - first, example.tokens[first : at + _SAME + 1])
    new = key not in seen
    seen.add(key)
    return new

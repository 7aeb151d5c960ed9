"""`Judged`: items with what a judge said of them, and every figure that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..concepts.explanations import Score
from . import measures
from .feature_score import Detail
from .judges import PROBABILITIES
from .measures import Figure
from .scorers import SCORERS, Answers, Item, Scorer, active_of

_SHOWN = 5
"""Windows that were wrongly called active, of which a score shows the text."""


@dataclass(frozen=True, eq=False)
class Judged:
    """Answers about the windows of some draws.

    Attributes:
        task: The scorer's name.
        items: Of all draws, one draw after the other.
        answers: Of each item; NaN where the judge failed.
        draws: int64, (items,): which draw each is of.
    """

    task: str
    items: Sequence[Item]
    answers: Answers
    draws: np.ndarray

    @property
    def _scorer(self) -> Scorer:
        return SCORERS[self.task]

    @cached_property
    def _kept(self) -> list[int]:
        """Items that the judge answered."""
        return [i for i, answer in enumerate(self.answers) if not np.isnan(answer).any()]

    @cached_property
    def _figure(self) -> Figure:
        return self._scorer.figure([self.items[i] for i in self._kept], [self.answers[i] for i in self._kept])

    @cached_property
    def _active(self) -> np.ndarray:
        return active_of([self.items[i] for i in self._kept])

    @property
    def value(self) -> float:
        """The score, failures left out; NaN where too little was judged."""
        kinds = set(self._active.tolist())
        return float("nan") if len(kinds) < 1 + self._scorer.inactive else self._of(np.ones(len(self._kept)))

    def score(self, seed: int) -> tuple[Score, Detail] | None:
        """The score with what stands behind it; None where too little was judged."""
        value = self.value
        if not np.isfinite(value):
            return None
        ends = measures.interval(self._figure, self._active, seed)
        failed = len(self.items) - len(self._kept)
        return Score(value, self._scorer.chance, ends, len(self._kept), failed, seed), self._detail()

    def _detail(self) -> Detail:
        which = self.draws[self._kept]
        samples = [self.items[i].sample for i in self._kept]
        tenths = np.array([-1 if one.tenth is None else one.tenth for one in samples])
        kinds = np.array([("active: " if one.active else "inactive: ") + one.kind for one in samples])
        strengths = np.array([abs(one.example.activation) if one.active else 1.0 for one in samples])
        alone = self._scorer.by_window
        detail = Detail(
            draws=np.array([self._of(which == n) for n in range(int(self.draws.max()) + 1)]),
            as_wrong=self._as_wrong(),
            by_kind={str(k): self._of(self._beside(kinds == k, alone)) for k in dict.fromkeys(kinds)},
        )
        if not self._scorer.inactive:
            return detail
        known = np.unique(tenths[tenths >= 0])
        by_tenth = {int(t): self._of(self._beside(tenths == t, False)) for t in known}
        return self._with_classes(detail, by_tenth, self._of(strengths), tenths, known)

    def _with_classes(
        self,
        detail: Detail,
        by_tenth: dict[int, float],
        weighted: float,
        tenths: np.ndarray,
        known: np.ndarray,
    ) -> Detail:
        """What only items of both kinds have."""
        if self._scorer.answers != PROBABILITIES:
            given = np.array([float(np.mean(self.answers[i])) for i in self._kept])
            return Detail(
                detail.draws, detail.as_wrong, measures.auroc(given, self._active), by_kind=detail.by_kind,
                by_tenth=by_tenth, weighted=weighted,
            )  # fmt: skip
        given = np.array([self.answers[i][0] for i in self._kept])
        recalls = {int(t): measures.recall(given[tenths == t], self._active[tenths == t]) for t in known}
        return Detail(
            detail.draws, detail.as_wrong, measures.auroc(given, self._active),
            measures.precision(given, self._active), measures.recall(given, self._active), recalls, detail.by_kind,
            by_tenth, weighted, self._false_positives(given),
        )  # fmt: skip

    def _false_positives(self, given: np.ndarray) -> tuple[str, ...]:
        wrong = np.flatnonzero((measures.says_yes(given) == 1) & ~self._active)
        surest = wrong[np.argsort(-given[wrong], kind="stable")]
        texts = ("".join(self.items[self._kept[i]].sample.example.tokens) for i in surest)
        return tuple(list(dict.fromkeys(texts))[:_SHOWN])

    def _beside(self, which: np.ndarray, alone: bool) -> np.ndarray:
        """Some items, with all of the other kind where a figure compares both."""
        other = ~self._active if self._active[which].any() else self._active
        return which if alone else which | other

    def _of(self, weights: np.ndarray) -> float:
        return float(self._figure(np.asarray(weights, dtype=np.float64)[None])[0])

    def _as_wrong(self) -> float:
        """The score where a failure counts as the wrong answer (of a simulation: as one that says nothing)."""
        if len(self._kept) == len(self.items):
            return self.value
        middle = float(np.mean(np.concatenate([self.answers[i] for i in self._kept])))
        kept = set(self._kept)
        filled = [
            answer if i in kept else self._wrong(item, answer, middle)
            for i, (item, answer) in enumerate(zip(self.items, self.answers, strict=True))
        ]
        return float(self._scorer.figure(self.items, filled)(np.ones((1, len(filled))))[0])

    def _wrong(self, item: Item, answer: np.ndarray, middle: float) -> np.ndarray:
        if self._scorer.answers == "strengths":
            return np.full(len(answer), middle)
        if len(item.questions) > 1:
            return np.roll(np.arange(len(answer)) == item.right, 1).astype(np.float64)
        if self._scorer.answers == PROBABILITIES:
            return np.array([0.0 if item.right else 1.0])
        return np.array([-np.inf if item.right else np.inf])

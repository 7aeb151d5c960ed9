"""`Coactivation`: pairs of features that are active in the same units, and how much more than by chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core import checks, feature_ids
from ..core.controls import Controlled
from ..core.feature_ids import Feature
from ..core.frames import data_frame
from ..core.sparse import SparseFeatures
from ..errors import InputError
from ..viz.lines import LinesView, Table

MEASURES = ("pmi", "lift", "phi", "jaccard")
SHOWN = 20
"""Rows of a table."""


@dataclass(frozen=True, eq=False, slots=True)
class FeaturePairs:
    """Pairs of features that are active in the same units.

    Attributes:
        first: int32, (pairs,): the lower feature id.
        second: int32, (pairs,): the higher one.
        count: int64, (pairs,): units where both are active.
        counts: int64, (d_hidden,): units where each feature is active.
        n: Units.
    """

    first: np.ndarray
    second: np.ndarray
    count: np.ndarray
    counts: np.ndarray
    n: int

    def __len__(self) -> int:
        return len(self.first)

    @property
    def expected(self) -> np.ndarray:
        """float64, (pairs,): units where both would be active by chance."""
        return self.counts[self.first] * (self.counts[self.second] / self.n)

    @property
    def lift(self) -> np.ndarray:
        """float64, (pairs,): count by what chance gives."""
        return self.count / self.expected

    @property
    def pmi(self) -> np.ndarray:
        """float64, (pairs,): log of the lift, nats."""
        return np.log(self.lift)

    @property
    def jaccard(self) -> np.ndarray:
        """float64, (pairs,): units where both are active by those where one is."""
        return self.count / (self.counts[self.first] + self.counts[self.second] - self.count)

    @property
    def phi(self) -> np.ndarray:
        """float64, (pairs,): correlation of the two as 0 and 1; NaN where one is active in every unit."""
        n = float(self.n)
        a, b = (self.counts[ids].astype(np.float64) for ids in (self.first, self.second))
        below = np.sqrt(a * (n - a) * b * (n - b))
        found = np.full(len(self), np.nan)
        return np.divide(n * self.count - a * b, below, out=found, where=below > 0)

    def measure(self, by: str) -> np.ndarray:
        """One of "pmi", "lift", "phi" and "jaccard", (pairs,)."""
        return getattr(self, checks.choice(by, "by", MEASURES))


@dataclass(frozen=True, eq=False, slots=True, repr=False, kw_only=True)
class Coactivation(LinesView):
    """Features that are active together; made by `coactivation`. `print` and notebooks show the strongest pairs.

    Attributes:
        level: "token", "window" or "text".
        window: Tokens of a window.
        n: Units: tokens that count, windows or texts.
        min_count: Pairs together in fewer units were left out.
        counts: int64, (d_hidden,): units where each feature is active.
        pairs: All pairs that are together often enough.
        rows: Features of each unit.
        strongest: Phi of a feature with its strongest partner, mean over features (512 of them, where there are more),
            beside activations that were dealt out anew.
    """

    level: str
    window: int
    n: int
    min_count: int
    counts: np.ndarray
    pairs: FeaturePairs
    rows: SparseFeatures
    strongest: Controlled

    def top(self, n: int = 20, by: str = "phi") -> list[tuple[int, int, float]]:
        """The strongest pairs: (feature id, feature id, value), the largest first, then the lower ids.

        Args:
            by: "pmi", "lift", "phi" or "jaccard".
        """
        n, values = checks.count(n, "n"), self.pairs.measure(by)
        order = np.lexsort((self.pairs.second, self.pairs.first, -values))[:n]
        return [(int(self.pairs.first[i]), int(self.pairs.second[i]), float(values[i])) for i in order]

    def of(self, feature_id: Feature, n: int = 10, by: str = "phi") -> list[tuple[int, float]]:
        """The features that are most with one: (feature id, value), the largest first.

        Raises:
            UnknownFeatureError: There is no such feature.
        """
        feature, n = feature_ids.feature_id(feature_id, len(self.counts)), checks.count(n, "n")
        at = np.flatnonzero((self.pairs.first == feature) | (self.pairs.second == feature))
        others = self.pairs.first[at] + self.pairs.second[at] - feature
        values = self.pairs.measure(by)[at]
        order = np.lexsort((others, -values))[:n]
        return [(int(others[i]), float(values[i])) for i in order]

    def graph(
        self, n: int = 200, by: str = "phi", label: Callable[[int], str | None] | None = None
    ) -> dict[str, list[dict[str, Any]]]:
        """The strongest pairs as {"nodes": [{"id", "count", "label"}], "edges": [{"source", "target", `by`}]}.

        Args:
            n: Edges at most.
            label: What a feature is called, by a function (`index.label`); None calls it nothing.

        Raises:
            InputError: There is no such measure, or `label` is no function.
        """
        if label is not None and not callable(label):
            raise InputError(
                f"label is {type(label).__name__}; expected a function of a feature, such as index.label or names.get."
            )
        edges = self.top(n, by)
        ids = sorted({f for one in edges for f in one[:2]})
        named = label or (lambda _: None)
        return {
            "nodes": [{"id": f, "count": int(self.counts[f]), "label": named(f) or ""} for f in ids],
            "edges": [{"source": a, "target": b, by: value} for a, b, value in edges],
        }

    def to_pandas(self) -> Any:
        """A DataFrame with a row for each pair.

        Raises:
            BackendError: pandas is not installed.
        """
        columns = {"first": self.pairs.first, "second": self.pairs.second, "count": self.pairs.count}
        return data_frame(columns | {name: self.pairs.measure(name) for name in MEASURES})

    @property
    def _head(self) -> str:
        unit = f"window of {self.window} tokens" if self.level == "window" else self.level
        return f"{len(self.pairs)} pairs of features active on the same {unit}, in {self.min_count} of {self.n} or more"

    @property
    def _lines(self) -> list[str]:
        return [self._head, f"phi of a feature with its strongest partner, mean: {self.strongest}"]

    @property
    def _tables(self) -> list[Table]:
        values = {(a, b): value for a, b, value in self.top(SHOWN)}
        place = {(int(a), int(b)): i for i, (a, b) in enumerate(zip(self.pairs.first, self.pairs.second, strict=True))
                 if (int(a), int(b)) in values}  # fmt: skip
        rows = [
            [str(a), str(b), str(int(self.pairs.count[place[a, b]])), f"{phi:.3f}",
             f"{float(self.pairs.pmi[place[a, b]]):.2f}", f"{float(self.pairs.jaccard[place[a, b]]):.3f}"]
            for (a, b), phi in values.items()
        ]  # fmt: skip
        return [Table(_PAIR, rows)]

    def __repr__(self) -> str:
        return f"<Coactivation: {self._head}>"

    def _title(self) -> str:
        return "Co-activation"


_PAIR = ("feature", "with", "together", "phi", "PMI", "Jaccard")

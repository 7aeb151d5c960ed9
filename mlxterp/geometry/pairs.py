"""`Coactivation`: pairs of features that are active in the same units, and how much more than by chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core import checks, feature_ids
from ..core.controls import Controlled
from ..core.feature_ids import Feature
from ..core.sparse import SparseFeatures
from ..errors import BackendError
from ..viz.escaping import escaped
from ..viz.page import Links
from ..viz.spans import bold, wants_color
from ..viz.view import View

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
class Coactivation(View):
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
            label: What a feature is called; None calls it nothing.
        """
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
        try:
            import pandas
        except ImportError as error:
            raise BackendError('Data frames need pandas: pip install "mlxterp[pandas]".') from error
        columns = {"first": self.pairs.first, "second": self.pairs.second, "count": self.pairs.count}
        return pandas.DataFrame(columns | {name: self.pairs.measure(name) for name in MEASURES})

    @property
    def _head(self) -> str:
        unit = f"window of {self.window} tokens" if self.level == "window" else self.level
        return f"{len(self.pairs)} pairs of features active on the same {unit}, in {self.min_count} of {self.n} or more"

    @property
    def _strongest_line(self) -> str:
        return f"phi of a feature with its strongest partner, mean: {self.strongest}"

    def _rows(self) -> list[list[str]]:
        values = {(a, b): value for a, b, value in self.top(SHOWN)}
        place = {(int(a), int(b)): i for i, (a, b) in enumerate(zip(self.pairs.first, self.pairs.second, strict=True))
                 if (int(a), int(b)) in values}  # fmt: skip
        return [
            [str(a), str(b), str(int(self.pairs.count[place[a, b]])), f"{phi:.3f}",
             f"{float(self.pairs.pmi[place[a, b]]):.2f}", f"{float(self.pairs.jaccard[place[a, b]]):.3f}"]
            for (a, b), phi in values.items()
        ]  # fmt: skip

    def to_str(self, color: bool | None = None) -> str:
        """For the terminal: what was found, then a row for each of the strongest pairs, by phi.

        Args:
            color: None sets the head in bold where the output is a terminal and NO_COLOR is not set.
        """
        lines = [bold(self._head, wants_color(color)), self._strongest_line]
        return "\n".join([*lines, *table_lines(_PAIR, self._rows())])

    def __repr__(self) -> str:
        return f"<Coactivation: {self._head}>"

    def _title(self) -> str:
        return "Co-activation"

    def fragment(self, level: int = 3, links: Links | None = None, element_id: str = "") -> str:
        """HTML without style sheet, for a page."""
        return table_fragment(level, element_id, self._head, self._strongest_line, _PAIR, self._rows())


_PAIR = ("feature", "with", "together", "phi", "PMI", "Jaccard")


def table_lines(titles: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    """A table for the terminal: columns as wide as their widest cell; nothing without rows."""
    whole = [list(titles), *rows] if rows else []
    widths = [max(len(row[j]) for row in whole) for j in range(len(titles))] if rows else []
    return [" | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in whole]


def table_fragment(
    level: int, element_id: str, head: str, said: str, titles: tuple[str, ...], rows: list[list[str]]
) -> str:
    """A heading, a sentence and a table, as HTML."""
    anchor = f' id="{element_id}"' if element_id else ""
    top = "".join(f'<th scope="col">{escaped(name)}</th>' for name in titles)
    body = "".join("<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<h{level} class="mxt-h2"{anchor}>{escaped(head)}</h{level}><p class="mxt-lead">{escaped(said)}</p>'
        f'<table class="mxt-t"><tr>{top}</tr>{body}</table>'
    )

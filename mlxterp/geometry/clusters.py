"""`Clusters`: groups of decoder rows that stand together, beside those that HDBSCAN finds among random rows.

`DecoderMap.clusters` makes it. The number of clusters alone is no finding: covariance-matched random rows have as many.
How tight they are can be one. Each cluster is tested against random groups of its size, which is easily passed, and
shown beside the control's clusters, which is not.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core import checks
from ..core.controls import DRAWS, MOST_DRAWS, Controlled, bootstrap, draw_seed, random_like
from ..errors import BackendError, InputError
from ..viz.escaping import one_line
from ..viz.lines import Table
from ..viz.page import Links
from ..viz.point_map import Colouring, Points, panel, point_map_page
from ..viz.point_plot import scatter
from ..viz.spans import bold, wants_color
from ..viz.view import View
from .cluster_test import GROUPS, mean_cosine, p_by_random_groups
from .decoder_rows import Distinct, distinct_rows
from .layouts import CALLED, Method, layout
from .placed_rows import PlacedRows
from .running_sum import benjamini_hochberg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS, _LEAST = 4096 * DRAWS, 3
"""Rows of all draws together, where nothing else is asked for, and draws at least."""
_LEVEL, _SHOWN, _WORDS, _MARKED = 0.05, 20, 3, 40
_HEADS = ("cluster", "rows", "cosine", "p", "q", "control as tight", "words", "features")


@dataclass(frozen=True, eq=False, slots=True, repr=False, kw_only=True)
class Clusters(View):
    """Clusters of the points of a map, each with its test. `to_html` writes the map coloured by them.

    Attributes:
        map: The map whose points these are.
        labels: int64, (n,): the cluster of each point, 0 for the largest; -1 for noise, which belongs to none.
        sizes: int64, (clusters,).
        cosine: float64, (clusters,): mean cosine of a cluster's pairs of rows.
        p: float64, (clusters,): share of 1000 random groups of as many rows that are as tight.
        q: float64, (clusters,): p after Benjamini and Hochberg.
        p_control: float64, (clusters,): share of the control's clusters that are as tight; NaN without a control.
        names: Words that stand out in the labels and tokens of each; "" where there are none.
        count: Number of clusters, beside that of random rows.
        noise: Share of rows in no cluster, beside that of random rows.
        tightness: Mean of `cosine`, beside that of random rows' clusters.
        min_cluster_size: Rows of a cluster, at least.
        dims: Dimensions in which they were found.
        layout: The method that gave these dimensions.
        seed: Of layout, control and test.
    """

    map: PlacedRows
    labels: np.ndarray
    sizes: np.ndarray
    cosine: np.ndarray
    p: np.ndarray
    q: np.ndarray
    p_control: np.ndarray
    names: tuple[str, ...]
    count: Controlled
    noise: Controlled
    tightness: Controlled
    min_cluster_size: int
    dims: int
    layout: Method
    seed: int

    def __len__(self) -> int:
        return len(self.sizes)

    def members(self, cluster: int) -> list[tuple[int, int]]:
        """(width, feature id) of a cluster's points; -1 gives the noise.

        Raises:
            InputError: There is no such cluster.
        """
        cluster = checks.integer(cluster, "cluster", -1, len(self) - 1)
        own = np.flatnonzero(self.labels == cluster)
        return list(zip(self.map.width[own].tolist(), self.map.feature_id[own].tolist(), strict=True))

    def to_pandas(self) -> Any:
        """The map's DataFrame with the column cluster, int; -1 is noise.

        Raises:
            BackendError: pandas is not installed.
        """
        return self.map.to_pandas().assign(cluster=self.labels)

    @property
    def table(self) -> list[dict[str, Any]]:
        """A row for each cluster, as dicts (for `pandas.DataFrame`), the largest first."""
        return [
            {
                "cluster": c, "size": int(self.sizes[c]), "cosine": float(self.cosine[c]), "p": float(self.p[c]),
                "q": float(self.q[c]), "p_control": float(self.p_control[c]), "words": self.names[c],
                "members": self.members(c),
            }
            for c in range(len(self))
        ]  # fmt: skip

    # -- shown --------------------------------------------------------------------------------

    def points(self) -> Points:
        """What the page shows: the map, coloured by cluster, with the words of the largest."""
        names = tuple(f"{c}{f' {name}' if name else ''}" for c, name in enumerate(self.names))
        plain, marks = self.map.points(), []
        for c, name in enumerate(self.names[:_MARKED]):
            if name:
                x, y = np.median(self.map.coordinates[self.labels == c], axis=0).tolist()
                marks.append((x, y, name.partition(", ")[0]))
        return replace(
            plain, title=self._title(), facts=(*plain.facts, *self._lines), marks=tuple(marks),
            colourings=(Colouring("cluster", self.labels, names), *plain.colourings),
        )  # fmt: skip

    @property
    def _lines(self) -> list[str]:
        passing = int((self.q < _LEVEL).sum())
        return [
            f"clusters by HDBSCAN (at least {self.min_cluster_size} rows) in {self.dims} dimensions of"
            f" {CALLED[self.layout]}: {self.count}",
            f"share of rows in none: {self.noise}",
            f"mean cosine within a cluster: {self.tightness}",
            f"{passing} of {len(self)} are tighter than random groups of their size (q < {_LEVEL:g}; {GROUPS} groups of"
            f" each size, seed {self.seed})",
        ]

    def _rows(self) -> list[list[str]]:
        several, found = len(self.map.widths) > 1, []
        for c in range(min(len(self), _SHOWN)):
            members = [f"{w}/{f}" if several else str(f) for w, f in self.members(c)]
            more = f", … ({len(members)})" if len(members) > 6 else ""
            control = "left out" if np.isnan(self.p_control[c]) else f"{self.p_control[c]:.3f}"
            found.append([
                str(c), str(self.sizes[c]), f"{self.cosine[c]:.3f}", f"{self.p[c]:.2g}", f"{self.q[c]:.2g}", control,
                self.names[c], ", ".join(members[:6]) + more,
            ])  # fmt: skip
        return found

    def to_str(self, color: bool | None = None) -> str:
        """For the terminal: how many clusters, beside the control's, and a row for each of the largest.

        Args:
            color: None sets the title in bold where the output is a terminal and NO_COLOR is not set.
        """
        title = bold(one_line(self._title()), wants_color(color))
        return "\n".join([title, *self._lines, "", *Table(_HEADS, self._rows()).lines()])

    def __repr__(self) -> str:
        return f"<Clusters: {self.count}>"

    def _title(self) -> str:
        return f"Clusters of features{f' at {self.map.component}' if self.map.component else ''}"

    def _page(self) -> str:
        return point_map_page(self.points())

    def fragment(self, level: int = 3, links: Links | None = None, element_id: str = "") -> str:
        """HTML without style sheet and scripts, for a page: the map in the clusters' colours, and their table."""
        return panel(self.points(), Table(_HEADS, self._rows()).html(), level, element_id)

    def plot(self, path: str | os.PathLike | None = None, show: bool = False) -> Figure:
        """The map, coloured by cluster; noise is grey.

        Args:
            path: Also write it there (.png, .svg, .pdf).

        Raises:
            BackendError: matplotlib is not installed.
        """
        return scatter(self.points(), "cluster", path, show)


def find_clusters(
    drawn: PlacedRows,
    distinct: Distinct,
    size: int,
    dims: int,
    min_dist: float,
    control: bool,
    draws: int | None,
) -> Clusters:
    """See `DecoderMap.clusters`."""
    rows, seed = distinct.rows, drawn.seed
    if size > len(rows):
        raise InputError(f"A cluster of {size} rows among {len(rows)}: ask for smaller ones.")
    draws = _draws(len(rows)) if draws is None else checks.count(draws, "draws", 1, MOST_DRAWS)
    kind: Method = "umap" if drawn.method == "umap" else "pca"

    def grouped(one: Distinct, seed: int) -> np.ndarray:
        return hdbscan(layout(one.rows, one.neighbours, dims, kind, min_dist, seed), size)

    labels = _by_size(grouped(distinct, seed))
    cosine = _cosines(rows, labels)
    counts, noises, random = [], [], []
    for draw in range(draws if control else 0):
        own = distinct_rows(random_like(rows, "covariance", draw_seed(seed, draw)), drawn.n_neighbors)
        found = grouped(own, seed)
        counts.append(found.max(initial=-1) + 1)
        noises.append((found < 0).mean())
        random.append(_cosines(own.rows, found))
    sizes = np.bincount(labels[labels >= 0], minlength=len(cosine))
    p = p_by_random_groups(rows, sizes.tolist(), cosine, seed)
    every = np.concatenate(random) if random else np.empty(0)
    points = labels[distinct.place]
    return Clusters(
        map=drawn, labels=points, sizes=np.bincount(points[points >= 0], minlength=len(cosine)), cosine=cosine, p=p,
        q=benjamini_hochberg(p) if len(p) else p, p_control=_as_tight(cosine, every) if control else p * np.nan,
        names=_names(drawn, points, len(cosine)),
        count=_beside(float(len(cosine)), None, counts, seed),
        noise=_beside(float((labels < 0).mean()), None, noises, seed),
        tightness=_beside(
            float(cosine.mean()) if len(cosine) else float("nan"), bootstrap(cosine, seed=seed),
            [one.mean() for one in random if len(one)], seed,
        ),
        min_cluster_size=size, dims=dims, layout=kind, seed=seed,
    )  # fmt: skip


def hdbscan(points: np.ndarray, size: int) -> np.ndarray:
    """int64, (n,): the cluster of each point, -1 for none, as the hdbscan package's "prims_kdtree" gives it.

    Raises:
        BackendError: scikit-learn is not installed.
    """
    try:
        from sklearn.cluster import HDBSCAN
    except ImportError as error:
        raise BackendError('Clusters need scikit-learn: pip install "mlxterp[umap]".') from error
    least = min(size + 1, len(points))
    own: Any = True  # later versions of scikit-learn ask for it
    fitted = HDBSCAN(min_cluster_size=size, min_samples=least, copy=own).fit(points.astype(np.float64))
    return np.asarray(fitted.labels_, dtype=np.int64)


def _draws(rows: int) -> int:
    return min(DRAWS, max(_LEAST, _ROWS // rows))


def _by_size(labels: np.ndarray) -> np.ndarray:
    """The largest cluster is 0; among equals that with the lowest row."""
    known = labels[labels >= 0]
    if not len(known):
        return labels
    sizes, first = np.bincount(known), np.unique(labels, return_index=True)[1][-known.max() - 1 :]
    order = np.lexsort((first, -sizes))
    new = np.empty(len(order), dtype=np.int64)
    new[order] = np.arange(len(order))
    return np.where(labels < 0, -1, new[labels])


def _cosines(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.array([mean_cosine(rows[labels == c]) for c in range(int(labels.max(initial=-1)) + 1)])


def _as_tight(cosine: np.ndarray, random: np.ndarray) -> np.ndarray:
    """Share of the control's clusters at least as tight, each cluster counted among them."""
    beyond = len(random) - np.searchsorted(np.sort(random), cosine, side="left")
    return (1 + beyond) / (1 + len(random))


def _beside(value: float, interval: Any, control: Sequence[float], seed: int) -> Controlled:
    return Controlled(value, interval, np.array(control, dtype=np.float64), "covariance-matched rows", seed)


def _names(drawn: PlacedRows, labels: np.ndarray, n: int) -> tuple[str, ...]:
    """Up to three words of each cluster that are frequent in it and rare elsewhere (TF-IDF over clusters)."""
    counts = [Counter[str]() for _ in range(n)]
    for i in np.flatnonzero(labels >= 0):
        said = " ".join([drawn.labels[i], *(drawn.tokens[i] if drawn.tokens else ())])
        counts[labels[i]].update(set(re.findall(r"[^\W_]{2,}", said.casefold())))
    among = Counter(word for words in counts for word in words)

    def best(words: Counter[str], size: int) -> list[str]:
        told = [word for word, times in words.items() if times > 1 and 3 * times >= size]
        return sorted(told, key=lambda word: (-words[word] * log((1 + n) / among[word]), word))[:_WORDS]

    return tuple(", ".join(best(words, int((labels == c).sum()))) for c, words in enumerate(counts))

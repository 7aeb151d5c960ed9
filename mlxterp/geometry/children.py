"""`Splitting`: what `splitting` found: parents, children, what is new; as a table, a graph and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..core import checks, feature_ids
from ..core.controls import Controlled
from ..core.feature_ids import Feature
from ..core.frames import data_frame
from ..core.integers import as_integer
from ..errors import InputError
from ..index import FeatureIndex
from ..sae import SAE
from ..viz.escaping import one_line
from ..viz.lines import LinesView, Table
from ..viz.plotting import Plotted, new_figure
from ..viz.report import FeatureReport, Section
from .stitching import Stitching, stitching_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 20


class Child(NamedTuple):
    """A wide feature and its parent.

    Attributes:
        feature_id: The wide feature.
        parent: The narrow feature with the largest cosine.
        cosine: Of their decoder rows.
        p_parent: P(parent active | child active).
        lift: That, by the share of all tokens where the parent is active.
        jaccard: Tokens where both are active by those where one is.
        n: Tokens where the child is active.
        jaccard_parent: The narrow feature with the largest Jaccard index, which need not be the parent.
    """

    feature_id: int
    parent: int
    cosine: float
    p_parent: float
    lift: float
    jaccard: float
    n: int
    jaccard_parent: int


@dataclass(frozen=True, eq=False, slots=True, repr=False, kw_only=True)
class Splitting(LinesView, Plotted):
    """Parents and children of two widths; made by `splitting`. `print` and notebooks show the table.

    `plot` shows cosine and P(parent | child) of every judged feature, and the confirmed children beside shuffled
    parents.

    Attributes:
        narrow: Width of the parents' SAE.
        wide: Width of the children's.
        theta: Least cosine of a child and its parent.
        subset: Least share of a child's tokens where its parent is active.
        min_firings: Wide features active on fewer tokens were not judged.
        n_tokens: Tokens that counted.
        parent: int64, (wide,): the narrow feature with the largest cosine; -1 for rows of zeros.
        cosine: float64, (wide,): that cosine.
        together: int64, (wide,): tokens where the feature and its parent are active.
        counts: int64, (wide,): tokens where each wide feature is active.
        parent_counts: int64, (narrow,): the same of narrow features.
        jaccard: float64, (wide,): of the feature and its parent.
        jaccard_parent: int64, (wide,): the narrow feature with the largest Jaccard index.
        live: Booleans, (wide,): features that were judged.
        by_cosine: Booleans, (wide,): of these, those near enough to a narrow feature.
        is_child: Booleans, (wide,): of these, those whose firing confirms it.
        confirmed: How many children are confirmed, beside shuffled parents.
        coverage: Share of a parent's tokens where one of its children is active, mean over parents with children,
            beside as many random features.
        saes: The narrow and the wide SAE.
        indexes: By width, where indexes were given.
    """

    narrow: int
    wide: int
    theta: float
    subset: float
    min_firings: int
    n_tokens: int
    parent: np.ndarray
    cosine: np.ndarray
    together: np.ndarray
    counts: np.ndarray
    parent_counts: np.ndarray
    jaccard: np.ndarray
    jaccard_parent: np.ndarray
    live: np.ndarray
    by_cosine: np.ndarray
    is_child: np.ndarray
    confirmed: Controlled
    coverage: Controlled
    saes: tuple[SAE, SAE]
    indexes: Mapping[int, Any] = field(default_factory=dict)

    # -- what was found -----------------------------------------------------------------------

    @property
    def parents(self) -> dict[int, Child]:
        """Each confirmed child with its parent, by the child's id."""
        return {int(f): self.child(f) for f in np.flatnonzero(self.is_child)}

    @property
    def split(self) -> list[int]:
        """Narrow features with two or more confirmed children, those with the most first."""
        numbers = np.bincount(self.parent[self.is_child], minlength=self.narrow)
        return [int(p) for p in np.argsort(-numbers, kind="stable")[: int((numbers >= 2).sum())]]

    @property
    def novel(self) -> list[int]:
        """Wide features that no narrow one points near: their largest cosine is below θ."""
        return np.flatnonzero(self.live & (self.cosine < self.theta)).tolist()

    def children(self, parent: Feature) -> list[Child]:
        """The confirmed children of a narrow feature, those nearest in direction first.

        Raises:
            UnknownFeatureError: The narrow SAE has no such feature.
        """
        parent = feature_ids.feature_id(parent, self.narrow)
        found = np.flatnonzero(self.is_child & (self.parent == parent))
        return [self.child(f) for f in found[np.argsort(-self.cosine[found], kind="stable")]]

    def child(self, feature_id: Feature) -> Child:
        """A wide feature beside the narrow one it is nearest to, confirmed or not.

        Raises:
            UnknownFeatureError: The wide SAE has no such feature.
            InputError: Its decoder row is zero, so it is near to none.
        """
        f = feature_ids.feature_id(feature_id, self.wide)
        p, n = int(self.parent[f]), int(self.counts[f])
        if p < 0:
            raise InputError(f"The decoder row of feature {f} is zero: it has no parent.")
        share = float(self.together[f]) / n if n else 0.0
        base = self.parent_counts[p] / self.n_tokens
        return Child(
            f, p, float(self.cosine[f]), share, float(share / base) if base else 0.0, float(self.jaccard[f]), n,
            int(self.jaccard_parent[f]),
        )  # fmt: skip

    @property
    def agreement(self) -> float:
        """Share of judged wide features whose nearest narrow feature is also the one with the largest Jaccard index."""
        return float((self.parent == self.jaccard_parent)[self.live].mean())

    def stitch(self, activations: Any, **options: Any) -> Stitching:
        """Whether adding each wide feature to the narrow SAE lowers its error; see `stitching`.

        Args:
            activations: As `stitching` takes them.
            options: Of `stitching`.
        """
        return stitching_of(*self.saes, self.cosine, activations, **options)

    # -- in other forms -----------------------------------------------------------------------

    def to_pandas(self) -> Any:
        """A DataFrame with a row for each wide feature, judged or not; indexed by feature_id.

        Raises:
            BackendError: pandas is not installed.
        """
        share = self.together / np.maximum(self.counts, 1)
        base = self.parent_counts[self.parent] / self.n_tokens
        columns = {
            "parent": self.parent, "cosine": self.cosine, "p_parent": share, "lift": share / np.maximum(base, 1e-12),
            "jaccard": self.jaccard, "jaccard_parent": self.jaccard_parent, "n": self.counts, "judged": self.live,
            "by_cosine": self.by_cosine, "confirmed": self.is_child, "novel": self.live & (self.cosine < self.theta),
        }  # fmt: skip
        return data_frame(columns, "feature_id")

    def graph(self) -> dict[str, list[dict[str, Any]]]:
        """{"nodes": [{"id", "width", "feature_id", "label"}], "edges": [{"source", "target", …}]}, as JSON takes it.

        Nodes are parents with confirmed children, and these. An edge leads from parent to child and says its cosine,
        P(parent | child) and Jaccard index.
        """
        edges = list(self.parents.values())
        ids = [(self.narrow, p) for p in sorted({one.parent for one in edges})]
        ids += [(self.wide, one.feature_id) for one in edges]
        nodes = [
            {"id": f"{width}/{f}", "width": width, "feature_id": f, "label": self.label(width, f)}
            for width, f in ids
        ]
        return {
            "nodes": nodes,
            "edges": [
                {
                    "source": f"{self.narrow}/{one.parent}", "target": f"{self.wide}/{one.feature_id}",
                    "cosine": one.cosine, "p_parent": one.p_parent, "jaccard": one.jaccard,
                }
                for one in edges
            ],
        }  # fmt: skip

    def label(self, width: int, feature_id: int) -> str:
        """What a feature is called, else the tokens it fires on (with an index); "" where neither is known.

        Raises:
            InputError: `width` is neither of the two.
            UnknownFeatureError: The SAE of that width has no such feature.
        """
        number = as_integer(width)
        if number not in (self.narrow, self.wide):
            raise InputError(f"width is {width!r:.60}; this is of the widths {self.narrow} and {self.wide}.")
        width, feature_id = number, feature_ids.feature_id(feature_id, number)
        index = self.indexes.get(width)
        if isinstance(index, FeatureIndex):
            tokens = index.stats(feature_id).top_tokens[:3]
            return index.label(feature_id) or ", ".join(one_line(token.strip()) for token, _ in tokens)
        return self.saes[width == self.wide].concepts.label_of(feature_id, marked=True) or ""

    def cards(self, parent: Feature, n: int = 5) -> FeatureReport:
        """Cards of a parent and of its children, on one page.

        Args:
            n: Children shown at most.

        Raises:
            InputError: `splitting` was given no indexes.
        """
        narrow, wide = (self.indexes.get(width) for width in (self.narrow, self.wide))
        if not isinstance(narrow, FeatureIndex) or not isinstance(wide, FeatureIndex):
            raise InputError(
                "Cards are made from indexes: splitting(family, narrow, wide, {width: FeatureIndex, …})."
            )
        n, parent = checks.count(n, "n"), feature_ids.feature_id(parent, self.narrow)
        parts = [
            Section(f"Parent, of {self.narrow}"),
            narrow.feature(parent),
            Section(f"Children, of {self.wide}"),
        ]
        parts += [wide.feature(one.feature_id) for one in self.children(parent)[:n]]
        return FeatureReport(f"Feature {parent} and its children", parts, self._head)

    # -- shown --------------------------------------------------------------------------------

    @property
    def _head(self) -> str:
        return f"Splitting of {self.narrow} features into {self.wide}"

    @property
    def _lines(self) -> list[str]:
        judged, near = int(self.live.sum()), int(self.by_cosine.sum())
        return [
            self._head,
            f"{near} of {judged} wide features (active on {self.min_firings} of {self.n_tokens} tokens or more) have a"
            f" cosine of at least {self.theta:.3f} with a narrow one; {len(self.novel)} are novel.",
            f"confirmed children: {self.confirmed}",
            f"coverage of a parent by its children: {self.coverage}",
            f"{len(self.split)} parents have two children or more. The nearest parent is the one with the largest"
            f" Jaccard index for {self.agreement:.0%}.",
        ]

    @property
    def _tables(self) -> list[Table]:
        numbers = np.bincount(self.parent[self.is_child], minlength=self.narrow)
        order = np.argsort(-numbers, kind="stable")[: min(_SHOWN, int((numbers > 0).sum()))]
        found = []
        for p in order:
            children = self.children(int(p))
            shown = ", ".join(self._named(self.wide, one.feature_id) for one in children[:4])
            more = f", … ({len(children)})" if len(children) > 4 else ""
            best = children[0]
            found.append(
                [self._named(self.narrow, int(p)), str(len(children)), f"{best.cosine:.2f}", f"{best.p_parent:.2f}",
                 f"{best.lift:.1f}", f"{best.jaccard:.2f}", shown + more]
            )  # fmt: skip
        return [Table(_COLUMNS, found)]

    def _named(self, width: int, feature_id: int) -> str:
        label = self.label(width, feature_id)
        return f"{feature_id} ({one_line(label)})" if label else str(feature_id)

    def __repr__(self) -> str:
        return f"<Splitting {self.narrow} → {self.wide}: {int(self.confirmed.value)} confirmed children>"

    def _drawn(self, show: bool) -> Figure:
        figure = new_figure(9.0, 4.2, show)
        cloud, counts = figure.subplots(1, 2, width_ratios=(2, 1))
        share = self.together / np.maximum(self.counts, 1)
        for chosen, color, name in (
            (self.live & ~self.is_child, "0.65", "not confirmed"), (self.is_child, "tab:blue", "confirmed")
        ):  # fmt: skip
            cloud.scatter(self.cosine[chosen], share[chosen], s=6, color=color, label=name, rasterized=True)
        cloud.axvline(self.theta, color="black", linestyle=":", label="θ")
        cloud.axhline(self.subset, color="black", linestyle="--", linewidth=0.8, label="subset")
        cloud.set_xlabel("cosine with the nearest narrow feature")
        cloud.set_ylabel("P(parent active | child active)")
        cloud.legend(fontsize=8)
        counts.bar(["children"], [self.confirmed.value], color="tab:blue")
        if len(self.confirmed.control):
            low, high = self.confirmed.control_interval
            mean = self.confirmed.control_mean
            counts.bar(
                ["shuffled\nparents"], [mean], yerr=[[mean - low], [high - mean]], color="0.65", capsize=4
            )
        counts.set_ylabel("confirmed children")
        figure.suptitle(self._head)
        return figure


_COLUMNS = ("parent", "children", "cosine", "P(parent)", "lift", "Jaccard", "which, nearest first")

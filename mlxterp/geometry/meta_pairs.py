"""Whether pairs of features share a meta-latent more often than other pairs do: what `MetaSAE.shared` gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from ..core.controls import Controlled, bootstrap
from ..core.feature_ids import Feature, feature_id, feature_ids
from ..core.integers import is_listable
from ..core.sparse import SparseFeatures
from ..errors import InputError
from ..viz.lines import LinesView

Pairs = Iterable[tuple[Feature, Feature]] | Mapping[Any, Iterable[Feature]]
"""Pairs of features, or {parent: its children}."""
_NEAREST = 20
"""A cosine-matched partner is drawn among so many whose cosine is nearest."""


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class SharedPairs(LinesView):
    """How many of some pairs of features have a meta-latent in common.

    Attributes:
        pairs: int64, (pairs, 2): the pairs.
        has: bool, (pairs,): which of them do.
        random: The share of them that do, beside pairs of which one feature is replaced by a random one. Its interval
            is over groups of pairs that have features in common.
        matched: The same beside pairs whose new feature has nearly the same cosine with the one that stays.
    """

    pairs: np.ndarray
    has: np.ndarray
    random: Controlled
    matched: Controlled

    @property
    def value(self) -> float:
        """Share of the pairs that have a meta-latent in common."""
        return self.matched.value

    @property
    def excess(self) -> float:
        """The share less that of cosine-matched pairs, which their likeness does not explain; NaN without them."""
        return self.value - self.matched.control_mean

    def __repr__(self) -> str:
        return f"<SharedPairs: {self.value:.2f} of {len(self.pairs)}>"

    def _title(self) -> str:
        return "Pairs that share a meta-latent"

    @property
    def _lines(self) -> list[str]:
        return [
            f"{int(self.has.sum())} of {len(self.pairs)} pairs share a meta-latent",
            f"beside random pairs: {self.random}",
            f"beside cosine-matched pairs: {self.matched}",
        ]


def shared_pairs(codes: SparseFeatures, rows: np.ndarray, pairs: Pairs, draws: int, seed: int) -> SharedPairs:
    """See `MetaSAE.shared`.

    Args:
        rows: float32, (features, width): unit rows; zeros for dead features.
        draws: 0 leaves the controls out.
    """
    alive = np.flatnonzero(np.linalg.norm(rows, axis=1))
    asked = _pairs(pairs, codes.n, alive)
    active = [frozenset(codes.row(f)[0].tolist()) for f in range(codes.n)]
    has = _have(active, asked)
    groups = _groups(asked, codes.n)
    units = np.array([[has[groups == g].sum(), (groups == g).sum()] for g in np.unique(groups)])
    interval = bootstrap(units, lambda part: float(part[:, 0].sum() / part[:, 1].sum()), seed=seed)
    draw = np.random.default_rng([seed, 12])
    by_first = {a: np.setdiff1d(alive, _partners(asked, a)) for a in np.unique(asked[:, 0]).tolist()}
    others = [by_first[a] for a in asked[:, 0].tolist()]
    nearest = [_nearest(rows, a, b, other) for (a, b), other in zip(asked, others, strict=True)]

    def compared(among: list[np.ndarray], kind: str) -> Controlled:
        found = [
            _have(active, np.stack([asked[:, 0], [draw.choice(one) for one in among]], axis=1)).mean()
            for _ in range(draws if all(map(len, among)) else 0)
        ]
        return Controlled(float(has.mean()), interval, np.array(found), kind, seed)

    return SharedPairs(
        asked, has, compared(others, "random pairs"), compared(nearest, "pairs of the same cosine")
    )


def _pairs(given: Any, n: int, alive: np.ndarray) -> np.ndarray:
    """int64, (pairs, 2): two different features each that are not dead, the lower id first, each pair once."""
    if not is_listable(given):
        raise InputError(f"pairs is {given!r}; expected pairs of features, or {{parent: its children}}.")
    found: list[tuple[int, int]] = []
    if isinstance(given, Mapping):
        for parent, children in given.items():
            found += combinations(sorted(feature_ids(children, n, f"The children of {parent!r}")), 2)
    else:
        for pair in given:
            if not hasattr(pair, "__len__") or len(pair) != 2:
                raise InputError(f"{pair!r} is no pair of features.")
            one, other = sorted(feature_id(f, n) for f in pair)
            found.append((one, other))
    living = set(alive.tolist())
    kept = [(a, b) for a, b in dict.fromkeys(found) if a != b and a in living and b in living]
    if not kept:
        raise InputError("There is no pair of two different features that are not dead.")
    return np.array(kept, dtype=np.int64)


def _have(active: list[frozenset[int]], pairs: np.ndarray) -> np.ndarray:
    return np.array([not active[a].isdisjoint(active[b]) for a, b in pairs.tolist()])


def _groups(pairs: np.ndarray, n: int) -> np.ndarray:
    """int64, (pairs,): the same number for pairs that are linked by features in common."""
    root = np.arange(n)

    def top(f: int) -> int:
        while root[f] != f:
            root[f] = root[root[f]]
            f = int(root[f])
        return f

    for a, b in pairs.tolist():
        root[top(a)] = top(b)
    return np.array([top(int(a)) for a in pairs[:, 0]])


def _partners(pairs: np.ndarray, a: int) -> np.ndarray:
    """A feature and all that it is paired with."""
    return pairs[(pairs == a).any(axis=1)]


def _nearest(rows: np.ndarray, a: int, b: int, others: np.ndarray) -> np.ndarray:
    """Of `others`, those whose cosine with a is nearest to b's."""
    if not len(others):
        return others
    off = np.abs(rows[others] @ rows[a] - rows[a] @ rows[b])
    return others[np.argsort(off, kind="stable")[:_NEAREST]]

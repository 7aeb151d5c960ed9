"""Features that point the same way and are seldom active together: candidates for absorption and splitting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core import checks
from ..core.controls import DRAWS, Controlled, bootstrap, matrix, random_like
from ..core.options import names_options
from ..errors import InputError
from ..sae import SAE
from ..viz.lines import LinesView, Table
from .neighbours import cosine_neighbours
from .pairs import SHOWN, Coactivation
from .token_features import counts_together

_THETA = 0.99
_APART = ("feature", "with", "cosine", "together", "by chance")


@dataclass(frozen=True, eq=False, slots=True, repr=False, kw_only=True)
class Apart(LinesView):
    """Features that point the same way and are seldom active together; made by `apart`.

    Attributes:
        pairs: int64, (n, 2): feature ids, the pair that falls shortest of chance first.
        cosines: float64, (n,): of their decoder rows.
        seen: float64, (n,): units where both are active.
        expected: float64, (n,): units where both would be active by chance.
        min_cosine: The least cosine.
        share: At most so many times as often as by chance.
        n_pairs: Pairs of that cosine or more.
        counted: How many pairs there are, beside neighbours that were dealt out anew.
    """

    pairs: np.ndarray
    cosines: np.ndarray
    seen: np.ndarray
    expected: np.ndarray
    min_cosine: float
    share: float
    n_pairs: int
    counted: Controlled

    @property
    def _head(self) -> str:
        return (
            f"{len(self.pairs)} of {self.n_pairs} pairs with a cosine of at least {self.min_cosine:.3f} are together at"
            f" most {self.share:g} times as often as by chance"
        )

    @property
    def _lines(self) -> list[str]:
        return [self._head, f"such pairs: {self.counted}"]

    @property
    def _tables(self) -> list[Table]:
        rows = [
            [str(int(a)), str(int(b)), f"{cosine:.2f}", f"{seen:.0f}", f"{expected:.1f}"]
            for (a, b), cosine, seen, expected in zip(
                self.pairs[:SHOWN], self.cosines, self.seen, self.expected, strict=False
            )
        ]
        return [Table(_APART, rows)]

    def __repr__(self) -> str:
        return f"<Apart: {self._head}>"

    def _title(self) -> str:
        return "Features that are seldom active together"


@names_options
def apart(
    found: Coactivation, directions: Any, *, min_cosine: float | None = None, share: float = 0.5,
    min_expected: float = 5.0, k: int = 15, control: bool = True, seed: int = 0,
) -> Apart:  # fmt: skip
    """Features that point the same way and yet are seldom active together: candidates for absorption and splitting.

    Args:
        found: Of `coactivation`.
        directions: The SAE, or its decoder rows (d_hidden, d_out).
        min_cosine: Of a pair; None takes the 99th percentile of the cosines of random directions, with the rows' mean
            and covariance, and their k nearest rows.
        share: Pairs seen together at most so many times as often as by chance are taken.
        min_expected: Pairs that chance brings together in fewer units are left out: too few to tell.
        k: Nearest features of each that are looked at.
        control: Count such pairs too where each feature gets another one's neighbours, 20 times.
        seed: Of the control and of the random directions.

    Raises:
        InputError: The directions are those of another number of features, or all but one are zero.
    """
    if not isinstance(found, Coactivation):
        raise InputError(f"found is {type(found).__name__}; expected what coactivation(…) gives.")
    rows = matrix(directions.W_dec if isinstance(directions, SAE) else directions, "directions")
    if len(rows) != len(found.counts):
        raise InputError(f"directions has {len(rows)} rows; there are {len(found.counts)} features.")
    share, control, seed = (
        checks.fraction(share, "share"), checks.flag(control, "control"), checks.seed(seed)
    )  # fmt: skip
    least = checks.finite(min_expected, "min_expected", above=0)
    k = min(checks.count(k, "k"), max(1, len(rows) - 1))
    if (rows != 0).any(axis=1).sum() < 2:
        raise InputError("Fewer than two directions are not zero, so no pair has a cosine.")
    nearest = cosine_neighbours(rows, k=k)
    if min_cosine is None:
        random = cosine_neighbours(random_like(rows, "covariance", seed), rows, k)
        limit = float(np.nanquantile(random.cosines, _THETA))
    else:
        limit = checks.finite(min_cosine, "min_cosine", -1.0, 1.0)
    row, place = np.nonzero(np.nan_to_num(nearest.cosines, nan=-2.0) >= limit)
    pairs = np.stack([row, nearest.ids[row, place]], axis=1)
    pairs, chosen = np.unique(np.sort(pairs, axis=1), axis=0, return_index=True)
    cosines = nearest.cosines[row, place][chosen]
    seen, expected = _seen(found, pairs)
    taken = (expected >= least) & (seen <= share * expected)
    draw = np.random.default_rng(seed)
    drawn = [_n_apart(found, pairs, share, least, draw) for _ in range(DRAWS if control else 0)]
    interval = bootstrap(taken, lambda some: float(some.sum()), seed=seed) if len(pairs) else None
    kind = "neighbours dealt out anew"
    counted = Controlled(float(taken.sum()), interval, np.array(drawn, dtype=np.float64), kind, seed)
    order = np.flatnonzero(taken)[np.argsort(seen[taken] / expected[taken], kind="stable")]
    return Apart(
        pairs=pairs[order], cosines=cosines[order], seen=seen[order], expected=expected[order], min_cosine=limit,
        share=share, n_pairs=len(pairs), counted=counted,
    )  # fmt: skip


def _seen(found: Coactivation, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In how many units each pair is together, and in how many by chance."""
    seen = np.zeros(len(pairs))
    order = np.argsort(pairs[:, 0], kind="stable")
    wanted, starts = np.unique(pairs[order, 0], return_index=True)
    ends = [*starts[1:], len(pairs)][: len(starts)]
    place = {int(f): order[start:end] for f, start, end in zip(wanted, starts, ends, strict=True)}
    for some, together in counts_together(found.rows, found.rows, wanted):
        for f, counts in zip(some, together, strict=True):
            seen[place[int(f)]] = counts[pairs[place[int(f)], 1]]
    return seen, found.counts[pairs[:, 0]] * (found.counts[pairs[:, 1]] / found.n)


def _n_apart(
    found: Coactivation, pairs: np.ndarray, share: float, least: float, draw: np.random.Generator
) -> float:
    """The same count for pairs whose second features were dealt out anew."""
    mixed = np.stack([pairs[:, 0], draw.permutation(pairs[:, 1])], axis=1)
    mixed = mixed[mixed[:, 0] != mixed[:, 1]]
    seen, expected = _seen(found, mixed)
    return float(((expected >= least) & (seen <= share * expected)).sum())

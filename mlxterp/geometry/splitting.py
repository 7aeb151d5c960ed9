"""Feature splitting: which features of a wide SAE are parts of one of a narrow SAE's.

A child points where its parent points, more nearly than random directions do, and is active where its parent is.
Cosine alone mistakes what occurs together for what is a part, so both are asked for, and the count of confirmed
children stands beside that of shuffled parents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, NamedTuple

import numpy as np

from ..anatomy.session import Model
from ..core import checks
from ..core.controls import DRAWS, Controlled, bootstrap, random_like
from ..core.options import names_options
from ..errors import InputError
from ..sae import SAECollection
from .children import Splitting
from .neighbours import cosine_neighbours
from .token_features import TokenFeatures, counts_together
from .widths import both_features, pair_of

LIFT = 2.0
"""A parent is active on its child's tokens at least so many times as often as elsewhere: one that is active on most
tokens would pass any share."""
THETA = 0.99
"""Of the control's largest cosines, so many lie below θ."""
_CONTROL_ROWS = 4096


@names_options
def splitting(
    family: SAECollection, narrow: int, wide: int, index: Any, *, model: Model | None = None,
    theta: float | None = None, subset: float = 0.8, min_firings: int = 20, control: bool = True, seed: int = 0,
) -> Splitting:  # fmt: skip
    """Parents in a narrow SAE of the features of a wide one, by direction and by firing.

    A wide feature's parent is the narrow feature with the largest cosine of the decoder rows. It is confirmed where
    that cosine is at least θ, the wide feature is active on at least `min_firings` tokens, P(parent active | child
    active) is at least `subset`, and at least twice the share of all tokens where the parent is active. With a fixed k
    the features of a narrow SAE are active on many tokens, so that parents are broad by construction.

    After Bricken et al. (2023), Bussmann et al. (2024); the figures beside shuffled parents are ours.

    Args:
        family: SAEs of one component, by width.
        narrow, wide: Two of its widths.
        index: Where the features are active: {width: FeatureIndex} over the same texts; one index with its model, whose
            texts are read again; activations (…, d_model) or an `ActivationStore`; or texts, with `model`.
        theta: Least cosine; None takes the 99th percentile of the largest cosines of random directions with the mean
            and covariance of the wide SAE's decoder rows.
        subset: Least share of a child's tokens where its parent is active.
        min_firings: Wide features that are active on fewer tokens are not judged.
        control: Count with shuffled parents too, 20 times.
        seed: Of the control and the intervals.

    Raises:
        SAEError: The family's SAEs are of several components, or it has no such width.
        InputError: The widths are not in this order, the features are of other tokens, or no wide feature is active on
            `min_firings` tokens.

    Examples:
        >>> from mlxterp import geometry
        >>> narrow = mlxterp.SAETrainConfig(d_hidden=64, k=16, epochs=1)
        >>> narrow = model.train_sae(1, texts, "resid_post", narrow, verbose=False)
        >>> family = mlxterp.SAECollection({64: narrow, 2048: sae})
        >>> found = geometry.splitting(family, 64, 2048, texts, model=model)
        >>> found.narrow, found.wide, len(found.parents) == found.confirmed.value
        (64, 2048, True)
    """
    small, large = pair_of(family, narrow, wide)
    theta = None if theta is None else checks.finite(theta, "theta", -1.0, 1.0)
    subset, least = checks.fraction(subset, "subset"), checks.count(min_firings, "min_firings")
    control, seed = checks.flag(control, "control"), checks.seed(seed)
    a, b = both_features(index, small, large, model)
    limit = theta_of(large.W_dec, small.W_dec, seed) if theta is None else theta
    nearest = cosine_neighbours(large.W_dec, small.W_dec, 1)
    parent, cosine = nearest.ids[:, 0], nearest.cosines[:, 0]
    counts_a, counts_b = a.counts, b.counts
    live = (counts_b >= least) & (parent >= 0)
    if not live.any():
        raise InputError(
            f"No feature of the wide SAE is active on {least} of the {b.n} tokens. Give more texts, or a smaller"
            " min_firings."
        )
    by_cosine = live & (cosine >= limit)
    draw = np.random.default_rng(seed)
    shuffles = [draw.permutation(small.d_hidden) for _ in range(DRAWS if control else 0)]
    fired = _with_parents(a, b, parent, by_cosine, shuffles, subset)
    confirmed = by_cosine & _subset(fired.together, counts_b, counts_a[parent], a.n, subset)
    counted = Controlled(
        float(confirmed.sum()), bootstrap(confirmed[live], lambda rows: float(rows.sum()), seed=seed),
        fired.passed.astype(np.float64), "shuffled parents", seed,
    )  # fmt: skip
    coverage = _coverage(a, b, parent, confirmed, live, control, seed)
    indexes = {int(w): one for w, one in index.items()} if isinstance(index, Mapping) else {}
    return Splitting(
        narrow=int(narrow), wide=int(wide), theta=limit, subset=subset, min_firings=least, n_tokens=a.n,
        parent=parent, cosine=cosine, together=fired.together, counts=counts_b, parent_counts=counts_a,
        jaccard=fired.jaccard, jaccard_parent=fired.jaccard_parent, live=live, is_child=confirmed,
        by_cosine=by_cosine, confirmed=counted, coverage=coverage, saes=(small, large), indexes=indexes,
    )  # fmt: skip


def theta_of(wide: np.ndarray, narrow: np.ndarray, seed: int = 0) -> float:
    """The cosine that 99 % of random directions do not reach: the largest of each with the rows of `narrow`.

    Args:
        wide: (n, width): what the random directions share mean and covariance with; drawn until there are 4,096.
        narrow: (m, width).
    """
    found = [
        cosine_neighbours(random_like(wide, "covariance", (seed + i) % 2**64), narrow, 1).cosines[:, 0]
        for i in range(ceil(_CONTROL_ROWS / len(wide)))
    ]
    return float(np.nanquantile(np.concatenate(found), THETA))


class _Fired(NamedTuple):
    """How wide features are active with their parents; all but the last (wide,)."""

    together: np.ndarray
    """int64: tokens where both are active."""
    jaccard: np.ndarray
    jaccard_parent: np.ndarray
    """int64: the narrow feature with the largest Jaccard index."""
    passed: np.ndarray
    """int64, (shuffles,): features that would be confirmed if parents were dealt out so."""


def _with_parents(
    a: TokenFeatures, b: TokenFeatures, parent: np.ndarray, by_cosine: np.ndarray, shuffles: Sequence[np.ndarray],
    subset: float,
) -> _Fired:  # fmt: skip
    """Counts the tokens of wide features (b) where their parents (a), and those of each shuffle, are active."""
    counts_a, counts_b = a.counts, b.counts
    together, jaccard_parent, jaccard = (np.zeros(len(parent), kind) for kind in (np.int64, np.int64, float))
    passed = np.zeros(len(shuffles), dtype=np.int64)
    for some, pairs in counts_together(b.features, a.features):
        own, row = parent[some], np.arange(len(some))
        together[some] = np.where(own >= 0, pairs[row, own], 0)
        likeness = pairs / np.maximum(counts_b[some, None] + counts_a - pairs, 1)
        jaccard_parent[some], jaccard[some] = likeness.argmax(axis=1), likeness[row, own]
        for i, shuffle in enumerate(shuffles):
            other = shuffle[own]
            found = _subset(pairs[row, other], counts_b[some], counts_a[other], a.n, subset)
            passed[i] += (by_cosine[some] & found).sum()
    return _Fired(together, jaccard, jaccard_parent, passed)


def _subset(together: Any, child: Any, parent: Any, n: int, subset: float) -> np.ndarray:
    """Whether the parent is active on enough of the child's tokens, and more often than elsewhere."""
    share = together / np.maximum(child, 1)
    return (share >= subset) & (share * n >= LIFT * parent)


def _coverage(
    a: TokenFeatures, b: TokenFeatures, parent: np.ndarray, confirmed: np.ndarray, live: np.ndarray, control: bool,
    seed: int,
) -> Controlled:  # fmt: skip
    """Share of a parent's tokens on which one of its children is active; mean over parents with children."""
    narrow, wide = a.features.transpose(), b.features.transpose()
    families = [(p, np.flatnonzero(confirmed & (parent == p))) for p in np.unique(parent[confirmed])]
    draw, active = np.random.default_rng([seed, 1]), np.zeros(a.features.n, dtype=bool)
    known = np.flatnonzero(live)

    def share(p: int, children: np.ndarray) -> float:
        active[:] = False
        active[wide.take(children).indices] = True
        tokens = narrow.row(int(p))[0]
        return float(active[tokens].mean()) if len(tokens) else 0.0

    shares = np.array([share(p, children) for p, children in families])
    drawn = [
        np.mean([share(p, draw.choice(known, len(children), replace=False)) for p, children in families])
        for _ in range(DRAWS if control and families else 0)
    ]
    value = float(shares.mean()) if len(shares) else float("nan")
    return Controlled(value, bootstrap(shares, seed=seed), np.array(drawn), "as many random features", seed)

"""Which features are active together more often, or less often, than chance has it: on a token, nearby, in a text."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ..core import checks
from ..core.controls import DRAWS, Controlled, bootstrap
from ..core.options import names_options
from ..core.sparse import SparseFeatures
from ..errors import InputError
from ..index import FeatureIndex
from .pairs import Coactivation, FeaturePairs
from .token_features import TokenFeatures, counts_together, features_of

_SAMPLED = 512
"""Features that the control is measured on."""


@names_options
def coactivation(
    features: FeatureIndex | SparseFeatures, *, level: Literal["token", "window", "text"] = "token", window: int = 16,
    text_ids: Any = None, positions: Any = None, min_count: int = 5, control: bool = True, seed: int = 0,
) -> Coactivation:  # fmt: skip
    """Pairs of features that are active in the same unit, with PMI, lift, phi and Jaccard index.

    PMI = log(N C_ij / (C_i C_j)), in nats; lift = exp(PMI); phi is the correlation of the two as 0 and 1. Only pairs
    that occur are held, never features x features at once.

    Args:
        features: A `FeatureIndex`, or features with a row for each token.
        level: What counts as together: on the same token, in the same window of a text, or in the same text.
        window: Tokens of a window; windows follow each other and do not overlap.
        text_ids: Integers (rows,): the text of each row, for windows and texts of features; an index knows them.
        positions: Integers (rows,): its position in that text, for windows; None counts the rows of each text.
        min_count: Pairs that are together in fewer units are left out.
        control: Measure the strongest partner also where activations are dealt out anew over the units, 20 times.
        seed: Of the control and the interval.

    Raises:
        InputError: There is no active feature, or the texts of the rows are not known.

    Examples:
        >>> from mlxterp import geometry
        >>> found = geometry.coactivation(index, level="text", min_count=3)
        >>> found.level, found.n == index.n_texts
        ('text', True)
    """
    level = checks.choice(level, "level", ("token", "window", "text"))
    window, least = checks.count(window, "window"), checks.count(min_count, "min_count")
    control, seed = checks.flag(control, "control"), checks.seed(seed)
    known = _with_texts(features_of(features, None, "features"), text_ids, positions)
    rows, n = _units(known, level, window)
    if not len(rows.indices):
        raise InputError("No feature is active on these tokens, so none are active together.")
    counts = np.bincount(rows.indices, minlength=rows.d_hidden)
    found = [_pairs(some, together, least) for some, together in counts_together(rows, rows)]
    first, second, count = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return Coactivation(
        level=level, window=window, n=n, min_count=least, counts=counts,
        pairs=FeaturePairs(first, second, count, counts, n), rows=rows,
        strongest=_strongest(rows, counts, n, least, control, seed),
    )  # fmt: skip


def coactivation_graph(
    index: FeatureIndex | SparseFeatures, n: int = 200, *, by: Literal["pmi", "lift", "phi", "jaccard"] = "phi",
    **options: Any,
) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
    """The strongest pairs as a graph: {"nodes": [{"id", "count", "label"}], "edges": [{"source", "target", …}]}.

    Args:
        n: Edges at most.
        by: What they are ordered by.
        options: Of `coactivation`.

    Raises:
        InputError: As `coactivation` says.
    """
    found = coactivation(index, **{"control": False, **options})
    return found.graph(n, by, index.label if isinstance(index, FeatureIndex) else None)


# -- units ----------------------------------------------------------------------------------------


def _with_texts(known: TokenFeatures, text_ids: Any, positions: Any) -> TokenFeatures:
    n = known.features.n
    arrays = {}
    for given, name in ((text_ids, "text_ids"), (positions, "positions")):
        if given is None:
            arrays[name] = getattr(known, name)
            continue
        found = checks.whole_numbers(given, name, f"integers, one for each of the {n} rows")
        if found.shape != (n,):
            raise InputError(f"{name} are integers, one for each of the {n} rows; got shape {found.shape}.")
        arrays[name] = found
        if name == "positions" and len(found) and found.min() < 0:
            raise InputError(f"positions count from 0 in each text; got {int(found.min())}.")
    return TokenFeatures(known.features, known.n, arrays["text_ids"], arrays["positions"])


def _units(known: TokenFeatures, level: str, window: int) -> tuple[SparseFeatures, int]:
    """Features of each unit, and how many units there are."""
    if level == "token":
        return known.features, known.n
    if known.text_ids is None:
        raise InputError(
            f"level={level!r} needs the text of each row: text_ids=…, or an index, which knows them."
        )
    texts, groups = np.unique(known.text_ids, return_inverse=True)
    if level == "text":
        return known.features.strongest_by(groups, len(texts)), len(texts)
    positions = known.positions
    if positions is None:
        order = np.argsort(groups, kind="stable")
        positions = np.empty(len(groups), dtype=np.int64)
        starts = np.searchsorted(groups[order], np.arange(len(texts)))
        positions[order] = np.arange(len(groups)) - starts[groups[order]]
    keys = np.stack([groups, positions // window], axis=1)
    units, groups = np.unique(keys, axis=0, return_inverse=True)
    return known.features.strongest_by(groups.reshape(-1), len(units)), len(units)


def _pairs(some: np.ndarray, together: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (i, j), i < j, of the features `some` and all others that are together often enough."""
    row, other = np.nonzero(together >= least)
    chosen = some[row] < other
    row, other = row[chosen], other[chosen]
    return some[row].astype(np.int32), other.astype(np.int32), together[row, other].astype(np.int64)


# -- controls -------------------------------------------------------------------------------------


def _strongest(
    rows: SparseFeatures, counts: np.ndarray, n: int, least: int, control: bool, seed: int
) -> Controlled:  # fmt: skip
    """Phi of a feature with its strongest partner, mean over (a sample of) features that are active often enough."""
    draw, kind = np.random.default_rng(seed), "activations dealt out anew"
    able = np.flatnonzero((counts >= least) & (counts < n))
    if len(able) < 2:
        return Controlled(float("nan"), None, np.zeros(0), kind, seed)
    sample = np.sort(draw.choice(able, min(_SAMPLED, len(able)), replace=False))
    largest = _largest_phi(rows, n, sample)
    drawn = [
        float(_largest_phi(_dealt(rows, draw), n, sample).mean()) for _ in range(DRAWS if control else 0)
    ]
    return Controlled(float(largest.mean()), bootstrap(largest, seed=seed), np.array(drawn), kind, seed)


def _largest_phi(rows: SparseFeatures, n: int, sample: np.ndarray) -> np.ndarray:
    """The largest phi of each sampled feature with another one; 0 where all are below."""
    counts, found = np.bincount(rows.indices, minlength=rows.d_hidden).astype(np.float64), []
    for some, together in counts_together(rows, rows, sample):
        a, phi = counts[some, None], np.zeros(together.shape)
        below = np.sqrt(a * (n - a) * counts * (n - counts))
        np.divide(n * together - a * counts, below, out=phi, where=below > 0)
        phi[np.arange(len(some)), some] = 0
        found.append(phi.max(axis=1))
    return np.concatenate(found)


def _dealt(rows: SparseFeatures, draw: np.random.Generator) -> SparseFeatures:
    """Each unit with as many features as before, each feature in about as many units, and nothing else in common.

    A feature that a unit would get twice it gets once.
    """
    keys = np.sort(rows.row_ids * rows.d_hidden + draw.permutation(rows.indices))
    row, ids = np.divmod(keys[np.diff(keys, prepend=-1) > 0], rows.d_hidden)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=rows.n))]).astype(np.int64)
    return SparseFeatures(indptr, ids.astype(np.int32), np.ones(len(ids), np.float32), rows.d_hidden)

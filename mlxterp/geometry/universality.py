"""Universality: which features of one SAE another one has too, by direction and by when they are active.

Two seeds, two layers or two widths are compared by decoder cosine and by activations; SAEs of two models by activations
on the same tokens only, since directions of two models have nothing to do with each other.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ..core import checks
from ..core.controls import DRAWS, Controlled, bootstrap, random_like
from ..core.options import names_options
from ..errors import BackendError, InputError
from ..sae import SAE
from .neighbours import cosine_neighbours
from .partners import NEAR, Partners, Universality
from .token_features import TokenFeatures, counts_together, features_of, same_tokens

_CONTROL_ROWS = 2048
"""Directions, or features, of each draw of a control."""
_DENSE = 1 << 28
"""Pairs of features that an assignment is made among at most."""
_TIED = 1e-6
"""Cosines so near the largest are the largest too: where an SAE has a row twice, either copy is the partner."""


@names_options
def universality(
    a: SAE, b: SAE, *, activations: Any = None, match: Literal["max", "hungarian"] = "max", control: bool = True,
    seed: int = 0,
) -> Universality:  # fmt: skip
    """How much of one SAE another has: each feature of `a` beside its partner in `b`.

    A feature is shared where decoder and encoder lead to the same partner, both with a cosine of at least .7 (Paulo
    and Belrose, 2025). MMCS is the mean over features of the largest cosine (Sharkey et al., 2022). With activations,
    features are also matched by the correlation of their activations over tokens. Features with a decoder row of zeros,
    and those that are never active, are left out of the mean that they have no part in.

    Args:
        a, b: Two SAEs; of different models only with `activations`.
        activations: What both read, (…, d_model); or a pair, of a's and of b's component on the same tokens:
            activations, features (`SparseFeatures`) or indexes. `aligned_activations` makes a pair for two models.
        match: "max" takes the best partner of each; "hungarian" pairs them one to one, by scipy.
        control: Measure 20 times with covariance-matched directions in place of a's, and with a's tokens shuffled.
        seed: Of the controls and the intervals.

    Raises:
        InputError: The two are of different models or widths and no activations were given, these are of other tokens,
            or too many pairs are to be assigned.
        BackendError: "hungarian" needs scipy, which is not installed.

    Examples:
        >>> from mlxterp import geometry
        >>> found = geometry.universality(sae, sae.replace(), control=False)
        >>> round(found.mmcs.value, 9), found.shared_share.value
        (1.0, 1.0)
    """
    for sae, name in ((a, "a"), (b, "b")):
        if not isinstance(sae, SAE):
            raise InputError(f"{name} is an SAE, got {type(sae).__name__}. SAE.load(path) opens one.")
    match = checks.choice(match, "match", ("max", "hungarian"))
    control, seed = checks.flag(control, "control"), checks.seed(seed)
    apart = _apart(a, b)
    if apart and activations is None:
        raise InputError(
            f"{apart}, so that their directions cannot be compared. Give activations=(of a, of b) on the same tokens:"
            " aligned_activations(model_a, a, model_b, b, texts)."
        )
    if match == "hungarian" and a.d_hidden * b.d_hidden > _DENSE:
        raise InputError(
            f"{a.d_hidden} x {b.d_hidden} features are too many to be assigned one to one. Use match='max'."
        )
    decoder = encoder = mmcs = shared = correlated = correlation = None
    if not apart:
        decoder = _by_cosine(a.W_dec, b.W_dec, match)
        encoder = _by_cosine(a.W_enc.T, b.W_enc.T, match)
        mmcs = _mmcs(a, b, decoder, match, control, seed)
        shared = _shared(a, b, decoder, encoder, match, control, seed)
    if activations is not None:
        x, y = _two(activations, a, b)
        correlated = _by_correlation(x, y, match)
        correlation = _correlation(x, y, correlated, match, control, seed)
    return Universality(
        match=match, widths=(a.d_hidden, b.d_hidden), decoder=decoder, encoder=encoder, mmcs=mmcs,
        shared_share=shared, activation=correlated, correlation=correlation,
    )  # fmt: skip


def _apart(a: SAE, b: SAE) -> str:
    """Why directions of two SAEs cannot be compared; "" where they can."""
    models = [sae.metadata.get("model") for sae in (a, b)]
    if all(isinstance(name, str) for name in models) and models[0] != models[1]:
        return f"The SAEs are of two models ({models[0]} and {models[1]})"
    if (a.d_model, a.d_out) != (b.d_model, b.d_out):
        return f"The SAEs are of widths {a.d_model} and {b.d_model}"
    return ""


# -- directions -----------------------------------------------------------------------------------


def _by_cosine(rows: np.ndarray, among: np.ndarray, match: str) -> Partners:
    if match == "max":
        found = cosine_neighbours(rows, among, 1)
        return Partners(found.ids[:, 0], found.cosines[:, 0])
    unit = [x / np.where((n := np.linalg.norm(x, axis=1, keepdims=True)) > 0, n, 1) for x in (rows, among)]
    cosines = unit[0].astype(np.float64) @ unit[1].astype(np.float64).T
    cosines[~rows.any(axis=1)] = np.nan
    cosines[:, ~among.any(axis=1)] = np.nan
    return _assigned(cosines)


def _assigned(values: np.ndarray) -> Partners:
    """Partners one to one with the largest sum; NaN is no pair."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise BackendError(
            'match="hungarian" needs scipy, which pip install "mlxterp[clusters]" brings; match="max" needs nothing.'
        ) from error
    row, column = linear_sum_assignment(np.where(np.isnan(values), -2.0, values), maximize=True)
    ids, best = np.full(len(values), -1, dtype=np.int64), np.full(len(values), np.nan)
    known = ~np.isnan(values[row, column])
    ids[row[known]], best[row[known]] = column[known], values[row, column][known]
    return Partners(ids, best)


def _mmcs(a: SAE, b: SAE, found: Partners, match: str, control: bool, seed: int) -> Controlled:
    known = found.values[~np.isnan(found.values)]
    if not len(known):
        raise InputError("No feature has a partner: the decoder rows of an SAE are all zero.")
    drawn = [
        np.nanmean(_by_cosine(_like(a.W_dec, seed, i), b.W_dec, match).values)
        for i in range(DRAWS if control else 0)
    ]
    return Controlled(
        float(known.mean()),
        bootstrap(known, seed=seed),
        np.array(drawn),
        "covariance-matched directions",
        seed,
    )


def _shared(
    a: SAE, b: SAE, decoder: Partners, encoder: Partners, match: str, control: bool, seed: int
) -> Controlled:  # fmt: skip
    known = ~np.isnan(decoder.values)
    shared = _agree(a.W_enc.T, b.W_enc.T, decoder, encoder, match)[known].astype(np.float64)
    drawn = []
    for i in range(DRAWS if control else 0):
        rows, reads = _like(a.W_dec, seed, i), _like(a.W_enc.T, seed + DRAWS, i)
        two = _by_cosine(rows, b.W_dec, match), _by_cosine(reads, b.W_enc.T, match)
        drawn.append(_agree(reads, b.W_enc.T, *two, match).mean())
    return Controlled(
        float(shared.mean()),
        bootstrap(shared, seed=seed),
        np.array(drawn),
        "covariance-matched directions",
        seed,
    )


def _agree(
    rows: np.ndarray, among: np.ndarray, decoder: Partners, encoder: Partners, match: str
) -> np.ndarray:
    """Whether decoder and encoder lead to the same partner, both nearly enough.

    Args:
        rows, among: The encoders' directions.
    """
    near = (decoder.values >= NEAR) & (encoder.values >= NEAR)
    same = decoder.ids == encoder.ids
    if match == "max":
        at = np.flatnonzero(near & ~same)
        own, other = rows[at].astype(np.float64), among[decoder.ids[at]].astype(np.float64)
        lengths = np.linalg.norm(own, axis=1) * np.linalg.norm(other, axis=1)
        cosines = (own * other).sum(axis=1) / np.where(lengths > 0, lengths, 1)
        same[at] = cosines >= encoder.values[at] - _TIED
    return near & same


def _like(rows: np.ndarray, seed: int, draw: int) -> np.ndarray:
    """Random directions with the mean and covariance of rows, as many as these, up to 2,048."""
    return random_like(rows, "covariance", (seed + draw) % 2**64)[:_CONTROL_ROWS]


# -- activations ----------------------------------------------------------------------------------


def _two(given: Any, a: SAE, b: SAE) -> tuple[TokenFeatures, TokenFeatures]:
    one, other = given if isinstance(given, (tuple, list)) and len(given) == 2 else (given, given)
    x, y = features_of(one, a, "activations"), features_of(other, b, "activations")
    same_tokens(x, y)
    if not len(x.features.values) or not len(y.features.values):
        raise InputError("One of the SAEs has no active feature on these tokens. Give more of them.")
    return x, y


def _by_correlation(
    x: TokenFeatures, y: TokenFeatures, match: str, rows: np.ndarray | None = None
) -> Partners:
    """Partners by the correlation of activations over all tokens that count; NaN for features that never vary.

    Args:
        rows: Features of x; None takes all.
    """
    wanted = np.arange(x.features.d_hidden) if rows is None else rows
    (mean_x, spread_x), (mean_y, spread_y) = _moments(x), _moments(y)
    ids, best = np.full(len(wanted), -1, dtype=np.int64), np.full(len(wanted), np.nan)
    whole, done = [], 0
    for some, sums in counts_together(x.features, y.features, wanted, weighted=True):
        below = spread_x[some, None] * spread_y
        found = np.full(sums.shape, np.nan)
        np.divide(sums / x.n - mean_x[some, None] * mean_y, below, out=found, where=below > 0)
        if match == "hungarian":
            whole.append(found)
            continue
        place = np.where(np.isnan(found), -np.inf, found).argmax(axis=1)
        value = found[np.arange(len(some)), place]
        part = slice(done, done + len(some))
        ids[part], best[part] = np.where(np.isnan(value), -1, place), value
        done += len(some)
    return _assigned(np.concatenate(whole)) if match == "hungarian" else Partners(ids, best)


def _moments(x: TokenFeatures) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each feature over the tokens that count; 0 for what does not vary."""
    ids, values, width = x.features.indices, x.features.values.astype(np.float64), x.features.d_hidden
    mean = np.bincount(ids, values, minlength=width) / x.n
    square = np.bincount(ids, values**2, minlength=width) / x.n
    variance = square - mean**2
    return mean, np.sqrt(np.where(variance > 1e-12 * square, variance, 0.0))


def _correlation(
    x: TokenFeatures, y: TokenFeatures, found: Partners, match: str, control: bool, seed: int
) -> Controlled:
    known = found.values[~np.isnan(found.values)]
    if not len(known):
        raise InputError("No feature varies over these tokens. Give more of them.")
    draw, drawn = np.random.default_rng([seed, 2]), []
    live = np.flatnonzero(~np.isnan(found.values))
    rows = np.sort(draw.choice(live, min(len(live), _CONTROL_ROWS), replace=False))
    for _ in range(DRAWS if control else 0):
        shuffled = TokenFeatures(x.features.take(draw.permutation(x.features.n)), x.n)
        drawn.append(np.nanmean(_by_correlation(shuffled, y, match, rows).values))
    return Controlled(
        float(known.mean()), bootstrap(known, seed=seed), np.array(drawn), "tokens shuffled", seed
    )

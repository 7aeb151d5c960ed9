"""`control_index`: an index of directions that mean nothing by themselves, as often active as the features of an SAE.

What is explained and scored on it as on the SAE's own index is the control of that. Heap et al., "Sparse Autoencoders
Can Interpret Randomly Initialized Transformers" (2025), found such scores near those of trained SAEs.
"""

from __future__ import annotations

import os
from typing import Literal

import numpy as np

from ..activations.forward import collect
from ..core import checks
from ..core.controls import random_like
from ..core.options import names_options
from ..core.places import path_of
from ..core.sites import Component
from ..data.corpus import Corpus
from ..errors import InputError
from ..index.feature_index import FeatureIndex
from ..index.rebuilt import Same
from ..index.source import Source
from ..sae import SAE
from ..variants import ReLU, TopK
from ..weights import SAEWeights

Kind = Literal["isotropic", "covariance", "shuffled", "random_init", "neurons", "residual"]
KINDS: dict[str, str] = {
    "isotropic": "random directions",
    "covariance": "covariance-matched directions",
    "shuffled": "decoder columns shuffled",
    "random_init": "an SAE that was not trained",
    "neurons": "MLP neurons",
    "residual": "residual dimensions",
}
"""What `control_index` makes, and what reports call it."""
_NUMBERS = 1 << 27
"""Of activations that thresholds are measured on, at most (512 MiB)."""
_COLUMNS = 64
"""Directions whose thresholds are measured at a time."""
_EQUAL = 1e-5
"""Of a column's largest size: values nearer than this are one value."""


@names_options
def control_index(
    index: FeatureIndex, kind: Kind = "covariance", path: str | os.PathLike | None = None, *, seed: int = 0,
    verbose: bool = True,
) -> FeatureIndex:  # fmt: skip
    """An index of a control on the same texts, to be explained and scored as the index itself.

    The model runs over the texts twice: to find how large each direction's threshold is, and to see where it is active.

    Args:
        index: With its model and SAE.
        kind: "isotropic", "covariance" and "shuffled" are directions like the decoder's rows (a transcoder's encoder
            columns), as `random_like` draws them; "residual" the dimensions of the residual stream after the SAE's
            layer and "neurons" what its MLP multiplies its last matrix with, each with both signs: all of these are
            active where they exceed a threshold, on as many tokens as the feature of that number (of dimensions and
            neurons: as a feature drawn at random). "random_init" is a TopK SAE of random directions that has as many
            active on a token as the SAE, on average.
        path: A folder for the index; None makes a temporary one, gone with the index.
        seed: Of the directions.
        verbose: Whether a bar is shown.

    Raises:
        InputError: There is no such kind, no feature is active, or the index's SAE names no layer, where one is needed.
        FeatureIndexError: The index has no model and SAE, or its texts cannot be run again.

    Examples:
        >>> from mlxterp import autointerp
        >>> control = autointerp.control_index(index, "covariance", verbose=False)
        >>> control.d_hidden == index.d_hidden, control.n_tokens == index.n_tokens
        (True, True)
    """
    kind, seed = checks.choice(kind, "kind", KINDS), checks.seed(seed)  # type: ignore[assignment]
    same = Same.of(index)
    if not len(index.live):
        raise InputError(
            "No feature of this index is active, so there is nothing that a control could be as often as."
        )
    place = _place(same.source, kind)
    rows = _rows(same, place, seed)
    sae = _sae(same, kind, rows, seed)
    sae.metadata.update(component=place.name, control=KINDS[kind], seed=seed)
    return same.built(sae, place, None if path is None else path_of(path), verbose)


def _place(own: Source, kind: str) -> Component:
    """Where the control is read."""
    if kind not in ("neurons", "residual"):
        return own.component
    layer = own.anatomy.names.resolve(own.component.name).layer
    if layer is None:
        raise InputError(
            f"{own.component.name} is in no layer, so {kind!r} names no place. Take another kind of control."
        )
    return own.anatomy.component(
        f"layers.{layer}.resid_post" if kind == "residual" else f"blocks.{layer}.mlp.hook_post"
    )


def _rows(same: Same, place: Component, seed: int) -> np.ndarray:
    """float32, (tokens, width): activations of tokens that count; of texts drawn at random, where they are many."""
    model, texts, rule = same.source.anatomy.model, same.texts, same.rule(place)
    found: list[np.ndarray] = []
    corpus = Corpus.from_texts(texts, model.tokenize)
    order = np.random.default_rng(seed).permutation(len(texts))
    sizes = np.diff(corpus.offsets)[order]
    width = 0
    for some in np.split(order, np.flatnonzero(np.diff(np.cumsum(sizes) // (1 << 15))) + 1):
        part_of = Corpus.from_texts([texts[int(i)] for i in np.sort(some)], model.tokenize)
        for part in collect(model, part_of, place, quiet=True):
            tokens = part_of.tokens[part_of.offsets[part.text_ids] + part.positions]
            counted = rule.reasons_of(model, part, tokens) < 0
            values = model.backend.get(part.values).astype(np.float32)[counted]
            width = values.shape[1]
            found.append(values)
        if sum(map(len, found)) * width >= _NUMBERS:
            break
    return np.concatenate(found)


def _sae(same: Same, kind: str, rows: np.ndarray, seed: int) -> SAE:
    """The control as an SAE."""
    index, own = same.index, same.source.sae
    shares = index.summary.count / index.n_tokens
    draw = np.random.default_rng([seed, list(KINDS).index(kind)])
    mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    backend = own.backend
    if kind == "random_init":
        W = draw.standard_normal((own.d_hidden, rows.shape[1]), dtype=np.float32)
        W /= np.linalg.norm(W, axis=1, keepdims=True)
        k = int(np.clip(round(float(shares.sum())), 1, own.d_hidden))
        return SAE(_weights(W, -(W @ mean)), TopK(k), backend=backend)
    if kind in ("neurons", "residual"):
        both = np.concatenate([np.eye(rows.shape[1], dtype=np.float32)] * 2)
        both[rows.shape[1] :] *= -1
        W = both[np.sort(draw.permutation(len(both))[: max(own.d_hidden, 1)])]
        live = shares[shares > 0]
        shares = draw.choice(live, len(W), replace=len(live) < len(W))
    else:
        W = random_like(own.W_enc.T if own.is_transcoder else own.W_dec, kind, seed)  # type: ignore[arg-type]
        if W.shape[1] != rows.shape[1]:
            raise InputError(f"{kind!r} needs directions as wide as {index.component}; take 'random_init'.")
        lengths = np.linalg.norm(W, axis=1, keepdims=True)
        W = W / np.where(lengths > 0, lengths, 1)
    return SAE(_weights(W, -_thresholds(rows, W, shares)), ReLU(), backend=backend)


def _weights(W: np.ndarray, b_enc: np.ndarray) -> SAEWeights:
    W = np.ascontiguousarray(W, dtype=np.float32)
    return SAEWeights(
        np.ascontiguousarray(W.T), b_enc.astype(np.float32), W, np.zeros(W.shape[1], np.float32), False
    )


def _thresholds(rows: np.ndarray, W: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """float32, (directions,): what x · w exceeds on the share of tokens wanted; where that is 0, on none.

    A threshold stands halfway between two values that differ, so that rounding does not decide what exceeds it: of
    texts that begin alike all tokens exceed it or none.
    """
    found = np.empty(len(W), dtype=np.float32)
    for start in range(0, len(W), _COLUMNS):
        products = rows @ W[start : start + _COLUMNS].T
        products.sort(axis=0)
        n = np.round(shares[start : start + _COLUMNS] * len(rows)).astype(np.int64)
        n = np.where(shares[start : start + _COLUMNS] > 0, np.clip(n, 1, len(rows)), 0)
        above = products[-1] + np.abs(products[-1]) + 1
        found[start : start + _COLUMNS] = np.where(n > 0, _between(products, n), above)
    return found


def _between(products: np.ndarray, n: np.ndarray) -> np.ndarray:
    """(columns,): between two values of each sorted column, above which are n; nearly n where some are equal."""
    size, columns = np.abs(products).max(axis=0), np.arange(products.shape[1])
    lowest = products[:1] - size - 1  # below all, so that every column has a gap
    values = np.concatenate([lowest, products])
    gaps = np.diff(values, axis=0) > _EQUAL * size
    numbers, wanted = np.arange(len(gaps))[:, None], len(products) - np.maximum(n, 1)
    below = np.maximum.accumulate(np.where(gaps, numbers, 0), axis=0)[wanted, columns]
    above = np.minimum.accumulate(np.where(gaps, numbers, len(gaps))[::-1], axis=0)[::-1][wanted, columns]
    at = np.where((above < len(gaps)) & (above - wanted < wanted - below), above, below)
    return (values[at, columns] + values[at + 1, columns]) / 2

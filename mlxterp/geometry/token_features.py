"""`TokenFeatures`: which features are active on which token, from whatever holds it.

Splitting, universality and co-activation read it: from an index, from an SAE on activations, or from features that
were encoded before.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..activations.exclusions import EXCLUSIONS, rule_for
from ..activations.forward import collect
from ..activations.store import ActivationStore
from ..anatomy.anatomy import Anatomy
from ..backends.host.conversion import to_numpy
from ..core.sparse import SparseFeatures
from ..data.corpus import Corpus
from ..data.dataset import texts_of
from ..errors import InputError
from ..index import FeatureIndex
from ..index.by_token import by_token
from ..sae import SAE

_ROWS = 8192
"""Tokens that are encoded at once."""
_CELLS = 1 << 24
"""Pairs of features that are counted at once, and pairs on one token that are held."""


@dataclass(frozen=True, eq=False, slots=True)
class TokenFeatures:
    """Features of n tokens.

    Attributes:
        features: A row for each token. Tokens that an index leaves out have empty rows.
        n: Tokens that count.
        text_ids: int64, (rows,): the text of each row; None where it is not known.
        positions: int64, (rows,): its position in that text; None where it is not known.
        tokens: int32, (rows,): token ids; None where they are not known.
    """

    features: SparseFeatures
    n: int
    text_ids: np.ndarray | None = None
    positions: np.ndarray | None = None
    tokens: np.ndarray | None = None

    @property
    def counts(self) -> np.ndarray:
        """int64, (d_hidden,): tokens where each feature is active."""
        return np.bincount(self.features.indices, minlength=self.features.d_hidden)


def features_of(given: Any, sae: SAE | None, what: str) -> TokenFeatures:
    """Features of tokens: of an index, of activations that the SAE encodes, or as they are.

    Args:
        given: A `FeatureIndex`, `SparseFeatures` or `TokenFeatures`, an `ActivationStore`, or activations (…, d_model).
        sae: What the features are of; None takes those that are given.
        what: The argument's name.

    Raises:
        InputError: It is something else, or of another SAE.
    """
    if isinstance(given, FeatureIndex):
        if sae is not None and given.fingerprint != sae.fingerprint:
            raise InputError(
                f"The index in {what} is of {given.sae_name}, not of {sae!r}. Build one of this SAE."
            )
        rows = by_token(given)
        return TokenFeatures(rows.features, given.n_tokens, rows.text_ids, rows.positions, rows.tokens)
    if isinstance(given, SparseFeatures):
        given = TokenFeatures(given, given.n)
    if isinstance(given, TokenFeatures):
        width = given.features.d_hidden
        if sae is not None and width != sae.d_hidden:
            raise InputError(f"{what} holds features of an SAE of {width}, not of {sae!r}.")
        return given
    if sae is None:
        raise InputError(f"{what} is a FeatureIndex or SparseFeatures, got {type(given).__name__}.")
    rows = activations_of(given, sae.d_model, what, sae.component)
    parts = [sae.encode_sparse(rows[start : start + _ROWS]) for start in range(0, len(rows), _ROWS)]
    return TokenFeatures(SparseFeatures.concat(parts), len(rows))


def activations_of(given: Any, width: int, what: str, component: str | None = None) -> np.ndarray:
    """float32, (n, width): activations as rows.

    Args:
        given: An array (…, width), or an `ActivationStore` with the component.

    Raises:
        InputError: It is no such thing, or a value is not finite.
    """
    if isinstance(given, ActivationStore):
        name = component or given.components[0]
        return np.concatenate([given.read(i, name) for i in range(len(given.counts))])
    if given is None or isinstance(given, (str, os.PathLike, Mapping)):
        raise InputError(
            f"{what} is {given!r:.80}; expected activations (…, {width}), or an ActivationStore."
        )
    found = to_numpy(list(given) if isinstance(given, Iterator) else given, what)
    rows = np.asarray(found, dtype=np.float32)
    if rows.ndim < 2 or rows.shape[-1] != width or not rows.size:
        raise InputError(f"{what} are activations (…, {width}) of at least one token, got {rows.shape}.")
    rows = rows.reshape(-1, width)
    if not np.isfinite(rows).all():
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        raise InputError(
            f"Row {int(bad[0])} of {what} is not finite ({len(bad)} such rows). Leave those out."
        )
    return rows


def run_texts(anatomy: Anatomy, texts: Any, component: str) -> tuple[np.ndarray, Corpus, np.ndarray]:
    """What a component puts out for the tokens of texts that count: beginnings of text and attention sinks do not.

    Returns:
        float32, (n, width); the texts' tokens; and int64, (n,): the number of each row's token among them.

    Raises:
        InputError: There are no texts, or no token counts.
        NoTokenizerError: The model has no tokenizer.
        ComponentError: It has no such component.
    """
    place, run = anatomy.component(component), anatomy.model
    corpus = Corpus.from_texts(texts_of(texts, run), run.tokenize)
    rule, values, numbers = rule_for(run, place, EXCLUSIONS), [], []
    for part in collect(run, corpus, place):
        tokens = corpus.offsets[part.text_ids] + part.positions
        counts = rule.reasons_of(run, part, corpus.tokens[tokens]) < 0
        values.append(np.asarray(run.backend.get(part.values), dtype=np.float32)[counts])
        numbers.append(tokens[counts])
    found = np.concatenate(values)
    if not len(found):
        raise InputError(
            "No token of these texts counts: they are beginnings of text and attention sinks only."
        )
    return found, corpus, np.concatenate(numbers)


def same_tokens(a: TokenFeatures, b: TokenFeatures) -> None:
    """Raises InputError where the rows of two are not the same tokens, as far as it can be told."""
    same = a.features.n == b.features.n and a.n == b.n
    if same and a.tokens is not None and b.tokens is not None:
        same = np.array_equal(a.tokens, b.tokens)
    if not same:
        raise InputError(
            f"The two SAEs' features are of other tokens ({a.n} and {b.n} that count). Index the same texts with both,"
            " and the same exclusions: family.build_indexes(model, texts, path)."
        )


def counts_together(
    a: SparseFeatures, b: SparseFeatures, rows: np.ndarray | None = None, weighted: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """On how many tokens features of a and of b are active together, some features of a at a time.

    Args:
        rows: Features of a, integers; None takes all.
        weighted: Sums of the products of activations instead.

    Yields:
        The features of a, (some,), and float64 (some, b.d_hidden).
    """
    wanted = np.arange(a.d_hidden) if rows is None else np.asarray(rows, dtype=np.int64)
    by_feature, lengths = a.transpose(), np.diff(b.indptr)
    step = max(1, _CELLS // b.d_hidden)
    for start in range(0, len(wanted), step):
        some = wanted[start : start + step]
        part, total = by_feature.take(some), np.zeros(len(some) * b.d_hidden)
        pairs = np.concatenate([[0], np.cumsum(lengths[part.indices])])
        cut = 0
        while cut < len(part.indices):
            end = max(cut + 1, int(np.searchsorted(pairs, pairs[cut] + _CELLS, side="right")) - 1)
            tokens = part.indices[cut:end]
            other = b.take(tokens)
            keys = np.repeat(part.row_ids[cut:end] * b.d_hidden, lengths[tokens]) + other.indices
            weights = other.values.astype(np.float64) if weighted else None
            if weights is not None:
                weights *= np.repeat(part.values[cut:end], lengths[tokens])
            total += np.bincount(keys, weights, minlength=len(total))
            cut = end
        yield some, total.reshape(len(some), b.d_hidden)

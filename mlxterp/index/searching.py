"""From a word to features: where the word's tokens occur, and what fires there."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..errors import InputError
from .firing import Reader
from .shard import Shard

Tokenize = Callable[[str], Sequence[int]] | None


def features_for_token(
    reader: Reader, pieces: Mapping[int, str], token: str, tokenize: Tokenize, d_hidden: int
) -> list[tuple[int, float]]:
    """(feature id, mean activation over the token's occurrences), largest magnitude first, then the lower id.

    Raises:
        InputError: The token does not occur.
    """
    if not isinstance(token, str) or not token.strip():
        raise InputError(f"The token is {token!r}; give a word or a token's text.")
    sequences = _sequences(pieces, token, tokenize)
    total, _, occurrences = _sums(reader, sequences, d_hidden)
    if not occurrences:
        near = difflib.get_close_matches(token.strip(), {piece.strip() for piece in pieces.values()}, 3)
        more = "" if tokenize is not None else " (a word of several tokens needs the model: index.attach)"
        raise InputError(
            f"{token!r} does not occur in the texts of this index{more}."
            + (f" Near it: {', '.join(map(repr, near))}." if near else "")
        )
    mean = total / occurrences
    ids = np.flatnonzero(mean)
    order = np.lexsort((ids, -np.abs(mean[ids])))
    return [(int(ids[i]), float(mean[ids[i]])) for i in order]


def features_for_words(
    reader: Reader, pieces: Mapping[int, str], query: str, tokenize: Tokenize, count: np.ndarray
) -> list[tuple[int, float, str]]:
    """(feature id, score, why): the mean over the query's words of how well "fires here" and "is this word" agree.

    For one word that is the F1 score: the harmonic mean of the share of the feature's firings that are on the
    word, and of the share of the word's occurrences where it fires.
    """
    words = list(dict.fromkeys(re.findall(r"\w+|[^\w\s]+", query)))
    scores = np.zeros(len(count))
    best_word = np.zeros(len(count), dtype=np.int64)
    best = np.zeros(len(count))
    for i, word in enumerate(words):
        _, hits, occurrences = _sums(reader, _sequences(pieces, word, tokenize), len(count))
        score = 2 * hits / np.maximum(count + occurrences, 1)
        better = score > best
        best[better], best_word[better] = score[better], i
        scores += score / len(words)
    ids = np.flatnonzero(scores)
    order = ids[np.lexsort((ids, -scores[ids]))]
    return [(int(f), float(scores[f]), f"fires on {words[best_word[f]]!r}") for f in order]


def _sequences(pieces: Mapping[int, str], word: str, tokenize: Tokenize) -> list[tuple[int, ...]]:
    """Token ids that write a word: single ones, or sequences where it has no token of its own."""
    single = [(token,) for token, piece in pieces.items() if word in (piece, piece.strip())]
    if single or tokenize is None:
        return single
    found = {_without_specials(pieces, tokenize(form), word) for form in (word, " " + word.strip())}
    return [sequence for sequence in found if sequence]


def _without_specials(pieces: Mapping[int, str], ids: Sequence[int], word: str) -> tuple[int, ...]:
    """The ids at the end that spell the word: a BOS token before them is none of it."""
    ids = tuple(int(i) for i in ids)
    for start in range(len(ids) - 1, -1, -1):
        if "".join(pieces.get(i, "�") for i in ids[start:]).strip() == word.strip():
            return ids[start:]
    return ()


def _sums(
    reader: Reader, sequences: Sequence[tuple[int, ...]], d_hidden: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Where one of the sequences ends: sum of each feature's activations, how often it fires, how many places."""
    total, hits, occurrences = np.zeros(d_hidden), np.zeros(d_hidden, dtype=np.int64), 0
    for shard in reader.shards() if sequences else []:
        at = _ends(shard, sequences)
        occurrences += int(at.sum())
        pairs = np.flatnonzero(at[shard.rows]) if at.any() else np.zeros(0, dtype=np.int64)
        features = np.searchsorted(shard.indptr, pairs, side="right") - 1
        total += np.bincount(features, weights=shard.values[pairs], minlength=d_hidden)
        hits += np.bincount(features, minlength=d_hidden)
    return total, hits, occurrences


def _ends(shard: Shard, sequences: Sequence[tuple[int, ...]]) -> np.ndarray:
    """bool, (n,): tokens that end one of the sequences (within a piece)."""
    tokens = np.asarray(shard.tokens)
    found = np.isin(tokens, [s[0] for s in sequences if len(s) == 1])
    room = np.arange(len(tokens)) - np.repeat(shard.offsets[:-1], np.diff(shard.offsets)) + 1
    for sequence in sequences:
        if len(sequence) > 1:
            match = room >= len(sequence)
            for back, token in enumerate(reversed(sequence)):
                match &= np.roll(tokens, back) == token
            found |= match
    return found

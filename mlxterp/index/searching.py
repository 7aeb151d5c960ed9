"""From a word to features: where the word's tokens occur, and what fires there."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

import numpy as np

from ..core.tokens import Tokenize
from ..errors import InputError
from .reading import Reader
from .shard import Shard


def features_for_token(
    reader: Reader, pieces: Mapping[int, str], token: str, tokenize: Tokenize | None, d_hidden: int
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
    reader: Reader, pieces: Mapping[int, str], query: str, tokenize: Tokenize | None, count: np.ndarray
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


def _sequences(pieces: Mapping[int, str], word: str, tokenize: Tokenize | None) -> list[tuple[int, ...]]:
    """Token ids that write a word: single tokens, and the sequences that it becomes at a text's start or after a space.

    A word that is one token after a space is often several at the start of a text.
    """
    found: set[tuple[int, ...]] = {
        (token,) for token, piece in pieces.items() if word in (piece, piece.strip())
    }
    if tokenize is not None:
        before = tuple(tokenize(""))
        for form in {word, " " + word.strip()}:
            found.add(_without_specials(pieces, tuple(int(i) for i in tokenize(form)), word, before))
    return sorted(found - {()})


def _without_specials(
    pieces: Mapping[int, str], ids: tuple[int, ...], word: str, before: tuple[int, ...]
) -> tuple[int, ...]:
    """The ids that spell the word: a BOS token or a space before them is none of it.

    Args:
        before: Ids of the empty text.
    """
    for start in range(len(ids) - 1, -1, -1):
        if "".join(pieces.get(i, "�") for i in ids[start:]).strip() == word.strip():
            return ids[start:]
    if not any("�" in pieces.get(i, "") for i in ids):
        return ()
    # Parts of a character have no text of their own that could be compared.
    ids = ids[len(before) :] if ids[: len(before)] == before else ids
    while len(ids) > 1 and pieces.get(ids[0], "").isspace():
        ids = ids[1:]
    return ids


def _sums(
    reader: Reader, sequences: Sequence[tuple[int, ...]], d_hidden: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Where one of the sequences ends: sum of each feature's activations, how often it fires, how many places."""
    total, hits, occurrences = np.zeros(d_hidden), np.zeros(d_hidden, dtype=np.int64), 0
    before = np.zeros(0, dtype=np.int32)  # of the text that goes on in the next shard
    for shard in reader.shards() if sequences else []:
        if not len(shard.piece_start) or not shard.piece_start[0]:
            before = before[:0]
        at = _ends(shard, sequences, before)
        whole = before if len(shard.piece_start) == 1 else before[:0]
        before = np.concatenate([whole, _last_piece(shard)])[-max(map(len, sequences)) :]
        occurrences += int(at.sum())
        pairs = np.flatnonzero(at[shard.rows]) if at.any() else np.zeros(0, dtype=np.int64)
        features = np.searchsorted(shard.indptr, pairs, side="right") - 1
        total += np.bincount(features, weights=shard.values[pairs], minlength=d_hidden)
        hits += np.bincount(features, minlength=d_hidden)
    return total, hits, occurrences


def _last_piece(shard: Shard) -> np.ndarray:
    return np.asarray(shard.tokens[shard.offsets[-2] :] if len(shard.piece_start) else shard.tokens)


def _ends(shard: Shard, sequences: Sequence[tuple[int, ...]], before: np.ndarray) -> np.ndarray:
    """bool, (n,): tokens that end one of the sequences (within a text).

    Args:
        before: Tokens of the first piece's text in the shards before.
    """
    tokens = np.concatenate([before, shard.tokens])
    found = np.isin(tokens, [s[0] for s in sequences if len(s) == 1])
    starts = shard.offsets[:-1] + len(before)
    starts[:1] = 0
    room = np.arange(len(tokens)) - np.repeat(starts, np.diff(np.append(starts, len(tokens)))) + 1
    for sequence in sequences:
        if len(sequence) > 1:
            match = room >= len(sequence)
            for back, token in enumerate(reversed(sequence)):
                match &= np.roll(tokens, back) == token
            found |= match
    return found[len(before) :]

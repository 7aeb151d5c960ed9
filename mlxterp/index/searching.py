"""From a word to features: where the word's tokens occur, and what fires there."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..core.tokens import Tokenize
from ..errors import InputError
from .derived import Derived
from .reading import Reader
from .shard import Shard

_MANY = 4
"""Reading all of a shard costs as much as picking out one firing in so many."""


class Words:
    """What fires on the words of an index's texts.

    Args:
        pieces: The text of each token id.
    """

    def __init__(self, reader: Reader, derived: Derived, pieces: Mapping[int, str], count: np.ndarray):
        self._reader, self._derived, self._pieces, self._count = reader, derived, pieces, count

    @cached_property
    def _spelled(self) -> Mapping[str, list[int]]:
        """Token ids by their text, as it is and without spaces around it."""
        found: dict[str, list[int]] = {}
        for token, piece in self._pieces.items():
            for form in {piece, piece.strip()}:
                found.setdefault(form, []).append(token)
        return found

    def features_for_token(
        self, token: str, tokenize: Tokenize | None, top_k: int
    ) -> list[tuple[int, float]]:
        """(feature id, mean activation over the token's occurrences), largest magnitude first, then the lower id.

        Raises:
            InputError: The token does not occur.
        """
        if not isinstance(token, str) or not token.strip():
            raise InputError(f"The token is {token!r}; give a word or a token's text.")
        fired = self._fired_on(token, tokenize)
        if not fired.occurrences:
            raise InputError(self._not_there(token, tokenize))
        mean = fired.total / fired.occurrences
        ids, mean = fired.ids[mean != 0], mean[mean != 0]
        order = np.lexsort((ids, -np.abs(mean)))[:top_k]
        return [(int(ids[i]), float(mean[i])) for i in order]

    def features_for_query(
        self, query: str, tokenize: Tokenize | None, top_k: int, known: Collection[int] = ()
    ) -> list[tuple[int, float, str]]:
        """(feature id, score, why): the mean over the query's words of how well "fires here" and "is this word" agree.

        For one word that is the F1 score: the harmonic mean of the share of the feature's firings that are on the
        word, and of the share of the word's occurrences where it fires.

        Args:
            known: Features that are left out.
        """
        words = list(dict.fromkeys(re.findall(r"\w+|[^\w\s]+", query)))
        fired = [self._fired_on(word, tokenize) for word in words]
        ids = np.unique(np.concatenate([np.zeros(0, np.int64), *(on.ids for on in fired)]))
        scores, best, best_word = np.zeros(len(ids)), np.zeros(len(ids)), np.zeros(len(ids), dtype=np.int64)
        for i, on in enumerate(fired):
            at = np.searchsorted(ids, on.ids)
            score = 2 * on.hits / np.maximum(self._count[on.ids] + on.occurrences, 1)
            better = score > best[at]
            best[at[better]], best_word[at[better]] = score[better], i
            scores[at] += score / len(words)
        scores[np.isin(ids, list(known))] = 0
        order = np.lexsort((ids, -scores))[:top_k]
        return [
            (int(ids[i]), float(scores[i]), self._why(int(ids[i]), words[best_word[i]], fired[best_word[i]]))
            for i in order.tolist()
            if scores[i]
        ]

    def _why(self, feature: int, word: str, on: Fired) -> str:
        hits = int(on.hits[np.searchsorted(on.ids, feature)])
        return (
            f"fires on {_percent(hits / on.occurrences)} of {word!r},"
            f" {_percent(hits / int(self._count[feature]))} of its firings"
        )

    def _fired_on(self, word: str, tokenize: Tokenize | None) -> Fired:
        """What fires where the word ends: on its single tokens by the table, on longer forms by reading the shards."""
        forms = _sequences(self._pieces, self._spelled, word, tokenize)
        single = {form[0] for form in forms if len(form) == 1}
        # A place that ends a longer form in one of these tokens is one of theirs already.
        longer = [form for form in forms if len(form) > 1 and form[-1] not in single]
        table = self._derived.tokens
        ids, hits, total = table.features(sorted(single))
        alone = Fired(ids, hits, total, table.occurrences(sorted(single)))
        longer = [form for form in longer if all(table.occurrences([token]) for token in form)]
        return alone.and_(self._fired_after(longer)) if longer else alone

    def _fired_after(self, forms: Sequence[tuple[int, ...]]) -> Fired:
        """The same of forms of several tokens."""
        likely, _, _ = self._derived.tokens.features(sorted({form[-1] for form in forms}))
        total, hits, occurrences = np.zeros(len(self._count)), np.zeros(len(self._count), dtype=np.int64), 0
        for shard, rows in _ends(self._reader.shards(), forms):
            occurrences += len(rows)
            features, values = _fired_at(shard, rows, likely)
            total += np.bincount(features, weights=values, minlength=len(total))
            hits += np.bincount(features, minlength=len(hits))
        ids = np.flatnonzero(hits)
        return Fired(ids, hits[ids], total[ids], occurrences)

    def _not_there(self, token: str, tokenize: Tokenize | None) -> str:
        near = difflib.get_close_matches(token.strip(), {piece.strip() for piece in self._pieces.values()}, 3)
        more = "" if tokenize is not None else " (a word of several tokens needs the model: index.attach)"
        return f"{token!r} does not occur in the texts of this index{more}." + (
            f" Near it: {', '.join(map(repr, near))}." if near else ""
        )


@dataclass(frozen=True, eq=False, slots=True)
class Fired:
    """What fires on a word.

    Attributes:
        ids: int64, (n,): features that fire there, ascending.
        hits: int64, (n,): on how many of its occurrences.
        total: float64, (n,): sum of the activations there.
        occurrences: How often it stands in the texts.
    """

    ids: np.ndarray
    hits: np.ndarray
    total: np.ndarray
    occurrences: int

    def and_(self, other: Fired) -> Fired:
        """On either of two words that end in different places."""
        ids, which = np.unique(np.concatenate([self.ids, other.ids]), return_inverse=True)
        hits = np.bincount(which, np.concatenate([self.hits, other.hits]), len(ids)).astype(np.int64)
        total = np.bincount(which, np.concatenate([self.total, other.total]), len(ids))
        return Fired(ids, hits, total, self.occurrences + other.occurrences)


def _percent(share: float) -> str:
    return "under 1 %" if 0 < share < 0.01 else f"{share:.0%}".replace("%", " %")


def _sequences(
    pieces: Mapping[int, str], spelled: Mapping[str, Sequence[int]], word: str, tokenize: Tokenize | None
) -> list[tuple[int, ...]]:
    """Token ids that write a word: single tokens, and the sequences that it becomes at a text's start or after a space.

    A word that is one token after a space is often several at the start of a text.
    """
    found: set[tuple[int, ...]] = {(token,) for token in spelled.get(word, ())}
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


def _ends(shards: Sequence[Shard], forms: Sequence[tuple[int, ...]]) -> Iterator[tuple[Shard, np.ndarray]]:
    """Shards where one of the forms ends, and the tokens (int64, ascending) that end one, within a text."""
    longest = max(map(len, forms))
    before = np.zeros(0, dtype=np.int32)  # of the text that goes on in the next shard
    for shard in shards:
        if not len(shard.piece_start) or not shard.piece_start[0]:
            before = before[:0]
        found = [_ends_of(shard, form, before) for form in forms]
        rows = np.unique(np.concatenate(found))
        if len(rows):
            yield shard, rows
        whole = before if len(shard.piece_start) == 1 else before[:0]
        before = np.concatenate([whole, _last_piece(shard, longest)])[-longest:]


def _last_piece(shard: Shard, longest: int) -> np.ndarray:
    start = int(shard.offsets[-2]) if len(shard.piece_start) else 0
    return np.asarray(shard.tokens[max(start, shard.n_tokens - longest) :])


def _ends_of(shard: Shard, form: tuple[int, ...], before: np.ndarray) -> np.ndarray:
    """int64: tokens of a shard that end a form.

    Args:
        before: Tokens of the first piece's text in the shards before.
    """
    rows = np.flatnonzero(shard.tokens == form[-1])
    if not len(rows):
        return rows
    tokens, shift = np.concatenate([before, shard.tokens]), len(before)
    piece = shard.pieces_of(rows)
    room = rows - shard.offsets[piece] + np.where(piece == 0, shift, 0)  # tokens of the text before each
    rows = rows[room >= len(form) - 1]
    for back, token in enumerate(reversed(form[:-1]), 1):
        rows = rows[tokens[rows + shift - back] == token]
    return rows


def _fired_at(shard: Shard, rows: np.ndarray, likely: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Feature and activation of every firing on some tokens.

    Args:
        likely: Features that may fire there, ascending.
    """
    at = np.zeros(shard.n_tokens, dtype=bool)
    at[rows] = True
    starts, counts = shard.indptr[likely], np.diff(shard.indptr)[likely]
    if _MANY * int(counts.sum()) > shard.n_pairs:
        pairs = np.flatnonzero(at[shard.rows])
        return np.searchsorted(shard.indptr, pairs, side="right") - 1, shard.values[pairs]
    ends = np.cumsum(counts)
    pairs = np.repeat(starts - (ends - counts), counts) + np.arange(int(counts.sum()))
    hit = np.flatnonzero(at[shard.rows[pairs]])
    return likely[np.searchsorted(ends, hit, side="right")], shard.values[pairs[hit]]

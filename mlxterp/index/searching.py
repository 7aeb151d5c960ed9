"""From a word to features: where the word's tokens occur, and what fires there."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

import numpy as np

from ..core.numeric import largest
from ..core.tokens import Tokenize
from ..errors import InputError
from .derived import Derived
from .fired import NOTHING, Fired, summed
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
        best = largest(np.abs(mean), top_k)
        pairs = zip(fired.ids[best].tolist(), mean[best].tolist(), strict=True)
        return [(feature, activation) for feature, activation in pairs if activation]

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
        shares = [self._agreement(on) / len(words) for on in fired]
        ids, scores = (
            (fired[0].ids, shares[0]) if len(words) == 1 else summed([on.ids for on in fired], shares)
        )
        if known:
            scores[np.isin(ids, list(known))] = 0
        best = largest(scores, top_k)
        found = zip(ids[best].tolist(), scores[best].tolist(), strict=True)
        return [(feature, score, self._why(feature, words, fired)) for feature, score in found if score]

    def _agreement(self, on: Fired) -> np.ndarray:
        """float64: of each feature that fires on a word how well "fires here" and "is this word" agree."""
        return 2.0 * on.hits / np.maximum(self._count[on.ids] + on.occurrences, 1)

    def _why(self, feature: int, words: Sequence[str], fired: Sequence[Fired]) -> str:
        """Where a feature fires, by the word that it agrees with most, the first among equals."""
        fires, hits = int(self._count[feature]), [on.hits_of(feature) for on in fired]
        scores = [2 * own / (fires + on.occurrences) for own, on in zip(hits, fired, strict=True)]
        best = max(range(len(words)), key=scores.__getitem__)
        return (
            f"fires on {_percent(hits[best] / fired[best].occurrences)} of {words[best]!r},"
            f" {_percent(hits[best] / fires)} of its firings"
        )

    def _fired_on(self, word: str, tokenize: Tokenize | None) -> Fired:
        """What fires where the word ends: on its single tokens by the table, on longer forms by reading the shards."""
        forms = _sequences(self._pieces, self._spelled, word, tokenize)
        single = {form[0] for form in forms if len(form) == 1}
        # A place that ends a longer form in one of these tokens is one of theirs already.
        longer = [form for form in forms if len(form) > 1 and form[-1] not in single]
        alone = self._derived.tokens.fired(single)
        return Fired.on_any([alone, self._fired_after(longer)]) if longer else alone

    def _fired_after(self, forms: Sequence[tuple[int, ...]]) -> Fired:
        """The same of forms of several tokens."""
        ends = np.unique(np.concatenate([self._ends(form) for form in forms]))
        if not len(ends):
            return NOTHING
        likely = self._derived.tokens.fired({form[-1] for form in forms}).ids
        total, hits = np.zeros(len(self._count)), np.zeros(len(self._count), dtype=np.int64)
        for shard, rows in self._reader.by_shard(ends):
            features, values = _fired_at(shard, rows, likely)
            total += np.bincount(features, weights=values, minlength=len(total))
            hits += np.bincount(features, minlength=len(hits))
        ids = np.flatnonzero(hits != 0)
        return Fired(ids, hits[ids], total[ids], len(ends))

    def _ends(self, form: Sequence[int]) -> np.ndarray:
        """int64: the tokens, by their numbers among all, that end a form within a text; ascending."""
        first = self._derived.places.starts(form)
        last = first + (len(form) - 1)
        return last[self._reader.in_one_text(first, last)] if len(last) else last

    def _not_there(self, token: str, tokenize: Tokenize | None) -> str:
        near = difflib.get_close_matches(token.strip(), {piece.strip() for piece in self._pieces.values()}, 3)
        more = "" if tokenize is not None else " (a word of several tokens needs the model: index.attach)"
        return f"{token!r} does not occur in the texts of this index{more}." + (
            f" Near it: {', '.join(map(repr, near))}." if near else ""
        )


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
        for form in {word, " " + word.strip()}:
            found.add(_without_specials(pieces, tuple(int(i) for i in tokenize(form)), word, tokenize))
    return sorted(found - {()})


def _without_specials(
    pieces: Mapping[int, str], ids: tuple[int, ...], word: str, tokenize: Tokenize
) -> tuple[int, ...]:
    """The ids that spell the word: a BOS token or a space before them is none of it."""
    for start in range(len(ids) - 1, -1, -1):
        if "".join(pieces.get(i, "�") for i in ids[start:]).strip() == word.strip():
            return ids[start:]
    if not any("�" in pieces.get(i, "") for i in ids):
        return ()
    # Parts of a character have no text of their own that could be compared.
    before = tuple(int(i) for i in tokenize(""))
    ids = ids[len(before) :] if ids[: len(before)] == before else ids
    while len(ids) > 1 and pieces.get(ids[0], "").isspace():
        ids = ids[1:]
    return ids


def _fired_at(shard: Shard, rows: np.ndarray, likely: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Feature and activation of every firing on some tokens.

    Args:
        likely: Features that may fire there, ascending.
    """
    at = np.zeros(shard.n_tokens, dtype=bool)
    at[rows] = True
    starts = shard.indptr[likely]
    counts = shard.indptr[likely + 1] - starts
    if _MANY * int(counts.sum()) > shard.n_pairs:
        pairs = np.flatnonzero(at[shard.rows])
        return np.searchsorted(shard.indptr, pairs, side="right") - 1, shard.values[pairs]
    ends = np.cumsum(counts)
    pairs = np.repeat(starts - (ends - counts), counts) + np.arange(int(counts.sum()))
    hit = np.flatnonzero(at[shard.rows[pairs]])
    return likely[np.searchsorted(ends, hit, side="right")], shard.values[pairs[hit]]

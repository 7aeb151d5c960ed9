"""Features of the last few corpora, so that many features of the same texts cost one pass.

An entry belongs to one model object, component, SAE and list of texts. Before it is used, the
shortest text is run again: where the model's weights have changed since, the activations differ and
the entry is dropped. While something acts on the model (steering, an attached SAE) nothing is looked
up or kept. Kept: at most `ENTRIES`, at most `LIMIT` bytes in all, and none longer than the model lives.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..backends.base import LanguageModel
from ..core.texts import text_bytes
from ..corpus import Corpus
from ..sae import SAE
from ..sites import Component
from ..sparse import SparseFeatures
from .collect import collect

ENTRIES = 4
LIMIT = 512 * 2**20
"""Bytes, over all entries."""
_PROOF_TOKENS = 16

Key = tuple[int, str, int | None, str, str]


@dataclass(frozen=True, eq=False, slots=True)
class Entry:
    """Features of one corpus, by feature."""

    model: weakref.ref
    by_feature: SparseFeatures
    """Row f: the tokens (numbers in the corpus) where feature f is active, ascending."""
    offsets: np.ndarray
    """int64, (texts + 1,): as in `Corpus`."""
    prefixes: np.ndarray
    """uint64, (n,): as `Corpus.prefixes` gives them."""
    shortest: int
    """Number of the text that is run again."""
    proof_ids: np.ndarray
    """int32: its token ids."""
    proof: np.ndarray
    """(at most 16, width): activations of its first tokens when the entry was made."""


_entries: dict[Key, Entry] = {}  # oldest first
_lock = threading.RLock()  # `_forget` can run at any moment, also while this thread holds it


def look_up(
    model: LanguageModel,
    component: Component,
    sae: SAE,
    texts: Sequence[str],
    tokenize: Callable[[str], Sequence[int]] | None,
) -> Entry | None:
    """The entry for exactly these, if there is one and it still holds; none of a model that something acts on."""
    if getattr(model, "is_acting", False):
        return None
    key = _key(model, component, sae, texts)
    with _lock:
        entry = _entries.pop(key, None)
        if entry is None or tokenize is None or entry.model() is not model:
            return None
        _entries[key] = entry  # now the youngest
    ids = np.asarray(tokenize(texts[entry.shortest]), dtype=np.int32)
    if np.array_equal(ids, entry.proof_ids) and np.array_equal(_prove(model, component, ids), entry.proof):
        return entry
    with _lock:
        if _entries.get(key) is entry:
            _entries.pop(key, None)
    return None


def clear() -> None:
    """Forgets every entry."""
    with _lock:
        _entries.clear()


class Keeper:
    """Gathers the features of one pass and keeps them, unless they are too large."""

    def __init__(self) -> None:
        self._tokens: list[np.ndarray] = []
        self._parts: list[SparseFeatures] = []
        self._size = 0

    def add(self, tokens: np.ndarray, features: SparseFeatures) -> None:
        """Features of some tokens, with their numbers in the corpus."""
        self._size += tokens.nbytes + features.nbytes
        if 4 * self._size > LIMIT:  # putting them in order takes about four times as much for a moment
            self._tokens.clear()
            self._parts.clear()
        else:
            self._tokens.append(tokens)
            self._parts.append(features)

    def finish(
        self, model: LanguageModel, component: Component, sae: SAE, corpus: Corpus, prefixes: np.ndarray
    ) -> None:
        """Makes the entry, and lets older ones go."""
        is_acting = getattr(model, "is_acting", False)
        if not self._parts or 4 * self._size > LIMIT or corpus.texts is None or is_acting:
            return
        order = np.argsort(np.concatenate(self._tokens))
        by_feature = SparseFeatures.concat(self._parts).take(order).transpose()
        shortest = int(np.argmin(corpus.lengths))
        ids = np.array(corpus.ids(shortest))
        try:
            reference = weakref.ref(model, _forget)
        except TypeError:  # a model that cannot be watched could be replaced by another at its address
            return
        proof = _prove(model, component, ids)
        entry = Entry(reference, by_feature, corpus.offsets, prefixes, shortest, ids, proof)
        with _lock:
            _entries[_key(model, component, sae, corpus.texts)] = entry
            while len(_entries) > ENTRIES or _size() > LIMIT:
                _entries.pop(next(iter(_entries)), None)


def _forget(reference: weakref.ref) -> None:
    with _lock:
        for key in [key for key, entry in list(_entries.items()) if entry.model is reference]:
            _entries.pop(key, None)


def _prove(model: LanguageModel, component: Component, ids: np.ndarray) -> np.ndarray:
    corpus = Corpus.from_token_ids([ids[:_PROOF_TOKENS].tolist()])
    return np.concatenate([model.backend.get(part.values) for part in collect(model, corpus, component)])


def _size() -> int:
    return sum(e.by_feature.nbytes + e.offsets.nbytes + e.prefixes.nbytes for e in list(_entries.values()))


def _key(model: LanguageModel, component: Component, sae: SAE, texts: Sequence[str]) -> Key:
    digest = hashlib.sha256()
    for text in texts:
        data = text_bytes(text)
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return id(model), component.name, component.call, sae.fingerprint, digest.hexdigest()

"""Features of the last few corpora, so that many features of the same texts cost one pass.

`InterpretableModel` holds one `FeatureCache`, as `model.feature_cache`; it is gone with the model. An entry belongs to
a component, an SAE, the tokens of some texts and what is excluded of them, and holds only while everything that the
model computes with is, byte for byte, what it was: that is digested before the pass and again before the entry is
used, because an array can be changed behind the same object. Where reading all bytes takes longer than running the
texts again, nothing is kept; nor while something acts on the model (steering, an attached SAE).
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..activations.exclusions import bos_of, prose
from ..backends.base import LanguageModel
from ..backends.host.state import StateDigest
from ..core.digests import digest_of_arrays
from ..core.sites import Component
from ..core.sparse import SparseFeatures
from ..data.corpus import Corpus
from ..sae import SAE

ENTRIES = 4
LIMIT = 512 * 2**20
"""Bytes, over all entries."""
_AT_ONCE = 0.1
"""Seconds that a digest may always take."""

Key = tuple[str, int | None, str, str, tuple[str, ...], int | None]


@dataclass(frozen=True, eq=False, slots=True)
class Entry:
    """Features of one corpus, by feature."""

    by_feature: SparseFeatures
    """Row f: the tokens (numbers in the corpus) where feature f is active, ascending."""
    prefixes: np.ndarray
    """uint64, (n,): as `Corpus.prefixes` gives them."""
    state: StateDigest
    """What the model computed with: `LanguageModel.state_digest`."""

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        return self.by_feature.nbytes + self.prefixes.nbytes


class FeatureCache:
    """The features of the texts that a model was last searched over.

    `clear()` forgets them, `enabled = False` forgets them and keeps nothing from then on. Answers are the same with
    and without.
    """

    def __init__(self) -> None:
        self._entries: dict[Key, Entry] = {}  # oldest first
        self._lock = threading.RLock()
        self._enabled = True
        self._digest_seconds: float | None = None
        self._token_seconds: float | None = None

    @property
    def enabled(self) -> bool:
        """Whether anything is looked up and kept."""
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._enabled = bool(value)
        if not self._enabled:
            self.clear()

    def clear(self) -> None:
        """Forgets every entry."""
        with self._lock:
            self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        off = "" if self._enabled else "; switched off"
        return f"FeatureCache({len(self)} of {ENTRIES} corpora, {self.nbytes / 2**20:.1f} MiB{off})"

    @property
    def nbytes(self) -> int:
        """Bytes that the entries take; at most 512 MiB."""
        with self._lock:
            return sum(entry.nbytes for entry in self._entries.values())

    def __getstate__(self) -> dict[str, Any]:
        return {"enabled": self._enabled}  # a copy of a model starts without memory

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()
        self._enabled = state["enabled"]

    def question(
        self,
        model: LanguageModel,
        component: Component,
        sae: SAE,
        corpus: Corpus,
        exclude: tuple[str, ...],
    ) -> CorpusQuestion | None:
        """The question about these tokens, with the entry that answers it; None where nothing is kept.

        Args:
            exclude: As `check_exclusions` gives it. Which tokens are sinks follows from the model.
        """
        if not self._enabled or model.described:
            return None
        named = {"offsets": corpus.offsets, "tokens": corpus.tokens}
        if exclude:
            named["prose"] = prose(model).tokens  # what a sink's length is measured on
        tokens = digest_of_arrays(named)
        bos = bos_of(model) if "bos" in exclude else None
        key = (component.name, component.call, sae.fingerprint, tokens, exclude, bos)
        with self._lock:
            entry = self._entries.pop(key, None)
            if entry is not None:
                self._entries[key] = entry  # now the youngest
        if entry is None and not self._pays(len(corpus.tokens)):
            return None
        began = time.perf_counter()
        state = model.state_digest()
        self._digest_seconds = time.perf_counter() - began
        if entry is not None and entry.state != state:
            self._drop(key, entry)
            entry = None
        return None if state is None else CorpusQuestion(self, key, state, entry)

    def _pays(self, tokens: int) -> bool:
        """Whether reading the model's bytes takes less time than running so many tokens."""
        digest, each = self._digest_seconds, self._token_seconds
        return digest is None or each is None or digest <= max(_AT_ONCE, tokens * each)

    def _drop(self, key: Key, entry: Entry) -> None:
        with self._lock:
            if self._entries.get(key) is entry:
                self._entries.pop(key)

    def _keep(self, key: Key, entry: Entry, seconds: float) -> None:
        self._token_seconds = seconds / max(1, len(entry.prefixes))
        if not self._pays(len(entry.prefixes)):
            return
        with self._lock:
            if not self._enabled:
                return
            self._entries.pop(key, None)
            self._entries[key] = entry
            while len(self._entries) > ENTRIES or self.nbytes > LIMIT:
                self._entries.pop(next(iter(self._entries)))


class CorpusQuestion:
    """One corpus that features are asked of: its entry, or what gathers one from a pass."""

    def __init__(self, cache: FeatureCache, key: Key, state: StateDigest, entry: Entry | None):
        self.entry = entry
        self._cache, self._key, self._state = cache, key, state
        self._tokens: list[np.ndarray] = []
        self._parts: list[SparseFeatures] = []
        self._size = 0
        self._began = time.perf_counter()

    def add(self, tokens: np.ndarray, features: SparseFeatures) -> None:
        """Features of some tokens, with their numbers in the corpus."""
        self._size += tokens.nbytes + features.nbytes
        if 4 * self._size > LIMIT:  # putting them in order takes about four times as much for a moment
            self._tokens.clear()
            self._parts.clear()
        else:
            self._tokens.append(tokens)
            self._parts.append(features)

    def finish(self, prefixes: np.ndarray, alike: np.ndarray) -> None:
        """Makes the entry, unless it is too large, and lets older ones go.

        Args:
            prefixes: As `Corpus.prefixes` gives them.
            alike: As `first_alike` gives it: each token has the features of that one.
        """
        seconds = time.perf_counter() - self._began
        if not self._parts or 4 * self._size > LIMIT:
            return
        order = np.argsort(np.concatenate(self._tokens))
        by_feature = SparseFeatures.concat(self._parts).take(order[alike]).transpose()
        self._cache._keep(self._key, Entry(by_feature, prefixes, self._state), seconds)

"""What an index is: its texts, its features, what was left out, and the model and SAE it may hold."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..concepts.explanations import Explanation
from ..concepts.labels import skill
from ..concepts.registry import FeatureRegistry
from ..core import feature_ids
from ..core.feature_ids import Feature
from ..core.public_names import PublicNames
from ..data.text import pieces_in, pieces_of
from ..errors import FeatureIndexError
from .derived import Derived
from .example_reader import ExampleReader
from .examples import Window
from .folder import IndexMeta
from .meanings import Meanings
from .reading import Reader
from .searching import Words
from .source import Source
from .spelling import HALF, Place, Spelling
from .summary import Summary, read_pieces

_CONTEXT = 8
"""Tokens on both sides of a window that decide how its own are written."""
_EVERY = 1 << 40
"""More tokens than a text has."""


class IndexBase(PublicNames):
    """Base of `Answers`, which is that of `FeatureIndex`."""

    def __init__(self, path: Path, meta: IndexMeta, summary: Summary, source: Source | None = None):
        self.path = path
        """Its folder."""
        self._labels = FeatureRegistry()
        self._load(meta, summary)
        self._source = source
        self._meanings = Meanings()
        self._url: str | None = None  # where it was copied from

    def _load(self, meta: IndexMeta, summary: Summary) -> None:
        self._meta, self._summary = meta, summary
        self._n_tokens = meta.n_counted
        self._reader = Reader(self.path, meta)
        self._derived = Derived(self.path, meta, summary)
        for name in ("_pieces", "_words"):
            self.__dict__.pop(name, None)
        self._spelling: Spelling | None = None

    @property
    def labels(self) -> FeatureRegistry:
        """Names of features; assign {741: "ball"}, a `FeatureRegistry` or a dict of that form to show them.

        They last as long as this object: `labels.save(path)` writes them. Those in `sae.concepts` go with the SAE.
        """
        return self._labels

    @labels.setter
    def labels(self, names: FeatureRegistry | Mapping[Any, Any]) -> None:
        registry = names if isinstance(names, FeatureRegistry) else FeatureRegistry(names)
        for feature in registry:
            self.check_feature(feature)
        self._labels = registry

    def label(self, feature_id: Feature) -> str | None:
        """The feature's name in `labels`, or else in its SAE's `concepts`, or else its best explanation there.

        What no person said is marked: "fires on “ball” (explanation, detection 0.82)". None without any.
        """
        found = self.check_feature(feature_id)
        said = self.labels.label(found)
        if said is not None or self._source is None:
            return said
        return self._source.sae.concepts.label_of(found, marked=True)

    def _all_labels(self, marked: bool = True) -> tuple[str | None, ...]:
        """`label` of every feature.

        Args:
            marked: Whether what no person said is marked.
        """
        said: list[str | None] = [None] * self.d_hidden
        concepts = None if self._source is None else self._source.sae.concepts
        if concepts is not None:
            for feature in {*concepts.names, *concepts.explanations}:
                said[feature] = concepts.label_of(feature, marked=marked)
        for feature in self.labels:
            said[feature] = self.labels.label(feature)
        return tuple(said)

    def _named(self, query: str) -> list[int]:
        """Features whose name holds the query's words: by `labels`, then by the SAE's `concepts`."""
        found = self.labels.search(query)
        names = {} if self._source is None else self._source.sae.concepts.names
        said = {f: " ".join(concept.name for concept in given) for f, given in names.items()}
        more = [f for f, name in said.items() if _holds(name, query)]
        return [*found, *(f for f in more if f not in found and self.labels.label(f) is None)]

    def _explained(self, query: str) -> list[Explanation]:
        """Of features without a name the best explanation, where it holds the query's words; the best first."""
        concepts = None if self._source is None else self._source.sae.concepts
        if concepts is None:
            return []
        unnamed = (f for f in concepts.explanations if concepts.name_of(f) is None and f not in self.labels)
        told = [one for one in map(concepts.best_explanation, unnamed) if one is not None]
        return sorted(
            (one for one in told if _holds(one.text, query)), key=lambda one: (not one.by_person, -skill(one))
        )

    @property
    def d_hidden(self) -> int:
        """Number of features."""
        return int(self._meta.sae["d_hidden"])

    @property
    def component(self) -> str:
        """Path of the component whose features these are."""
        return self._meta.component

    @property
    def n_examples(self) -> int:
        """How many examples are shown where nothing else is asked."""
        return self._meta.n_examples

    @property
    def n_texts(self) -> int:
        """Texts of the index."""
        return self._meta.n_texts

    @property
    def n_tokens(self) -> int:
        """Tokens that count."""
        return self._n_tokens

    @property
    def excluded(self) -> dict[str, int]:
        """Tokens that were left out, by reason ("bos", "sinks")."""
        return self._meta.excluded

    @property
    def windowed(self) -> int:
        """Texts longer than the model's positions: they ran in overlapping windows, so that their later tokens
        saw only part of the text before them."""
        return self._meta.windowed

    @property
    def fingerprint(self) -> str:
        """Of the SAE: `sae.fingerprint`."""
        return str(self._meta.sae["fingerprint"])

    @property
    def sae_name(self) -> str:
        """What the SAE says of itself."""
        return str(self._meta.sae.get("described"))

    @property
    def source(self) -> Source | None:
        """The model and SAE, where the index has them."""
        return self._source

    @property
    def summary(self) -> Summary:
        """Figures of every feature."""
        return self._summary

    @property
    def live(self) -> np.ndarray:
        """int64: ids of the features that are active somewhere, ascending."""
        return np.flatnonzero(self._summary.count)

    def __len__(self) -> int:
        return self.d_hidden

    def __repr__(self) -> str:
        left_out = ", ".join(f"{n} {reason}" for reason, n in self.excluded.items() if n)
        return (
            f"FeatureIndex({self.path}: {len(self.live)} of {self.d_hidden} features active on {self.n_tokens} tokens"
            f" of {self.n_texts} texts at {self.component}{f'; left out: {left_out}' if left_out else ''})"
        )

    @cached_property
    def _pieces(self) -> dict[int, str]:
        return read_pieces(self.path, self._meta)

    @cached_property
    def _words(self) -> Words:
        return Words(self._reader, self._derived, self._pieces, np.asarray(self._summary.count))

    def _piece(self, token: int) -> str:
        return self._pieces.get(token, HALF)

    @property
    def _examples_of(self) -> ExampleReader:
        return ExampleReader(self._reader, self._spelled)

    def _spelled(
        self, windows: Sequence[np.ndarray], starts: Sequence[int], place: Callable[[int], Place]
    ) -> list[tuple[str, ...]]:
        """The text of each window's tokens, as it stands in the text; see `Spelling.of`."""
        if self._spelling is None:
            tokenizer = None if self._source is None else self._source.anatomy.model.tokenizer
            self._spelling = Spelling(
                tokenizer, self._pieces, lambda place: self._pieces_of(place.shown, place.wider, place.text)
            )
        return self._spelling.of(windows, starts, place)

    def _pieces_of(self, shown: Window, wider: Callable[[int], Window], text: str) -> Sequence[str]:
        """The text of a window's tokens, as it stands in the text.

        Args:
            wider: Gives the window with so many more tokens on both sides.
            text: The whole text.
        """
        if self._source is None:
            pieces = [self._piece(int(token)) for token in shown.ids]
            if not any(HALF in piece for piece in pieces):
                return pieces
            every = wider(_EVERY)
            whole = pieces_in(text, [self._piece(int(token)) for token in every.ids])
            return pieces if whole is None else whole[shown.start : shown.start + len(pieces)]
        wide, more = wider(_CONTEXT), _CONTEXT
        while any(HALF in self._piece(int(wide.ids[end])) for end in (0, -1)):  # within a character
            more, before = 2 * more, len(wide.ids)
            wide = wider(more)
            if len(wide.ids) == before:
                break
        likely = [self._piece(int(token)) for token in wide.ids]
        pieces = pieces_of(self._source.anatomy.model.tokenizer, wide.ids.tolist(), likely)
        first = shown.start - wide.start
        return pieces[first : first + len(shown.ids)]

    @property
    def _tokenize(self) -> Any:
        source = self._source
        return (
            None
            if source is None or source.anatomy.model.tokenizer is None
            else source.anatomy.model.tokenize
        )

    def _with_source(self) -> Source:
        if self._source is None:
            raise FeatureIndexError(
                "This index was opened without its model and SAE, which this question needs:"
                " FeatureIndex.open(path, model=model, sae=sae), or index.attach(model, sae)."
            )
        return self._source

    def check_feature(self, feature_id: Feature) -> int:
        """The id as an integer; what a search returned stands for its feature.

        Raises:
            UnknownFeatureError: It lies outside [0, d_hidden).
        """
        return feature_ids.feature_id(feature_id, self.d_hidden, whose="this index")

    def _is_copy_of(self, url: str) -> None:
        self._url = url
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def _holds(said: str, query: str) -> bool:
    """Whether a text has every word of a query, in any case."""
    return all(word in said.casefold() for word in query.casefold().split())

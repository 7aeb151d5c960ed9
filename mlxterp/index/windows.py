"""Windows of an index's texts wherever one asks for them, for what draws examples of its own."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from ..core.ranking import Firings
from .answers import Answers
from .examples import FeatureExample


class Windows:
    """The texts of an index around any of their tokens. Nothing is computed by the model.

    Args:
        before, after: Tokens shown on both sides.
    """

    def __init__(self, index: Answers, before: int, after: int):
        self._index, self._before, self._after = index, before, after
        self._reader = index._reader

    def peaks(self, feature_id: int) -> Firings:
        """The strongest token of each text where a feature is active, the strongest first."""
        return self._reader.ranked(feature_id).strongest

    def text(self, text_id: int) -> str:
        """A text."""
        return self._reader.text(text_id)

    def at(self, feature_id: int, text_id: int, position: int) -> FeatureExample:
        """The tokens around one, and the feature's activations there; all 0 where it is not active."""
        window = self._reader.window(feature_id, text_id, position, self._before, self._after)
        text = self.text(text_id)
        pieces = self._index._pieces_of(
            window,
            lambda more: self._reader.window(
                feature_id, text_id, position, self._before + more, self._after + more
            ),
            text,
        )
        return FeatureExample(
            feature_id, text, text_id, position, float(window.activations[position - window.start]),
            tuple(pieces), window.activations, window.start,
        )  # fmt: skip

    def is_active(self, feature_id: int, text_id: int, position: int) -> bool:
        """Whether a feature is active anywhere in the window around a token."""
        window = self._reader.window(feature_id, text_id, position, self._before, self._after)
        return bool(window.activations.any())

    def any_places(self, draw: np.random.Generator) -> Iterator[tuple[int, int]]:
        """Text and position of tokens of the index, each as likely, without end."""
        begins = self._begins
        while begins[-1]:
            row = int(draw.integers(begins[-1]))
            number = int(np.searchsorted(begins, row, side="right")) - 1
            text_ids, positions = self._reader.places(number, np.array([row - begins[number]]))
            yield int(text_ids[0]), int(positions[0])

    def places_of_token(self, token_id: int, draw: np.random.Generator) -> Iterator[tuple[int, int]]:
        """Text and position of every place where a token stands, in random order."""
        for number in draw.permutation(len(self._reader)):
            shard = self._reader.shard(int(number))
            rows = draw.permutation(np.flatnonzero(np.asarray(shard.tokens) == token_id))
            for text_id, position in zip(*self._reader.places(int(number), rows), strict=True):
                yield int(text_id), int(position)

    def token_at(self, text_id: int, position: int) -> int:
        """The id of a token."""
        return int(self._reader.window(0, text_id, position, 0, 0).ids[0])

    @cached_property
    def _begins(self) -> np.ndarray:
        """int64, (shards + 1,): where each shard's tokens begin among all."""
        return np.cumsum([0, *(shard.n_tokens for shard in self._reader.shards())])

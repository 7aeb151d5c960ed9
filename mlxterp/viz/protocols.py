"""What a `FeatureCard` is made of, and the card as `card_text` reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np


class Stats(Protocol):
    """How often and how strongly a feature is active."""

    @property
    def count(self) -> int: ...  # tokens where it is active
    @property
    def n_tokens(self) -> int: ...
    @property
    def density(self) -> float: ...  # count / n_tokens
    @property
    def mean(self) -> float: ...  # of the active tokens
    @property
    def maximum(self) -> float: ...
    @property
    def histogram(self) -> tuple[np.ndarray, np.ndarray]: ...  # counts (bins,), edges (bins + 1,)
    @property
    def top_tokens(self) -> Sequence[tuple[str, int]]: ...  # text, how often it is active there


class Example(Protocol):
    """A window of a text around the token where a feature is active."""

    @property
    def text(self) -> str: ...  # the whole of it
    @property
    def text_id(self) -> int: ...
    @property
    def position(self) -> int: ...  # of the token, in the text
    @property
    def activation(self) -> float: ...
    @property
    def tokens(self) -> Sequence[str]: ...  # of the window
    @property
    def activations(self) -> np.ndarray: ...  # float32, (tokens,)
    @property
    def start(self) -> int: ...  # position of the window's first token


class Logits(Protocol):
    """Tokens that a decoder direction makes likelier and less likely."""

    @property
    def promoted(self) -> Sequence[tuple[str, float]]: ...
    @property
    def suppressed(self) -> Sequence[tuple[str, float]]: ...
    @property
    def histogram(
        self,
    ) -> tuple[Sequence[int], Sequence[float]] | None: ...  # counts (bins,), edges (bins + 1,)


class Card(Protocol):
    """A feature's card; see `FeatureCard`."""

    @property
    def feature_id(self) -> int: ...
    @property
    def label(self) -> str | None: ...
    @property
    def stats(self) -> Stats: ...
    @property
    def logits(self) -> Logits | None: ...
    @property
    def similar(self) -> Sequence[tuple[int, float, str | None]]: ...
    @property
    def coactive(self) -> Sequence[tuple[int, float]]: ...
    @property
    def neighbours(self) -> Mapping[int, tuple[str | None, Sequence[str]]]: ...
    @property
    def sae_name(self) -> str: ...
    @property
    def component(self) -> str: ...
    @property
    def facts(self) -> Mapping[str, str]: ...
    def groups(self) -> list[tuple[str, Sequence[Example]]]: ...
    def scale(self) -> float: ...

"""Several texts that run together: what of them is read, and what a wing does for it.

The wings bring the passes and the caches (`mlx/batching`, `torch/batching`); `prefill` and `batching` use them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ...core.sites import Where
from ..base import Backend

NO_TOKEN = -1
"""Instead of a token that cannot be chosen."""


@dataclass(eq=False, slots=True)
class Batch:
    """Texts that run together."""

    rows: list[int]
    """Which of all texts they are."""
    places: np.ndarray
    """int64, (texts,): how many tokens of each its cache holds."""
    cache: Any

    def where(self, columns: int, prompts: np.ndarray) -> Where:
        """What a pass over the next tokens covers."""
        ahead = np.arange(columns)
        same = (self.places == self.places[0]).all()
        positions = self.places[0] + ahead if same else self.places[:, None] + ahead
        return Where(positions, None, prompts=prompts[self.rows], texts=np.array(self.rows))


Group = tuple[Batch, Any]
"""A batch and its logits (texts, vocabulary) after the last token read; None where those were not computed."""


class Passes(Protocol):
    """What a wing does for the loop below."""

    backend: Backend
    ahead: bool
    """Whether the next pass is begun before the last one's tokens are looked at."""
    whole_prompts: bool
    """Whether a prompt must be read in one pass, from its first token."""
    reads_last: bool
    """Whether a prompt's last token is read with the others; else in a pass of its own, as alone in this wing."""

    def fresh(self, rows: list[int]) -> Batch:
        """The texts, with nothing read."""
        ...

    def padded(self, batch: Batch, ids: Sequence[Sequence[int]], chunk: int) -> Group | None:
        """Reads further ids of each text, of different lengths, side by side with padding.

        None where it cannot: then nothing was read.

        Args:
            batch: Texts of which equally much was read.
            chunk: At most so many tokens in one pass.
        """
        ...

    def read(self, batch: Batch, ids: np.ndarray) -> Any:
        """Reads ids (texts, columns) of prompts; the logits (texts, vocabulary) after them, where `reads_last`."""
        ...

    def logits(self, batch: Batch, tokens: Any) -> Any:
        """Reads one token (texts,) of each text; the logits (texts, vocabulary) after it."""
        ...

    def kept(self, batch: Batch, index: Sequence[int]) -> Batch:
        """Some of the texts, by their number in the batch. A merged batch is used no more afterwards."""
        ...

    def kind(self, batch: Batch) -> Any:
        """What two batches must share to be merged; hashable."""
        ...

    def merged(self, batches: Sequence[Batch]) -> Batch | None:
        """Batches of one kind and of different lengths as one; None where this model's caches cannot."""
        ...

    def sampled(self, batch: Batch, logits: Any) -> Any:
        """The next token (texts,) of each; `NO_TOKEN` where its logits are no numbers."""
        ...

    def put(self, tokens: Sequence[int]) -> Any: ...
    def get(self, tokens: Any) -> list[int]: ...
    def take(self, tokens: Any, index: Sequence[int]) -> Any: ...
    def bytes_of(self, batch: Batch) -> int:
        """What its cache holds."""
        ...


@dataclass(frozen=True, slots=True)
class Reading:
    """How prompts are read.

    Attributes:
        chunk: At most so many tokens in one pass.
        as_alone: Whether each must be read in the passes that it would be read in alone.
        padded: Whether prompts may be padded.
        shared: So many tokens must be saved, for each length that prompts have, where what they all begin with is
            read once; 0 reads nothing once.
    """

    chunk: int
    as_alone: bool = False
    padded: bool = False
    shared: int = 0

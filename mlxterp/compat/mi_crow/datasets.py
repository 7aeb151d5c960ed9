"""Mi-Crow's module of data sets: texts in memory, and those of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

from ...core import checks
from ...data import dataset
from ...data.dataset import HuggingFaceDataset

__all__ = ["HuggingFaceDataset", "TextDataset", "texts_of"]


class TextDataset(Sequence[str]):
    """Texts in memory; a sequence of strings, so that it goes wherever a list of texts does.

    Raises:
        InputError: No list of strings, or an empty one.
    """

    def __init__(self, texts: Any):
        self.texts: list[str] = dataset.texts_of(texts)
        """The texts, in order."""

    def __len__(self) -> int:
        return len(self.texts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self.texts[index]

    def iter_batches(self, batch_size: int) -> Iterator[list[str]]:
        """The texts in portions of `batch_size`."""
        batch_size = checks.count(batch_size, "batch_size")
        for start in range(0, len(self.texts), batch_size):
            yield self.texts[start : start + batch_size]

    def __repr__(self) -> str:
        return f"TextDataset({len(self.texts)} texts)"


def texts_of(given: Any) -> list[str]:
    """Texts given as a list, a `TextDataset`, or whatever else holds some.

    Raises:
        InputError: Something else, or none.
    """
    return dataset.texts_of(given)

"""`FrozenPass`: one prompt's pass with everything that multiplies held constant; the protocol of both wings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..core.frozen import FINAL, Key, ReadAt, Reading, SourceVectors
from ..core.sites import SiteEdit
from ..errors import ComponentError

PromptPass = Callable[..., Any]
"""(native token ids (1, positions), keyword arguments of a generation's pass) -> what the model returns"""
_ALIKE = 1e-3
"""Difference of what passes with and without a cache read, relative to the largest."""


class FrozenPass(Protocol):
    """A pass that is affine in its sources (see `core.frozen`). Streams are float32, whatever the weights are.

    It holds what it recorded of one prompt. The model is not changed, and other threads are not touched.
    """

    @property
    def sources(self) -> Mapping[Key, np.ndarray]:
        """float32, (positions, width): the sources' values in the prompt; of an output without its live skip."""
        ...

    @property
    def base(self) -> Reading:
        """What the recording pass read, one row."""
        ...

    @property
    def held(self) -> int:
        """How many constants were recorded."""
        ...

    @property
    def heads(self) -> Mapping[Key, int]:
        """Layer and call → how many heads its attention has; layers without attention patterns are left out.

        `NO_BLOCK` stands for attention that is called outside all blocks.
        """
        ...

    @property
    def scales(self) -> Mapping[int, float]:
        """Layer → what products of queries and keys are multiplied by, of layers whose queries or keys are read."""
        ...

    def read(
        self, changes: Mapping[Key, np.ndarray], *, origin: bool = False, edits: Sequence[SiteEdit] = ()
    ) -> Reading:
        """What the pass reads where the sources are changed.

        Args:
            changes: (rows, positions, width) each, with equally many rows: added to the sources.
            origin: Start from sources of 0 instead of the prompt's.
            edits: Of this pass, after the sources; where everything is held they have no part in it.
        """
        ...

    def prompt_pass(self, changes: Mapping[Key, np.ndarray], edits: Sequence[SiteEdit] = ()) -> PromptPass:
        """The same as `read`, as the pass in which a generation reads its prompt and fills its cache.

        Logits are after a final soft cap, and what the cache holds has the dtypes of a plain pass.

        Raises:
            ComponentError: When it runs: with a cache, this model computes something else than without one.
        """
        ...

    def first(self, positions: int) -> FrozenPass:
        """The pass of the prompt's first tokens alone, recorded anew."""
        ...

    def rows(
        self, targets: Sequence[ReadAt], columns: Sequence[SourceVectors],
        heads: Mapping[Key, np.ndarray] | None = None,
    ) -> np.ndarray:  # fmt: skip
        """float32, (targets, vectors of all columns): each target's gradient by a source, times the source's vector.

        Args:
            targets: They run as the rows of one batch.
            columns: The same object in every call: it is put where the pass computes once.
            heads: Layer and call → float32 (targets, heads): what the pattern of each head is multiplied by in each
                row; 0 leaves out what goes by that head.
        """
        ...


def calls_of(layer: int, columns: Iterable[Sequence[Any]]) -> Iterator[tuple[Key, tuple[Any, ...]]]:
    """The values of a component in each call, from those of its sites; of the final norm in the last call only."""
    calls = list(zip(*columns, strict=False))
    if layer == FINAL[0]:
        calls = calls[-1:]
    for number, values in enumerate(calls):
        yield (layer, number), values


def check_cached(found: Reading, expected: Reading, name: str) -> None:
    """Raises ComponentError where a pass with a cache read something else than the one without."""
    for key, value in expected.inputs.items():
        if not np.abs(found.inputs[key] - value).max() <= _ALIKE * np.abs(value).max():
            raise ComponentError(
                f"With a cache, layer {key[0]} of this {name} model reads something else than without one, so its"
                " prompt cannot be held while it writes. Leave max_tokens= out, or take freeze=None."
            )


def streams_first(shape: tuple[int, ...], positions: int, name: str) -> bool:
    """Whether what enters the first block is (streams, 1, positions, width), not (1, positions, …).

    Raises:
        ComponentError: It is neither.
    """
    if len(shape) >= 3 and shape[:2] == (1, positions):
        return False
    if len(shape) == 4 and shape[1:3] == (1, positions):
        return True
    raise ComponentError(
        f"What enters the first block of this {name} model has shape {shape}, not (1, {positions}, width), nor several"
        " such streams, so it cannot be frozen."
    )

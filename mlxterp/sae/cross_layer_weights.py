"""What one layer of a cross-layer transcoder consists of: `CrossLayerWeights`, whose large arrays may stay in files.

Readers of files make them, and `CrossLayerTranscoder` computes with them. A decoder has many gigabytes in published
sets, so `FeatureRows` reads the rows of the features that are asked for and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backends.host.conversion import to_numpy
from ..core.tensor_files import StoredArray
from ..errors import SAEError

_BLOCK = 64 << 20
"""Bytes of an array that are read at a time."""


@dataclass(frozen=True, eq=False, slots=True)
class FeatureRows:
    """An array with a row for each feature, in memory or in a file. What is read must be finite.

    Attributes:
        array: Of NumPy, or of a file.
        name: For messages.
        by_column: Whether features are its last axis.
        first: So many entries of its second axis do not belong to it.
    """

    array: np.ndarray | StoredArray
    name: str
    by_column: bool = False
    first: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """(features, …)."""
        found = tuple(self.array.shape[::-1] if self.by_column else self.array.shape)
        return (found[0], found[1] - self.first, *found[2:])

    def take(self, ids: np.ndarray, at: int | None = None) -> np.ndarray:
        """float32, (m, …): the rows of these features.

        Args:
            at: Only this entry of the second axis.

        Raises:
            SAEError: A number is not finite, or the file is not what it was.
        """
        rows = np.asarray(ids, dtype=np.int64)
        index: Any = (slice(None), rows) if self.by_column else (rows, slice(self.first, None))
        if at is not None:
            index = (rows, self.first + at)
        return self._taken(index)

    def _taken(self, index: Any) -> np.ndarray:
        found = np.asarray(self._read(index), dtype=np.float32)
        if not np.isfinite(found).all():
            raise SAEError(f"{self.name} holds NaN or infinite values. It is damaged; get the file again.")
        return found.T if self.by_column else found

    def _read(self, index: Any) -> np.ndarray:
        if isinstance(self.array, np.ndarray):
            return self.array[index]
        try:
            return self.array.load()[index] if self.array.part is None else self.array.part(index)
        except (ValueError, OSError) as error:
            raise SAEError(f"{self.name} cannot be read: {error}. Get the file again.") from error

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All rows, some at a time, with their ids."""
        n, size = self.shape[0], max(1, _BLOCK // (4 * int(np.prod(self.shape[1:]))))
        for start in range(0, n, size):
            part = slice(start, min(start + size, n))
            ids = np.arange(part.start, part.stop)
            yield ids, self.take(ids) if self.by_column or self.first else self._taken(part)


@dataclass(frozen=True, eq=False, slots=True)
class CrossLayerWeights:
    """One layer: features = relu(x @ W_enc + b_enc), above a threshold where there is one; they write to this layer's
    MLP output and to every later one's.

    Attributes:
        W_enc: (d_model, d_hidden), an array or `FeatureRows`, which it becomes.
        b_enc: float32, (d_hidden,).
        W_dec: (d_hidden, layers, d_out): what each feature adds to this layer's MLP output, the next one's, …; an
            array or `FeatureRows`, which it becomes.
        b_dec: float32, (d_out,): added to this layer's MLP output.
        threshold: float32, (d_hidden,): what a pre-activation must exceed; None is 0.
        W_skip: float32, (d_model, d_out): what this layer reads times this is added to its MLP output.
    """

    W_enc: Any
    b_enc: np.ndarray
    W_dec: Any
    b_dec: np.ndarray
    threshold: np.ndarray | None = None
    W_skip: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Raises SAEError where shapes do not belong together, or a number is not finite."""
        for name in ("W_enc", "W_dec"):
            given = getattr(self, name)
            if not isinstance(given, FeatureRows):
                object.__setattr__(self, name, FeatureRows(_array(given, name), name, name == "W_enc"))
        for name in ("b_enc", "b_dec", "threshold", "W_skip"):
            given = getattr(self, name)
            object.__setattr__(self, name, None if given is None else _array(given, name))
        if len(self.W_enc.shape) != 2 or len(self.W_dec.shape) != 3:
            raise SAEError(
                f"W_enc has {len(self.W_enc.shape)} dimensions and W_dec {len(self.W_dec.shape)}; expected (d_model,"
                " d_hidden) and (d_hidden, layers, d_out)."
            )
        n, d_model, d_out = *self.W_enc.shape, self.W_dec.shape[2]
        expected = {"b_enc": (n,), "b_dec": (d_out,), "threshold": (n,), "W_skip": (d_model, d_out)}
        if self.W_dec.shape[0] != n or 0 in (*self.W_enc.shape, *self.W_dec.shape):
            raise SAEError(
                f"W_enc is of {n} features that read {d_model} numbers, W_dec has shape {self.W_dec.shape}; expected"
                f" ({n}, layers, d_out)."
            )
        for name, shape in expected.items():
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise SAEError(f"{name} has shape {value.shape}, expected {shape}.")
            if value is not None and not np.isfinite(value).all():
                raise SAEError(f"{name} holds NaN or infinite values.")
        if self.threshold is not None and (self.threshold < 0).any():
            raise SAEError("threshold has values below 0, with which negative pre-activations would pass.")

    @property
    def d_hidden(self) -> int:
        """Features of this layer."""
        return self.W_enc.shape[0]

    @property
    def d_model(self) -> int:
        """Width of what it reads."""
        return self.W_enc.shape[1]

    @property
    def d_out(self) -> int:
        """Width of what it writes."""
        return self.W_dec.shape[2]

    @property
    def reach(self) -> int:
        """To how many layers it writes: its own and those after it."""
        return self.W_dec.shape[1]

    def summed(self) -> np.ndarray:
        """float32, (d_hidden, d_out): what each feature writes to all layers together."""
        return np.concatenate([rows.sum(axis=1) for _, rows in self.W_dec.blocks()])


def _array(given: Any, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(to_numpy(given, name, SAEError), dtype=np.float32)

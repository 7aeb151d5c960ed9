"""A direction in a component's activations.

`contrast` makes steering vectors from texts, `vector_files` writes and reads them; adding one to the
activations of its component steers the model. NumPy only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backends.host.conversion import to_vector
from ..errors import InputError


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """A vector to add to what a component puts out; `numpy.asarray(it)` is the vector.

    Attributes:
        component: Path of the component whose activations it lives in: `layers.10.resid_post`.
        vector: float32, (width,), read-only, in the scale of the activations. Given as any array or list of
            numbers.
        metadata: How it was made: "method", "model_type", …; whatever JSON can hold.

    Raises:
        InputError: No component is named, the vector is not a row of finite numbers, or the metadata is
            no dictionary that JSON can hold.
    """

    component: str
    vector: np.ndarray
    metadata: dict[str, Any] = field(default_factory=dict)

    if TYPE_CHECKING:  # any array or list of numbers is taken

        def __init__(self, component: str, vector: Any, metadata: Mapping[str, Any] = ...) -> None: ...

    def __post_init__(self) -> None:
        if not isinstance(self.component, str) or not self.component.strip():
            raise InputError(
                f"component is {self.component!r}; a steering vector names its component by a path such as"
                " 'layers.3.resid_post'."
            )
        object.__setattr__(self, "vector", _as_vector(self.vector, self.component))
        object.__setattr__(self, "metadata", _as_metadata(self.metadata, self.component))

    @property
    def norm(self) -> float:
        """Its Euclidean length."""
        return float(np.linalg.norm(self.vector.astype(np.float64)))

    @property
    def unit(self) -> SteeringVector:
        """The same direction with length 1.

        Raises:
            InputError: The vector is zero, so it has no direction.
        """
        if (norm := self.norm) == 0:
            raise InputError(f"The steering vector at {self.component} is zero: it has no direction.")
        return replace(self, vector=self.vector.astype(np.float64) / norm)

    def save(self, path: str | os.PathLike) -> Path:
        """Writes it to a `.safetensors` or `.gguf` file; see `save_vectors`."""
        from .vector_files import save_vectors

        return save_vectors(self, path)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False and dtype is not None and np.dtype(dtype) != self.vector.dtype:
            raise ValueError(f"A steering vector is float32; as {np.dtype(dtype)} it has to be copied.")
        as_asked = self.vector if dtype is None else self.vector.astype(dtype, copy=False)
        return as_asked.copy() if copy else as_asked

    def __len__(self) -> int:
        return len(self.vector)

    def __repr__(self) -> str:
        method = self.metadata.get("method")
        by = f", by {method}" if isinstance(method, str) else ""
        return f"SteeringVector({self.component}, width {len(self)}, norm {self.norm:.4g}{by})"


def _as_vector(given: Any, component: str) -> np.ndarray:
    """float32, (width,), read-only and its own memory."""
    vector = to_vector(given, f"The vector at {component}")
    vector.flags.writeable = False
    return vector


def _as_metadata(given: Any, component: str) -> dict[str, Any]:
    """A copy of metadata, as JSON gives it back."""
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise InputError(f"metadata at {component} is {given!r}; expected a dictionary with string keys.")
    try:
        return json.loads(json.dumps(dict(given), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"The metadata at {component} cannot be written as JSON: {error}. Use strings, numbers, lists and"
            " dictionaries."
        ) from error

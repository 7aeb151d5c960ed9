"""`Parts`: what a file of an SAE holds, whatever the format: readers give it, writers take it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...variants import Activation, InputForm
from ...weights import SAEWeights


@dataclass(frozen=True, eq=False, slots=True)
class Parts:
    """An SAE, taken apart."""

    weights: SAEWeights
    """Of NumPy arrays."""
    activation: Activation
    metadata: dict[str, Any]
    form: InputForm = field(default_factory=InputForm)
    names: Mapping[str, Any] | None = None
    """Names of features as JSON holds them, {"42": [{"name", "confidence"}]}; None or empty without any."""

    @property
    def d_model(self) -> int:
        """Width of the activations it takes."""
        return int(self.weights.W_enc.shape[0])

    @property
    def d_hidden(self) -> int:
        """Number of features."""
        return int(self.weights.W_enc.shape[1])

    @property
    def d_out(self) -> int:
        """Width of the reconstruction."""
        return int(self.weights.W_dec.shape[1])

    @property
    def component(self) -> str | None:
        """Path of the component it was trained on, where the metadata says."""
        found = self.metadata.get("component")
        return found if isinstance(found, str) else None

    @property
    def is_transcoder(self) -> bool:
        """Whether it predicts another component than it reads."""
        named = "component_out" in self.metadata or "transcoder" in str(self.metadata.get("architecture"))
        return self.d_out != self.d_model or named


@dataclass(frozen=True, eq=False, slots=True)
class Stored:
    """The files that a format makes of `Parts`."""

    weights: str
    """Name of the safetensors file."""
    arrays: Mapping[str, np.ndarray]
    """What it holds."""
    texts: Mapping[str, str]
    """Text of each other file, by name."""

"""What an SAE consists of, as `sae/` hands it to a backend: its weights.

`SAEWeights` holds NumPy arrays on the border and native arrays inside a backend; `variants` say how
pre-activations become features. Nothing here computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .core.sites import Array
from .errors import SAEError

NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")
"""The arrays that every SAE has, in the order of files and fingerprints."""


_EXTRA = ("threshold", "gate_scale", "b_mag", "value_scale", "W_skip")


@dataclass(frozen=True, eq=False, slots=True)
class SAEWeights:
    """features = activation((x - b_dec) @ W_enc + b_enc); reconstruction = features @ W_dec + b_dec.

    Attributes:
        W_enc: float32, (d_model, d_hidden).
        b_enc: float32, (d_hidden,).
        W_dec: float32, (d_hidden, d_out): row f is the direction that feature f adds.
        b_dec: float32, (d_out,).
        subtract_b_dec: Whether the encoder subtracts b_dec from its input.
        extra: What a variant adds: "threshold", "gate_scale", "b_mag" (d_hidden,); "value_scale" (d_hidden,), which
            features are multiplied by once they are selected; "W_skip" (d_model, d_out), for which the
            reconstruction gains x @ W_skip; "attention.…" of a temporal SAE.
    """

    W_enc: Array
    b_enc: Array
    W_dec: Array
    b_dec: Array
    subtract_b_dec: bool = True
    extra: Mapping[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises SAEError where shapes do not belong together."""
        for name in NAMES:
            object.__setattr__(self, name, _as_array(getattr(self, name), name))
        extra = {name: _as_array(array, name) for name, array in self.extra.items()}
        object.__setattr__(self, "extra", extra)
        for name, array in self.arrays().items():
            if not hasattr(array, "shape") or not hasattr(array, "dtype"):
                raise SAEError(f"{name} is a {type(array).__name__}, expected an array.")
            if name not in (*NAMES, *_EXTRA) and not name.startswith("attention."):
                raise SAEError(
                    f"Unknown array {name!r} in extra. There are: {', '.join(_EXTRA)}, attention.…."
                )
        self._check_shapes({name: tuple(array.shape) for name, array in self.arrays().items()})

    def _check_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        if len(shapes["W_enc"]) != 2 or len(shapes["W_dec"]) != 2:
            raise SAEError(f"W_enc and W_dec must have two dimensions, got {shapes}.")
        d_model, d_hidden = shapes["W_enc"]
        d_out = shapes["W_dec"][1]
        expected = {
            "W_enc": (d_model, d_hidden),
            "b_enc": (d_hidden,),
            "W_dec": (d_hidden, d_out),
            "b_dec": (d_out,),
            "W_skip": (d_model, d_out),
            **dict.fromkeys(("threshold", "gate_scale", "b_mag", "value_scale"), (d_hidden,)),
        }
        for name, shape in shapes.items():
            if shape != expected.get(name, shape):
                raise SAEError(
                    f"{name} has shape {shape}; beside W_enc {shapes['W_enc']} (d_model, d_hidden)"
                    f" it must be {expected[name]}. Transpose it if it was stored the other way round."
                )
        if 0 in (d_model, d_hidden, d_out):
            raise SAEError(f"An SAE needs d_model, d_hidden and d_out of at least 1, got {shapes}.")
        if self.subtract_b_dec and d_out != d_model:
            raise SAEError(
                f"b_dec (width {d_out}) cannot be subtracted from inputs of width {d_model}."
                " Pass subtract_b_dec=False for a transcoder."
            )

    def arrays(self) -> dict[str, Array]:
        """Every array by name, those of `NAMES` first."""
        return {**{name: getattr(self, name) for name in NAMES}, **dict(sorted(self.extra.items()))}

    def map(self, function: Callable[[Array], Array]) -> SAEWeights:
        """The same with `function` applied to each array."""
        extra = {name: function(array) for name, array in self.extra.items()}
        return replace(self, extra=extra, **{name: function(getattr(self, name)) for name in NAMES})


def _as_array(given: Any, name: str) -> Any:
    """Lists and tables of pandas become arrays; arrays of any library stay as they are."""
    if not isinstance(given, (list, tuple)) and not hasattr(given, "iloc"):
        return given
    try:
        return np.array(given, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise SAEError(f"{name} makes no array of numbers: {error}") from error

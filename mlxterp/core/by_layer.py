"""Results that are read by layer, as a mapping: which layer a key names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import ComponentError
from .integers import as_integer


def layer_key(given: Any, layers: Sequence[int], n_layers: int | None = None) -> int:
    """One of the layers that a result has.

    Args:
        layers: Those that it has.
        n_layers: Of the model, where it is known: negative numbers count from its last layer.

    Raises:
        ComponentError: It has no such layer. This is a KeyError, so `in` and `.get` work as in any mapping.
    """
    number = as_integer(given)
    if number is not None and number < 0 and n_layers is not None:
        number += n_layers
    if number is not None and number in layers:
        return number
    known = ", ".join(map(str, layers))
    counted = (
        " Negative numbers are not counted from the end here." if number is not None and number < 0 else ""
    )
    raise ComponentError(
        f"There is no layer {given!r:.60} in this result. It has: {known or 'none'}.{counted}"
    )

"""What a component puts out in a run, as rows: one for each token, heads side by side."""

from __future__ import annotations

import numpy as np

from ..errors import ComponentError, NeverCalledError
from .sites import ATTENTION_PORTS, Array, Component, Run


def rows_of(component: Component, run: Run, shape: tuple[int, ...]) -> Array:
    """Native (batch x positions, width) of a component in a run of that (batch, positions); heads side by side.

    Raises:
        NeverCalledError: The run did not reach it.
        ComponentError: It has no single value (…, width) for each token.
    """
    try:
        value = component.read(run)
    except LookupError as error:
        raise NeverCalledError(f"{error}. model.components() lists what is.") from error
    if isinstance(value, list):
        raise ComponentError(
            f"{component.name} is called {len(value)} times in one forward pass, so a token has"
            f" {len(value)} activations there. Choose a component that is called once."
        )
    return _as_rows(value, component, shape)


def _as_rows(value: Array, component: Component, shape: tuple[int, ...]) -> Array:
    """(batch x positions, width) of a value (batch, positions, width) or one with heads."""
    batch, positions = shape
    if component.name.endswith("pattern"):
        raise ComponentError(f"{component.name} is as wide as the text is long; an SAE needs one width.")
    if value.ndim == 4 and _heads_first(value, component, positions):
        value = value.swapaxes(1, 2)
    if value.ndim not in (3, 4) or tuple(value.shape[:2]) != (batch, positions):
        raise ComponentError(
            f"{component.name} has shape {tuple(value.shape)} for a batch of {batch} texts with {positions}"
            " positions; expected (batch, positions, width) or (batch, heads, positions, d_head)."
        )
    width = int(np.prod(value.shape[2:]))
    return value.reshape((batch * positions, width))


def _heads_first(value: Array, component: Component, positions: int) -> bool:
    """Whether a value with heads is (batch, heads, positions, d_head), as ours are."""
    if component.name.rpartition(".")[2] in ATTENTION_PORTS:
        return True
    first, second = int(value.shape[1]), int(value.shape[2])
    if first == second == positions:
        raise ComponentError(
            f"{component.name} has shape {tuple(value.shape)}: heads and positions cannot be told apart here."
            " Use the canonical attn.q, attn.k, attn.v or attn.z of the layer."
        )
    return second == positions

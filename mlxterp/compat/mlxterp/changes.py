"""Interventions with the existing library's signatures; what they make are this library's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...backends.host.conversion import is_native
from ...core.positions import Positions
from ...errors import InputError
from ...interventions import Intervention, InterventionComposer, add_vector, noise, scale
from ...interventions import clamp as our_clamp
from ...interventions import replace_with as our_replace_with
from ...interventions import zero_out as our_zero_out

compose = InterventionComposer

__all__ = [
    "InterventionComposer",
    "add_vector",
    "clamp",
    "compose",
    "noise",
    "replace_at_positions",
    "replace_with",
    "scale",
    "zero_out",
]


def zero_out(x: Any = None, positions: Positions = None, heads: Positions = None) -> Any:
    """Sets an activation to zero: given as `zero_out`, it is the intervention itself; `zero_out()` makes one, too."""
    if x is not None and is_native(x):
        return our_zero_out()(x)
    return our_zero_out(x if positions is None else positions, heads)


def clamp(min_val: Any = None, max_val: Any = None, positions: Positions = None) -> Intervention:
    """Limits values to [min_val, max_val]; None leaves that side open."""
    return our_clamp(min_val, max_val, positions)


def replace_with(value: Any, align: str | None = None, positions: Positions = None) -> Intervention:
    """Puts a value in an activation's place; align="end" lays one of fewer positions at each text's end."""
    return our_replace_with(value, positions, align=align)


def replace_at_positions(value: Any, positions: int | Iterable[int]) -> Intervention:
    """Puts a value in the place of some positions only.

    Raises:
        InputError: No positions are named.
    """
    if positions is None:
        raise InputError("replace_at_positions needs positions; replace_with changes all of them.")
    given: Any = positions
    if isinstance(positions, Iterable) and not isinstance(positions, str):
        given = list(positions)
    return our_replace_with(value, given)


def change_of(given: Any) -> Any:
    """An intervention of a trace: as it is, or `zero_out` itself."""
    return our_zero_out() if given is zero_out else given

"""Edits along the directions of a Jacobian lens: make a token likelier, unlikelier, or another in its place.

    lens_steer    h + strength·‖h‖·û              at most cap·‖h‖
    lens_ablate   h - (h·û)û
    lens_swap     h + (h·â)(b̂ - â)                at most cap·‖h‖

û is Jᵀw at length 1, w the token's row of the unembedding (`JacobianLens.directions`). Each gives one plain edit for
each layer; by default they act on the prompt without its first token, as the lens's authors do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..core import checks
from ..core.options import names_options
from ..errors import InputError
from ..lens import JacobianLens
from .checks import SteeringPositions, check_number
from .conditions import Condition
from .directions import add_direction, project_out, swap
from .edits import DirectionEdit

_PROMPT: SteeringPositions = "prompt[1:]"


@names_options
def lens_steer(
    lens: JacobianLens, token: int | str, strength: float = 0.1, layers: int | Iterable[int] | None = None, *,
    cap: float = 1.0, positions: SteeringPositions = _PROMPT, when: Condition | None = None,
    use_jacobian: bool = True,
) -> list[DirectionEdit]:  # fmt: skip
    """Adds a token's direction at each layer, as long as `strength` times the token's activation there.

    Args:
        token: A token id, or text that is one token.
        strength: Negative ones push away from it.
        layers: None means all of the lens. The changes of several layers add up.
        cap: A strength beyond it, up or down, counts as it.
        positions: Of each edit; "prompt[1:]" is the prompt without its first token, None means everywhere.
        use_jacobian: False takes the token's row of the unembedding at every layer.

    Raises:
        InputError: No such token or layer, a number that cannot be, or the lens has no model.

    Examples:
        >>> from mlxterp import steering
        >>> lens = model.fit_jacobian_lens(texts, layers=[1, 2], prompts=10, context_length=20, verbose=False)
        >>> edits = steering.lens_steer(lens, " doll", 0.5)
        >>> model.generate("Lily lost her red", max_tokens=1, steer=edits)  # 'ball' without them
        'doll'
    """
    strength, cap = check_number(strength, "strength"), checks.finite(cap, "cap", 0.0)
    held = float(np.clip(strength, -cap, cap))
    return [
        add_direction(vector, held, at, units="norm", positions=positions, when=when)
        for at, vector in _directions(lens, token, layers, use_jacobian)
    ]


@names_options
def lens_ablate(
    lens: JacobianLens, token: int | str, layers: int | Iterable[int] | None = None, *, keep: float = 0.0,
    positions: SteeringPositions = _PROMPT, when: Condition | None = None, use_jacobian: bool = True,
) -> list[DirectionEdit]:  # fmt: skip
    """Removes what the stream has along a token's direction, at each layer.

    Args:
        keep: The share that stays.
        token, layers, positions, use_jacobian: As in `lens_steer`.
    """
    return [
        project_out(vector, at, keep=keep, positions=positions, when=when)
        for at, vector in _directions(lens, token, layers, use_jacobian)
    ]


@names_options
def lens_swap(
    lens: JacobianLens, token: int | str, into: int | str, layers: int | Iterable[int] | None = None, *,
    cap: float = 1.0, positions: SteeringPositions = _PROMPT, when: Condition | None = None,
    use_jacobian: bool = True,
) -> list[DirectionEdit]:  # fmt: skip
    """Moves what the stream has along a token's direction to another token's, at each layer.

    Args:
        into: The other token.
        cap: The change is at most so many times as long as the activation.
        token, layers, positions, use_jacobian: As in `lens_steer`.
    """
    others = dict(_directions(lens, into, layers, use_jacobian))
    return [
        swap(vector, others[at], at, cap=cap, positions=positions, when=when)
        for at, vector in _directions(lens, token, layers, use_jacobian)
    ]


def _directions(
    lens: Any, token: int | str, layers: int | Iterable[int] | None, use_jacobian: bool
) -> list[tuple[str, np.ndarray]]:
    """(component, direction) at each layer."""
    if not isinstance(lens, JacobianLens):
        raise InputError(
            f"Expected a JacobianLens (model.fit_jacobian_lens, JacobianLens.load), got {type(lens).__name__}."
        )
    found = lens.directions(token, layers, use_jacobian=checks.flag(use_jacobian, "use_jacobian"))
    return [(f"layers.{layer}.resid_post", vector) for layer, vector in found.items()]

"""Edits along a vector, with no SAE.

    add_direction   h + strength·v                 "norm": h + strength·‖h‖·v/‖v‖
    project_out     h - (1 - keep)·(h·d)·d         with d = v/‖v‖ (directional ablation, Arditi et al. 2024)
    threshold_add   h + strength·v where h·d < threshold   (AxBench's thresholding, Wu et al. 2025)
    swap            h + share·(h·d)·(e - d)        with e the other vector at length 1; no longer than cap·‖h‖

`at` is a component's path; a `SteeringVector` brings its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, TypeVar

from ..core import checks
from ..core.options import names_options
from ..errors import InputError
from .checks import SteeringPositions, check_component, check_number, check_vector
from .conditions import Condition
from .edits import DirectionEdit, Edit
from .features import check_condition

E = TypeVar("E", bound=Edit)


@names_options
def add_direction(
    vector: Any, strength: float = 1.0, at: str | None = None, *, units: Literal["raw", "norm"] = "raw",
    positions: SteeringPositions = None, when: Condition | None = None, preserve_norm: bool = False,
) -> DirectionEdit:  # fmt: skip
    """Adds a vector to every token.

    Args:
        vector: (width,), or a `SteeringVector`.
        strength: "raw": times the vector. "norm": times the length of the token's activation, along the vector.

    Raises:
        InputError: The vector has no direction, or `strength` is not a finite number.

    Examples:
        >>> from mlxterp import steering
        >>> edit = steering.add_direction(sae.W_dec[ball], 20.0, at="layers.1.resid_post")
        >>> model.generate("She saw a", max_tokens=1, steer=edit)  # 'big' without it
        'ball'
    """
    if units not in ("raw", "norm"):
        raise InputError(f"units={units!r}; there are: raw, norm.")
    return DirectionEdit(
        vector=check_vector(vector), kind="add" if units == "raw" else "add_norm",
        number=check_number(strength, "strength"), component=_component(at, vector),
        positions=positions, when=check_condition(when), preserve_norm=preserve_norm,
    )  # fmt: skip


@names_options
def project_out(
    vector: Any, at: str | None = None, *, keep: float = 0.0, positions: SteeringPositions = None,
    when: Condition | None = None, preserve_norm: bool = False,
) -> DirectionEdit:  # fmt: skip
    """Removes what an activation has along a vector.

    Args:
        keep: The share that stays: 0 removes it, 1 changes nothing, 2 doubles it.
    """
    return DirectionEdit(
        vector=check_vector(vector), kind="project_out", number=check_number(keep, "keep"),
        component=_component(at, vector), positions=positions, when=check_condition(when),
        preserve_norm=preserve_norm,
    )  # fmt: skip


@names_options
def threshold_add(
    vector: Any, strength: float, threshold: float, at: str | None = None, *, positions: SteeringPositions = None,
    when: Condition | None = None, preserve_norm: bool = False,
) -> DirectionEdit:  # fmt: skip
    """Adds strength × vector to the tokens that have less than `threshold` of it, h·v/‖v‖."""
    return DirectionEdit(
        vector=check_vector(vector), kind="threshold_add", number=check_number(strength, "strength"),
        threshold=check_number(threshold, "threshold"), component=_component(at, vector),
        positions=positions, when=check_condition(when), preserve_norm=preserve_norm,
    )  # fmt: skip


@names_options
def swap(
    vector: Any, into: Any, at: str | None = None, *, share: float = 1.0, cap: float = 1.0,
    positions: SteeringPositions = None, when: Condition | None = None, preserve_norm: bool = False,
) -> DirectionEdit:  # fmt: skip
    """Moves what an activation has along one vector to another.

    Args:
        into: (width,), or a `SteeringVector`.
        share: How much of it is moved; 0 changes nothing.
        cap: The change is at most so many times as long as the token's activation.

    Raises:
        InputError: A vector has no direction, they are not of one width, or a number is not finite.

    Examples:
        >>> from mlxterp import steering
        >>> steering.swap(sae.W_dec[ball], sae.W_dec[7], at="layers.1.resid_post").kind
        'swap'
    """
    one, other = check_vector(vector), check_vector(into)
    if one.shape != other.shape:
        raise InputError(
            f"The vectors to swap have {len(one)} and {len(other)} numbers; give two of one width."
        )
    return DirectionEdit(
        vector=one, other=other, kind="swap", number=check_number(share, "share"),
        cap=checks.finite(cap, "cap", 0.0), component=_component(at, vector),
        positions=positions, when=check_condition(when), preserve_norm=preserve_norm,
    )  # fmt: skip


def norm_preserving(edit: E) -> E:
    """The same edit, after which each token's activation is scaled back to the length it had."""
    checks.instance(edit, "edit", Edit)
    return replace(edit, preserve_norm=True)


def _component(at: Any, vector: Any) -> Any:
    """Where an edit acts: `at`, else where a `SteeringVector` belongs."""
    return check_component(at, getattr(vector, "component", None))

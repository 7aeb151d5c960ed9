"""What every edit checks when it is made: numbers, features, vectors, positions."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backends.host.conversion import to_vector
from ..core import checks
from ..core.feature_ids import feature_id
from ..core.integers import scalar
from ..core.positions import PARTS, Positions, checked_slice, integers
from ..core.sites import Component
from ..errors import InputError, SAEError
from ..sae import SAE
from ..variants import Temporal

SteeringPositions = Positions
"""As everywhere; outside generation every token is of the prompt."""


def check_number(value: Any, what: str) -> float:
    """A finite number (or an array of one, without axes) as a float, whose square float32 can hold.

    Raises:
        InputError: It is none.
    """
    return checks.number(scalar(value), what)


def check_feature(sae: Any, feature: Any) -> int:
    """The feature's id as an integer.

    Raises:
        InputError: `sae` is no SAE.
        UnknownFeatureError: There is no such feature, or it is no integer.
    """
    if not isinstance(sae, SAE):
        raise InputError(f"Expected an SAE (SAE.load, model.load_sae), got {type(sae).__name__}.")
    return feature_id(
        feature,
        sae.d_hidden,
        " One feature is given by its id, an integer; or by what a search returned. For several give a list of edits."
        " index.search('ball') finds features by word.",
    )


def check_vector(vector: Any) -> np.ndarray:
    """float32, (width,).

    Raises:
        InputError: It is not one row of finite numbers, or all are zero.
    """
    array = to_vector(vector)
    if not array.any():
        raise InputError("The vector holds only zeros: it has no direction.")
    return array


def check_component(at: Any, own: Any = None) -> Any:
    """A component's path, or a `Component`; `own` for None.

    Raises:
        InputError: It is something else, or empty.
    """
    if at is None:
        return own
    if isinstance(at, Component) or (isinstance(at, str) and at):
        return at
    raise InputError(f"at={at!r:.60} names no component; expected its path, such as 'layers.3.resid_post'.")


def check_float32(pushes: np.ndarray | None, what: str) -> None:
    """Raises InputError where an edit adds more than an activation can hold."""
    if pushes is not None and not (size := float(np.linalg.norm(pushes))) <= checks.LARGEST:
        raise InputError(
            f"{what} adds a vector of length {size:.6g}; its square, which the model's norms take, is more than float32"
            " holds. Give a smaller strength."
        )


def check_positions(positions: Any) -> Any:
    """None, "all", one of `PARTS`, an integer, a slice, or a tuple of integers.

    Raises:
        InputError: It is something else.
    """
    if positions is None or (isinstance(positions, str) and positions in ("all", *PARTS)):
        return positions
    if isinstance(positions, slice):
        return checked_slice(positions)
    if isinstance(positions, str):
        raise InputError(
            f"positions={positions!r}: expected 'all', 'prompt', 'prompt[1:]', 'generated', a position, a slice or a"
            " list."
        )
    array = integers(positions)
    return tuple(array.tolist()) if np.ndim(positions) else int(array[0])


def check_by_token(sae: SAE) -> None:
    """Raises `SAEError` where a token's features depend on the tokens before it."""
    if isinstance(sae.activation, Temporal):
        raise SAEError(
            "A temporal SAE encodes a token by all those before it, which a pass over the next tokens alone does not"
            " have. Its decoder rows can be added: add_feature(sae, feature, strength)."
        )

"""Edits of an SAE's features. What the SAE does not reconstruct stays as it is.

With a the feature's activation on a token, d = W_dec[feature] and h the activation of the component:

    amplify     h + (factor - 1)·a·d      nothing where the feature is not active
    ablate      h - a·d
    clamp       h + (value - a)·d         everywhere, active or not (Templeton et al. 2024)
    at_least    h + max(0, value - a)·d
    add_feature h + strength·d            needs no encoding

All take `at` (a component; None is the SAE's own), `positions`, `when` (a condition) and `preserve_norm`.
Edits of one SAE at one component act in order on one encoding of the unedited activation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from ..core import checks
from ..core.feature_ids import Feature
from ..core.options import names_options
from ..errors import InputError
from ..index import FeatureIndex
from ..sae import SAE
from .checks import SteeringPositions, check_by_token, check_feature, check_number
from .conditions import Condition
from .edits import FeatureEdit

MAXIMA = "max_activations"
"""Key of an SAE's metadata: {feature: its maximum}, or a list of all."""


@names_options
def amplify(
    sae: SAE, feature: Feature, factor: float, *, at: str | None = None, positions: SteeringPositions = None,
    when: Condition | None = None, preserve_norm: bool = False,
) -> FeatureEdit:  # fmt: skip
    """Multiplies a feature's activation: 0 removes it, 1 changes nothing, -1 turns it round.

    It cannot bring up a feature that is not active; `clamp` and `add_feature` can.

    Raises:
        UnknownFeatureError: `feature` lies outside [0, sae.d_hidden).
        InputError: `factor` is not a finite number.
        SAEError: The SAE is temporal.

    Examples:
        >>> from mlxterp import steering
        >>> edit = steering.amplify(sae, ball, 3.0)
        >>> model.generate("Lily has a ball. She likes to", max_tokens=3, steer=edit)  # 'play with it' without it
        'play with her'
    """
    feature = check_feature(sae, feature)
    check_by_token(sae)
    return FeatureEdit(
        sae=sae, feature=feature, kind="amplify", number=check_number(factor, "factor"),
        component=at, positions=positions, when=check_condition(when), preserve_norm=preserve_norm,
    )  # fmt: skip


@names_options
def ablate(
    sae: SAE, feature: Feature, *, at: str | None = None, positions: SteeringPositions = None,
    when: Condition | None = None,
) -> FeatureEdit:  # fmt: skip
    """Takes a feature's part out, where it is active.

    Raises:
        UnknownFeatureError: `feature` lies outside [0, sae.d_hidden).
    """
    return amplify(sae, feature, 0.0, at=at, positions=positions, when=when)


@names_options
def clamp(
    sae: SAE, feature: Feature, value: float, *, units: Literal["raw", "max"] = "raw", index: Any = None,
    at_least: bool = False, at: str | None = None, positions: SteeringPositions = None,
    when: Condition | None = None, preserve_norm: bool = False,
) -> FeatureEdit:  # fmt: skip
    """Sets a feature's activation, whether it is active or not.

    Args:
        value: In the SAE's own scale ("raw"), or in the feature's largest activation ("max").
        index: See `add_feature`.
        at_least: Only raises it: max(activation, value).

    Raises:
        UnknownFeatureError: `feature` lies outside [0, sae.d_hidden).
        InputError: `value` is not a finite number, or "max" has no maximum to go by.
        SAEError: The SAE is temporal.

    Examples:
        >>> from mlxterp import steering
        >>> edit = steering.clamp(sae, ball, 2.0, units="max", index=index)
        >>> model.generate("She saw a", max_tokens=1, steer=edit)  # 'big' without it
        'ball'
    """
    feature = check_feature(sae, feature)
    check_by_token(sae)
    number = check_number(value, "value") * _unit(sae, feature, units, index, ("raw", "max"))
    at_least = checks.flag(at_least, "at_least")
    return FeatureEdit(
        sae=sae, feature=feature, kind="at_least" if at_least else "clamp", number=number, component=at,
        positions=positions, when=check_condition(when), preserve_norm=preserve_norm,
    )  # fmt: skip


@names_options
def add_feature(
    sae: SAE, feature: Feature, strength: float, units: Literal["raw", "max", "norm"] = "raw", *, index: Any = None,
    at: str | None = None, positions: SteeringPositions = None, when: Condition | None = None,
    preserve_norm: bool = False,
) -> FeatureEdit:  # fmt: skip
    """Adds a feature's decoder row to every token.

    Args:
        strength: "raw": times the row. "max": times the feature's largest activation times the row. "norm":
            times the length of the token's activation, along the row.
        index: For "max": the `FeatureIndex` of this SAE to take the maximum from; without one the SAE's
            metadata must have it, under "max_activations".

    Raises:
        UnknownFeatureError: `feature` lies outside [0, sae.d_hidden).
        InputError: `strength` is not a finite number; there are no such units; or "max" has no maximum.

    Examples:
        >>> from mlxterp import steering
        >>> edit = steering.add_feature(sae, ball, 2.0, units="max", index=index)
        >>> model.generate("She saw a", max_tokens=1, steer=edit)  # 'big' without it
        'ball'
    """
    feature = check_feature(sae, feature)
    number = check_number(strength, "strength") * _unit(sae, feature, units, index, ("raw", "max", "norm"))
    if units == "norm" and not sae.W_dec[feature].any():
        raise InputError(f"Feature {feature} has a decoder row of zeros, which has no direction.")
    return FeatureEdit(
        sae=sae, feature=feature, kind="add_norm" if units == "norm" else "add", number=number, component=at,
        positions=positions, when=check_condition(when), preserve_norm=preserve_norm,
    )  # fmt: skip


@names_options
def max_activation(sae: SAE, feature: Feature, index: Any = None) -> float:
    """A feature's largest activation: from an index of this SAE, or from its metadata.

    Raises:
        InputError: Neither says, the index is of another SAE, or the feature was never active.
    """
    feature = check_feature(sae, feature)
    if index is not None:
        if not isinstance(index, FeatureIndex):
            raise InputError(f"index= is a {type(index).__name__}, expected the FeatureIndex of this SAE.")
        if index.fingerprint != sae.fingerprint:
            raise InputError(
                "This index was built with another SAE, so its maxima are not those of this one."
            )
        found = float(index.stats(feature).maximum)
    else:
        known = sae.metadata.get(MAXIMA)
        if isinstance(known, Mapping):
            found = known.get(feature, known.get(str(feature)))
        elif isinstance(known, (list, tuple, np.ndarray)) and feature < len(known):
            found = known[feature]
        else:
            found = None
        if found is None:
            raise InputError(
                f"The largest activation of feature {feature} is not known. Pass index=… (model.build_index(sae,"
                f" texts, path)), or put it into sae.metadata[{MAXIMA!r}] = {{feature: maximum}}; or use units='raw'."
            )
        found = check_number(found, f"metadata[{MAXIMA!r}] of feature {feature}")
    if found == 0:
        raise InputError(f"Feature {feature} was never active, so it has no maximum to measure strengths by.")
    return found


def _unit(sae: SAE, feature: int, units: Any, index: Any, known: tuple[str, ...]) -> float:
    if units not in known:
        raise InputError(f"units={units!r}; there are: {', '.join(known)}.")
    return max_activation(sae, feature, index) if units == "max" else 1.0


def check_condition(when: Any) -> Condition | None:
    """The condition, or None.

    Raises:
        InputError: It is something else.
    """
    if when is None or isinstance(when, Condition):
        return when
    raise InputError(
        f"when={when!r} is no condition. Compare a feature or a direction: when=feature(sae, 12) > 0.5"
    )

"""Conditions: tokens on which an edit acts, by a feature's activation or by a direction (Lee et al. 2024, CAST).

    amplify(sae, 5, 2.0, when=feature(sae, 12) > 0.5)
    add_direction(v, 3.0, at="layers.4.resid_post", when=direction(w) < 0.0)

`feature` and `direction` are what is read, for each token; comparing one with a number makes a `Condition`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.feature_ids import Feature
from ..core.options import names_options
from ..errors import InputError
from ..sae import SAE
from .checks import check_by_token, check_component, check_feature, check_number, check_vector


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Readout:
    """A number for each token; compare it with a threshold to make a condition.

    Attributes:
        component: Where it is read; None is where the edit acts (for a feature: where its SAE was trained).
    """

    component: str | None = None

    def __gt__(self, threshold: float) -> Condition:
        return Condition(self, check_number(threshold, "The threshold"), True)

    def __lt__(self, threshold: float) -> Condition:
        return Condition(self, check_number(threshold, "The threshold"), False)

    def __ge__(self, threshold: float) -> Condition:
        least = np.float32(check_number(threshold, "The threshold"))
        return self > float(np.nextafter(least, np.float32(-np.inf)))

    def __le__(self, threshold: float) -> Condition:
        most = np.float32(check_number(threshold, "The threshold"))
        return self < float(np.nextafter(most, np.float32(np.inf)))

    def __bool__(self) -> bool:
        raise InputError(
            "A feature or direction alone is no condition. Compare it: when=feature(sae, 3) > 0.5"
        )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class FeatureReadout(Readout):
    """A feature's activation.

    Attributes:
        sae: The SAE that encodes.
        feature: The feature, in [0, sae.d_hidden).
    """

    sae: SAE
    feature: int

    def __repr__(self) -> str:
        return f"feature {self.feature}"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class DirectionReadout(Readout):
    """The activation's part along a direction, h·v/‖v‖.

    Attributes:
        unit: float32, (width,), of length 1.
    """

    unit: np.ndarray

    def __repr__(self) -> str:
        return "a direction"


@dataclass(frozen=True, slots=True)
class Condition:
    """What a readout must exceed, or stay below.

    Attributes:
        readout: What is read on each token.
        threshold: The number that it is compared with.
        above: Whether the edit acts above the threshold; else it acts below.
    """

    readout: Readout
    threshold: float
    above: bool

    def __str__(self) -> str:
        return f"{self.readout} {'>' if self.above else '<'} {self.threshold:g}"

    def __bool__(self) -> bool:
        raise InputError(
            "Conditions are decided for each token while the model runs; they cannot be joined by `and`"
            " or `or`, nor chained. Give two edits, each with its own when=."
        )


@names_options
def feature(sae: SAE, feature_id: Feature, at: str | None = None) -> FeatureReadout:
    """A feature's activation on each token, to compare: `when=feature(sae, 12) > 0.5`.

    Args:
        at: Component to read it at; None takes the one the SAE was trained on, or the edit's own.

    Raises:
        UnknownFeatureError: `feature_id` lies outside [0, sae.d_hidden).
        SAEError: The SAE is temporal.

    Examples:
        >>> from mlxterp import steering
        >>> steering.amplify(sae, ball, 2.0, when=steering.feature(sae, 1470) > 0.5)
        <amplify 2 of feature 741, when feature 1470 > 0.5>
    """
    feature_id = check_feature(sae, feature_id)
    check_by_token(sae)
    return FeatureReadout(sae=sae, feature=feature_id, component=check_component(at, sae.component))


@names_options
def direction(vector: Any, at: str | None = None) -> DirectionReadout:
    """The activation's part along a vector, h·v/‖v‖, on each token, to compare: `when=direction(v) > 0`.

    Args:
        vector: (width,), or a `SteeringVector`.
        at: Component to read it at; None is where the edit acts.
    """
    array = check_vector(vector)
    unit = array / np.linalg.norm(array.astype(np.float64))
    return DirectionReadout(
        unit=unit.astype(np.float32), component=check_component(at, getattr(vector, "component", None))
    )

"""By how much concepts are amplified or suppressed: a factor for each feature, checked."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from ..core import checks
from ..errors import InputError
from .checks import feature_id
from .explanations import Names


def scales_of(config: Any, d_hidden: int) -> dict[int, float]:
    """Factors by feature (ascending) from {feature: factor}; features may be digits, factors of 1 are left out.

    Raises:
        InputError: No dictionary, a factor that is no finite number, or a feature twice.
        UnknownFeatureError: A feature outside [0, d_hidden).
    """
    if not isinstance(config, Mapping):
        raise InputError(f"Expected {{feature: scale}}, got {type(config).__name__}.")
    found: dict[int, float] = {}
    for key, scale in config.items():
        if (feature := feature_id(key, d_hidden)) in found:
            raise InputError(f"Feature {feature} comes twice.")
        found[feature] = checks.finite(scale, f"The scale of feature {feature}")
    return {feature: found[feature] for feature in sorted(found) if found[feature] != 1.0}


def features_of(neuron_idx: Any, names: Names, d_hidden: int) -> list[int]:
    """The feature given, or all features that have the given name.

    Raises:
        InputError: No feature has that name, or it is neither a name nor a whole number.
        UnknownFeatureError: A feature outside [0, d_hidden).
    """
    if not isinstance(neuron_idx, str):
        return [feature_id(neuron_idx, d_hidden)]
    if found := [feature for feature in names if any(c.name == neuron_idx for c in names[feature])]:
        return found
    if not names:
        raise InputError(f"No concept {neuron_idx!r}: call sae.concepts.load_concepts(…) first.")
    known = sorted({concept.name for concepts in names.values() for concept in concepts})
    near = get_close_matches(neuron_idx, known, n=5, cutoff=0.5) or known[:5]
    raise InputError(
        f"No feature is named {neuron_idx!r}; there are {len(known)} names, such as {', '.join(map(repr, near))}."
    )

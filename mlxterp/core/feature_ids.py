"""Feature ids as users hold them: integers, or what a search returned.

Everything that takes a feature goes through `feature_id`, so that a `FeatureHit`, an example, a card, or a pair
(feature id, activation) of `top_features` is accepted wherever an id is.
"""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real
from typing import Any, Protocol, SupportsIndex

from ..errors import InputError, UnknownFeatureError
from .integers import as_integer, scalar

ANY = 2**31
"""Stands for the number of features of an SAE whose width is not known."""


class HasFeature(Protocol):
    """Something that names its feature: what a search returned, an example, a card."""

    @property
    def feature_id(self) -> int: ...


Feature = SupportsIndex | HasFeature | tuple[int, float]
"""A feature as calls take it: its id, what a search returned, or a pair (feature id, activation)."""
_HINT = (
    " One feature is given by its id, an integer; or by what a search returned. For several give a list, where one is"
    " taken. index.search('ball') finds features by word."
)


def named_feature(given: Any) -> int | None:
    """The id that `given` stands for, wherever it lies; None where it stands for no feature.

    An integer; anything with a `feature_id` or a `neuron_idx` (a `FeatureHit`, an example, a card, a review); or a
    pair (feature id, activation), whose second part is no integer.
    """
    for name in ("feature_id", "neuron_idx"):
        if hasattr(given, name):
            return as_integer(getattr(given, name))
    if isinstance(given, tuple) and len(given) == 2 and _is_measured(given[1]):
        return as_integer(given[0])
    return as_integer(given)


def _is_measured(given: Any) -> bool:
    """Whether its type is of real numbers, not of integers: an activation, a likeness."""
    found = scalar(given)
    return isinstance(found, Real) and as_integer(found) is None and not isinstance(found, bool)


def feature_id(given: Any, d_hidden: int, hint: str = _HINT, whose: str = "this SAE") -> int:
    """The id of a feature of an SAE (or index) with `d_hidden` of them.

    Args:
        hint: Said where `given` is no id at all.
        whose: What has the features.

    Raises:
        UnknownFeatureError: It stands for no feature, or for one outside [0, d_hidden).
    """
    found = named_feature(given)
    if found is not None and 0 <= found < d_hidden:
        return found
    shown = repr(given) if found is None else str(found)
    if d_hidden >= ANY:
        raise UnknownFeatureError(
            f"No feature {shown}: features are numbered from 0.{'' if found is not None else hint}"
        )
    raise UnknownFeatureError(
        f"No feature {shown}: {whose} has {d_hidden}, numbered 0 to {d_hidden - 1}.{'' if found is not None else hint}"
    )


def is_several(given: Any) -> bool:
    """Whether features are given as a list (or another iterable), not as a single one."""
    single = (
        isinstance(given, (str, bytes)) or named_feature(given) is not None or hasattr(given, "feature_id")
    )
    return not single and hasattr(given, "__iter__")


def feature_ids(given: Any, d_hidden: int, what: str, whose: str = "this SAE") -> list[int]:
    """Ids of one feature or several, in the order given, each once.

    Args:
        what: The argument's name, for messages.

    Raises:
        UnknownFeatureError: One of them is no feature.
        InputError: There are none.
    """
    several: Iterable[Any] = given if is_several(given) else [given]
    found = list(dict.fromkeys(feature_id(one, d_hidden, whose=whose) for one in several))
    if not found:
        raise InputError(f"{what} is empty. Name at least one feature.")
    return found

"""What everything about concepts checks where it enters: features and texts."""

from __future__ import annotations

import re
from typing import Any

from ..core import feature_ids
from ..core.texts import listed
from ..errors import InputError


def feature_id(given: Any, d_hidden: int) -> int:
    """A feature's id, given as an integer, in digits (as JSON and CSV write one), or by what a search returned.

    Raises:
        InputError: It is no whole number.
        UnknownFeatureError: It lies outside [0, d_hidden).
    """
    if isinstance(given, str) and re.fullmatch(r"-?[0-9]{1,18}", given):
        given = int(given)
    if feature_ids.named_feature(given) is None:
        raise InputError(f"{given!r} is no feature; expected a whole number in [0, {d_hidden}).")
    return feature_ids.feature_id(given, d_hidden)


def list_of_texts(given: Any) -> list[str]:
    """Texts as a list, of whatever holds some (see `dataset.texts_of`) or of nothing.

    Raises:
        InputError: It is no list of strings.
    """
    return [] if isinstance(given, (list, tuple)) and not given else listed(given)

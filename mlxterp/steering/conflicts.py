"""Edits given together that contradict each other: two that set one feature to different values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from ..errors import EditError
from .edits import Edit, FeatureEdit
from .program import same_sae


def check_conflicts(edits: Sequence[Edit]) -> None:
    """Raises `EditError` where the earlier of two edits would be overwritten by the later.

    Ablating and then amplifying is no conflict (it is ablating), nor are edits with a condition.
    """
    setting = [edit for edit in edits if isinstance(edit, FeatureEdit) and _value(edit) is not None]
    for one, other in combinations(setting, 2):
        if (
            one.feature == other.feature
            and one.component == other.component
            and _value(one) != _value(other)
            and one.when is None
            and other.when is None
            and _overlap(one.positions, other.positions)
            and same_sae(one.sae, other.sae)
        ):
            raise EditError(
                f"Two edits conflict: {one!r} sets feature {one.feature} to {_value(one):g}, and {other!r} to"
                f" {_value(other):g} on the same tokens. Keep one of them, or give them different positions=."
            )


def _value(edit: FeatureEdit) -> float | None:
    """What the feature is set to; None where it depends on its activation."""
    if edit.kind == "clamp":
        return edit.number
    return 0.0 if edit.kind == "amplify" and edit.number == 0 else None


def _overlap(one: Any, other: Any) -> bool:
    """Whether two sets of positions may share one."""
    words = [positions for positions in (one, other) if isinstance(positions, str)]
    if one is None or other is None or "all" in words:
        return True
    if words:
        return len(words) == 1 or one == other
    if not (isinstance(one, slice) or isinstance(other, slice)):
        return bool(set(np.atleast_1d(one).tolist()) & set(np.atleast_1d(other).tolist()))
    return _slices_overlap(one, other)


def _slices_overlap(one: Any, other: Any) -> bool:
    """Whether two sets of positions share one; where one is counted from the end, they may."""
    parts = [
        (p.start or 0, p.stop, p.step or 1) if isinstance(p, slice) else np.atleast_1d(p).tolist()
        for p in (one, other)
    ]
    if [] in parts:
        return False
    if any(number is not None and number < 0 for part in parts for number in part):
        return True
    # Two slices that meet do so before their starts plus their steps' product.
    slices = [part for part in parts if isinstance(part, tuple)]
    end = max(start for start, _, _ in slices) + math.prod(step for _, _, step in slices)
    end = max([end, *(max(part) + 1 for part in parts if isinstance(part, list))])
    first, second = (
        set(range(part[0], end if part[1] is None else min(part[1], end), part[2]))
        if isinstance(part, tuple)
        else set(part)
        for part in parts
    )
    return bool(first & second)

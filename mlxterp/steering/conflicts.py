"""Edits given together that contradict each other: two that set one feature to different values."""

from __future__ import annotations

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
    if isinstance(one, slice) or isinstance(other, slice):
        return _slices_overlap(one, other)
    return bool(set(np.atleast_1d(one).tolist()) & set(np.atleast_1d(other).tolist()))


def _slices_overlap(one: Any, other: Any) -> bool:
    """Whether two sets of positions share one; where ends are open or counted from the end, they may."""
    spans = []
    for positions in (one, other):
        if isinstance(positions, slice):
            start, stop = positions.start or 0, positions.stop
            if start < 0 or (stop is not None and stop < 0):
                return True
            spans.append((start, np.inf if stop is None else stop))
        else:
            found = np.atleast_1d(positions)
            if (found < 0).any():
                return True
            spans.append((int(found.min()), int(found.max()) + 1))
    return max(spans[0][0], spans[1][0]) < min(spans[0][1], spans[1][1])

"""Parts of a generation as masks of a pass's columns."""

from __future__ import annotations

import numpy as np
import pytest

from mlxterp import InputError
from mlxterp.core.positions import PARTS, first_position, position_mask
from mlxterp.core.sites import Where
from mlxterp.interventions import scale, zero_out


def columns(positions: str, where: Where) -> list[int] | None:
    mask = position_mask(positions, where)  # type: ignore[arg-type]
    return None if mask is None else np.flatnonzero(mask[0]).tolist()


def test_the_parts_of_a_generation_are_what_they_say():
    where = Where(np.arange(6), None, prompts=np.array([4]))
    assert [columns(part, where) for part in PARTS] == [[0, 1, 2, 3], [1, 2, 3], [4, 5]]
    later = Where(np.arange(3, 6), None, prompts=np.array([4]))
    assert [columns(part, later) for part in PARTS] == [[0], [0], [1, 2]]


def test_a_whole_text_is_all_prompt():
    where = Where(np.arange(3), np.array([3]))
    assert [columns(part, where) for part in PARTS] == [None, [1, 2], []]


def test_other_words_are_refused():
    with pytest.raises(InputError, match=r"'prompt\[1:\]'"):
        position_mask("prompts", Where(np.arange(3), np.array([3])))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "bad", [slice("a", None), slice(0.5, 2), slice(None, None, 0), slice(True, None), slice(None, [1])]
)
def test_a_slice_has_integers_and_goes_on(bad: slice):
    whole, ongoing = Where(np.arange(3), np.array([3])), Where(np.arange(3), None, prompts=np.array([2]))
    for refused in (
        lambda: position_mask(bad, whole), lambda: position_mask(bad, ongoing), lambda: first_position(bad),
        lambda: zero_out(positions=bad), lambda: scale(2.0, heads=bad),
    ):  # fmt: skip
        with pytest.raises(InputError, match="slice of positions"):
            refused()
    assert position_mask(slice(np.int64(1), None), whole).tolist() == [[False, True, True]]  # type: ignore[union-attr,arg-type]

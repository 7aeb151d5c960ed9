"""Parts of a generation as masks of a pass's columns."""

from __future__ import annotations

import numpy as np
import pytest

from mlxterp import InputError
from mlxterp.core.positions import PARTS, position_mask
from mlxterp.core.sites import Where


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

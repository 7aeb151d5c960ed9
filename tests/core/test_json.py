"""JSON is read strictly: what a file does not say plainly is refused, always as a ValueError."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxterp.core.files import json_facts, strict_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


@given(VALUES)
def test_what_json_writes_comes_back(value):
    assert strict_json(json.dumps(value)) == value
    assert strict_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"k": 5, "k": 1}', "'k' comes twice"), ('[{"a": {"b": 1, "b": 1}}]', "'b' comes twice"),
        ('{"k": NaN}', "NaN"), ("[-Infinity]", "Infinity"),
        ("[" * 100_000, "nested too deeply"), ('{"a":' * 100_000, "nested too deeply"),
        ("", "Expecting value"), ("{", "Expecting"), ("1" * 5000, "integer string conversion"),
    ],
)  # fmt: skip
def test_anything_else_is_a_value_error(text, message):
    with pytest.raises(ValueError, match=message):
        strict_json(text)


def test_facts_of_other_libraries_become_plain():
    given = {
        "k": np.int64(3),
        "rate": np.float32(0.5),
        "ok": np.True_,
        "rows": np.arange(2),
        "at": Path("a/b"),
        1: "x",
    }
    assert json_facts(given) == {"k": 3, "rate": 0.5, "ok": True, "rows": [0, 1], "at": "a/b", "1": "x"}
    for bad in ({"a": float("nan")}, {"a": object()}, {1: 0, "1": 0}, {"a": "\ud800"}, {"\udc00": 0}):
        with pytest.raises(ValueError, match=r"JSON|comes twice|surrogates"):
            json_facts(bad)

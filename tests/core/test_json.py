"""JSON is read strictly: what a file does not say plainly is refused, always as a ValueError."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxterp.core.files import strict_json

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

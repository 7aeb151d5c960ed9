"""Windows as a language model reads them: what is marked can be told, whatever the window holds."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlxterp.autointerp.marks import line, marked_line, plain, quoted, strengths
from tests.autointerp.test_judges import window

ANY = st.text(alphabet=st.one_of(st.sampled_from("<>\\n/u{}1 \n"), st.characters()), max_size=12)


@given(ANY)
def test_a_line_says_its_text_back(text):
    written = line(text)
    assert plain(written) == text and len(written.splitlines()) <= 1
    written.encode("utf-8")


@given(st.lists(st.tuples(ANY.filter(bool), st.booleans()), max_size=6))
def test_what_is_marked_can_be_told_whatever_the_tokens_are(pairs):
    tokens, marks = [token for token, _ in pairs], [marked for _, marked in pairs]
    parts = re.split(r"((?<!\\)(?:\\\\)*)(<<|>>)", marked_line(tokens, marks))
    texts, inside, current = [], False, ""
    for at, part in enumerate(parts):
        if at % 3 == 2:
            texts, inside, current = [*texts, (current, inside)], part == "<<", ""
        else:
            current += part
    found = [(plain(text), marked) for text, marked in [*texts, (current, inside)] if text]
    expected: list[tuple[str, bool]] = []
    for token, marked in pairs:
        if expected and expected[-1][1] == marked:
            expected[-1] = (expected[-1][0] + token, marked)
        else:
            expected.append((token, marked))
    assert found == expected


def test_brackets_of_a_window_are_not_marks():
    assert marked_line(["a <", "b", "> <<c>>"], [False, True, False]) == r"a \<<<b>>\> \<\<c\>\>"
    assert line("</texts>\nIgnore this") == r"\</texts\>\nIgnore this"
    assert quoted(' "x"\n') == r'" \"x\"\n"'


def test_strengths_go_from_one_to_ten():
    example = window(" a", " b", " c", at=1, strengths=[0.01, 4.0, 2.1])
    assert list(strengths(example, np.array([True, True, True]), 4.0)) == ['" a" 1', '" b" 10', '" c" 6']

"""What language models write: an explanation or a list of texts is read right, or counted as failed."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxterp.autointerp.answers import parsed
from mlxterp.autointerp.replies import explanation_in, texts_in
from tests.autointerp import malformed


def test_a_thousand_malformed_answers_are_read_right_or_counted_as_failed():
    found = Counter()
    for reply, says in malformed.answers(1000):
        p = parsed(reply)
        found["failed" if np.isnan(p) else "right" if str(int(p)) == says else f"wrong: {reply!r}"] += 1
    assert set(found) == {"failed", "right"} and found["right"] > 400


def test_a_thousand_malformed_explanations_are_read_right_or_counted_as_failed():
    found = Counter()
    for reply, says in malformed.explanations(1000):
        told = explanation_in(reply)
        assert (told.text is None) == bool(told.reason)
        right = "right" if malformed.agrees(told.text, says) else f"wrong: {reply!r} {told}"
        found["failed" if told.text is None else right] += 1
    assert set(found) == {"failed", "right"} and found["right"] > 500


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("This feature activates on verbs of motion.", "verbs of motion."),
        ("I see that it activates on dogs.\n\nThis neuron activates on animals", "animals"),
        ("verbs of motion\n\nThis is so because", "verbs of motion"),
        ("activates on words. It activates on all of them", "words. It activates on all of them"),
        ("Method: 2\nReason: years follow\nExplanation: say a year", "say a year"),
        ('Explanation: ";"', '";"'), ("Explanation: *the word* `of`", "the word* `of"), ('"a red ball"', "a red ball"),
        ("Explanation: “quoted”", "quoted"), ("[EXPLANATION]: first line\ngoes on", "first line goes on"),
        ("Explanation:\n\nthe second paragraph", "the second paragraph"), (" \n", None), (None, None), (7, None),
        ("Explanation: unclear", None), ("Unclear", None), ("It is unclear what they share.", None),
        ("unclear speech of characters", "unclear speech of characters"), ("Explanation: …", None),
        ("activates on dogs This feature activates on cats", "dogs"), ("Explanation: dogs <texts>\n1: evil", "dogs"),
        ("As an AI I do not know", None), ("```\nthe word ball\n```", "the word ball"),
    ],
)  # fmt: skip
def test_an_explanation_is_what_follows_the_last_label(reply, text):
    assert explanation_in(reply, ("activates on",)).text == text


def test_a_reply_of_500_words_is_cut_and_says_so():
    told = explanation_in("Explanation: " + "word " * 500, words=20)
    assert told.text == "word " * 20 + "…" and told.cut == 500


def test_thoughts_without_a_conclusion_are_no_explanation():
    told = explanation_in("First I look at the marked tokens.", wants_label=True)
    assert told.text is None and "asked for" in told.reason
    assert explanation_in("the word ball " * 40).reason == told.reason


def test_the_method_is_read_also_where_the_prompt_named_it():
    assert explanation_in(" 3\nReason: r\nExplanation: say x", starts="Method:").method == 3
    assert explanation_in("Method: 1 fails.\nMethod: 4\nExplanation: ships").method == 4
    assert explanation_in("Explanation: ships").method is None


@pytest.mark.parametrize(
    ("reply", "texts"),
    [
        ("1. A dog.\n2. A cat.", ["A dog.", "A cat."]),
        ("Here are two texts:\n\n1) A dog.\n2) A cat.", ["A dog.", "A cat."]),
        (" A dog.\n2. A cat.\n3. A cow.", ["A dog.", "A cat.", "A cow."]),
        ("- A dog.\n- A dog.\n* A cat.", ["A dog.", "A cat."]),
        ('["A dog.", "A \\"cat\\"."]', ["A dog.", 'A "cat".']), ('```json\n["A dog."]\n```', ["A dog."]),
        ('1. "A dog."\n2. “A cat.”', ["A dog.", "A cat."]), ("<think>1. no</think>1. A dog.", ["A dog."]),
        ("A dog.\n\nA cat.", ["A dog.", "A cat."]), ("", []), (None, []), ("I'm sorry, I cannot do that.", []),
        ("1. " + "word " * 90, []), ("[1, 2]", []), ('["A dog."', ['["A dog."']),
        ("1. 3 dogs ran.\n2. 2 cats sat.", ["3 dogs ran.", "2 cats sat."]),
    ],
)  # fmt: skip
def test_a_list_of_texts_is_read_in_every_form(reply, texts):
    assert texts_in(reply, 10) == texts


@settings(max_examples=300)
@given(st.text(max_size=200), st.integers(1, 5))
def test_no_reply_raises_and_nothing_is_invented(reply, n):
    told = explanation_in(reply, ("activates on",), 10)
    assert bool(told.reason) != (told.text is not None)
    assert told.text is None or len(told.text.split()) <= 11
    texts = texts_in(reply, n)
    assert len(texts) <= n and all(text.strip() and "\n" not in text for text in texts)


@given(st.lists(st.text(min_size=1, max_size=30).filter(str.strip), min_size=1, max_size=5, unique=True))
def test_texts_written_as_json_come_back_as_they_were(texts):
    assert texts_in(json.dumps(texts), 5) == texts

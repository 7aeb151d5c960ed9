"""Replies of language models: read right, or counted as failed, nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxterp.autointerp.answers import from_logprobs, parsed

NAN = float("nan")


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("1", 1), ("0", 0), (" 1.", 1), ("**0**", 0), ("Yes", 1), ("no.", 0), ("Answer: 1", 1), ("The answer is 0.", 0),
        ("<think>0 or 1? It is 0.</think>1", 1), ("<think>never ends 1", NAN), ("1 0", NAN), ("yes and no", NAN),
        ("", NAN), ("10", NAN), ("0.5", NAN), ("1.0", NAN), ("-1", NAN), ("maybe", NAN), ("None", NAN), (None, NAN),
        ("I think that this text has something to do with 1 thing among many others, perhaps", NAN),
        ("Well, after reading the whole of this text with much care and attention: Answer: 0", 0),
        ("Answer: 1\nAnswer: 0", NAN), ("no-one", NAN), (["1"], NAN), ("`1`", 1), ("true", 1), ("1\n\n1", 1),
    ],
)  # fmt: skip
def test_a_reply_says_yes_no_or_nothing(reply, answer):
    assert parsed(reply) == answer or (np.isnan(answer) and np.isnan(parsed(reply)))


@settings(max_examples=1000)
@given(st.one_of(st.text(max_size=80), st.text(alphabet="01 yesno.,:\n<>/thinkANSWER", max_size=60)))
def test_no_reply_raises_and_every_answer_stands_in_it(reply):
    found = parsed(reply)
    assert np.isnan(found) or found in (0.0, 1.0)
    if found == 1:
        assert any(word in reply.lower() for word in ("1", "yes", "true"))
    if found == 0:
        assert any(word in reply.lower() for word in ("0", "no", "false"))


@settings(max_examples=300)
@given(
    st.sampled_from(["", "<think>1 0 yes no</think>", "  \n"]), st.sampled_from(["", "Answer: ", "ANSWER is ", "**"]),
    st.sampled_from([("1", 1), ("0", 0), ("yes", 1), ("No", 0)]), st.sampled_from(["", ".", "**", "\n", " "]),
)  # fmt: skip
def test_what_surrounds_an_answer_does_not_hide_it(before, label, answer, after):
    assert parsed(before + label + answer[0] + after) == answer[1]


def test_likelihoods_are_summed_in_any_order():
    tokens = [
        {"token": "Ġ0", "logprob": np.log(0.2)},
        {"token": "x", "logprob": -0.1},
        {"token": " 1", "logprob": np.log(0.5)},
    ]
    assert from_logprobs(tokens) == pytest.approx(5 / 7) == pytest.approx(from_logprobs(tokens[::-1]))
    assert from_logprobs([*tokens, {"token": "1", "logprob": np.log(0.1)}]) == pytest.approx(6 / 8)


@pytest.mark.parametrize(
    "bad",
    [[], None, [{"token": "x", "logprob": -1}], [{"token": "1"}], ["1"], [{"token": "1", "logprob": "a"}]],
)
def test_likelihoods_without_an_answer_are_none(bad):
    assert np.isnan(from_logprobs(bad))

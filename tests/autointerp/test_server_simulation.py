"""A server that simulates a feature, where it gives likelihoods."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlxterp import InputError, MlxterpWarning
from mlxterp.autointerp import OpenAIJudge, StrengthJudge
from mlxterp.autointerp.answers import expected_digit
from mlxterp.autointerp.judges import check_able

from .test_openai_judge import question, reply, serve  # noqa: F401

pytest.importorskip("httpx", reason='pip install "mlxterp[judge]"')
ASKED = replace(question(" a red ball"), task="simulation")


def likely(*digits: int) -> list[dict[str, object]]:
    return [{"token": f" {digit}", "logprob": float(np.log(1 / len(digits)))} for digit in digits]


def test_a_server_is_asked_for_the_digit_of_each_token(serve):  # noqa: F811
    strengths = {"[[ a]]": likely(0), "[[ red]]": likely(0, 9), "[[ ball]]": likely(9, 8, 7)}

    def decide(number, body):
        said = body["messages"][0]["content"]
        top = next((top for mark, top in strengths.items() if mark in said), likely(1))
        return 200, {}, reply("x", top)

    judge = OpenAIJudge(serve(decide).url, verbose=False)
    assert isinstance(judge, StrengthJudge) and judge.cannot("simulation") == ""
    [found] = judge.strengths([ASKED])
    assert found == pytest.approx([0, 5, 80 / 9])
    assert judge.strengths([]) == []


def test_a_token_without_a_digit_is_a_failure(serve):  # noqa: F811
    def decide(number, body):
        fails = "[[ red]]" in body["messages"][0]["content"]
        return 200, {}, reply("?", [{"token": "well", "logprob": -0.1}] if fails else likely(3))

    judge = OpenAIJudge(serve(decide).url, verbose=False)
    with pytest.warns(MlxterpWarning, match="1 of 3"):
        [found] = judge.strengths([ASKED])
    assert np.isnan(found).tolist() == [False, True, False]


def test_a_server_without_likelihoods_says_that_it_cannot_simulate(serve):  # noqa: F811
    judge = OpenAIJudge(serve(lambda n, body: (200, {}, reply("1"))).url, verbose=False)
    with pytest.raises(InputError, match=r"gives no logprobs.*TokenListJudge"):
        check_able(judge, "simulation", "strengths")
    assert judge.cannot("detection") == ""


def test_digits_are_weighed_by_their_likelihoods():
    tokens = [*likely(1, 3), {"token": "well", "logprob": -0.01}, {"token": "10", "logprob": -0.01}]
    assert expected_digit(tokens) == pytest.approx(2) and np.isnan(expected_digit(tokens[2:]))
    several: list[Any] = [[], None, [{"token": "1"}], ["1"], [{"token": "1", "logprob": "a"}]]
    for bad in several:
        assert np.isnan(expected_digit(bad))

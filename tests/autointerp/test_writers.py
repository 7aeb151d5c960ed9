"""Who writes: a model here, and a corpus in place of one. The server's writing is in `test_openai_judge`."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mlxterp import InputError, InterpretableModel, MlxterpWarning, autointerp
from mlxterp.autointerp import CorpusWriter, LocalJudge, Prompt
from mlxterp.autointerp.writers import messages_of
from tests.autointerp.test_judges import window
from tests.letters import TOKENIZER
from tests.small import checkpoint

PROMPTS = ["Once upon a time there was a", "Lily and Tom went to the park. They saw a big", "The dog"]


@pytest.fixture(scope="module", params=["torch", "mlx"])
def model(request, in_wing):
    return in_wing(request.param).model


def test_d21_a_local_writer_continues_prompts_together_as_each_alone(model):
    judge = LocalJudge(model)
    together = judge.write(PROMPTS, 12)
    assert together == [model.generate(prompt, max_tokens=12).strip() for prompt in PROMPTS]
    assert together == [LocalJudge(model).write([prompt], 12)[0] for prompt in PROMPTS]


def test_a_local_writer_writes_nothing_twice(model):
    judge = LocalJudge(model)
    first = judge.write([PROMPTS[0], PROMPTS[0]], 6)
    used = dict(judge.usage)
    assert first[0] == first[1] and used["tokens_out"] == 6
    assert used["tokens_in"] == len(model.tokenize(PROMPTS[0]))
    assert judge.write([Prompt(PROMPTS[0], "explain")], 6) == first[:1]
    assert judge.usage == used | {"known_tokens_in": used["tokens_in"], "known_tokens_out": 6}
    assert judge.write([], 6) == []


def test_equal_prompts_are_other_draws_above_temperature_zero(model):
    judge = LocalJudge(model)
    several = judge.write([PROMPTS[0]] * 4, 12, temperature=1.0, seed=3)
    assert len(set(several)) > 1
    assert judge.write([PROMPTS[0]] * 5, 12, temperature=1.0, seed=3)[:4] == several
    assert LocalJudge(model).write([PROMPTS[0]] * 4, 12, temperature=1.0, seed=3) == several
    assert judge.write([PROMPTS[0]] * 4, 12, temperature=1.0, seed=4) != several


def test_a_prompt_that_the_model_has_no_positions_for_is_counted(tmp_path):
    model = InterpretableModel(checkpoint("gpt2", tmp_path / "gpt2"), tokenizer=TOKENIZER, backend="torch")
    most = model.language_model.max_positions
    assert model.language_model.learned_positions and most
    judge = LocalJudge(model)
    with pytest.warns(MlxterpWarning, match="1 of 2 prompts have more tokens"):
        found = judge.write(["a" * most, "ab"], 4)
    assert found[0] is None and judge.usage["tokens_in"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature"), ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 1, "seed": -1}, "seed"),
    ],
)  # fmt: skip
def test_what_a_writer_cannot_be_asked_is_named(options, message, demo):
    judge = LocalJudge(demo.model)
    with pytest.raises(InputError, match=message):
        judge.write(PROMPTS[:1], **{"max_tokens": 4, **options})


def test_a_prompt_is_text_or_messages():
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi \ud800"}]
    assert messages_of(messages)[1]["content"] == "Hi ?" and messages_of(messages)[0] == messages[0]
    assert messages_of("x") == messages_of(Prompt("x", "explain")) == [{"role": "user", "content": "x"}]
    for bad in ("", [], [{"role": "user"}], [1], None, 5):
        with pytest.raises(InputError, match=r"[Pp]rompt"):
            messages_of(bad)  # type: ignore[arg-type]


# -- sentences in place of written ones ------------------------------------------------------------

TEXTS = [
    "The dog saw a red ball. It ran to the big tree! Tom has a red hat.",
    "A ball is on the mat. The cat saw a red box.\nShort one. Nobody knew what to do.",
]


def written(writer, *args, **options) -> list[str]:
    [reply] = writer.write([Prompt("", *args, **options)])
    return [] if reply is None else json.loads(reply)


def test_sentences_fit_an_explanation_by_its_words():
    writer = CorpusWriter(TEXTS)
    assert writer.name == "6 sentences of a corpus"
    fitting = written(writer, "fitting", 'fires on "ball", "balls"', 5)
    assert sorted(fitting) == ["A ball is on the mat.", "The dog saw a red ball."]
    near = written(writer, "near_miss", '"ball"', 2)
    assert "The cat saw a red box." in near and not any("ball" in text for text in near)
    assert written(writer, "fitting", "no such word", 5) == []


def test_like_examples_are_sentences_with_the_strongest_words():
    example = window(" a", " red", " hat", at=1, strengths=[0, 2.0, 0])
    found = written(CorpusWriter(TEXTS), "similar", "", 5, (example,))
    assert len(found) == 3 and all("red" in text for text in found)


def test_known_texts_are_never_taken_and_draws_take_others():
    writer = CorpusWriter(TEXTS)
    assert written(writer, "fitting", '"ball"', 5, known=(TEXTS[0],)) == ["A ball is on the mat."]
    first, second = (written(writer, "fitting", '"red"', 1, draw=k) for k in (0, 1))
    assert len(first) == len(second) == 1 and first != second
    assert written(writer, "fitting", '"red"', 1, draw=3) == []


def test_a_choice_and_its_score_share_no_sentence():
    writer = CorpusWriter(
        [f"The {kind} ball number {i} is here." for i in range(9) for kind in ("red", "big")]
    )
    for task in ("fitting", "near_miss"):
        chosen, scored = (set(written(writer, task, '"red"', 9, part=part)) for part in (1, 0))
        assert chosen and scored and chosen.isdisjoint(scored)


def test_a_corpus_explains_nothing_and_one_seed_takes_the_same():
    writer = CorpusWriter(TEXTS)
    assert writer.write([Prompt("What is it?", "explain"), "text"]) == [None, None]
    prompt = Prompt("", "fitting", '"red"', 2)
    assert writer.write([prompt], seed=5) == CorpusWriter(TEXTS).write([prompt], seed=5)
    with pytest.raises(InputError, match="sentences"):
        CorpusWriter(["too short", "no end of a sentence here at all"])
    with pytest.raises(InputError, match="list of texts"):
        CorpusWriter("one text.")


def test_a_writer_of_ones_own_needs_a_name_and_write():
    class Mine:
        name = "mine"

        def write(self, prompts, max_tokens=256, *, temperature=0.0, seed=0) -> list[str | None]:
            return [f"[EXPLANATION]: what {i} means" for i in range(len(prompts))]

    samples = [autointerp.Sample(window(" a", at=0, strengths=[1.0]), "top", True, 9)]
    told = autointerp.LLMExplainer(Mine(), "delphi").explain(7, samples)
    assert told is not None and told.text == "what 0 means" and told.source.startswith("mine, delphi style")
    assert told.provenance["run"]["tokens_in"] == 0 and np.isfinite(told.provenance["run"]["seconds"])

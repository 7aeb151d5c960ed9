"""Every prompt under every edit: the texts of `generate`, the losses of the unsteered model, failures counted."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

import mlxterp
from mlxterp import InputError, MlxterpWarning, steering

PROMPTS = ["She saw a", "Tom had a little", "One"]


@pytest.fixture(scope="module", params=["mlx", "torch"])
def opened(request: pytest.FixtureRequest) -> mlxterp.demo.Demo:
    if request.param not in mlxterp.available_backends():
        pytest.skip(f"{request.param} is not installed")
    return mlxterp.load_demo(request.param)


def edits(demo: mlxterp.demo.Demo) -> dict[str, Any]:
    add = steering.add_feature(demo.sae, 5, 0.3, units="norm")
    return {"none": None, "add": add, "two": [add, steering.ablate(demo.sae, 9)]}


def test_rows_are_what_generate_writes_prompt_by_prompt(opened):
    made = edits(opened)
    found = steering.sweep(opened.model, PROMPTS, made, max_tokens=6, temperature=0.7, seed=3, verbose=False)
    assert [(row["prompt"], row["edit"]) for row in found] == [(p, name) for p in PROMPTS for name in made]
    for number, row in enumerate(found):
        i, edit = number // len(made), made[row["edit"]]
        expected = opened.model.generate(row["prompt"], 6, steer=edit or (), temperature=0.7, seed=3 + i)
        assert row["text"] == expected
        assert row["failure"] is None
    assert len(found) == 9 and found[0] == found.table[0] and found[1:3] == found.table[1:3]


def test_perplexity_is_the_unsteered_models_on_what_was_written(opened):
    model = opened.model
    [row] = steering.sweep(model, ["Once upon a time"], [None], max_tokens=5, verbose=False)
    ids = model.tokenize("Once upon a time")
    tokens = [token for token, _ in model.language_model.stream(ids, 5) if token is not None]
    logits = model.language_model.backend.get(model([*ids, *tokens]))[0].astype(np.float64)
    logits -= np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True)) + logits.max(
        -1, keepdims=True
    )
    losses = [-logits[len(ids) - 1 + i, token] for i, token in enumerate(tokens)]
    assert row["perplexity"] == pytest.approx(np.exp(np.mean(losses)), rel=1e-4)


def test_lists_name_their_edits_and_views_show_them(opened, tmp_path):
    add = steering.add_feature(opened.sae, 5, 0.3, units="norm")
    found = steering.sweep(opened.model, PROMPTS[:1], [None, add, add], max_tokens=3, verbose=False)
    names = [row["edit"] for row in found]
    assert names[0] == "unsteered" and len(set(names)) == 3 and "feature 5" in names[1]
    page = found.to_html(tmp_path / "sweep.html").read_text(encoding="utf-8")
    for row in found:
        assert row["text"].split()[0] in page and row["edit"] in str(found)
    pandas = pytest.importorskip("pandas")
    assert pandas.DataFrame(found)["edit"].tolist() == names


def test_failures_are_counted_and_the_others_kept(opened):
    vector = np.ones(opened.model.d_model, np.float32)
    grows = steering.project_out(vector, at="layers.1.resid_post", keep=1e15)
    tried = {"none": None, "huge": [grows] * 4}  # each sound alone; together they overflow
    with pytest.warns(MlxterpWarning, match="2 of 4 texts failed"):
        found = steering.sweep(opened.model, PROMPTS[:2], tried, max_tokens=3, verbose=False)
    assert [row["failure"] is None for row in found] == [True, False] * 2
    assert [row["text"] is None for row in found] == [False, True] * 2
    assert len(found.failures) == 2 and "failed" in str(found)
    assert [bool(np.isnan(row["perplexity"])) for row in found] == [False, True] * 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"prompts": []}, "prompts"),
        ({"prompts": ["a", ""]}, "prompts"),
        ({"edits": []}, "edits= is empty"),
        ({"edits": "x"}, "edits= is a list"),
        ({"edits": [3]}, "Expected edits"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": -1}, "seed"),
        ({"batch_tokens": 0}, "batch_tokens"),
    ],
)
def test_bad_input_is_named(demo, wrong, said):
    given = {"prompts": PROMPTS, "edits": [None], **cast(dict[str, Any], wrong)}
    with pytest.raises(InputError, match=said):
        steering.sweep(demo.model, **given)

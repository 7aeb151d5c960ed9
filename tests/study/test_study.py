"""Row D2: one feature by every line of evidence, each beside its control or with the reason why it is missing."""

from __future__ import annotations

import json
import re
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import Explanation, InputError, SAECollection, UnknownFeatureError, geometry, steering
from mlxterp.autointerp import TokenListJudge
from mlxterp.index import FeatureIndex
from mlxterp.study import Evidence, FeatureStudy
from mlxterp.study.evidence import LEFT_OUT
from mlxterp.study.feature_study import TITLES
from mlxterp.variants import TopK
from mlxterp.weights import SAEWeights
from tests.letters import TEXTS, random_sae
from tests.viz.test_browser import BROWSER, browse

OFFLINE = {
    "card", "explanation", "scores", "hard_negatives", "logits", "enrichment", "neighbours", "steering",
    "causal_effect",
}  # fmt: skip
"""What needs the index, its model and its SAE alone."""
SETS = {"-ing": r"ing$", "names": ["Tom", "Lily", "Ben", "Anna"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Any:
    """The demo's feature "ball" in a wing, studied with all that there is; each wing once."""

    @cache
    def make(wing: str) -> SimpleNamespace:
        model, sae, texts = mlxterp.load_demo(wing)
        sae = sae.replace()
        path = tmp_path_factory.mktemp(wing) / "index"
        index = model.build_index(sae, [text[:500] for text in texts[:100]], path, verbose=False)
        ball = index.search("ball")[0].feature_id
        order = np.unique(np.append(np.random.default_rng(0).permutation(sae.d_hidden)[:1500], ball))
        w = sae.weights
        part = SAEWeights(w.W_enc[:, order], w.b_enc[order], w.W_dec[order], w.b_dec)
        family = SAECollection({len(order): sae.replace(part), sae.d_hidden: sae})
        meta = geometry.train_meta_sae(sae, 32, 2, epochs=2, control=False)
        found = index.study(ball, family=family, meta=meta, token_sets=SETS)
        return SimpleNamespace(
            model=model, sae=sae, index=index, ball=ball, family=family, meta=meta, found=found,
            same=int(np.flatnonzero(order == ball)[0]), width=len(order),
        )  # fmt: skip

    return make


@pytest.fixture
def studied(made, backend) -> SimpleNamespace:
    """In each wing."""
    return made(backend)


@pytest.fixture
def only(made) -> SimpleNamespace:
    """In one wing, for what does not depend on it."""
    return made(mlxterp.available_backends()[0])


def test_D2_every_line_of_evidence_is_there_beside_its_control(studied):
    found = studied.found
    assert isinstance(found, FeatureStudy) and found.feature_id == studied.ball
    there = {name for name, _ in found.sections()}
    assert there == OFFLINE | {"relatives", "universality", "meta_latents"} and len(there) >= 8
    assert found.reasons == {"scopes": "no patchscope= was given"} and found.scopes is None
    assert set(found.controls) == there and all(found.controls.values())
    assert not [name for name, said in found.controls.items() if LEFT_OUT in said]


def test_D2_what_is_true_of_the_ball_feature_stands_out(studied):
    found = studied.found
    assert found.causal_effect.stands_out and found.neighbours.stands_out and found.steering.stands_out
    assert "it stands out" in found.controls["scores"] and '"ball"' in found.explanation.text
    told = found.to_dict()["sections"]
    assert told["causal_effect"]["beside"]["value"] > 5 * told["causal_effect"]["beside"]["control_mean"]
    assert told["steering"]["beside"]["value"] > told["steering"]["unsteered"]
    assert told["scores"]["explanations"][0]["scores"]["detection"]["value"] > 0.6
    assert set(told["hard_negatives"]["taken_for_active"]) == {
        "random",
        "same_token",
        "neighbour",
        "coactive",
    }
    assert told["logits"]["promoted"][0][0] == found.card.logits.promoted[0][0]
    assert found.enrichment.features == (studied.ball,)


def test_D2_taking_it_out_is_ablating_it(studied):
    [example] = studied.index.examples(studied.ball, 1)
    ids = studied.model.tokenize(example.text)[: example.position + 1]
    backend = studied.model.language_model.backend

    def logs(edit: Any) -> np.ndarray:
        if edit is None:
            logits = studied.model(ids)
        else:
            with studied.model.steer(edit):
                logits = studied.model(ids)
        row = backend.get(logits)[0, -1].astype(np.float64)
        return row - row.max() - np.log(np.exp(row - row.max()).sum())

    clean, other = logs(None), logs(steering.ablate(studied.sae, studied.ball, positions=[len(ids) - 1]))
    expected = float((np.exp(clean) * (clean - other)).sum())
    assert studied.found.to_dict()["sections"]["causal_effect"]["kl"][0] == pytest.approx(expected, rel=1e-2)


def test_D2_a_dictionary_that_has_it_is_found_and_shuffled_tokens_are_not_alike(studied):
    told = studied.found.to_dict()["sections"]
    [relative] = told["relatives"]["widths"]
    assert (relative["width"], relative["nearest"]) == (studied.width, studied.same)
    assert (
        relative["cosine"] == pytest.approx(1) and relative["theta"] < 0.6 and told["relatives"]["stands_out"]
    )
    assert [studied.same, pytest.approx(1.0, abs=0.3)] == relative["firing"][0][:2]
    [other] = told["universality"]["dictionaries"]
    assert other["feature"] == studied.same and other["correlation"]["value"] > 0.8
    assert other["correlation"]["control_mean"] < 0.2 and told["universality"]["stands_out"]


def test_D2_meta_latents_are_those_of_the_meta_sae(studied):
    told = studied.found.to_dict()["sections"]["meta_latents"]
    assert [tuple(one) for one in told["meta_latents"]] == [
        (meta, pytest.approx(weight)) for meta, weight in studied.meta.decompose(studied.ball)
    ]
    assert told["beside"]["value"] == pytest.approx(studied.meta.explained(studied.ball))
    judged = studied.found.meta_latents.stands_out is not None
    assert judged == (studied.ball in studied.meta.held_out)  # random rows were not seen in training either
    assert told["beside"]["draws"] == 20


def test_D2_it_is_shown_on_a_page_in_text_and_as_json(studied, tmp_path):
    found = studied.found
    page = found.to_html(tmp_path / "study.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:|//)|url\(|<script|@import""", page)
    shown = str(found)
    for name, _ in found.sections():
        assert TITLES[name].replace("'", "&#x27;") in page and TITLES[name] in shown
    assert "Missing" in page and "no patchscope= was given" in page and "no patchscope= was given" in shown
    assert "mlxterp-view" in found._repr_html_() and f"feature {studied.ball}" in repr(found)
    kept = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert list(kept["sections"]) == list(TITLES) and kept["sections"]["scopes"] is None
    assert kept["feature_id"] == studied.ball and kept["controls"] == dict(found.controls)


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium (apt-get install chromium)")
@pytest.mark.parametrize("theme", ["0", "1"])
def test_D2_a_browser_opens_the_page_without_network_in_dark_and_light(only, tmp_path, theme):
    page = only.found.to_html(tmp_path / "study.html")
    flags = ("--dump-dom", f"--blink-settings=preferredColorScheme={theme}")
    elements, console = browse(page, tmp_path / "profile", *flags)
    assert console == [] and "<script" not in elements.lower()
    assert all(f'id="mxt-study-{only.ball}-{name}"' in elements for name, _ in only.found.sections())


def test_D2_what_a_person_said_comes_before_what_was_made(only):
    concepts = only.sae.concepts
    concepts.load_concepts({only.ball: "playthings"})
    concepts.add_explanations(Explanation(only.ball, "things that roll", "gpt-x").scored(detection=0.9))
    named = only.index.study(only.ball, token_sets=SETS, control=False)
    assert named.label == "playthings" == named.explanation.text and named.explanation.by_person
    assert named.to_dict()["sections"]["scores"]["explanations"][1]["source"].startswith("token list")
    concepts.load_concepts({})
    told = only.index.study(only.ball, token_sets=SETS, control=False)
    assert told.explanation.text == "things that roll" and "(explanation, detection 0.90)" in told.label
    assert LEFT_OUT in told.controls["causal_effect"] and told.causal_effect.stands_out is None
    assert LEFT_OUT == told.controls["scores"] == told.controls["enrichment"]
    concepts.clear_explanations()


class NoAnswer:
    """A judge that answers nothing."""

    name = "silent"

    def probabilities(self, questions):
        return np.full(len(questions), np.nan)


def test_D2_what_is_missing_or_fails_has_a_reason_and_stops_nothing(only):
    rare = min(only.index.live.tolist(), key=lambda f: only.index.stats(f).count)
    found = only.index.study(
        rare, judge=NoAnswer(), patchscope=only.found.card, token_sets=SETS, control=False
    )
    assert (
        "windows" in found.reasons["explanation"] and found.reasons["scores"] == found.reasons["explanation"]
    )
    assert found.card is not None and found.steering is not None and found.scopes is only.found.card
    dead = np.setdiff1d(np.arange(only.sae.d_hidden), only.index.live)
    quiet = only.index.study(int(dead[0]), token_sets=SETS, control=False)
    assert "never active" in quiet.reasons["scores"] and "active nowhere" in quiet.reasons["steering"]
    assert quiet.logits is not None and "never active" in str(quiet.card)
    silent = only.index.study(only.ball, judge=NoAnswer(), token_sets=SETS, control=False)
    assert "answered for none" in silent.reasons["hard_negatives"] and silent.explanation is not None
    alone = FeatureIndex.open(only.index.path).study(only.ball)
    assert {name for name, _ in alone.sections()} == {"card", "explanation", "scores", "hard_negatives"}
    assert "opened without its model" in alone.reasons["logits"]


def test_D2_a_transcoder_is_studied_where_it_writes(only):
    texts = [text[:300] for text in mlxterp.load_demo().texts[:40]]
    settings = {"d_hidden": 96, "k": 8, "epochs": 1, "target": "layers.1.mlp", "skip": True}
    transcoder = only.model.train_sae(1, texts, "mlp.input", verbose=False, **settings)
    index = only.model.build_index(transcoder, texts, verbose=False)
    common = int(index.summary.count.argmax())
    found = index.study(common, token_sets=SETS, control=False)
    assert {name for name, _ in found.sections()} >= OFFLINE - {"explanation", "scores", "hard_negatives"}
    assert found.card.logits is not None and found.card.component == "layers.1.mlp.input"
    heads = only.model.train_sae(1, texts, "attn.z", d_hidden=64, k=6, epochs=1, verbose=False)
    by_head = only.model.build_index(heads, texts, verbose=False)
    told = by_head.study(int(by_head.live[0]), token_sets=SETS, control=False)
    assert "one row for each token" in told.reasons["causal_effect"] and told.steering is not None


def test_D2_a_family_or_meta_sae_of_another_sae_and_other_things_are_named(only):
    other = only.family[only.width]
    with pytest.raises(InputError, match="no SAE that is the index's"):
        only.index.study(only.ball, family=SAECollection({only.width: other}))
    with pytest.raises(InputError, match="SAECollection"):
        only.index.study(only.ball, family=[only.sae])
    with pytest.raises(InputError, match="patchscope="):
        only.index.study(only.ball, patchscope="a thing")
    for name, given, message in (
        ("judge", "gpt", "judge of mlxterp.autointerp, got str"),
        ("meta", 5, "meta= is a MetaSAE"),
        ("token_sets", "a", "token_sets= is a TokenSets"),
    ):
        with pytest.raises(InputError, match=message):
            only.index.study(only.ball, **{name: given})
    with pytest.raises(InputError, match="control"):
        only.index.study(only.ball, control="yes")
    with pytest.raises(UnknownFeatureError):
        only.index.study(10**6)
    meta = geometry.train_meta_sae(other, 16, 2, epochs=1, control=False)
    alone = SAECollection({only.sae.d_hidden: only.sae})
    found = only.index.study(only.ball, family=alone, meta=meta, token_sets={"none": "qqq"}, control=False)
    assert "another" in found.reasons["meta_latents"] or "other directions" in found.reasons["meta_latents"]
    assert "no other SAE" in found.reasons["relatives"] == found.reasons["universality"]
    assert "has no token" in found.reasons["enrichment"]


def test_D2_a_judge_is_asked_and_the_same_study_comes_twice(only):
    judge = TokenListJudge()
    one, two = (only.index.study(only.ball, judge=judge, token_sets=SETS).to_dict() for _ in range(2))
    assert one | {"seconds": 0} == two | {"seconds": 0} and isinstance(only.found.logits, Evidence)


class _Down:
    """A judge whose server is down."""

    name = "down"

    def probabilities(self, _questions: Any) -> Any:
        raise ConnectionError("no answer")


def test_texts_given_as_token_ids_are_run_as_they_were(letter_model, tmp_path):
    sae = random_sae(letter_model.d_model, backend=letter_model.language_model.backend.name)
    sae.metadata["component"] = "layers.1.resid_post"
    rows = [[5, 6, 7, 8], [9, 10, 11], [5, 6, 7, 8, 9, 10, 12, 13] * 3]
    index = letter_model.build_index(sae, rows, tmp_path / "index", verbose=False)
    found = index.study(int(index.live[0]), control=False)
    assert found.causal_effect is not None and "left out" not in str(found.causal_effect.findings)


def test_a_judge_that_fails_ends_nothing(letter_model, tmp_path):
    sae = random_sae(letter_model.d_model, backend=letter_model.language_model.backend.name)
    sae.metadata["component"] = "layers.1.resid_post"
    texts = [*TEXTS, *("the cat " * n for n in range(2, 8))]
    index = letter_model.build_index(sae, texts, tmp_path / "index", verbose=False)
    told = [index.study(f, judge=_Down(), control=False) for f in index.live[:12].tolist()]
    failed = [one.reasons["scores"] for one in told if "no answer" in one.reasons.get("scores", "")]
    assert failed and set(failed) == {"ConnectionError: no answer"} and all(one.card for one in told)


def test_an_sae_of_one_feature_is_studied(letter_model, tmp_path):
    d = letter_model.d_model
    row = np.ones((1, d), np.float32)
    weights = SAEWeights(row.T, np.ones(1, np.float32), row, np.zeros(d, np.float32))
    sae = mlxterp.SAE(weights, TopK(1), {"component": "layers.1.resid_post"})
    found = letter_model.build_index(sae, TEXTS, tmp_path / "index", verbose=False).study(0)
    assert found.reasons["neighbours"] == "It is the only one, so that no feature is near"

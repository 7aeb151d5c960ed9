"""Token-set enrichment (row D12): planted sets are found, random directions are not, and both nulls are shown."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import pytest

import mlxterp
from mlxterp import InputError, UnknownFeatureError
from mlxterp.geometry import Enrichment, TokenSets, enrichment, random_like
from mlxterp.geometry.running_sum import running_sum_scores
from mlxterp.lens.feature_logits import direction_logits
from tests.geometry.planting import opened, toward, with_rows, written
from tests.letters import random_sae

PLANTED = ("digits", "-ing", "pronouns", "starts with q", "leading space")


@cache
def some_sets(backend: str) -> TokenSets:
    """The planted ones, and others."""
    sets = TokenSets.standard(opened(backend).model.tokenizer)
    return sets.only(*PLANTED, *[name for name in list(sets)[::4] if name not in PLANTED])


@cache
def planted(backend: str) -> Enrichment:
    """Features that write nothing but a set."""
    model, sae, _ = opened(backend)
    head, sets = written(model, sae), some_sets(backend)
    rows = np.stack([toward(head, sets[name]) for name in PLANTED])
    return enrichment(model, with_rows(sae, rows), range(len(PLANTED)), sets, seed=1)


def test_d12_a_planted_set_gets_the_smallest_q(backend):
    found = planted(backend)
    for i, name in enumerate(PLANTED):
        q = found.q[i]
        assert q[found.sets.index(name)] == q.min() < 0.05
        assert found.of(i)[0]["set"] == name and found.of(i)[0]["es"] > 0.8
    assert found.passing.value == 1 and found.passing.stands_out


def test_d12_the_mean_of_a_sets_unembedding_rows_gets_the_smallest_q(letter_model):
    sae = random_sae(letter_model.d_model)
    sae.metadata["component"] = "layers.2.resid_post"
    head = written(letter_model, sae)
    tokens = np.random.default_rng(0).permutation(head.shape[1])[:80].reshape(10, 8)
    members = {f"set {j}": np.sort(ids) for j, ids in enumerate(tokens)}
    sets = TokenSets(members, dict.fromkeys(members, "own"), {}, tuple("x" * head.shape[1]))
    rows = np.stack([head[:, ids].mean(axis=1) for ids in members.values()])
    found = enrichment(letter_model, with_rows(sae, rows), range(10), sets)
    assert [found.of(i)[0]["set"] for i in range(10)] == list(members)
    assert all(found.q[i, i] == found.q[i].min() < 0.05 for i in range(10))


def test_d12_random_directions_seldom_pass_by_directions_and_often_by_shuffled_tokens(demo):
    rows = random_like(demo.sae.W_dec, "covariance", seed=99)[:300]
    sae, sets = with_rows(demo.sae, rows), some_sets("mlx")
    found = enrichment(demo.model, sae, range(300), sets, control=False)
    assert found.passing.value <= 0.07 and 0.03 < found.pairs["directions"].value < 0.07
    by_tokens = enrichment(demo.model, sae, range(20), sets, null="tokens", n=200, control=False)
    assert by_tokens.pairs["tokens"].value > 0.2


def test_the_control_is_what_random_directions_give():
    found = planted("mlx")
    assert set(found.pairs) == {"directions", "tokens"}
    assert 0.03 < found.pairs["directions"].control_mean < 0.07
    assert found.pairs["tokens"].control_mean > 0.2
    assert found.passing.control_mean <= 0.07
    assert found.random is not None and np.all(found.random[:, 0] < found.random[:, 1])


def test_scores_are_those_of_the_features_logits(backend):
    demo, sets = opened(backend), some_sets(backend).only("digits", "-ing", "verbs")
    ids = [3, 100, 2047]
    found = enrichment(demo.model, demo.sae, ids, sets, n=20)
    [(logits, _)] = direction_logits(demo.model.session.plain, demo.sae, demo.sae.W_dec[ids])
    expected = running_sum_scores(logits, list(sets.values()))
    assert np.allclose(found.es, expected) and found.features == (3, 100, 2047)
    assert found.sizes == tuple(len(ids) for ids in sets.values())


def test_both_wings_agree():
    if len(mlxterp.available_backends()) < 2:
        pytest.skip("needs both backends")
    one, other = (planted(backend) for backend in ("mlx", "torch"))
    assert np.allclose(one.es, other.es, atol=2e-3) and np.abs(one.p - other.p).max() < 0.02


def test_the_same_seed_gives_the_same_bits_and_another_does_not(demo):
    sets = some_sets("mlx").only("digits", "-ing")
    one, again, other = (enrichment(demo.model, demo.sae, [1, 2], sets, n=50, seed=s) for s in (0, 0, 1))
    for name in ("es", "nes", "p", "q", "beside", "random"):
        assert np.array_equal(getattr(one, name), getattr(again, name))
    assert not np.array_equal(one.nes, other.nes) and str(one) == str(again)


def test_the_token_null_can_be_asked_for_and_is_called_what_it_is(demo):
    sets = some_sets("mlx").only("digits", "-ing", "pronouns")
    found = enrichment(demo.model, demo.sae, [1, 2], sets, null="tokens", n=100)
    by_directions = enrichment(demo.model, demo.sae, [1, 2], sets, n=100)
    assert found.beside is not None and np.array_equal(found.beside, by_directions.p) and found.n == 100
    assert "miscalibrated" in str(found) and "p by directions" in str(found)
    alone = enrichment(demo.model, demo.sae, [1, 2], sets, null="tokens", n=100, control=False)
    assert np.array_equal(alone.p, found.p) and alone.beside is None and alone.random is None


def test_without_a_control_it_says_so(demo):
    found = enrichment(demo.model, demo.sae, 1, some_sets("mlx").only("digits", "-ing"), n=20, control=False)
    assert str(found).count("no control: it was left out") == 2 and "left out" in str(found).splitlines()[-1]
    assert set(found.pairs) == {"directions"} and found.passing.interval is None


def test_sets_may_be_given_as_words_and_rules(demo):
    found = enrichment(demo.model, demo.sae, 5, {"pets": ["dog", "cat"], "-ing": "ing$"}, n=20)
    assert found.sets == ("pets", "-ing") and found.groups == ("own", "own")


def test_so_many_draws_are_made_that_one_set_of_all_can_pass(demo):
    assert planted("mlx").n == 80 * len(some_sets("mlx")) > 1000
    assert enrichment(demo.model, demo.sae, 5, {"pets": ["dog"]}, control=False).n == 1000


class TestTheTable:
    def test_it_has_a_row_for_each_pair_the_smallest_q_first(self):
        found = planted("mlx")
        rows = found.table
        assert len(rows) == found.q.size and [r["q"] for r in rows] == sorted(found.q.ravel())
        assert rows[0].keys() == {
            "feature_id", "set", "group", "size", "es", "random_low", "random_high", "nes", "p", "q", "p_tokens"
        }  # fmt: skip

    def test_one_feature_has_its_own_rows(self):
        found = planted("mlx")
        rows = found.of(1)
        assert {row["feature_id"] for row in rows} == {1} and len(rows) == len(found.sets)
        with pytest.raises(InputError, match="Feature 77 is none of those"):
            found.of(77)
        with pytest.raises(InputError, match="Feature 'digits' is none of those"):
            found.of("digits")  # type: ignore[arg-type]


class TestTheView:
    def test_it_is_printed_with_its_control(self):
        found = planted("mlx")
        text = found.to_str(color=False)
        assert re.search(r"features with a set at q < 0.05: 1\.000 .*; control 0\.\d+ .*seed 1\)", text)
        assert "p by tokens" in text and f"{found.q.size - 20} more rows" in text

    def test_it_stands_on_a_page_with_links_and_escaped_names(self, demo, tmp_path):
        found = enrichment(demo.model, demo.sae, 5, {"<b>": ["dog", "cat"]}, n=20)
        assert "&lt;b&gt;" in found.fragment() and "<b>" not in found.fragment()
        assert '<a href="#f5">5</a>' in found.fragment(links={(repr(demo.sae), 5): "f5"})
        page = found.to_html(tmp_path / "e.html").read_text(encoding="utf-8")
        assert "<h1" in page and "http" not in page.replace("http-equiv", "")

    def test_it_is_drawn_as_a_manhattan_plot_with_the_other_null(self, tmp_path):
        pytest.importorskip("matplotlib")
        figure = planted("mlx").plot(tmp_path / "e.png")
        [axes] = figure.axes
        assert "by random directions" in axes.get_ylabel() and (tmp_path / "e.png").stat().st_size > 1000
        assert "p by shuffled tokens" in axes.get_legend_handles_labels()[1]


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"null": "permutation"}, "null"), ({"n": 19}, "n is 19"), ({"seed": 0.5}, "seed"),
            ({"weight": -1}, "weight"), ({"weight": 11}, "weight"),
            ({"control": "yes"}, "control"), ({"features": []}, "features is empty"), ({"sets": ["dog"]}, "dictionary"),
            ({"sae": "sae"}, "Expected an SAE"), ({"model": "model"}, "InterpretableModel"),
            ({"random_state": 3}, "Did you mean seed="),
        ],
    )  # fmt: skip
    def test_an_argument_out_of_its_range_is_named(self, demo, arguments, message):
        given = {"model": demo.model, "sae": demo.sae, "features": [1], "sets": {"pets": ["dog"]}}
        with pytest.raises(InputError, match=re.escape(message)):
            enrichment(**(given | arguments))

    def test_an_unknown_feature_is_named(self, demo):
        with pytest.raises(UnknownFeatureError, match="No feature 5000"):
            enrichment(demo.model, demo.sae, [1, 5000], {"pets": ["dog"]})

    def test_a_dead_feature_and_one_that_is_not_finite_are_named(self, demo):
        rows = demo.sae.W_dec[:2].copy()
        rows[1] = 0
        with pytest.raises(InputError, match="feature 1 is zero"):
            enrichment(demo.model, with_rows(demo.sae, rows), [0, 1], {"pets": ["dog"]})

    def test_sets_of_another_tokenizer_are_refused(self, demo):
        sets = some_sets("mlx").only("digits")
        longer = TokenSets(sets.members, sets.groups, sets.missing, (*sets.texts, "x"))
        with pytest.raises(InputError, match="4097 tokens, and the model's vocabulary has 4096"):
            enrichment(demo.model, demo.sae, 1, longer)

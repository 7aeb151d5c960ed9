"""A check calls an SAE poor where it is, says why, and leaves good ones alone."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from mlxterp import SAE, MlxterpWarning, SAETrainConfig, cli, load_demo, train_sae
from mlxterp.demo import FOLDER
from mlxterp.evaluation.check import SAECheck
from mlxterp.evaluation.judgement import Judgement, stated, without_sinks
from mlxterp.sae.untrained import untrained_variance
from mlxterp.weights import SAEWeights

pytest.importorskip("mlx")

PLACES = ("layers.0.resid_post", "layers.1.mlp", "layers.2.attn")
K = {"layers.0.resid_post": 32, "layers.1.mlp": 16, "layers.2.attn": 8}


@cache
def demo():
    return load_demo("mlx")


@cache
def rows(place: str) -> np.ndarray:
    """Activations of the demo's first stories, each one's first token left out."""
    model, found = demo().model, []
    name = model.anatomy.component(place).name
    for text in demo().texts[:60]:
        with model.trace(model.tokenize(text)[:128], capture=[name]) as t:
            pass
        found.append(np.array(t.activations[name])[0, 1:])
    return np.concatenate(found).astype(np.float32)


@cache
def good(place: str) -> SAE:
    config = SAETrainConfig(d_hidden=512, k=K[place], batch_size=256, epochs=8)
    return train_sae(rows(place), config, "mlx", metadata={"component": place}, progress=False)


def check(sae: SAE, place: str | None = None) -> SAECheck:
    return demo().model.check_sae(sae, demo().texts[-8:], component=place, max_tokens=400)


def check_elsewhere(sae: SAE | Path, place: str) -> SAECheck:
    with pytest.warns(MlxterpWarning, match="was trained on"):
        return demo().model.check_sae(sae, demo().texts[-8:], component=place, max_tokens=400)


def changed(sae: SAE, **arrays: np.ndarray) -> SAE:
    return SAE(replace(sae.weights, **arrays), sae.activation, sae.metadata, backend="mlx")


# -- good ones ----------------------------------------------------------------------------------


def test_the_demos_sae_is_good():
    report = check(demo().sae)
    assert report.ok and report.verdict == "good" and not report.poor
    assert report.untrained_variance < 0.6 < report.judged_variance
    assert "good" in str(report).splitlines()[0] and f"untrained {report.untrained_variance:.3f}" in str(
        report
    )


@pytest.mark.parametrize("place", PLACES)
def test_a_good_sae_is_not_called_poor_on_layers_that_are_easy_or_hard(place):
    report = check(good(place))
    assert report.verdict == "good", report.findings
    assert report.ok


def test_an_sae_that_names_its_place_otherwise_is_at_its_own():
    sae = SAE(
        good(PLACES[1]).weights, good(PLACES[1]).activation, {"component": "layers.1.mlp"}, backend="mlx"
    )
    report = check(sae, demo().model.anatomy.component("layers.1.mlp").name)
    assert report.own_place is None and report.ok


# -- bad ones -----------------------------------------------------------------------------------


def random_sae(place: str) -> SAE:
    directions = np.random.default_rng(0).standard_normal((512, rows(place).shape[1]), dtype=np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    weights = SAEWeights(directions.T.copy(), np.zeros(512, np.float32), directions, rows(place).mean(axis=0))
    return SAE(weights, good(place).activation, {"component": place}, backend="mlx")


def with_the_best_scale(place: str) -> SAE:
    """A random SAE whose decoder is as long as suits it: explained variance well above 0."""
    sae, x = random_sae(place), rows(place)
    inside = sae.reconstruct(x) - sae.b_dec
    scale = np.float32((inside * (x - sae.b_dec)).sum() / (inside**2).sum())
    return changed(sae, W_dec=sae.W_dec * scale)


def five_steps(place: str) -> SAE:
    x = rows(place)
    config = SAETrainConfig(d_hidden=512, k=K[place], batch_size=-(-len(x) // 5), epochs=1)
    return train_sae(x, config, "mlx", metadata={"component": place}, progress=False)


def shuffled_decoder(place: str) -> SAE:
    sae = good(place)
    return changed(sae, W_dec=sae.W_dec[np.random.default_rng(0).permutation(sae.d_hidden)])


def another_models(place: str) -> SAE:
    """As of a model whose directions are others."""
    sae = good(place)
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((sae.d_model, sae.d_model)))[0].astype(
        np.float32
    )
    return changed(sae, W_enc=turn.T @ sae.W_enc, W_dec=sae.W_dec @ turn, b_dec=sae.b_dec @ turn)


def another_scale(place: str) -> SAE:
    """For activations a tenth as long."""
    sae = good(place)
    return changed(sae, b_enc=sae.b_enc / 10, b_dec=sae.b_dec / 10)


BAD = (random_sae, with_the_best_scale, five_steps, shuffled_decoder, another_models)


@pytest.mark.parametrize("place", [PLACES[0], PLACES[2]])
@pytest.mark.parametrize("make", BAD)
def test_an_sae_that_is_no_good_is_called_poor(make, place):
    report = check(make(place))
    assert report.poor and not report.ok, str(report)
    assert any("untrained" in finding or "mean" in finding for finding in report.findings)


def test_an_sae_for_activations_of_another_scale_is_called_poor():
    report = check(another_scale(PLACES[0]))
    assert report.poor and "Missing normalisation" in report.findings[0], str(report)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_a_decoder_of_another_length_is_called_poor(factor):
    sae = good(PLACES[0])
    report = check(changed(sae, W_dec=sae.W_dec * np.float32(factor)))
    found = re.search(r"wrong scale: reconstructions (\S+) times as long", " ".join(report.findings))
    assert report.poor and found and float(found[1]) == pytest.approx(1 / factor, rel=0.05)


def test_an_undertrained_sae_says_how_long_it_was_trained():
    found = " ".join(check(five_steps(PLACES[1])).findings)
    assert f"Undertrained: it was trained for 5 steps on {len(rows(PLACES[1])):,} tokens" in found


def test_a_decoder_of_other_features_is_named():
    assert "encoder and decoder do not belong together" in " ".join(
        check(shuffled_decoder(PLACES[0])).findings
    )


@pytest.mark.parametrize(
    ("own", "there"), [(0, "layers.2.resid_post"), (1, "layers.2.mlp"), (1, "layers.1.attn")]
)
def test_away_from_its_place_an_saes_own_place_is_named_first(own, there):
    sae = good(PLACES[own])
    report = check_elsewhere(sae, there)
    own_name = demo().model.anatomy.component(PLACES[own]).name
    assert report.poor and report.own_place == own_name
    assert f"reconstructs {own_name} far better" in report.findings[0]
    assert "its metadata names it" in report.findings[0] and f"component={own_name!r}" in report.findings[0]


def test_files_checked_elsewhere_name_their_own_place_too(tmp_path):
    path = good(PLACES[0]).save(tmp_path / "sae")
    report = check_elsewhere(path, "layers.2.resid_post")
    assert report.poor and report.own_place == PLACES[0] and PLACES[0] in report.findings[0]


def test_a_place_that_the_metadata_contradicts_is_told_where_the_sae_does_as_well_there():
    """Bad at both: which is its own is said all the same."""
    sae = random_sae(PLACES[0])
    report = check_elsewhere(sae, "layers.2.resid_post")
    assert "trained on layers.0.resid_post, not on layers.2.resid_post" in " ".join(report.findings)


def test_an_sae_below_its_own_figures_is_called_poor():
    sae = good(PLACES[1])
    for name in ("explained_variance", "loss_recovered_mean"):
        before = SAE(sae.weights, sae.activation, {"component": PLACES[1], name: 1.4}, backend="mlx")
        report = check(before)
        assert report.poor and report.expected[name] == 1.4, name
        assert "1.40 was stated" in " ".join(report.findings)


def test_figures_of_tokens_that_were_seen_again_bind_less():
    sae, text = good(PLACES[1]), {"explained_variance": 0.8, "epochs": 8}
    judged = Judgement(0.6, 0.3, None, None)
    for metadata, poor in (
        ({"training": text}, False),
        ({"training": {**text, "epochs": 1}}, True),
        (text, True),
    ):
        one = SAE(sae.weights, sae.activation, metadata, backend="mlx")
        assert bool(list(judged.reasons(one, stated(one), {}))) == poor


def test_the_command_says_poor_and_not_that_it_belongs_here(tmp_path, capsys):
    path = five_steps(PLACES[1]).save(tmp_path / "sae")
    options = ["check", str(path), "--texts", str(tmp_path / "t.txt"), "--max-tokens", "400"]
    (tmp_path / "t.txt").write_text("\n\n".join(demo().texts[-6:]), encoding="utf-8")
    assert cli.main([*options, "--model", str(FOLDER / "model")]) != 0
    shown = capsys.readouterr().out
    assert "poor" in shown and "belongs here" not in shown


# -- what it is judged by -----------------------------------------------------------------------


def test_stated_figures_come_from_all_that_metadata_has():
    sae = good(PLACES[1])
    facts = {"explained_variance": 0.8, "l0": 9.0, "steps": 3}
    metadata = {"training": facts, "held_out": {"loss_recovered_mean": 0.97, "explained_variance": 0.7}}
    found = stated(SAE(sae.weights, sae.activation, metadata, backend="mlx"))
    assert found == {"explained_variance": 0.7, "l0": 9.0, "loss_recovered_mean": 0.97}


def test_the_control_does_not_depend_on_where_and_how_large_activations_are():
    x = np.random.default_rng(0).standard_normal((300, 16)) * np.arange(1, 17)
    one = untrained_variance(x, None, 64, 4)
    assert untrained_variance(1000 * x + 77, None, 64, 4) == pytest.approx(one, abs=1e-3)
    assert 0 < one < untrained_variance(x, None, 64, 8) < 1


def test_the_control_is_what_plain_numpy_makes_of_it():
    x = np.random.default_rng(1).standard_normal((40, 6))
    d = np.random.default_rng(0).standard_normal((20, 6), dtype=np.float32)
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    inside = x - x.mean(axis=0)
    rebuilt = np.zeros_like(x)
    for row, token in enumerate(inside):
        for feature in np.argsort(-(d @ token))[:3]:
            rebuilt[row] += max(0.0, d[feature] @ token) * d[feature]
    scale = (rebuilt * inside).sum() / (rebuilt**2).sum()
    expected = 1 - ((inside - scale * rebuilt) ** 2).sum() / (inside**2).sum()
    assert untrained_variance(x, None, 20, 3.2) == pytest.approx(expected, abs=1e-5)


def test_a_transcoders_control_follows_the_best_linear_map():
    rng = np.random.default_rng(2)
    x, wide = rng.standard_normal((2000, 12)), rng.standard_normal((12, 5))
    linear = untrained_variance(x, x @ wide, 200, 40)
    unrelated = untrained_variance(x, rng.standard_normal((2000, 5)), 200, 40)
    assert unrelated < 0.05 < 0.5 < linear


def test_a_few_tokens_of_extreme_length_do_not_decide():
    anatomy, x = demo().model.anatomy, rows(PLACES[1])[:50].copy()
    x[[3, 30]] *= 1000
    place = anatomy.component(PLACES[1])
    assert np.flatnonzero(~without_sinks(anatomy, place, x)).tolist() == [3, 30]
    assert without_sinks(anatomy, place, x[[3, 30]]).all()  # where all are, none is


def test_what_is_left_is_a_share_of_what_the_control_leaves():
    assert Judgement(0.8, 0.5, None, None).left() == pytest.approx(0.4)
    assert Judgement(1.0, 1.0, None, None).left() == 0

"""Batch size, epochs and rate follow the amount of text; a run's last line says how good its SAE is."""

from __future__ import annotations

import json
import math
import signal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxterp import MlxterpWarning, SAEError, SAETrainConfig, load_demo, train_sae
from mlxterp.sae import explained_variance
from mlxterp.training import run as run_module
from mlxterp.training.config import learning_rate
from mlxterp.training.plan import Plan, run_length
from tests.training.test_run import sparse_sums

SMALL: dict[str, Any] = {"d_hidden": 32, "k": 3}


def train(x: np.ndarray, backend: str = "torch", **settings):
    device = "cpu" if backend == "torch" else None
    return train_sae(x, SAETrainConfig(**{**SMALL, **settings}), backend, device=device, progress=False)


@pytest.fixture(scope="module")
def demo():
    pytest.importorskip("mlx")
    return load_demo("mlx")


# -- the rule -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "batch_size", "epochs"),
    [(20_000, 512, 16), (60_000, 512, 8), (200_000, 1024, 4), (1_000_000, 2048, 2), (10_000_000, 4096, 1)],
)
def test_the_rule_is_the_one_that_the_guide_tells(tokens, batch_size, epochs):
    assert run_length(SAETrainConfig(), tokens) == (batch_size, epochs)


@given(st.integers(1, 10**10), st.integers(1, 10**10))
def test_more_text_is_seen_less_often_in_larger_batches(one, other):
    few, many = (run_length(SAETrainConfig(), tokens) for tokens in sorted((one, other)))
    assert few[1] >= many[1] >= 1
    assert few[0] <= many[0] <= 4096 or few[1] > many[1]  # where epochs fall, steps may too
    for tokens, (batch_size, epochs) in zip(sorted((one, other)), (few, many), strict=True):
        assert batch_size <= tokens and (batch_size == tokens or math.log2(batch_size).is_integer())
        if 64 < batch_size < 4096:
            assert 500 < tokens * epochs / batch_size < 1200
        if tokens >= 2_400_000:
            assert (batch_size, epochs) == (4096, 1)


@given(st.integers(1, 10**8), st.integers(1, 5000), st.integers(1, 50))
def test_what_is_given_is_taken_as_it_is(tokens, batch_size, epochs):
    assert run_length(SAETrainConfig(batch_size=batch_size, epochs=epochs), tokens) == (batch_size, epochs)
    assert run_length(SAETrainConfig(batch_size=batch_size), tokens) == (batch_size, 1)
    assert run_length(SAETrainConfig(epochs=epochs), tokens)[1] == epochs


def test_the_rate_follows_the_steps_and_tokens_seen_again_take_more():
    plan = Plan.of(SAETrainConfig(), 20_000, 128)
    assert (plan.steps, plan.lr) == (640, learning_rate(2048, 640, "topk", 16))
    assert plan.lr == pytest.approx(1.5 * learning_rate(2048, 640))
    large = Plan.of(SAETrainConfig(), 10_000_000, 128)
    assert large.lr == learning_rate(2048, large.steps) < plan.lr
    assert Plan.of(SAETrainConfig(lr=0.01), 20_000, 128).lr == 0.01


def test_little_text_trains_an_sae_that_one_pass_of_large_batches_does_not(backend):
    """2,000 tokens: one step at 4096, as it was."""
    held_out = sparse_sums(1000, seed=5)
    assert explained_variance(train(sparse_sums(2000), backend), held_out) > 0.9
    with pytest.warns(MlxterpWarning, match="fewer than batch_size=4096"):
        one_pass = train(sparse_sums(2000), backend, batch_size=4096, epochs=1)
    assert explained_variance(one_pass, held_out) < 0.5


def test_metadata_and_history_say_what_the_rule_chose(tmp_path):
    config = SAETrainConfig(**SMALL, epochs=3)
    sae = train_sae(sparse_sums(1000), config, "torch", device="cpu", run_dir=tmp_path, progress=False)
    facts, history = sae.metadata["training"], json.loads((tmp_path / "training_history.json").read_text())
    assert facts["by_rule"] == ["batch_size", "lr"] and (facts["epochs"], facts["batch_size"]) == (3, 64)
    assert history["settings"]["sae"] == {
        name: facts[name] for name in ("batch_size", "epochs", "lr", "by_rule")
    }
    assert history["summaries"]["sae"] == facts["summary"]
    assert train(sparse_sums(200), epochs=1, batch_size=50, lr=1e-3).metadata["training"]["by_rule"] == []


def test_saes_that_train_together_share_what_the_rule_chose(demo):
    narrow, wide = (SAETrainConfig(d_hidden=width, k=4) for width in (64, 2048))
    found = demo.model.train_saes(
        {"narrow": ("layers.1.mlp", narrow), "wide": ("layers.1.mlp", wide)}, demo.texts[:8], verbose=False
    )
    facts = [found[name].metadata["training"] for name in ("narrow", "wide")]
    assert facts[0]["batch_size"] == facts[1]["batch_size"] and facts[0]["epochs"] == facts[1]["epochs"] == 16
    assert facts[0]["lr"] > facts[1]["lr"]  # the widths differ


def test_a_run_over_texts_that_the_rule_planned_goes_on_with_the_same_rows(demo, tmp_path):
    """Interrupted in a later epoch."""

    def interrupt(row):
        if row["step"] == 57:
            signal.raise_signal(signal.SIGINT)

    config, texts = SAETrainConfig(d_hidden=64, k=4), demo.texts[:4]
    whole = demo.model.train_sae(1, texts, "mlp", config, tmp_path / "whole", verbose=False)
    facts = whole.metadata["training"]
    assert facts["epochs"] == 16 and facts["steps"] > 100
    with pytest.warns(MlxterpWarning, match="Interrupted at step 57"):
        cut = demo.model.train_sae(1, texts, "mlp", config, tmp_path / "cut", verbose=False, log=interrupt)
    assert "interrupted" in cut.metadata["training"]["summary"]
    again = demo.model.train_sae(1, texts, "mlp", config, tmp_path / "cut", verbose=False, resume=True)
    np.testing.assert_array_equal(whole.W_dec, again.W_dec)
    assert again.metadata["training"]["tokens"] == facts["tokens"]


def test_a_stream_is_read_again_in_every_epoch(demo):
    datasets = pytest.importorskip("datasets")
    stream = datasets.Dataset.from_dict({"text": demo.texts[:8]}).to_iterable_dataset()
    config = SAETrainConfig(d_hidden=64, k=4, tokens=900)
    sae = demo.model.train_sae(1, stream, "mlp", config, verbose=False)
    facts, left_out = sae.metadata["training"], sum(sae.metadata["excluded_tokens"].values())
    assert facts["epochs"] == 16 and facts["batch_size"] == 64
    assert facts["tokens"] == pytest.approx(900 - left_out / 16, abs=1)


def test_a_run_that_was_planned_otherwise_does_not_go_on(tmp_path):
    pytest.importorskip("torch")

    def interrupt(row):
        if row["step"] == 5:
            signal.raise_signal(signal.SIGINT)

    options: dict[str, Any] = {"run_dir": tmp_path, "progress": False, "device": "cpu"}
    with pytest.warns(MlxterpWarning, match="Interrupted"):
        train_sae(sparse_sums(1000), SAETrainConfig(**SMALL, epochs=2), "torch", log=interrupt, **options)
    with pytest.raises(SAEError, match="epochs was 2 and is 16"):
        train_sae(sparse_sums(1000), SAETrainConfig(**SMALL), "torch", resume=True, **options)


# -- the last line ------------------------------------------------------------------------------


def summary(sae) -> str:
    return sae.metadata["training"]["summary"]


def test_the_last_line_gives_the_figures_beside_their_controls():
    sae = train(sparse_sums(4000))
    facts, said = sae.metadata["training"], summary(sae)
    assert f"explained variance {facts['explained_variance']:.2f} on tokens it was trained on" in said
    assert "the mean explains 0, an untrained SAE 0." in said
    assert (
        "3.0 of 32 features active" in said
        and f"{facts['steps']:,} steps on 4,000 tokens, 16 times each" in said
    )
    assert "poor" not in said and "steps are few" not in said


def test_the_last_line_says_what_would_help():
    short = summary(train(sparse_sums(2000), epochs=1, batch_size=500))
    assert "4 steps are few: more text, more epochs or a smaller batch_size" in short and "poor" in short
    few = summary(train(sparse_sums(1000), d_hidden=64))
    assert "More text would help most (16 tokens for each feature are few)" in few
    off = summary(train(sparse_sums(2000), architecture="relu", sparsity=0.0, epochs=4))
    assert "L0 is far from k=3" in off
    assert "Nothing stands out" in summary(train(sparse_sums(8000), d_hidden=24))


def test_a_stream_that_ends_early_is_told_with_its_length(demo):
    datasets = pytest.importorskip("datasets")
    stream = datasets.Dataset.from_dict({"text": demo.texts[:3]}).to_iterable_dataset()
    config = SAETrainConfig(d_hidden=64, k=4, tokens=1_000_000, batch_size=256, epochs=1)
    sae = demo.model.train_sae(1, stream, "mlp", config, verbose=False)
    tokens = sae.metadata["training"]["tokens"]
    assert f"The data ended after {tokens:,} of 1,000,000 tokens" in summary(sae)


def test_equal_activations_leave_nothing_to_explain():
    assert "nothing to explain" in summary(train(np.ones((64, 4), np.float32), d_hidden=8, k=2))


def test_the_last_line_is_shown_where_the_bar_is(monkeypatch, capsys):
    for silent in (True, False):
        monkeypatch.setattr(run_module, "hidden", lambda shown, silent=silent: silent)
        sae = train(sparse_sums(300), epochs=1)
        shown = capsys.readouterr().err
        assert (summary(sae) == shown.splitlines()[-1]) if not silent else shown == ""


def test_runs_that_would_never_end_or_fit_are_refused():
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    with pytest.raises(SAEError, match=r"epochs is 10+; it must be an integer in \[1, 1000000\]"):
        SAETrainConfig(epochs=10**20)
    with pytest.raises(SAEError, match="GB for their weights alone"):
        train_sae(x, d_hidden=10**15, k=1, progress=False)
    pd = pytest.importorskip("pandas")
    for rows in (x.tolist(), pd.DataFrame(x), x.astype(object)):
        assert train_sae(rows, d_hidden=2, k=1, epochs=1, progress=False).d_model == 4

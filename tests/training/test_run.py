"""Training: what comes out, in either library, and what it refuses."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest

import mlxterp
from mlxterp import MlxterpWarning, SAEError, SAETrainConfig, train_sae
from mlxterp.sae import explained_variance
from mlxterp.training.config import ARCHITECTURES, TrainRecipe, learning_rate
from mlxterp.training.plan import Plan
from mlxterp.training.rows import ArrayRows, MixingBuffer
from mlxterp.training.state import TrainState
from mlxterp.variants import TopK
from mlxterp.weights import SAEWeights
from tests import oracle


def sparse_sums(n: int, seed: int = 0) -> np.ndarray:
    """Sums of 3 of 24 unit vectors of width 32, plus an offset: what an SAE should take apart."""
    d_model, directions, active = 32, 24, 3
    rng = np.random.default_rng(seed)
    atoms = np.random.default_rng(99).standard_normal((directions, d_model))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    on = rng.random((n, directions)).argsort(axis=1)[:, :active]
    strengths = 1 + rng.random((n, active))
    x = (atoms[on] * strengths[:, :, None]).sum(axis=1) + 3
    return x.astype(np.float32)


SMALL = SAETrainConfig(d_hidden=32, k=3, batch_size=256, epochs=8, lr=5e-3)


def train(backend: str, x: np.ndarray, config: SAETrainConfig = SMALL, **options) -> mlxterp.SAE:
    device = "cpu" if backend == "torch" else None
    return train_sae(x, config, backend, device=device, progress=False, **options)


# -- what comes out -----------------------------------------------------------------------------


def test_training_explains_held_out_activations(backend):
    sae = train(backend, sparse_sums(8192))
    assert explained_variance(sae, sparse_sums(1000, seed=5)) > 0.9
    np.testing.assert_allclose(np.linalg.norm(sae.W_dec, axis=1), 1, rtol=1e-5)


def test_the_scale_of_the_activations_only_scales_the_features(backend):
    x = sparse_sums(2048)
    config = SAETrainConfig(d_hidden=32, k=3, batch_size=256)
    one, hundred = train(backend, x, config), train(backend, x * 128, config)
    np.testing.assert_allclose(one.W_dec, hundred.W_dec, atol=1e-3)
    np.testing.assert_allclose(one.encode(x[:50]) * 128, hundred.encode(x[:50] * 128), rtol=1e-2, atol=0.5)


def test_the_same_seed_gives_the_same_sae_and_another_seed_another(backend):
    x, config = sparse_sums(1024), SAETrainConfig(d_hidden=24, k=3, batch_size=128)
    first, again = (train(backend, x, config).W_dec for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = SAETrainConfig(d_hidden=24, k=3, batch_size=128, seed=1)
    assert not np.allclose(first, train(backend, x, other).W_dec, atol=0.1)


def test_both_backends_take_the_same_steps():
    x, config = sparse_sums(1024), SAETrainConfig(d_hidden=24, k=3, batch_size=256, dead_window=0)
    mlx, torch = (train(name, x, config) for name in ("mlx", "torch"))
    np.testing.assert_allclose(mlx.W_dec, torch.W_dec, atol=1e-3)
    np.testing.assert_allclose(mlx.b_enc, torch.b_enc, atol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_both_backends_end_with_the_same_loss_after_200_steps(architecture):
    """At the default rate of so short a run one choice among near equals is enough to go apart by some 1e-3."""
    config = SAETrainConfig(
        d_hidden=64, k=3, batch_size=100, epochs=4, architecture=architecture, dead_window=0.02, lr=1e-3
    )
    losses: dict[str, list[float]] = {}
    for name in ("mlx", "torch"):
        rows: list[dict[str, float]] = []
        train(name, sparse_sums(5000), config, log=rows.append)
        losses[name] = [row["loss"] for row in rows]
    assert len(losses["mlx"]) == 200
    assert losses["mlx"][-1] == pytest.approx(losses["torch"][-1], abs=1e-3)


def test_metadata_tells_the_run_and_can_be_saved(backend, tmp_path):
    sae = train(backend, sparse_sums(1000), SAETrainConfig(d_hidden=24, k=3, batch_size=300),
                metadata={"component": "layers.1.mlp"})  # fmt: skip
    facts = sae.metadata["training"]
    assert sae.component == "layers.1.mlp"
    assert (facts["tokens"], facts["steps"], facts["batch_size"], facts["backend"]) == (1000, 4, 300, backend)
    assert facts["explained_variance"] == pytest.approx(explained_variance(sae, sparse_sums(1000)), abs=1e-4)
    assert json.dumps(facts)
    folder = sae.save(tmp_path / "sae")
    assert mlxterp.SAE.load(folder).metadata == {**sae.metadata, "format": "mlxterp", "source": str(folder)}


def test_native_activations_train_too(backend):
    wing = mlxterp.get_backend(backend)
    sae = train(backend, wing.put(sparse_sums(512)), SAETrainConfig(d_hidden=24, k=3, batch_size=128))
    assert sae.d_model == 32


def test_equal_rows_train_without_fuss(backend):
    sae = train(backend, np.ones((64, 4), np.float32), SAETrainConfig(d_hidden=8, k=2, batch_size=16))
    np.testing.assert_allclose(sae.reconstruct(np.ones((1, 4), np.float32)), 1, atol=0.2)


# -- steps --------------------------------------------------------------------------------------


def state(backend: str, aux_weight: float = 1.0, dead_after: int = 10, k: int = 2):
    rng = np.random.default_rng(0)
    decoder = rng.standard_normal((12, 6)).astype(np.float32)
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    b_enc = np.zeros(12, np.float32)
    b_enc[7:] = -3  # these rarely fire, and could where the others leave an error
    weights = SAEWeights(decoder.T.copy(), b_enc, decoder, np.zeros(6, np.float32))
    recipe = TrainRecipe("topk", k, 6.0, dead_after, 3, aux_weight)
    wing = mlxterp.get_backend(backend)
    return TrainState(wing, weights, recipe, "cpu" if backend == "torch" else None)


def test_a_step_reports_the_unexplained_share_and_lowers_it(backend):
    training, x = state(backend), np.random.default_rng(1).standard_normal((64, 6)).astype(np.float32)
    before = training.weights()
    sae = mlxterp.SAE(before, TopK(2))
    losses = [training.step(x, 1e-2).loss for _ in range(40)]
    expected = ((x - sae.reconstruct(x)) ** 2).sum(axis=1).mean() / 6
    assert losses[0] == pytest.approx(expected, rel=1e-4)
    assert losses[-1] < 0.8 * losses[0]


def test_the_gradient_is_that_of_the_loss(backend):
    """One small step of Adam moves every weight against the sign of its gradient by the learning rate."""
    training = state(backend, aux_weight=0)
    x = 2 * np.random.default_rng(2).standard_normal((5, 6)).astype(np.float32)
    before = training.weights()
    training.step(x, 1e-6)
    moved = np.sign(training.weights().b_dec - before.b_dec)

    def loss(b_dec: np.ndarray) -> float:
        weights = replace(before.map(lambda array: array.astype(np.float64)), b_dec=b_dec)
        pre = (x - b_dec) @ weights.W_enc + weights.b_enc
        features = np.where(pre >= np.sort(pre, axis=1)[:, -2:-1], np.maximum(pre, 0), 0)
        return float(((x - oracle.decode(features, weights)) ** 2).sum())

    for i in range(6):
        nudge = 1e-5 * np.eye(6)[i]
        slope = loss(before.b_dec + nudge) - loss(before.b_dec - nudge)
        assert moved[i] == -np.sign(slope)


def test_dead_features_are_counted_and_come_back(backend):
    x = np.random.default_rng(3).standard_normal((400, 6)).astype(np.float32)
    dead = {}
    for aux_weight in (0.0, 1.0):
        training = state(backend, aux_weight)
        reports = [training.step(x[i % 8 :: 8], 1e-2) for i in range(150)]
        assert reports[0].dead == 0
        dead[aux_weight] = [report.dead for report in reports]
        if aux_weight:
            assert max(report.aux_loss for report in reports) > 0
    assert max(dead[1.0]) > 0
    assert sum(dead[1.0]) < sum(dead[0.0])


def test_a_step_whose_loss_is_not_finite_leaves_the_weights_alone(backend):
    training = state(backend)
    before = training.weights().W_dec
    assert not math.isfinite(training.step(np.full((3, 6), 1e30, np.float32), 1e-2).loss)
    np.testing.assert_array_equal(training.weights().W_dec, before)


# -- the plan -----------------------------------------------------------------------------------


def test_every_row_is_used_once_an_epoch_in_batches_as_equal_as_can_be():
    x = np.arange(2000, dtype=np.float32).reshape(1000, 2)
    plan = Plan.of(SAETrainConfig(d_hidden=8, k=1, batch_size=300, epochs=2), 1000, 2)
    buffer = MixingBuffer(ArrayRows([x], ["x"], 130, 0), 2, 0)
    batches = [buffer.take(plan.size(step))[0][:, 0] / 2 for step in range(plan.steps)]
    assert [len(b) for b in batches] == [250] * 8
    assert sorted(np.concatenate(batches[:4])) == sorted(np.concatenate(batches[4:])) == list(range(1000))
    assert not len(buffer.take(1)[0])


def test_the_learning_rate_warms_up_and_decays_to_the_end():
    plan = Plan.of(SAETrainConfig(d_hidden=8, k=1, batch_size=10, lr=1.0), 1000, 4)
    rates = [plan.lr_at(step) for step in range(plan.steps)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert set(rates[5:80]) == {1.0}
    assert all(a > b > 0 for a, b in itertools.pairwise(rates[80:]))


def test_wider_saes_and_longer_runs_take_smaller_learning_rates():
    assert learning_rate(16_384, 50_000) == pytest.approx(2e-4)
    assert learning_rate(16_384, 2_000) == pytest.approx(8e-4, rel=0.01)
    assert learning_rate(16_384, 10) == learning_rate(16_384, 200) == pytest.approx(2e-4 * 100**0.6)
    assert learning_rate(64, 200) == 0.015
    assert learning_rate(16_384, 50_000, "batchtopk") == pytest.approx(3e-4)
    assert learning_rate(1024, 20_000) == pytest.approx(8e-4)
    assert 2e-4 < learning_rate(16_384, 6_000) < 8e-4


def test_d_hidden_follows_the_expansion_factor():
    assert SAETrainConfig().width(10) == 160
    assert SAETrainConfig(expansion_factor=4, k=8).width(10) == 40
    assert SAETrainConfig(d_hidden=50).width(10) == 50


def test_fewer_tokens_than_asked_for_are_told():
    pytest.importorskip("torch")
    with pytest.warns(MlxterpWarning, match="tokens=99 asked for, 64 are there"):
        train("torch", sparse_sums(64), SAETrainConfig(d_hidden=8, k=2, batch_size=32, tokens=99))
    with pytest.warns(MlxterpWarning, match="64 tokens are fewer than batch_size=4096"):
        sae = train("torch", sparse_sums(64), SAETrainConfig(d_hidden=8, k=2, batch_size=4096))
    assert sae.metadata["training"]["batch_size"] == 64


def test_tokens_is_an_upper_limit():
    sae = train("torch", sparse_sums(512), SAETrainConfig(d_hidden=8, k=2, batch_size=32, tokens=100))
    assert sae.metadata["training"]["tokens"] == 100


# -- what it refuses ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"d_hidden": 0}, "d_hidden is 0"),
        ({"d_hidden": -5}, "at least 1"),
        ({"d_hidden": 8, "k": 9}, "k=9 is larger than d_hidden=8"),
        ({"k": 0}, "k is 0"),
        ({"k": 1.5}, "must be an integer"),
        ({"architecture": "topkk"}, "Unknown architecture .* There are: topk, batchtopk"),
        ({"batch_size": 0}, "batch_size"),
        ({"epochs": 0}, "epochs"),
        ({"tokens": 0}, "or None"),
        ({"lr": -1.0}, "positive"),
        ({"lr": float("nan")}, "positive"),
        ({"expansion_factor": 0}, "positive"),
        ({"d_hidden": 8, "k": 1, "expansion_factor": 2}, "Give one of them"),
        ({"seed": -1}, "seed"),
        ({"auxk": -1}, "auxk"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_at_once(settings, message):
    with pytest.raises(SAEError, match=message):
        SAETrainConfig(**settings)


def test_k_is_checked_against_the_width_of_the_activations():
    with pytest.raises(SAEError, match="k=32 is larger than d_hidden=16"):
        train_sae(np.ones((5, 1), np.float32))


def test_rows_that_are_not_finite_are_refused_by_number(backend):
    for bad in (np.nan, np.inf):
        x = sparse_sums(64)
        x[41, 3] = bad
        with pytest.raises(SAEError, match=r"Row 41 .*Drop such rows"):
            train(backend, x)
    with pytest.raises(SAEError, match="Row 0"):
        train(backend, np.full((4, 4), 1e300))


@pytest.mark.parametrize(
    "x", [np.ones(4), np.ones((2, 3, 4)), np.ones((0, 4)), np.array([["a"]]), [["a", 1.0]]]
)
def test_what_is_not_rows_of_numbers_is_refused(x):
    with pytest.raises(SAEError, match=r"[Ee]xpected"):
        train_sae(x)


def test_a_loss_that_is_not_finite_stops_with_step_and_cause(backend):
    x = sparse_sums(512)
    config = SAETrainConfig(d_hidden=8, k=2, batch_size=32, lr=1e30)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with pytest.raises(SAEError, match=r"at step \d+ of 16.* learning rate"):
            train(backend, x, config)

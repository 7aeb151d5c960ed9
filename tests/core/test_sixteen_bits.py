"""What a user sees of a model in 16 bits is what float64 gives of the same 16-bit logits and activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import InterpretableModel, logit_difference
from mlxterp.core.numeric import largest, log_softmax, moments
from mlxterp.hooks import Detector
from mlxterp.patching import DISTANCES
from mlxterp.sae.metrics import explained_variance
from mlxterp.steering.contrast import difference_of_means
from mlxterp.steering.trials import next_tokens
from tests.small import llama_folder, open_llama

RESID = "layers.1.resid_post"
PAIRS = 48
CLOSE: dict[str, Any] = {"rtol": 2e-5, "atol": 1e-6}


class Sixteen:
    """A model in one dtype."""

    def __init__(self, model: InterpretableModel, dtype: str):
        language_model: Any = model.language_model
        native: Any = language_model.model
        if model.language_model.backend.name == "mlx":
            import mlx.core as mx

            native.set_dtype(getattr(mx, dtype))
        else:
            import torch

            native.to(getattr(torch, dtype))
        self.model = InterpretableModel(native, tokenizer=model.tokenizer)
        assert dtype in str(self.model(self.ids(1)).dtype)

    def ids(self, n: int, seed: int = 0) -> list[list[int]]:
        rng = np.random.default_rng(seed)
        return rng.integers(5, 190, (n, 7)).tolist()

    def get(self, x: Any) -> np.ndarray:
        """float64, exactly."""
        return self.model.language_model.backend.get(x).astype(np.float64)

    def put(self, x: np.ndarray) -> Any:
        lm = self.model.language_model
        return lm.backend.put(x, self.model(self.ids(1)))

    def logits(self, inputs: Any, changes: Any = None) -> np.ndarray:
        return self.get(self.model.trace(inputs, changes, capture=[]).output)

    def activations(self, inputs: Any, name: str = RESID) -> np.ndarray:
        return self.get(self.model.trace(inputs, capture=[name]).activations[name])


class Demo(Sixteen):
    """The demo's model in one library and dtype, with its SAE and texts."""

    def __init__(self, backend: str, dtype: str):
        model, self.sae, self.texts = mlxterp.load_demo(backend)
        super().__init__(model, dtype)


KINDS = ["mlx-bfloat16", "mlx-float16", "torch-bfloat16", "torch-float16"]


def kind(request: pytest.FixtureRequest) -> tuple[str, str]:
    backend, dtype = request.param.split("-")
    if backend not in mlxterp.available_backends():
        pytest.skip(f"{backend} is not installed")
    return backend, dtype


@pytest.fixture(scope="module", params=KINDS)
def sixteen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sixteen:
    """A small random Llama."""
    backend, dtype = kind(request)
    return Sixteen(open_llama(llama_folder(tmp_path_factory), backend), dtype)


@pytest.fixture(scope="module", params=KINDS)
def demo16(request: pytest.FixtureRequest) -> Demo:
    return Demo(*kind(request))


# -- objectives and metrics -----------------------------------------------------------------------


def test_a_logit_difference_is_summed_in_float32(sixteen):
    logits = sixteen.put(np.random.default_rng(0).normal(0, 12, (PAIRS, 3, 11)).astype(np.float32))
    found = logit_difference(4, 7)(logits)
    exact = sixteen.get(logits)[:, -1]
    assert "float32" in str(found.dtype)
    assert np.isclose(float(found), (exact[:, 4] - exact[:, 7]).sum(), **CLOSE)


def _summed(logits: Any) -> Any:
    return (logits[:, -1, 41] - logits[:, -1, 77]).sum()


def _squares(logits: Any) -> Any:
    return (logits[:, -1] * logits[:, -1]).sum()


def _exact_difference(logits: np.ndarray) -> float:
    return float((logits[:, -1, 41] - logits[:, -1, 77]).sum())


def _exact_squares(logits: np.ndarray) -> float:
    return float((logits[:, -1] ** 2).sum())


@pytest.mark.parametrize(
    ("metric", "exact"),
    [(logit_difference(41, 77), _exact_difference), (_summed, _exact_difference), (_squares, _exact_squares)],
    ids=["logit_difference", "a sum", "squares"],
)
def test_a_metric_of_many_pairs_is_that_of_float64(sixteen, metric, exact: Callable[[np.ndarray], float]):
    clean, corrupted = sixteen.ids(PAIRS), sixteen.ids(PAIRS, 1)
    for row, other in zip(clean, corrupted, strict=True):
        other[:5] = row[:5]
    found = sixteen.model.activation_patching(
        clean, corrupted, "resid_post", metric=metric, layers=[0, 1], batch_size=1
    )
    ends = [exact(sixteen.logits(ids)) for ids in (clean, corrupted)]
    assert np.allclose([found.clean, found.corrupted], ends, rtol=2e-4, atol=1e-4)  # MLX adds one by one
    for row, layer in enumerate(found.layers):
        name = f"layers.{layer}.resid_post"
        put = sixteen.put(sixteen.activations(clean, name).astype(np.float32))
        value = exact(sixteen.logits(corrupted, {name: lambda x, put=put: put}))
        effect = (value - ends[1]) / (ends[0] - ends[1])
        assert np.isfinite(effect)
        assert np.isclose(found.effects[row], effect, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", sorted(DISTANCES))
def test_distances_are_those_of_float64(sixteen, name):
    clean, corrupted = sixteen.ids(PAIRS), sixteen.ids(PAIRS, 1)
    found = sixteen.model.activation_patching(clean, corrupted, "mlp", layers=[0], metric=name)
    before, after = (sixteen.logits(ids)[:, -1] for ids in (clean, corrupted))
    if name == "kl":
        p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (before, after))
        expected = (p * np.log(p / q)).sum(axis=1)
    elif name == "cosine":
        lengths = [np.linalg.norm(x, axis=1) for x in (before, after)]
        expected = 1 - (before * after).sum(axis=1) / (lengths[0] * lengths[1])
    else:
        expected = ((before - after) ** 2).sum(axis=1)
        expected = np.sqrt(expected) if name == "l2" else expected / before.shape[1]
    assert np.isclose(found.corrupted, expected.mean(), rtol=1e-5)


def test_gradients_of_a_sum_over_logits_are_those_of_float32_logits(sixteen):
    """Last logits are linear in what the head is given, so the slope is known."""
    ids = sixteen.ids(PAIRS)
    found = sixteen.get(sixteen.model.gradients(ids, _squares, at="logits")["logits"])
    expected = np.zeros_like(found)
    expected[:, -1] = 2 * sixteen.logits(ids)[:, -1]
    assert np.allclose(found, expected, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("name", sorted(DISTANCES))
def test_attribution_does_not_lose_small_slopes(sixteen, name):
    """One pair among many equal ones: the slope of the mean is small, float16 ends at 6e-8."""
    clean = [sixteen.ids(1)[0]] * PAIRS
    corrupted = [list(row) for row in clean]
    for row in corrupted:
        row[-1] += 1
    many = sixteen.model.attribution_patching(clean, corrupted, "mlp", layers=[1], metric=name)
    one = sixteen.model.attribution_patching(clean[:1], corrupted[:1], "mlp", layers=[1], metric=name)
    assert np.isfinite(many.effects).all()
    assert np.allclose(many.effects, one.effects, rtol=0.05, atol=0.01)


# -- losses, lenses, evaluations ------------------------------------------------------------------


def exact_losses(sixteen: Sixteen, ids: list[list[int]]) -> np.ndarray:
    chosen = np.array(ids)[:, 1:, None]
    return -np.take_along_axis(log_softmax(sixteen.logits(ids)[:, :-1]), chosen, axis=-1)[..., 0]


def test_loss_is_that_of_float64(sixteen):
    ids = sixteen.ids(PAIRS)
    assert np.isclose(sixteen.model.loss(ids), exact_losses(sixteen, ids).mean(), rtol=1e-6)


def test_the_lens_gives_probabilities_of_float64(sixteen):
    [ids] = sixteen.ids(1)
    last = sixteen.model.n_layers - 1
    lens = sixteen.model.logit_lens(ids, layers=[last], top_k=5)
    exact = np.exp(log_softmax(sixteen.logits(ids)))[0]
    chosen = np.take_along_axis(exact, lens.ids[0], axis=1)
    assert np.allclose(lens.probabilities[0], chosen, rtol=0.02)
    assert np.allclose(lens.probabilities[0].sum(axis=1), chosen.sum(axis=1), rtol=0.02)


def test_calibrations_see_log_probabilities_of_float64(demo16):
    text = demo16.texts[0][:80]
    [found] = next_tokens(demo16.model.session, [], [text])
    assert found.dtype == np.float64
    assert np.allclose(found, log_softmax(demo16.logits(text)[0]), rtol=1e-12)
    assert np.allclose(np.exp(found).sum(axis=1), 1, rtol=1e-12)


def test_an_evaluation_has_the_figures_of_float64(demo16):
    texts = [text[:90] for text in demo16.texts[:6]]
    found = demo16.model.evaluate_sae(demo16.sae, texts)
    ids = [demo16.model.tokenize(text) for text in texts]
    losses = np.concatenate([exact_losses(demo16, [row])[0] for row in ids])
    x = np.concatenate([demo16.activations([row], demo16.sae.component)[0, 1:] for row in ids])
    rebuilt = demo16.sae.reconstruct(x.astype(np.float32)).astype(np.float64)
    expected = 1 - ((x - rebuilt) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum()
    assert np.isclose(found.loss, losses.mean(), rtol=1e-2)  # batches round differently
    assert np.isclose(found.explained_variance, expected, atol=1e-2)


def test_explained_variance_is_that_of_float64(demo16):
    sae = demo16.sae.on(demo16.model.language_model.backend.name)
    x = demo16.model.trace(demo16.ids(PAIRS), capture=[sae.component]).activations[sae.component]
    rows = x.reshape((-1, x.shape[-1]))
    y = demo16.get(rows)
    error = ((y - demo16.get(sae.reconstruct(rows))) ** 2).sum()
    expected = 1 - error / ((y - y.mean(axis=0)) ** 2).sum()
    assert np.isclose(explained_variance(sae, rows), expected, rtol=1e-9)
    wide = sae.reconstruct(y.astype(np.float32)).astype(np.float64)
    assert np.isclose(expected, 1 - ((y - wide) ** 2).sum() / ((y - y.mean(axis=0)) ** 2).sum(), rtol=1e-5)


def test_detectors_keep_figures_of_float64(sixteen):
    detector = Detector(RESID, statistics=True)
    ids = sixteen.ids(PAIRS)
    handle = sixteen.model.add_hook(detector)
    sixteen.model(ids)
    handle.detach()
    x = sixteen.activations(ids).reshape(-1, sixteen.model.d_model)
    found = detector.statistics
    assert np.allclose(found.mean, x.mean(axis=0), rtol=1e-9, atol=1e-12)
    assert np.allclose(found.std, x.std(axis=0), rtol=1e-9)
    assert np.array_equal(found.max, x.max(axis=0)) and np.array_equal(found.min, x.min(axis=0))


@pytest.mark.parametrize("position", ["last", "mean"])
def test_a_contrast_is_the_difference_of_float64_means(sixteen, position):
    positive, negative = sixteen.ids(PAIRS), sixteen.ids(PAIRS, 1)
    vector = difference_of_means(sixteen.model, positive, negative, RESID, position=position)
    sides = [sixteen.activations(ids) for ids in (positive, negative)]
    means = [(x[:, -1] if position == "last" else x.mean(axis=1)).mean(axis=0) for x in sides]
    scale = max(np.abs(mean).max() for mean in means)
    assert np.abs(vector.vector - (means[0] - means[1])).max() <= 0.02 * scale  # batches round differently


# -- in NumPy -------------------------------------------------------------------------------------


def test_log_softmax_is_float64_of_any_dtype():
    for dtype in (np.float16, np.float32, np.float64):
        x = np.random.default_rng(0).normal(0, 30, (4, 5000)).astype(dtype)
        found = log_softmax(x)
        assert found.dtype == np.float64
        assert np.allclose(np.exp(found).sum(axis=-1), 1, rtol=1e-12)
        assert np.allclose(
            np.diff(found, axis=-1), np.diff(x.astype(np.float64), axis=-1), rtol=1e-9, atol=1e-12
        )


def test_moments_do_not_overflow_in_16_bits():
    row = np.random.default_rng(0).normal(0, 300, 4096).astype(np.float16)
    sd, _, kurtosis = moments(row)
    assert np.isclose(sd, np.sqrt(np.mean(row.astype(np.float64) ** 2))) and 2.5 < kurtosis < 3.5
    assert moments(np.zeros(3, np.float16)) == (0.0, 0.0, 0.0)


def test_the_largest_are_those_of_a_stable_sort_in_16_bits():
    row = np.random.default_rng(0).integers(0, 9, 60).astype(np.float16)
    assert largest(row, 7).tolist() == np.argsort(-row, kind="stable")[:7].tolist()
    assert len(largest(row, 100)) == 60


@pytest.mark.parametrize("call", ["activation_patching", "attribution_patching"])
def test_patching_knows_how_far_the_dtype_rounds(sixteen, call):
    found = getattr(sixteen.model, call)([1, 5, 9], [1, 7, 9], "mlp", metric=logit_difference(4, 7))
    dtype = str(sixteen.model.trace([1, 5, 9], capture=[RESID]).activations[RESID].dtype)
    assert found.eps == (2**-7 if "bfloat16" in dtype else 2**-10)

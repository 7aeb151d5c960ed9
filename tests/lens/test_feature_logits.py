"""The logit lens of a decoder row against plain NumPy on the checkpoint's own weights, in both backends."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load_file

from mlxterp import (
    SAE,
    ComponentError,
    InputError,
    InterpretableModel,
    MlxterpWarning,
    SAEError,
    UnknownFeatureError,
)
from mlxterp.core.numeric import largest
from mlxterp.lens.feature_logits import direction_logits
from mlxterp.lens.linear_part import LinearPart, find_shape
from mlxterp.tracing.passes import unembed
from mlxterp.variants import TopK
from mlxterp.weights import SAEWeights
from tests.architectures import build, model_types
from tests.small import checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::mlxterp.ConfigWarning")

ONES = {"llama": 0.0, "qwen2": 0.0, "gemma2": 1.0}
"""What is added to the gains that RMSNorm models store."""


def numpy_lens(weights: dict[str, np.ndarray], model_type: str, rows: np.ndarray) -> np.ndarray:
    """Centred logits (n, vocabulary) of directions of the residual stream, by the weights' own names."""
    w = {k.removeprefix("transformer."): v.astype(np.float64) for k, v in weights.items()}
    if model_type in ONES:
        gain = w["model.norm.weight"] + ONES[model_type]
        head = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    else:
        rows = rows - rows.mean(axis=1, keepdims=True)
        names = ("ln_f.weight", "wte.weight")
        if model_type == "gpt_neox":
            names = ("gpt_neox.final_layer_norm.weight", "embed_out.weight")
        gain, head = w[names[0]], w[names[1]]
    logits = (rows * gain) @ head.T
    return logits - logits.mean(axis=1, keepdims=True)


def sae_at(component: str, width: int, d_hidden: int = 12, seed: int = 0, **facts: Any) -> SAE:
    """Random, with decoder rows of very different length."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(d_hidden, width)) * np.geomspace(1e-3, 1e2, d_hidden)[:, None]
    weights = SAEWeights(rng.normal(size=(width, d_hidden)), np.zeros(d_hidden), rows, np.zeros(width))
    return SAE(weights, TopK(k=3), {"component": component, **facts})


def logits_of(model: InterpretableModel, sae: SAE, component: str | None = None) -> np.ndarray:
    return np.concatenate(
        [logits for logits, _ in direction_logits(model.anatomy, sae, sae.W_dec, component)]
    )


@cache
def opened(folder: Path, backend: str) -> tuple[InterpretableModel, dict[str, np.ndarray]]:
    weights: dict[str, np.ndarray] = {}
    for file in folder.glob("*.safetensors"):
        weights |= load_file(file)
    return InterpretableModel(folder, backend=backend), weights


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory):
    pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("models")
    types = ("llama", "qwen2", "gemma2", "gpt2", "gpt_neox")
    return {model_type: checkpoint(model_type, root / model_type) for model_type in types}


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(
        np.allclose(found, expected, rtol=2e-4, atol=2e-5 * np.abs(expected).max(axis=1, keepdims=True))
    )


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gemma2", "gpt2", "gpt_neox"])
class TestTheLensEqualsNumpy:
    @pytest.mark.parametrize(
        "component", ["layers.1.resid_post", "layers.0.resid_pre", "layers.2", "layers.1.mlp_out"]
    )
    def test_where_an_sae_writes_into_the_stream(self, backend, folders, model_type, component):
        model, weights = opened(folders[model_type], backend)
        sae = sae_at(component, model.d_model)
        expected = numpy_lens(weights, model_type, sae.W_dec.astype(np.float64))
        assert close(logits_of(model, sae), expected)

    def test_at_z_and_at_an_mlps_hidden_layer(self, backend, folders, model_type):
        model, weights = opened(folders[model_type], backend)
        for component, name in INNER[model_type].items():
            projection = weights[name].astype(np.float64)
            matrix = projection if model_type == "gpt2" else projection.T  # Conv1D is stored the other way
            sae = sae_at(component, matrix.shape[0])
            rows = sae.W_dec.astype(np.float64) @ matrix
            if model_type == "gemma2":  # what a sublayer puts out is normalised before it is added
                after = "post_attention_layernorm" if "z" in component else "post_feedforward_layernorm"
                rows = rows * (1 + weights[f"model.layers.1.{after}.weight"].astype(np.float64))
            assert close(logits_of(model, sae), numpy_lens(weights, model_type, rows))


_LLAMA = {
    "layers.1.attn.z": "model.layers.1.self_attn.o_proj.weight",
    "layers.1.mlp.down_proj.input": "model.layers.1.mlp.down_proj.weight",
}
INNER = {
    "llama": _LLAMA,
    "gemma2": _LLAMA,
    "qwen2": {"layers.1.self_attn.o_proj.input": "model.layers.1.self_attn.o_proj.weight"},
    "gpt2": {
        "blocks.1.attn.hook_z": "h.1.attn.c_proj.weight",
        "blocks.1.mlp.hook_post": "h.1.mlp.c_proj.weight",
    },
    "gpt_neox": {
        "layers.1.attn.z": "gpt_neox.layers.1.attention.dense.weight",
        "blocks.1.mlp.hook_post": "gpt_neox.layers.1.mlp.dense_4h_to_h.weight",
    },
}


@pytest.mark.parametrize(
    "component",
    [
        "layers.1.attn.q",
        "layers.1.attn.v",
        "layers.1.mlp.gate_proj",
        "layers.1.mlp.up_proj",
        "layers.1.mlp.input",
        "layers.1.input_layernorm",
        "final_norm",
        "lm_head",
    ],
)
def test_where_no_linear_map_leads_to_the_stream_an_error_says_what_can_be_done(folders, component):
    model, _ = opened(folders["llama"], "torch")
    width = model.trace([1, 2]).activations[component].reshape((1, 2, -1)).shape[-1]
    with pytest.raises(SAEError, match=r"Use an SAE of the residual stream|wide"):
        model.feature_logits(sae_at(component, int(width)), 0)


def test_a_head_in_16_bit_gives_the_same_but_for_its_rounding(folders):
    mx = pytest.importorskip("mlx.core")
    for model_type in ("gemma2", "gpt2"):
        model, weights = opened(folders[model_type], "mlx")
        raw = InterpretableModel(folders[model_type], backend="mlx").language_model.model  # type: ignore[attr-defined]
        raw.set_dtype(mx.bfloat16)
        sae = sae_at("layers.1.resid_post", model.d_model)
        expected = numpy_lens(weights, model_type, sae.W_dec.astype(np.float64))
        found = logits_of(InterpretableModel(raw), sae)
        size = np.abs(expected).max(axis=1)
        assert (np.abs(found - expected).max(axis=1) < 0.03 * size).all()


# -- laws -----------------------------------------------------------------------------------------


def _norm_and_head(kind: str, matrix: np.ndarray, bias: np.ndarray, cap: float | None):
    def function(rows: np.ndarray) -> np.ndarray:
        x = rows.astype(np.float64)
        if kind == "layer_norm":
            x = x - x.mean(axis=1, keepdims=True)
        if kind != "none":
            x = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5)
        out = x @ matrix
        return (out + bias if cap is None else cap * np.tanh(out / cap)).astype(np.float32)

    return function


@given(
    st.sampled_from(["none", "rms_norm", "layer_norm"]),
    st.sampled_from([None, 5.0, 30.0]),
    st.integers(0, 1000),
    arrays(np.float64, (3, 24), elements=st.floats(-1e3, 1e3, width=32)),
)
@settings(max_examples=60, deadline=None)
def test_the_linear_part_of_a_norm_a_matrix_and_a_cap_is_the_matrix(kind, cap, seed, rows):
    rng = np.random.default_rng(seed)
    matrix, bias = rng.normal(size=(24, 40)), rng.normal(size=40)
    cap = None if kind == "none" else cap
    part = LinearPart.of(_norm_and_head(kind, matrix, bias, cap), 24)
    moved = rows - rows.mean(axis=1, keepdims=True) if kind == "layer_norm" else rows
    size = np.linalg.norm(rows, axis=1, keepdims=True)
    assert part.shape.normed == (kind != "none") and part.shape.centred == (kind == "layer_norm")
    assert part.shape.cap is None if cap is None else part.shape.cap == pytest.approx(cap, rel=1e-2)
    assert (np.abs(part(rows) - moved @ matrix) <= 2e-2 * size).all()


def test_what_is_not_linear_shows_as_an_error():
    matrix = np.random.default_rng(0).normal(size=(24, 40))
    assert find_shape(lambda rows: np.maximum(rows @ matrix, 0).astype(np.float32), 24).error > 0.1
    assert find_shape(lambda rows: ((rows @ matrix) ** 3).astype(np.float32), 24).error > 0.1


@given(arrays(np.float64, st.integers(1, 30), elements=st.integers(-3, 3)), st.integers(1, 40))
def test_the_largest_are_those_of_a_stable_sort(row, k):
    assert largest(row, k).tolist() == np.argsort(-row, kind="stable")[:k].tolist()


@pytest.mark.parametrize("distinct", [1, 7, 10**6])
@pytest.mark.parametrize("k", [1, 10, 700, 2999, 3000])
def test_the_largest_of_a_long_row_are_those_of_a_stable_sort(distinct, k):
    row = np.random.default_rng(0).integers(0, distinct, 3000).astype(np.float32)
    for ordered in (row, np.sort(row), -np.sort(row)):
        assert largest(ordered, k).tolist() == np.argsort(-ordered, kind="stable")[:k].tolist()


def test_of_no_numbers_none_is_the_largest():
    assert largest(np.zeros(0), 3).tolist() == []


# -- every architecture ---------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", model_types())
def test_final_norm_and_head_of_every_architecture_are_linear_but_for_a_cap(model_type):
    pytest.importorskip("mlx_lm")
    model = InterpretableModel(build(model_type))
    if model_type in NOT_ONE_STREAM - {"kimi_k3"}:
        with pytest.raises(ComponentError):
            model.feature_logits(sae_at("layers.0.resid_post", model.d_model), 0)
        return
    backend = model.language_model.backend
    found = find_shape(lambda rows: backend.get(model.unembed(rows.astype(np.float32))), model.d_model)
    assert found.normed and found.error < 0.01
    assert (found.cap is None) == (model_type not in CAPPED)


CAPPED = {"gemma2", "gemma4", "gemma4_text", "muse_glimmer", "nanochat", "recurrent_gemma"}
NOT_ONE_STREAM = {"gemma3n", "deepseek_v41", "kimi_k3", "iquestloopcoder"}


# -- what comes and goes --------------------------------------------------------------------------


def test_a_direction_of_zeros_promotes_nothing(folders):
    model, _ = opened(folders["gpt2"], "torch")
    weights = sae_at("layers.0", model.d_model).weights
    rows = np.stack([np.zeros(model.d_model), np.full(model.d_model, 3.0), np.arange(model.d_model)] * 4)
    sae = SAE(replace(weights, W_dec=rows), TopK(k=3), {"component": "layers.0"})
    zero, mean, some = model.feature_logits(sae, [0, 1, 2])
    for nothing in (zero, mean):  # LayerNorm takes the mean away
        assert nothing.promoted == nothing.suppressed == () and nothing.sd == nothing.maximum == 0
    assert len(some.promoted) == len(some.suppressed) == 10
    assert zero.strength == 0 and mean.strength == pytest.approx(3 * model.d_model**0.5)


def test_several_features_give_what_each_gives_alone(folders, monkeypatch):
    model, _ = opened(folders["llama"], "torch")
    sae = sae_at("layers.0", model.d_model)
    alone = [model.feature_logits(sae, feature, 4) for feature in range(12)]
    module = sys.modules["mlxterp.lens.feature_logits"]
    for cells in (1, 700, 1 << 22):
        monkeypatch.setattr(module, "_CELLS", cells)
        monkeypatch.setattr(module, "_ROWS", 1 + cells % 11)
        for one, other in zip(model.feature_logits(sae, range(12), 4), alone, strict=True):
            assert one.promoted_ids == other.promoted_ids and one.suppressed_ids == other.suppressed_ids
            assert one.maximum == pytest.approx(other.maximum, rel=1e-5)


def test_a_sign_turned_round_swaps_what_is_promoted_and_suppressed(folders):
    model, _ = opened(folders["llama"], "torch")
    sae = sae_at("layers.0", model.d_model)
    turned = sae.replace(weights=replace(sae.weights, W_dec=-sae.W_dec))
    a, b = model.feature_logits(sae, 7), model.feature_logits(turned, 7)
    assert a.promoted_ids == b.suppressed_ids and a.skew == pytest.approx(-b.skew, rel=1e-4)


def test_what_cannot_be_asked_is_refused(folders):
    model, _ = opened(folders["llama"], "torch")
    sae = sae_at("layers.0", model.d_model)
    for bad in (12, -1, True, "3", 2.0, [0, 12]):
        with pytest.raises((UnknownFeatureError, InputError)):
            model.feature_logits(sae, bad)  # type: ignore[call-overload]
    bads: list[Any] = [0, -1, True, 2.5, "x"]
    for bad in bads:
        with pytest.raises(InputError, match="top_k"):
            model.feature_logits(sae, 0, bad)
        with pytest.raises(InputError, match="n is"):
            model.random_direction_baseline(sae, bad)
    with pytest.raises(InputError, match="component="):
        model.feature_logits(SAE(sae.weights, TopK(k=3)), 0)
    with pytest.raises(SAEError, match="wide"):
        model.feature_logits(sae_at("layers.0", 7), 0)
    assert model.feature_logits(sae, []) == []
    assert len(model.feature_logits(sae, 0, 10_000).promoted) == model.vocab_size


def test_a_transcoder_is_read_where_it_writes(folders):
    model, weights = opened(folders["llama"], "torch")
    sae = sae_at("layers.1.mlp.input", model.d_model, component_out="layers.1.mlp")
    expected = numpy_lens(weights, "llama", sae.W_dec.astype(np.float64))
    assert close(logits_of(model, sae), expected)
    with pytest.raises(InputError, match="where it writes"):
        model.feature_logits(sae_at("layers.1.mlp.input", model.d_model, architecture="transcoder"), 0)


def test_random_directions_are_seeded_and_lie_as_random_features_do(folders):
    model, _ = opened(folders["llama"], "torch")
    sae = sae_at("layers.0", model.d_model, d_hidden=200)
    one, again = (model.random_direction_baseline(sae, 300, seed=4) for _ in range(2))
    assert np.array_equal(one.maximum, again.maximum) and one.n == 300
    assert not np.array_equal(one.maximum, model.random_direction_baseline(sae, 300, seed=5).maximum)
    shares = [one.share_with_higher_maximum(f) for f in model.feature_logits(sae, range(200))]
    assert 0.4 < np.mean(shares) < 0.6 and np.mean(np.array(shares) < 0.1) < 0.2  # uniform, as they must be
    assert one.quantiles((0.5,))["maximum"][0] == pytest.approx(np.median(one.maximum))
    assert "kurtosis" in str(one)


TORCH_TYPES = (
    "llama", "gpt2", "qwen2", "gemma2", "gemma3_text", "gpt_neox", "opt", "mixtral", "olmo2", "gpt_oss", "phi", "bloom",
    "mamba", "jamba",
)  # fmt: skip


@pytest.mark.parametrize("model_type", TORCH_TYPES)
def test_so_they_are_in_transformers(model_type):
    from tests.backends import tiny_torch

    model = tiny_torch.tiny(model_type)
    found = find_shape(lambda rows: model.backend.get(unembed(model, rows.astype(np.float32))), model.d_model)
    assert found.normed and found.error < 1e-3
    assert (found.cap is None) == (model_type != "gemma2")


def test_a_model_without_a_final_norm_is_linear_as_it_is():
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    config = transformers.OpenAIGPTConfig(vocab_size=90, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    model = InterpretableModel(transformers.OpenAIGPTLMHeadModel(config).eval())
    sae = sae_at("layers.1", 32)
    expected = sae.W_dec.astype(np.float64) @ model.language_model.model.lm_head.weight.detach().numpy().T  # type: ignore[attr-defined]
    assert close(logits_of(model, sae), expected - expected.mean(axis=1, keepdims=True))


def test_a_head_that_is_more_than_a_matrix_is_said_to_be():
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    config = transformers.ModernBertDecoderConfig(
        vocab_size=90, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
    )  # fmt: skip
    model = InterpretableModel(transformers.ModernBertDecoderForCausalLM(config).eval())
    with pytest.warns(MlxterpWarning, match="not linear"):
        assert model.feature_logits(sae_at("layers.1", 32), 0).promoted

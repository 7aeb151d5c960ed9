"""What a block adds, compared with models whose sublayers really put out nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from mlxterp import ComponentError, InterpretableModel
from mlxterp.anatomy.residual import Branch, Precision, find_rule
from mlxterp.interventions import zero_out
from tests.architectures import build, configs, model_types

RNG = np.random.default_rng(0)
PRE, A, M, F, G = (RNG.standard_normal((1, 8, 16)) for _ in range(5))
EXACT = Precision(4e-6)

MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "moe", "mlp_block", "ff_out")
ATTENTION = ("self_attn", "attention", "attn", "linear_attn", "mamba", "conv", "mixer", "temporal_block",
             "norm_attn_norm.attn", "attn_out", "local_mixer")  # fmt: skip
"""What the sublayers are called in mlx-lm's architectures, read in its sources."""
SUBLAYERS = {
    ("granitemoehybrid", "mlp_out"): ("block_sparse_moe", "shared_mlp"),
    ("falcon_h1", "attn_out"): ("mamba", "self_attn"),
    ("exaone", "attn_out"): ("attn.attention",),
    ("longcat_flash", "mlp_out"): ("mlps.0",),
    ("longcat_flash", "attn_out"): ("self_attn.0",),
    ("longcat_flash_ngram", "mlp_out"): ("mlps.0",),
    ("longcat_flash_ngram", "attn_out"): ("self_attn.0",),
}
"""Where a sublayer is more than the one module of these names, or one of several."""
NOT_ONE_STREAM = {"gemma3n", "deepseek_v41", "kimi_k3", "iquestloopcoder"}
GO_ON = {"gemma4", "gemma4_text", "longcat_flash", "longcat_flash_ngram"}
"""Architectures whose blocks add again after the MLP did."""


def ids_for(model_type: str) -> list[int]:
    return [7] if model_type == "olmo" else [3, 14, 15, 92, 65, 35, 89, 79]


def inner(block: Any, path: str) -> Any:
    for part in path.split("."):
        block = block[int(part)] if part.isdigit() else getattr(block, part, None)
        if block is None:
            return None
    return block


def sublayer(model_type: str, block: Any, leaf: str) -> list[Any]:
    """The modules whose outputs together are what `leaf` is made of."""
    if (model_type, leaf) in SUBLAYERS:
        return [module for path in SUBLAYERS[model_type, leaf] if (module := inner(block, path)) is not None]
    found = (inner(block, name) for name in (MLP if leaf == "mlp_out" else ATTENTION))
    return [module for module in found if module is not None][:1]


@lru_cache(maxsize=1)
def opened(model_type: str) -> tuple[Any, InterpretableModel]:
    """An architecture's random model, for both leaves of it."""
    raw = build(model_type)
    return raw, InterpretableModel(raw)


@contextmanager
def put_out_nothing(modules: list[Any]) -> Iterator[None]:
    """Calls of these very modules return zeros; nothing of mlxterp is involved."""
    own = [type(module) for module in modules]
    for module in modules:
        call = type(module).__call__

        def zeros(self: Any, *args: Any, call: Any = call, **options: Any) -> Any:
            out = call(self, *args, **options)
            return (out[0] * 0, *out[1:]) if isinstance(out, tuple) else out * 0

        module.__class__ = type("Zero", (type(module),), {"__call__": zeros})
    try:
        yield
    finally:
        for module, cls in zip(modules, own, strict=True):
            module.__class__ = cls


@pytest.mark.parametrize("leaf", ["attn_out", "mlp_out"])
@pytest.mark.parametrize("model_type", model_types())
def test_zeroing_what_a_sublayer_adds_is_the_model_without_it(model_type, leaf):
    mx = pytest.importorskip("mlx.core")
    if model_type in NOT_ONE_STREAM:
        pytest.skip("not one residual stream")
    raw, model, ids = *opened(model_type), ids_for(model_type)
    plain, compared = np.array(model(ids)), 0
    for layer, path in enumerate(model.language_model.layers):
        block = model.language_model.tree.by_path[path].module  # type: ignore[attr-defined]
        try:
            edited = np.array(model.trace(ids, {f"layers.{layer}.{leaf}": zero_out()}).output)
        except ComponentError as error:
            assert "one sublayer" in str(error) or "by subtraction" in str(error)
            continue
        modules = sublayer(model_type, block, leaf)
        assert modules, f"{path}: no module known for {leaf}"
        with put_out_nothing(modules):
            expected = np.array(raw(mx.array([ids])))
        assert np.abs(edited - expected).max() <= 1e-4 * max(1.0, np.abs(plain).max()), path
        compared += 1
    by_subtraction = leaf == "attn_out" and model_type in {"falcon_h1"}
    one_sublayer = leaf == "mlp_out" and model_type in {"mamba", "mamba2", "nemotron_h"}
    assert (compared > 0) != (by_subtraction or one_sublayer)


@pytest.mark.parametrize("model_type", model_types())
def test_the_additions_and_what_comes_further_are_the_whole_block(model_type):
    pytest.importorskip("mlx.core")
    if model_type in NOT_ONE_STREAM:
        pytest.skip("not one residual stream")
    model, ids = InterpretableModel(build(model_type)), ids_for(model_type)
    table = model.components()
    assert any(name.endswith(".further_out") for name in table) == (model_type in GO_ON)
    check_identities(model, ids)


def check_identities(model: InterpretableModel, ids: list[int]) -> None:
    """resid_pre + attn_out = resid_mid, + mlp_out + further_out = resid_post, where they are."""
    table, get = model.components(), model.language_model.backend.get
    for layer in range(model.n_layers):
        leaves = ("resid_pre", "attn_out", "resid_mid", "mlp_out", "further_out", "resid_post")
        names = [name for leaf in leaves if (name := f"layers.{layer}.{leaf}") in table]
        t = model.trace(ids, capture=names)
        v = {name.rpartition(".")[2]: get(t.activations[name]).astype(np.float64) for name in names}
        close = 2e-5 * np.abs(v["resid_post"]).max()
        added = v["resid_pre"] + v["attn_out"]
        if "resid_mid" in v:
            assert np.abs(v["resid_mid"] - added).max() <= close
        assert np.abs(v["resid_post"] - added - v.get("mlp_out", 0) - v.get("further_out", 0)).max() <= close


# -- variants of checkpoints ----------------------------------------------------------------------

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "num_attention_heads": 2,
         "num_key_value_heads": 1, "head_dim": 16, "global_head_dim": 16, "vocab_size": 96,
         "vocab_size_per_layer_input": 96, "num_kv_shared_layers": 0, "max_position_embeddings": 64,
         "layer_types": ["sliding_attention", "full_attention"], "use_double_wide_mlp": False}  # fmt: skip
MOE = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16}


@pytest.mark.parametrize("scalar", [1.0, 0.7])
@pytest.mark.parametrize("per_layer", [0, 8])
@pytest.mark.parametrize("experts", [False, True])
def test_gemma4_in_all_its_forms(scalar, per_layer, experts):
    mx = pytest.importorskip("mlx.core")
    raw = gemma4(scalar, hidden_size_per_layer_input=per_layer, **(MOE if experts else {}))
    model, ids = InterpretableModel(raw), ids_for("gemma4_text")
    for layer, block in enumerate(raw.model.layers):
        edited = np.array(model.trace(ids, {f"layers.{layer}.mlp_out": zero_out()}).output)
        with put_out_nothing([block.post_feedforward_layernorm]):
            assert np.abs(edited - np.array(raw(mx.array([ids])))).max() <= 1e-4
        further = f"layers.{layer}.further_out"
        assert (further in model.components()) == (per_layer > 0 or scalar != 1)
        if scalar == 1 and per_layer:
            edited = np.array(model.trace(ids, {further: zero_out()}).output)
            with put_out_nothing([block.post_per_layer_input_norm]):
                assert np.abs(edited - np.array(raw(mx.array([ids])))).max() <= 1e-4
    check_identities(model, ids)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gemma4_in_16_bits_has_the_same_additions(dtype):
    mx = pytest.importorskip("mlx.core")
    raw = gemma4(1.0, hidden_size_per_layer_input=8)
    expected = InterpretableModel(raw).components()["layers.1.mlp_out"]
    raw.set_dtype(getattr(mx, dtype))
    table = InterpretableModel(raw).components()
    assert table["layers.1.mlp_out"] == expected == "output of model.layers.1.post_feedforward_layernorm"
    assert table["layers.1.further_out"] == "output of model.layers.1.post_per_layer_input_norm"


def gemma4(scalar: float, **settings: Any) -> Any:
    """A small random model with gains that are not 1."""
    mx = pytest.importorskip("mlx.core")
    from mlx.utils import tree_map
    from mlx_lm.models import gemma4_text

    if "gemma4_text" not in configs():
        pytest.skip("this mlx-lm has no gemma4")
    mx.random.seed(0)
    model = gemma4_text.Model(
        gemma4_text.ModelArgs.from_dict({**configs()["gemma4_text"], **SHAPE, **settings})
    )
    model.eval()
    model.update(tree_map(lambda p: p + 0.2 * mx.random.normal(p.shape), model.parameters()))
    for block in model.model.layers:
        block.layer_scalar = mx.array([scalar])
    mx.eval(model.parameters())
    return model


def test_gemma4_is_the_same_in_torch():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "Gemma4TextConfig"):
        pytest.skip("this transformers has no gemma4")
    torch.manual_seed(0)
    config = transformers.Gemma4TextConfig(
        **SHAPE, hidden_size_per_layer_input=8, sliding_window=16, pad_token_id=0, initializer_range=0.2
    )
    raw = transformers.AutoModelForCausalLM.from_config(config).eval()
    model, ids = InterpretableModel(raw), ids_for("gemma4_text")
    for layer, block in enumerate(raw.model.layers):
        edited = model.trace(ids, {f"layers.{layer}.mlp_out": zero_out()}).output
        handle = block.mlp.register_forward_hook(lambda module, args, out: out * 0)
        with torch.no_grad():
            expected = raw(torch.tensor([ids])).logits
        handle.remove()
        assert (edited - expected).abs().max() <= 1e-4
        assert f"layers.{layer}.further_out" in model.components()
    check_identities(model, ids)


def test_talkie_adds_the_embedding_again_after_the_mlp():
    mx = pytest.importorskip("mlx.core")
    if "talkie" not in configs():
        pytest.skip("this mlx-lm has no talkie")
    raw = build("talkie")
    for block in raw.model.blocks:  # the skip is 0 in a model that was never trained
        skip = block.embed_skip
        skip.update({name: mx.full(p.shape, 0.3) for name, p in skip.parameters().items()})
    model, ids = InterpretableModel(raw), ids_for("talkie")
    for leaf, module in (("mlp_out", "mlp"), ("attn_out", "attn"), ("further_out", "embed_skip")):
        edited = np.array(model.trace(ids, {f"layers.1.{leaf}": zero_out()}).output)
        with put_out_nothing([getattr(raw.model.blocks[1], module)]):
            assert np.abs(edited - np.array(raw(mx.array([ids])))).max() <= 1e-4
    check_identities(model, ids)


def test_a_block_that_adds_twice_has_nothing_further(demo):
    with pytest.raises(ComponentError, match="nothing to the stream after mlp_out"):
        demo.model.trace([1, 2], capture=["layers.0.further_out"])


# -- the rule, on numbers made by hand --------------------------------------------------------------


def test_a_third_addition_is_not_the_mlps():
    mid, late = PRE + A, PRE + A + M
    inputs = {"norm": PRE, "norm2": mid, "gate": late}
    rule = find_rule(PRE, late + F, inputs, {"attn": A, "mlp": M, "extra": F}, EXACT)
    assert (rule.kind, rule.middle, rule.attn, rule.mlp) == (
        "sequential", "norm2", Branch("attn", 1.0), Branch("mlp", 1.0)
    )  # fmt: skip
    assert (rule.more, rule.after, rule.further) == (True, "gate", Branch("extra", 1.0))


def test_what_follows_the_mlp_may_be_known_by_subtraction_only():
    mid, late = PRE + A, PRE + A + M
    inputs = {"norm": PRE, "norm2": mid, "gate": late}
    rule = find_rule(PRE, 0.5 * (late + F), inputs, {"attn": A, "mlp": M, "extra": F}, EXACT)
    assert rule.mlp == Branch("mlp", 1.0) and rule.more and rule.further is None


def test_a_block_may_scale_the_stream_at_its_end():
    mid = PRE + A
    rule = find_rule(PRE, 0.7 * (mid + M), {"norm": PRE, "norm2": mid}, {"attn": A, "mlp": M}, EXACT)
    assert (rule.attn, rule.mlp, rule.more) == (Branch("attn", 1.0), Branch("mlp", 1.0), True)


def test_experts_beside_a_shared_mlp_are_one_sublayer():
    mid = PRE + A
    inputs = {"norm": PRE, "norm2": mid, "moe": G, "shared": G}
    rule = find_rule(PRE, mid + M + F, inputs, {"attn": A, "moe": M, "shared": F}, EXACT)
    assert (rule.kind, rule.attn, rule.mlp, rule.more) == ("middle", Branch("attn", 1.0), None, False)


def test_a_later_addition_that_takes_another_input_is_no_part_of_the_mlp():
    mid = PRE + A
    inputs = {"norm": PRE, "norm2": mid, "mlp": G, "skip": A}
    rule = find_rule(PRE, mid + M + F, inputs, {"attn": A, "mlp": M, "skip": F}, EXACT)
    assert (rule.attn, rule.mlp, rule.further) == (
        Branch("attn", 1.0), Branch("mlp", 1.0), Branch("skip", 1.0)
    )  # fmt: skip


def test_three_additions_at_once_are_told_apart_by_the_order_of_their_calls():
    rule = find_rule(PRE, PRE + A + M + F, {"norm": PRE}, {"attn": A, "mlp": M, "skip": F}, EXACT)
    assert (rule.kind, rule.attn, rule.mlp, rule.further) == (
        "parallel", Branch("attn", 1.0), Branch("mlp", 1.0), Branch("skip", 1.0)
    )  # fmt: skip

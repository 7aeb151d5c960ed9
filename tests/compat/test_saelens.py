"""Code of TransformerLens runs here: the laws of hooks and caches, in both wings."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from mlxterp import ComponentError, EditError, InputError, interventions
from mlxterp.compat.saelens import get_act_name
from tests.compat.lens import IDS, at, numpy, opened

# -- caches --------------------------------------------------------------------------------------


def test_a_cache_holds_what_a_trace_does_with_heads_after_positions(model):
    logits, cache = model.run_with_cache(IDS)
    assert np.array_equal(numpy(model, logits), numpy(model, model.interpretable(IDS)))
    rotary = "blocks.0.attn.hook_rot_q" in cache
    assert rotary == (model.interpretable.language_model.model_type == "llama")
    with model.interpretable.trace(IDS) as t:
        pass
    for layer in range(3):
        for name in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"):
            expected = numpy(model, t.activations[f"layers.{layer}.{name}"])
            assert np.array_equal(numpy(model, cache[at(layer, name)]), expected), name
        for port in ("q", "k", "v", "z"):
            name = f"rot_{port}" if rotary and port in "qk" else port
            expected = numpy(model, t.activations[f"layers.{layer}.attn.{port}"]).swapaxes(1, 2)
            assert np.array_equal(numpy(model, cache[name, layer]), expected), name
        pattern = numpy(model, t.activations[f"layers.{layer}.attn.pattern"])
        assert np.array_equal(numpy(model, cache["pattern", layer]), pattern)
    heads = model.cfg.n_key_value_heads or model.cfg.n_heads
    assert cache["v", 0].shape == (1, 10, heads, model.cfg.d_head) and cache["z", 0].shape == (1, 10, 4, 16)


def test_queries_before_rotary_embedding_are_the_projections_by_heads(folders, backend):
    model = opened(folders["llama"], backend)
    _, cache = model.run_with_cache(IDS, names_filter=lambda name: name.startswith("blocks.1.attn"))
    t = model.interpretable.trace(IDS, capture=["layers.1.self_attn.q_proj", "layers.1.self_attn.k_proj"])
    for port, heads in (("q", 4), ("k", 2)):
        flat = numpy(model, t.activations[f"layers.1.self_attn.{port}_proj"])
        found = numpy(model, cache[port, 1])
        assert found.shape == (1, 10, heads, 16) and np.array_equal(found.reshape(flat.shape), flat)
        assert not np.allclose(found, numpy(model, cache[f"rot_{port}", 1]))
        assert np.allclose(found[:, 0], numpy(model, cache[f"rot_{port}", 1])[:, 0], atol=1e-6)  # position 0


def test_cache_keys_and_filters(gpt2):
    _, cache = gpt2.run_with_cache(IDS, names_filter=["blocks.1.hook_resid_pre", "blocks.2.mlp.hook_post"])
    assert list(cache.keys()) == ["blocks.1.hook_resid_pre", "blocks.2.mlp.hook_post"] and len(cache) == 2
    assert cache["resid_pre", -2] is cache["resid_pre1"] is cache["blocks.1.hook_resid_pre"]
    assert cache["post", 2].shape == (1, 10, 256) and "z0" not in cache
    with pytest.raises(ComponentError, match="not in this cache"):
        cache["resid_pre", 0]
    _, plain = gpt2.run_with_cache(
        IDS, names_filter="hook_embed", remove_batch_dim=True, return_cache_object=False
    )
    assert type(plain) is dict and plain["hook_embed"].shape == (10, 64)
    _, stacked = gpt2.run_with_cache(IDS, names_filter=lambda name: name.endswith("resid_post"))
    assert stacked.stack_activation("resid_post").shape == (3, 1, 10, 64)


def test_names_that_are_not_here_say_what_to_use(gpt2):
    for name, hint in (
        ("attn_scores", "hook_pattern"),
        ("result", "hook_z"),
        ("mlp_in", "ln2"),
        ("resid", "hook_dict"),
    ):
        with pytest.raises(ComponentError, match=hint):
            gpt2.run_with_cache(IDS, names_filter=at(0, name))
    with pytest.raises(ComponentError, match="hook_dict"):
        gpt2.add_hook("blocks.7.hook_resid_pre", lambda x, hook: x)


def test_short_names():
    assert get_act_name("k6") == get_act_name("k", 6, "a") == "blocks.6.attn.hook_k"
    assert get_act_name("normalized", 27, "ln2") == "blocks.27.ln2.hook_normalized"
    assert get_act_name("scale4ln1") == "blocks.4.ln1.hook_scale" and get_act_name("embed") == "hook_embed"
    assert get_act_name("normalized") == "ln_final.hook_normalized" and get_act_name("pre5") == at(
        5, "mlp_pre"
    )
    assert get_act_name("blocks.1.hook_resid_pre") == "blocks.1.hook_resid_pre"


@pytest.mark.parametrize("stop", [0, 2, -1, 3])
def test_stopping_gives_the_stream_there_and_caches_what_is_before(model, stop):
    layer = stop % 4 if stop >= 0 else 2
    touched: list[str] = []
    with model.hooks(
        fwd_hooks=[(lambda name: "resid_pre" in name, lambda x, hook: touched.append(hook.name))]
    ):
        out, cache = model.run_with_cache(IDS, stop_at_layer=stop)
    path = f"layers.{layer}.resid_pre" if layer < 3 else "layers.2.resid_post"
    expected = model.interpretable.trace(IDS, capture=[path]).activations[path]
    assert np.array_equal(numpy(model, out), numpy(model, expected))
    assert all(int(name.split(".")[1]) < layer for name in cache if name != "hook_embed")
    assert len(touched) == layer and (layer == 0 or ("resid_post", layer - 1) in cache)


# -- hooks ---------------------------------------------------------------------------------------


def test_a_hook_that_returns_its_input_changes_nothing_bit_for_bit(model):
    plain = numpy(model, model(IDS))
    for name in model.hook_dict:
        for function in (lambda x, hook: x, lambda x, hook: None):
            found = numpy(model, model.run_with_hooks(IDS, fwd_hooks=[(name, function)]))
            if name.endswith("hook_pattern"):  # attention is computed another way there
                assert np.allclose(found, plain, atol=1e-5)
            else:
                assert np.array_equal(found, plain), name


@pytest.mark.parametrize(
    "name", ["resid_pre", "resid_mid", "attn_out", "mlp_out", "z", "v", "pattern", "mlp_post"]
)
def test_a_hook_that_zeroes_is_zero_out(model, name):
    path = f"layers.1.attn.{name}" if name in ("z", "v", "pattern") else f"layers.1.{name}"
    path = "layers.1.mlp.hook_post" if name == "mlp_post" else path
    expected = model.interpretable.trace(IDS, {path: interventions.zero_out()}, capture=[]).output
    found = model.run_with_hooks(IDS, fwd_hooks=[(at(1, name), lambda x, hook: x * 0)])
    assert np.array_equal(numpy(model, found), numpy(model, expected))
    assert np.abs(numpy(model, found) - numpy(model, model(IDS))).max() > 1e-4


def test_what_a_hook_writes_in_place_counts_in_their_layout(model):
    seen: list[Any] = []

    def silence(z: Any, hook: Any, head: int) -> None:
        seen.append((hook.name, hook.layer(), tuple(z.shape)))
        z[:, 2:, head] = 0

    found = model.run_with_hooks(IDS, fwd_hooks=[(at(1, "z"), partial(silence, head=3))])
    change = {"layers.1.attn.z": interventions.zero_out(positions=slice(2, None), heads=3)}
    expected = model.interpretable.trace(IDS, change, capture=[]).output
    assert np.array_equal(numpy(model, found), numpy(model, expected))
    assert seen == [("blocks.1.attn.hook_z", 1, (1, 10, 4, 16))]


def test_hooks_act_in_order_and_a_cache_shows_what_they_left(model):
    name = at(1, "resid_pre")
    model.add_hook(name, lambda x, hook: x + 1)
    model.add_hook(name, lambda x, hook: x * 2)
    model.add_hook(name, lambda x, hook: x * 0, prepend=True)
    _, cache = model.run_with_cache(IDS)
    assert np.array_equal(numpy(model, cache[name]), np.full((1, 10, 64), 2, np.float32))


def test_added_and_reset_hooks_leave_the_same_bits(model):
    plain = numpy(model, model(IDS))
    model.add_hook(lambda name: name.endswith("hook_mlp_out"), lambda x, hook: x * 0)
    model.add_perma_hook(at(0, "resid_pre"), lambda x, hook: x * 2)
    assert np.abs(numpy(model, model(IDS)) - plain).max() > 1e-3
    model.reset_hooks()
    assert np.abs(numpy(model, model(IDS)) - plain).max() > 1e-3
    model.reset_hooks(including_permanent=True)
    assert np.array_equal(numpy(model, model(IDS)), plain)


def test_a_block_of_hooks_ends_with_an_exception_and_leaves_others(model):
    model.add_hook(at(0, "mlp_out"), lambda x, hook: x * 0)
    once = numpy(model, model(IDS))

    def fail(x: Any, hook: Any) -> None:
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"), model.hooks([(at(1, "z"), fail)]):
        model(IDS)
    with pytest.raises(ComponentError), model.hooks([(at(1, "z"), fail), ("nowhere", fail)]):
        pass
    assert np.array_equal(numpy(model, model(IDS)), once)
    with model.hooks([(at(1, "z"), lambda x, hook: x * 0)], reset_hooks_end=False):
        pass
    assert not np.array_equal(numpy(model, model(IDS)), once)


def test_a_hook_keeps_its_context_until_it_is_cleared(gpt2):
    def count(x: Any, hook: Any) -> None:
        hook.ctx["passes"] = hook.ctx.get("passes", 0) + 1

    gpt2.add_hook(at(1, "resid_pre"), count)
    for _ in range(2):
        gpt2(IDS)
    assert gpt2.hook_dict[at(1, "resid_pre")].ctx == {"passes": 2}
    gpt2.reset_hooks()
    assert gpt2.hook_dict[at(1, "resid_pre")].ctx == {}


def test_hooks_that_cannot_be_are_refused(gpt2):
    for bad in (lambda x, hook: x[:, :3], lambda x, hook: 3.0):
        with pytest.raises(EditError, match=r"blocks\.1\.hook_resid_pre"):
            gpt2.run_with_hooks(IDS, fwd_hooks=[(at(1, "resid_pre"), bad)])
    with pytest.raises(InputError, match="gradients"):
        gpt2.run_with_hooks(IDS, bwd_hooks=[(at(1, "resid_pre"), print)])
    with pytest.raises(InputError, match="gradients"):
        gpt2.add_hook(at(1, "resid_pre"), print, dir="bwd")
    with pytest.raises(InputError, match="function"):
        gpt2.add_hook(at(1, "resid_pre"), 3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="past_kv_cache"):
        gpt2(IDS, past_kv_cache=[])
    with pytest.raises(InputError, match="return_type"):
        gpt2(IDS, return_type="embeds")
    for wrong in (lambda v: v, lambda v, point: v):
        with pytest.raises(
            InputError, match=r"hook_resid_pre cannot be called as .* a second argument called hook"
        ):
            gpt2.add_hook(at(1, "resid_pre"), wrong)
    with pytest.raises(InputError, match="no decoder block"):
        gpt2.hook_dict["hook_embed"].layer()

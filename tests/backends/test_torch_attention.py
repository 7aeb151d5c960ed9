"""Per-head values of attention in the torch wing."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from mlxterp.core.sites import ATTENTION_PORTS, Site, SiteEdit
from mlxterp.errors import ComponentError
from tests.backends.tiny_torch import OWN_ATTENTION, TorchLanguageModel, batch, state, tiny, torch

WITH_SDPA = ("llama", "gpt2", "qwen2", "gemma3_text", "gpt_neox", "opt", "mixtral", "olmo2", "phi")
EAGER_ONLY = ("gemma2", "gpt_oss")
SINGLE_KEYS = ("gpt2", "gpt_neox", "opt", "phi")
CASES = [(name, "sdpa") for name in WITH_SDPA] + [(name, "eager") for name in (*WITH_SDPA, *EAGER_ONLY)]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def model(request: pytest.FixtureRequest) -> TorchLanguageModel:
    name, attention = request.param
    return tiny(name, attention)


@pytest.fixture(scope="module")
def llama() -> TorchLanguageModel:
    return tiny("llama")


def sites(model: TorchLanguageModel, layer: int) -> list[Site]:
    return [model.head_component(layer, port, port).sites[0] for port in ATTENTION_PORTS]


def change(site: Site, function: Any) -> SiteEdit:
    return SiteEdit(site, lambda x, run, call: function(x))


def repeated(x: torch.Tensor, heads: int = 4) -> torch.Tensor:
    return x.repeat_interleave(heads // x.shape[1], dim=1)


def test_reading_every_head_changes_nothing(model):
    before = state(model)
    run = model.run(batch(), [site for layer in range(3) for site in sites(model, layer)])
    assert torch.equal(run.logits, model.forward(batch()))
    assert state(model) == before
    kv = 4 if model.model_type in SINGLE_KEYS else 2
    for layer in range(3):
        q, k, v, z, pattern = (run.values[site][0] for site in sites(model, layer))
        assert q.shape == z.shape == (2, 4, 9, 8)
        assert k.shape == v.shape == (2, kv, 9, 8)
        assert pattern.shape == (2, 4, 9, 9)


def test_the_pattern_times_the_values_is_z(model):
    for layer in range(3):
        run = model.run(batch(), sites(model, layer))
        _, _, v, z, pattern = (run.values[site][0] for site in sites(model, layer))
        assert torch.allclose(pattern @ repeated(v), z, atol=1e-5)
        assert not pattern.triu(1).any()
        total = pattern.sum(-1)
        assert (total < 1).all() if model.model_type == "gpt_oss" else torch.allclose(total, torch.ones(()))


def test_z_is_what_the_output_projection_gets(model):
    block = model.layers[1]
    leaf = {"gpt2": "attn.c_proj", "gpt_neox": "attention.dense", "opt": "self_attn.out_proj",
            "phi": "self_attn.dense"}.get(model.model_type, "self_attn.o_proj")  # fmt: skip
    projected = Site(f"{block}.{leaf}", "input")
    run = model.run(batch(), [Site(block, "z"), projected])
    heads = run.values[Site(block, "z")][0].transpose(1, 2).flatten(-2)
    assert torch.equal(heads, run.values[projected][0].reshape(heads.shape))


def test_edits_at_every_port_have_the_effect_they_must_have(model):
    q, k, v, z, pattern = sites(model, 1)
    plain = model.forward(batch())

    def logits(*edits: SiteEdit) -> torch.Tensor:
        return model.run(batch(), edits=edits).logits

    def without_head(x: torch.Tensor) -> torch.Tensor:
        x[:, 2] = 0
        return x

    for site in (q, k, v, z, pattern):
        assert torch.allclose(logits(change(site, lambda x: x)), plain, atol=2e-6)
        assert not torch.allclose(logits(change(site, lambda x: -x)), plain, atol=1e-3)
    assert torch.allclose(logits(change(z, lambda x: 0 * x)), logits(change(v, lambda x: 0 * x)), atol=2e-6)
    assert torch.allclose(logits(change(pattern, without_head)), logits(change(z, without_head)), atol=2e-6)
    twice = logits(change(q, lambda x: 2 * x))
    assert torch.allclose(twice, logits(change(k, lambda x: 2 * x)), atol=1e-5)
    seen = model.run(batch(), [q, v], [change(q, lambda x: 2 * x), change(v, lambda x: x + 1)])
    before = model.run(batch(), [q, v])
    assert torch.equal(seen.values[q][0], 2 * before.values[q][0])
    assert torch.equal(seen.values[v][0], before.values[v][0] + 1)


def test_attending_to_nothing_but_oneself_gives_ones_own_values(model):
    _, _, v, z, pattern = sites(model, 2)
    run = model.run(batch(), [v, z], [change(pattern, lambda x: torch.eye(9).expand_as(x))])
    assert torch.allclose(run.values[z][0], repeated(run.values[v][0]), atol=1e-6)


def test_the_implementation_that_was_looked_up_is_restored(model):
    from transformers.modeling_utils import AttentionInterface

    lookup, settings = AttentionInterface.get_interface, model.model.config._attn_implementation

    def fail(_x: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        model.run(batch(), edits=[change(Site(model.layers[1], "z"), fail)])
    assert AttentionInterface.get_interface is lookup
    assert model.model.config._attn_implementation == settings


def test_per_head_values_survive_a_run_from_an_earlier_one(model):
    early, late = sites(model, 0), sites(model, 2)
    first = model.run(batch(), [*early, *late], everything=True)
    edits = [change(Site(model.layers[1], "z"), lambda x: x * 0.5)]
    run, whole = model.run(batch(), [*early, *late], edits, reuse=first), model.run(batch(), late, edits)
    assert torch.equal(run.logits, whole.logits)
    assert all(torch.equal(run.values[site][0], whole.values[site][0]) for site in late)
    assert all(run.values[site][0] is first.values[site][0] for site in early)
    asked_later = model.run(batch(), early, reuse=model.run(batch(), everything=True))
    assert all(torch.equal(asked_later.values[site][0], first.values[site][0]) for site in early)


def test_gradients_reach_the_pattern(model):
    site = Site(model.layers[1], "pattern")

    def edits(deltas: Any) -> list[SiteEdit]:
        return [change(site, lambda x: x + deltas["p"][0])]

    def objective(logits: torch.Tensor) -> torch.Tensor:
        return logits[0, -1, 7] - logits[0, -1, 8]

    way = torch.zeros(1, 4, 6, 6)
    way[0, 1, 5, 2] = 1e-2
    _, grads = model.gradients(batch(1, 6), objective, edits, {"p": [torch.zeros_like(way)]})
    moved = [change(site, lambda x, s=s: x + s * way) for s in (1, -1)]
    up, down = (objective(model.run(batch(1, 6), edits=[edit]).logits) for edit in moved)
    assert torch.allclose((grads["p"][0] * way).sum(), (up - down) / 2, rtol=2e-2, atol=1e-5)


def test_only_the_attention_layers_of_a_hybrid_have_heads():
    jamba = tiny("jamba")
    run = jamba.run(batch(), sites(jamba, 1))
    assert run.values[Site(jamba.layers[1], "pattern")][0].shape == (2, 4, 9, 9)
    with pytest.raises(ComponentError, match="recurrence or a convolution"):
        jamba.run(batch(), sites(jamba, 0))


@pytest.mark.parametrize("name", OWN_ATTENTION)
def test_attention_that_cannot_be_seen_is_refused(name):
    model = tiny(name)
    for port in ATTENTION_PORTS:
        with pytest.raises(ComponentError, match=f"no attention that yields '{port}'"):
            model.run(batch(), [Site(model.layers[0], port)])


def squared(_module: Any, query: Any, key: Any, value: Any, _attention_mask: Any, **_options: Any) -> Any:
    """An attention that is no softmax."""
    weights = (query @ repeated(key).transpose(-1, -2)).tril() ** 2
    return (weights @ repeated(value)).transpose(1, 2), None


def test_a_pattern_that_is_no_softmax_is_refused_but_z_is_not(monkeypatch):
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", squared)
    model = tiny("llama", "sdpa")
    *others, pattern = sites(model, 0)
    assert torch.equal(model.run(batch(), others).logits, model.forward(batch()))
    with pytest.raises(ComponentError, match="more than softmax"):
        model.run(batch(), [pattern])


def test_the_pattern_of_a_kernel_with_its_own_masks_is_refused_but_z_is_not(monkeypatch):
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "kernel", squared)
    model = tiny("llama", "sdpa")
    model.model.config._attn_implementation_internal = "kernel"
    *others, pattern = sites(model, 0)
    assert model.run(batch(), others).values[others[3]][0].shape == (2, 4, 9, 8)
    with pytest.raises(ComponentError, match=r"attn_implementation='kernel'.*one of: eager, sdpa"):
        model.run(batch(), [pattern])


def test_threads_see_only_their_own_heads(llama):
    plain, z = llama.forward(batch()), Site(llama.layers[1], "z")
    scaled = {f: change(z, lambda x, f=f: x * f) for f in (0, 2, 3)}
    expected = {f: llama.run(batch(), edits=[scaled[f]]).logits for f in scaled}
    wrong: list[Any] = []

    def edited(factor: int) -> None:
        for _ in range(8):
            if not torch.equal(llama.run(batch(), [z], [scaled[factor]]).logits, expected[factor]):
                wrong.append(factor)

    def unhooked() -> None:
        for _ in range(16):
            if not torch.equal(llama.forward(batch()), plain):
                wrong.append("plain")

    threads = [threading.Thread(target=edited, args=(f,)) for f in scaled]
    threads.append(threading.Thread(target=unhooked))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong

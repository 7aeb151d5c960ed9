"""The frozen pass: the law on architectures of every kind, and a model that is what it was."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import CircuitError, ComponentError, InterpretableModel
from mlxterp.circuits import attribution_graph
from mlxterp.circuits.sweep import Broken, law_of
from tests.circuits.conftest import IDS
from tests.circuits.making import transcoder, transcoders

CHOICE = (
    "llama", "gpt2", "gemma2", "gemma4_text", "olmo2", "cohere2", "deepseek_v3", "gpt_oss", "mamba", "lfm2",
    "qwen3_next", "falcon_h1", "gemma3n", "longcat_flash",
)  # fmt: skip
"""Attention of each kind, experts, recurrences, gated convolutions, and streams side by side;
`benchmarks/graph_law.py` measures all."""


@pytest.mark.parametrize("model_type", CHOICE)
def test_the_law_holds_on_every_kind_of_architecture(model_type):
    pytest.importorskip("mlx.core")
    from tests.architectures import build, configs

    if model_type not in configs():
        pytest.skip("needs the project's shared folder beside the checkout")
    found = law_of(InterpretableModel(build(model_type)))
    assert found.law < 1e-4 and found.sources >= 1 and found.held > 1


def test_streams_side_by_side_make_a_graph_with_their_embeddings_in_one_node():
    pytest.importorskip("mlx.core")
    from tests.architectures import build, configs

    if "gemma3n" not in configs():
        pytest.skip("needs the project's shared folder beside the checkout")
    model = InterpretableModel(build("gemma3n"))
    given = {layer: transcoder(layer, model.d_model, n=8) for layer in range(model.n_layers)}
    for layer, sae in given.items():
        sae.metadata["component_out"] = f"layers.{layer}.mlp"
    graph = model.attribution_graph(IDS, given, targets=[5], verbose=False)
    assert graph.law is not None and graph.law < 1e-4
    assert sum(node.kind == "embedding" for node in graph.nodes) == len(IDS)
    with pytest.raises(ComponentError):
        model.attribution_graph(IDS, given, targets=[5], conventions="circuit-tracer", verbose=False)


def test_roots_that_are_powers_are_held_in_torch():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    shape = transformers.Gemma3nTextConfig(
        vocab_size=90, vocab_size_per_layer_input=90, hidden_size=32, intermediate_size=[48] * 2,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
        hidden_size_per_layer_input=8, laurel_rank=4, num_kv_shared_layers=0, sliding_window=32,
        activation_sparsity_pattern=[0.0] * 2, layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    assert law_of(InterpretableModel(transformers.Gemma3nForCausalLM(shape).eval())).law < 1e-4


def test_a_pass_that_is_not_affine_is_refused_with_the_architectures_name(model, monkeypatch):
    kind = type(model.session.plain.model.frozen_pass(IDS, _places(model)))
    plain = kind.read

    def bent(self: Any, changes: Any, *, origin: bool = False) -> Any:
        found = plain(self, changes, origin=origin)
        return type(found)({key: x + 0.01 * x**2 for key, x in found.inputs.items()}, found.logits * 1.1)

    monkeypatch.setattr(kind, "read", bent)
    with pytest.raises(CircuitError, match="llama model is not affine"):
        attribution_graph(model, IDS, transcoders(model))


def _places(model: InterpretableModel) -> Any:
    from mlxterp.circuits.places import places_of

    return places_of(model.session.plain, {}, {})


def test_the_model_is_bit_identical_afterwards_and_after_an_exception(model):
    before = logits(model)
    attribution_graph(model, IDS, transcoders(model))
    assert np.array_equal(before, logits(model))
    kind = type(model.session.plain.model.frozen_pass(IDS, _places(model)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "_embed", lambda *_: _fails)
        with pytest.raises(ZeroDivisionError):
            attribution_graph(model, IDS, transcoders(model))
    assert np.array_equal(before, logits(model))


def _fails(*_: Any) -> Any:
    raise ZeroDivisionError


def logits(model: InterpretableModel) -> np.ndarray:
    return np.array(model.language_model.backend.get(model(IDS)))


def test_other_threads_are_not_touched_while_a_graph_is_made(model):
    before, given = logits(model), transcoders(model)
    expected = attribution_graph(model, IDS, given)
    graphs: list[Any] = []
    makers = [
        threading.Thread(target=lambda: graphs.append(attribution_graph(model, IDS, given, batch_size=4)))
        for _ in range(2)
    ]
    for maker in makers:
        maker.start()
    seen = [logits(model)]
    while any(maker.is_alive() for maker in makers):
        seen.append(logits(model))
    for maker in makers:
        maker.join()
    assert all(np.array_equal(before, found) for found in seen)
    assert len(graphs) == 2
    for graph in graphs:
        assert np.abs(graph.matrix - expected.matrix).max() <= 1e-5 * np.abs(expected.matrix).max()


def test_replaced_functions_come_back_in_whatever_order_their_users_leave():
    from mlxterp.backends.host.patches import Patch, Patches

    class Library:
        @staticmethod
        def f(x: int) -> int:
            return x

    own, patches = Library.f, Patches()
    add = Patch(Library, "f", lambda original: lambda x: original(x) + 1)
    double = Patch(Library, "f", lambda original: lambda x: original(x) * 2)
    one, two, again = (patches.replaced([patch]) for patch in (add, double, add))
    one.__enter__()
    two.__enter__()
    again.__enter__()
    assert Library.f(3) == 8 and patches.original(Library, "f") is own
    one.__exit__(None, None, None)
    assert Library.f(3) == 8
    again.__exit__(None, None, None)
    assert Library.f(3) == 6
    two.__exit__(None, None, None)
    assert Library.f is own


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "4 bits"])
def test_weights_of_few_bits_keep_the_law(kind):
    mx, nn = pytest.importorskip("mlx.core"), pytest.importorskip("mlx.nn")
    from tests.tiny import tiny_llama

    raw: Any = tiny_llama(3, hidden_size=64, intermediate_size=96).session.plain.model
    if kind == "4 bits":
        nn.quantize(raw.model, group_size=32, bits=4)
    else:
        raw.model.set_dtype(getattr(mx, kind))
    assert law_of(InterpretableModel(raw.model)).law < 1e-4


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_weights_of_few_bits_keep_the_law_in_torch(llama, kind):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(llama, dtype=getattr(torch, kind))
    assert law_of(mlxterp.InterpretableModel(model)).law < 1e-4


def test_what_cannot_be_run_is_told_with_its_cause(model):
    found = law_of(model, ids=[10**6])
    assert isinstance(found, Broken) and "vocabulary" in found.cause

"""Models that run their layers in loops: a graph counts the layers of the pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxterp import SAE, AttributionGraph, ComponentError, InterpretableModel, SAEError, logit_difference
from tests.circuits.conftest import IDS
from tests.circuits.making import cross_layer, transcoder
from tests.small import SHAPES

ORDER = [0, 1, 2, 1, 2]
"""Layers of the torch model: two of three are looped."""


def mlx_model(model_type: str) -> InterpretableModel:
    pytest.importorskip("mlx.core")
    from tests.architectures import build, configs

    if model_type not in configs():
        pytest.skip("needs the project's shared folder beside the checkout")
    return InterpretableModel(build(model_type))


def torch_model(folder: Path, order: list[int]) -> InterpretableModel:
    """The checkpoint with its layers run in this order."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")

    class Loops(torch.nn.ModuleList):
        def __getitem__(self, key: Any) -> Any:
            return [self[n] for n in order] if isinstance(key, slice) else super().__getitem__(key)

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    model.model.layers = Loops(list(model.model.layers))
    return InterpretableModel(model.eval())


@pytest.fixture(params=["nanbeige", "iquestloopcoder", "torch"])
def looped(request: pytest.FixtureRequest, llama: Path) -> InterpretableModel:
    return torch_model(llama, ORDER) if request.param == "torch" else mlx_model(request.param)


def unplaced(model: InterpretableModel, **options: Any) -> dict[int, SAE]:
    """Transcoders that do not name their places: the usual ones are found."""
    found = {layer: transcoder(layer, model.d_model, n=12, **options) for layer in range(model.n_layers)}
    for sae in found.values():
        del sae.metadata["component"], sae.metadata["component_out"]
    return found


def test_the_law_holds_and_effects_of_one_loop_are_its_edges(looped, tmp_path):
    given = unplaced(looped, skip=True)
    direction = np.random.default_rng(0).normal(size=looped.d_model).astype(np.float32)
    graph = looped.attribution_graph(
        IDS, given, targets={"pair": logit_difference(5, 9), "any": direction}, verbose=False
    )
    assert graph.law is not None and graph.law < 1e-4
    passes = len(ORDER) if looped.language_model.model_type == "llama" else 2 * looped.n_layers
    assert graph.n_layers == passes and {node.layer for node in graph.features} == set(range(passes))
    assert len({node.id for node in graph.nodes}) == len(graph.nodes)
    assert AttributionGraph.load(graph.save(tmp_path / "graph.json")).nodes == graph.nodes
    edges = {node: graph.matrix[-2, graph._columns[node.id]] for node in graph.features}
    for layer in (1, passes - 2):  # in the first loop and in the last
        node = max((n for n in edges if n.layer == layer), key=lambda n: abs(edges[n]))
        found = looped.feature_intervention(IDS, {node: 0.0}, given)
        moved = found.effect[5] - found.effect[9]
        assert abs(moved + edges[node]) <= 1e-4 * abs(edges[node])
        for freeze in ("attention", None):
            same = looped.feature_intervention(IDS, {node: node.activation}, given, freeze=freeze)
            assert np.array_equal(same.logits, same.logits_before)
    direct = graph.validate(2).modes[0]
    assert direct.worst < 1e-4


def test_a_transcoder_that_names_a_call_stands_in_that_loop_alone(looped):
    given = unplaced(looped)
    own = transcoder(7, looped.d_model, n=12)
    own.metadata |= {"component": "layers.1.mlp.input#1", "component_out": "layers.1.mlp#1"}
    named = [sae.replace() for sae in given.values()]
    for layer, sae in enumerate(named):
        sae.metadata |= {"component": f"layers.{layer}.mlp.input", "component_out": f"layers.{layer}.mlp"}
    everywhere = looped.attribution_graph(IDS, named, targets=5, verbose=False)
    graph = looped.attribution_graph(IDS, [own, *named], targets=5, verbose=False)
    changed = {layer for layer in range(graph.n_layers) if of(graph, layer) != of(everywhere, layer)}
    assert changed == {3 if graph.n_layers < 6 else 5}
    node = next(node for node in graph.features if node.layer in changed)
    edits = looped.feature_intervention(IDS, {node: 1.0}, [own, *named], freeze=None).edits
    assert [edit.component for edit in edits] == ["layers.1.mlp#1"]
    own.metadata["component"] = "layers.1.mlp.input#4"
    with pytest.raises(SAEError, match="one call"):
        looped.attribution_graph(IDS, [own], verbose=False)


def of(graph: AttributionGraph, layer: int) -> list[tuple[int, int | None]]:
    return [(node.position, node.feature_id) for node in graph.features if node.layer == layer]


def test_heads_are_those_of_each_loop_and_sum_to_the_edge():
    model = mlx_model("nanbeige")
    graph = model.attribution_graph(IDS, unplaced(model), targets=5, verbose=False)
    token = next(node for node in graph.nodes if node.kind == "embedding")
    found = graph.head_loadings(token, graph.outputs[0])
    assert {one.layer for one in found.heads} == set(range(8))
    assert found.residual + sum(one.weight for one in found.heads) == pytest.approx(found.weight, rel=1e-4)
    for layer in (1, 5):
        looked = graph.qk_attribution(layer, head=2, query=-1, key=2)
        assert looked.matrix.sum() == pytest.approx(looked.score, abs=1e-4)
    assert graph.qk_attribution(1, 2, -1, 2).score != graph.qk_attribution(5, 2, -1, 2).score


def test_attention_outside_the_blocks_is_of_no_layer():
    model = mlx_model("iquestloopcoder")
    graph = model.attribution_graph(IDS, unplaced(model), targets=5, verbose=False)
    with pytest.raises(ComponentError, match="outside its blocks"):
        graph.head_loadings(graph.features[0], graph.outputs[0])


def test_a_cross_layer_transcoder_of_a_looped_model_is_refused(looped):
    with pytest.raises(ComponentError, match="more than once"):
        looped.attribution_graph(IDS, cross_layer(looped.n_layers, looped.d_model, n=4), verbose=False)


def test_both_wings_give_the_same_graph(llama):
    pytest.importorskip("mlx.core")
    from tests.architectures import build, configs

    if "nanbeige" not in configs():
        pytest.skip("needs the project's shared folder beside the checkout")
    shape = {**SHAPES["llama"], "skip_loop_final_norm": True, "rms_norm_eps": 1e-6}
    ours = build("nanbeige", **shape)
    ours.load_weights(str(llama / "model.safetensors"))
    graphs = [
        model.attribution_graph(IDS, unplaced(model), targets=[5, 9], verbose=False)
        for model in (InterpretableModel(ours), torch_model(llama, [0, 1, 2] * 2))
    ]
    assert graphs[0].nodes[-1].id == graphs[1].nodes[-1].id
    assert [n.id for n in graphs[0].features] == [n.id for n in graphs[1].features]
    largest = np.abs(graphs[0].matrix).max()
    assert np.abs(graphs[0].matrix - graphs[1].matrix).max() <= 1e-4 * largest

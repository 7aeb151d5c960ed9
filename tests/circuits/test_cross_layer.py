"""Cross-layer transcoders: what they compute, their files, their graphs, against plain NumPy and in both wings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import mlxterp
from mlxterp import SAE, CrossLayerTranscoder, InputError, InterpretableModel, SAECollection, SAEError
from mlxterp.circuits import attribution_graph
from mlxterp.sae import CrossLayerWeights
from tests.circuits import oracle
from tests.circuits.conftest import IDS
from tests.circuits.making import cross_layer, folder_of, layer_by_layer, opened
from tests.small import SHAPES

LAYERS, WIDTH = 3, 64
TEXTS = [[*range(3, 40)], [*range(60, 90)], [5, 9, 5, 9, 7, 7]]


def arrays_of(clt: CrossLayerTranscoder, layer: int) -> dict[str, np.ndarray]:
    one = clt.layers[layer]
    every = np.arange(one.d_hidden)
    return {
        "W_enc": one.W_enc.take(every),
        "b_enc": one.b_enc,
        "W_dec": one.W_dec.take(every),
        "b_dec": one.b_dec,
    }


def inputs(seed: int = 0, *shape: int) -> dict[int, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {layer: draw.normal(size=(*shape, WIDTH)).astype(np.float32) for layer in range(LAYERS)}


# -- what it computes -----------------------------------------------------------------------------


@pytest.mark.parametrize(("jumps", "skip"), [(False, False), (True, True)])
def test_features_and_reconstructions_are_those_of_plain_numpy(jumps, skip):
    clt, x = cross_layer(LAYERS, WIDTH, jumps=jumps, skip=skip), inputs(0, 2, 5)
    active = []
    for layer in range(LAYERS):
        a = arrays_of(clt, layer)
        before = x[layer].astype(np.float64) @ a["W_enc"].T + a["b_enc"]
        threshold = clt.layers[layer].threshold
        limit = np.zeros(24) if threshold is None else threshold
        active.append(np.where(before > limit, before, 0))
        dense = clt.encode(x[layer], layer)
        assert dense.shape == (2, 5, 24) and np.abs(dense - active[-1]).max() < 1e-5
        assert np.array_equal(clt.encode_sparse(x[layer], layer).to_dense(), dense.reshape(10, 24))
    features: dict[int, Any] = {layer: clt.encode(x[layer], layer) for layer in range(LAYERS)}
    sparse = {layer: clt.encode_sparse(x[layer], layer) for layer in range(LAYERS)}
    rebuilt = clt.reconstruct(x)
    for layer in range(LAYERS):
        expected = oracle.cross_decoded(active, clt, layer, x[layer].astype(np.float64))
        found = clt.decode(features, layer, like=x[layer])
        assert found.shape == (2, 5, WIDTH) and np.abs(found - expected).max() < 1e-4
        assert np.array_equal(clt.decode(sparse, layer, like=x[layer]).reshape(found.shape), found)
        assert np.array_equal(rebuilt[layer], found)
    if not skip:
        last = clt.decode({2: features[2]}, 2)
        assert np.abs(last - active[2] @ arrays_of(clt, 2)["W_dec"][:, 0] - clt.layers[2].b_dec).max() < 1e-4


def test_only_rows_of_active_features_are_read(tmp_path):
    """The decoder's other rows are NaN in the file, which whoever read them would refuse."""
    clt = cross_layer(LAYERS, WIDTH)
    folder = clt.save(tmp_path / "clt")
    x = inputs(1, 1)
    features = {layer: clt.encode_sparse(x[layer], layer) for layer in range(LAYERS)}
    file = folder / "W_dec_0.safetensors"
    decoder = load_file(file)["W_dec_0"]
    others = np.setdiff1d(np.arange(24), features[0].indices)
    decoder[others] = np.nan
    save_file({"W_dec_0": decoder}, file)
    again = CrossLayerTranscoder.load(folder)
    assert len(others) and np.array_equal(again.decode(features, 2), clt.decode(features, 2))
    with pytest.raises(SAEError, match=r"W_dec_0 of .* holds NaN"):
        again.layers[0].W_dec.take(others[:1])


def test_one_layer_is_an_sae_whose_decoder_is_the_sum():
    clt = cross_layer(LAYERS, WIDTH, jumps=True)
    sae, x = clt.sae(1), inputs(2, 7)[1]
    assert sae.component == "layers.1.resid_mid" and sae.is_transcoder
    assert np.abs(sae.encode(x) - clt.encode(x, 1)).max() < 1e-5
    assert np.abs(sae.W_dec - arrays_of(clt, 1)["W_dec"].sum(axis=1)).max() < 1e-6


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("jumps", "skip", "dtype"), [(False, False, "float32"), (True, True, "float16")])
def test_what_is_saved_is_loaded_and_is_circuit_tracers_layout(tmp_path, jumps, skip, dtype):
    clt = cross_layer(LAYERS, WIDTH, jumps=jumps, skip=skip, reads="mlp.input")
    folder = clt.save(tmp_path / "clt", dtype=dtype)
    again, x = CrossLayerTranscoder.load(folder), inputs(3, 9)
    assert (again.reads, again.writes, again.n_layers, again.d_hidden) == (
        "mlp.input",
        "mlp_out",
        3,
        (24, 24, 24),
    )
    rebuilt, expected = again.reconstruct(x), clt.reconstruct(x)
    for layer in range(LAYERS):
        held = load_file(folder / f"W_enc_{layer}.safetensors")
        names = {"W_enc", "b_enc", "b_dec", *["threshold"] * jumps, *["W_skip"] * skip}
        assert set(held) == {f"{name}_{layer}" for name in names}
        assert load_file(folder / f"W_dec_{layer}.safetensors")[f"W_dec_{layer}"].shape == (
            24,
            LAYERS - layer,
            WIDTH,
        )
        assert np.abs(rebuilt[layer] - expected[layer]).max() < (1e-6 if dtype == "float32" else 3e-2)
    assert again.save(folder).name == "clt"  # onto itself
    assert (
        np.array_equal(CrossLayerTranscoder.load(folder).reconstruct(x)[2], rebuilt[2]) or dtype == "float16"
    )


def test_bfloat16_rows_are_read_as_float32(tmp_path):
    torch = pytest.importorskip("torch", reason="writes bfloat16")
    from safetensors.torch import load_file as load
    from safetensors.torch import save_file as save

    clt = cross_layer(LAYERS, WIDTH)
    folder = clt.save(tmp_path / "clt")
    for file in folder.glob("*.safetensors"):
        save({name: value.to(torch.bfloat16) for name, value in load(file).items()}, file)
    again, x = CrossLayerTranscoder.load(folder), inputs(4, 5)
    decoder = load(folder / "W_dec_0.safetensors")["W_dec_0"].float().numpy()
    assert np.array_equal(again.layers[0].W_dec.take(np.array([3, 1])), decoder[[3, 1]])
    assert np.abs(again.reconstruct(x)[2] - clt.reconstruct(x)[2]).max() < 0.1


def test_gemma_scope_2_keeps_its_decoders_and_leaves_out_those_before_a_layer(tmp_path):
    clt, folder = cross_layer(LAYERS, WIDTH, jumps=True), tmp_path / "clt" / "width_24"
    folder.mkdir(parents=True)
    for layer in range(LAYERS):
        a = arrays_of(clt, layer)
        whole = np.zeros((24, LAYERS, WIDTH), np.float32)
        whole[:, layer:] = a["W_dec"]
        threshold = clt.layers[layer].threshold
        assert threshold is not None
        held = {
            "w_enc": a["W_enc"].T, "b_enc": a["b_enc"], "w_dec": whole, "b_dec": a["b_dec"], "threshold": threshold,
        }  # fmt: skip
        save_file(
            {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in held.items()},
            folder / f"params_layer_{layer}.safetensors",
        )
    again, x = CrossLayerTranscoder.load(folder), inputs(5, 6)
    assert again.component(2) == "layers.2.pre_feedforward_layernorm.output"
    for layer, expected in clt.reconstruct(x).items():
        assert np.abs(again.reconstruct(x)[layer] - expected).max() < 1e-6
    assert CrossLayerTranscoder.load(again.save(tmp_path / "saved")).reads == "mlp.input"


def test_a_folder_of_several_layers_is_a_cross_layer_transcoder_and_each_of_its_layers_an_sae(
    tmp_path, model
):
    folder = cross_layer(LAYERS, WIDTH).save(tmp_path / "clt")
    whole: Any = SAE.load(folder)
    assert isinstance(whole, CrossLayerTranscoder) and whole.n_layers == LAYERS
    with pytest.raises(SAEError, match=r"3 layers.*CrossLayerTranscoder\.load"):
        model.load_sae(folder)
    assert type(SAE.load(folder / "W_enc_1.safetensors")) is SAE
    collection = SAECollection.load(folder)
    assert list(collection) == ["W_enc_0", "W_enc_1", "W_enc_2"] and collection.layers == [0, 1, 2]


def test_files_that_do_not_belong_together_are_refused_by_name(tmp_path):
    folder = cross_layer(LAYERS, WIDTH).save(tmp_path / "clt")
    held = {name: load_file(folder / f"{name}.safetensors") for name in ("W_enc_1", "W_dec_1", "W_dec_0")}

    def refusal() -> str:
        with pytest.raises(SAEError) as caught:
            CrossLayerTranscoder.load(folder)
        for name, arrays in held.items():
            save_file(arrays, folder / f"{name}.safetensors")
        return str(caught.value)

    (folder / "W_enc_1.safetensors").unlink()
    assert "lacks layer 1" in refusal()
    (folder / "W_dec_1.safetensors").unlink()
    assert "lacks W_dec_1.safetensors" in refusal()
    save_file({"W_dec_0": held["W_dec_0"]["W_dec_0"][:, :2].copy()}, folder / "W_dec_0.safetensors")
    assert "write to 2 layers; of 3 layers there are 3" in refusal()
    save_file({"W_dec_1": held["W_dec_1"]["W_dec_1"][:5].copy()}, folder / "W_dec_1.safetensors")
    assert "W_dec_1 has shape (5, 2, 64)" in refusal()
    save_file({**held["W_enc_1"], "b_gate_1": np.ones(3, np.float32)}, folder / "W_enc_1.safetensors")
    assert "holds b_gate_1" in refusal()
    (folder / "W_enc_1.safetensors").write_bytes(b"nothing")
    assert "cannot be read" in refusal()
    assert CrossLayerTranscoder.load(folder).n_layers == LAYERS
    with pytest.raises(SAEError, match="no folder of a cross-layer"):
        CrossLayerTranscoder.load(tmp_path)
    with pytest.raises(SAEError, match="holds something else"):
        cross_layer(LAYERS, WIDTH).save(tmp_path)


def test_what_is_asked_wrongly_of_a_transcoder_is_refused():
    clt, x = cross_layer(LAYERS, WIDTH, skip=True), inputs(0, 4)
    features = {layer: clt.encode_sparse(x[layer], layer) for layer in range(LAYERS)}
    weights = clt.layers[0]
    with pytest.raises(SAEError, match="skip connection"):
        clt.decode(features, 1)
    with pytest.raises(InputError, match="different numbers of tokens"):
        clt.decode({**features, 1: clt.encode_sparse(x[1][:2], 1)}, 1, like=x[1])
    with pytest.raises(InputError, match=r"layer is 3; it must be an integer in \[0, 2\]"):
        clt.decode(features, 3)
    with pytest.raises(SAEError, match="Layer 1 has 24 features, got 64"):
        clt.decode({1: x[1]}, 1, like=x[1])
    with pytest.raises(SAEError, match="width 64"):
        clt.encode(x[0][:, :8], 0)
    with pytest.raises(SAEError, match="NaN"):
        clt.encode(np.full((1, WIDTH), np.nan), 0)
    with pytest.raises(SAEError, match="write to 3 layers"):
        CrossLayerTranscoder([weights, weights])
    with pytest.raises(SAEError, match="b_enc has shape"):
        CrossLayerWeights(np.ones((3, 4)), np.ones(3), np.ones((4, 1, 3)), np.ones(3))


# -- measured -------------------------------------------------------------------------------------


def test_the_figures_of_a_layer_are_those_of_plain_numpy(model: InterpretableModel):
    clt = cross_layer(LAYERS, WIDTH)
    found = clt.evaluate(model, TEXTS)
    get = model.language_model.backend.get
    read: dict[int, list[np.ndarray]] = {n: [] for n in range(LAYERS)}
    out: dict[int, list[np.ndarray]] = {n: [] for n in range(LAYERS)}
    for text in TEXTS:
        seen = model.trace(text).activations
        for n in range(LAYERS):
            read[n].append(np.asarray(get(seen[clt.component(n)]))[0, 1:])
            out[n].append(np.asarray(get(seen[clt.component_out(n)]))[0, 1:])
    active = [clt.encode(np.concatenate(read[n]), n).astype(np.float64) for n in range(LAYERS)]
    for n, one in found.layers.items():
        y = np.concatenate(out[n]).astype(np.float64)
        r = oracle.cross_decoded(active, clt, n, np.concatenate(read[n]))
        expected = 1 - ((y - r) ** 2).sum() / ((y - y.mean(axis=0)) ** 2).sum()
        assert abs(one.explained_variance - expected) < 1e-4 * abs(expected)
        assert abs(one.l0 - (active[n] > 0).sum(axis=1).mean()) < 1e-9
        assert one.tokens == sum(len(text) - 1 for text in TEXTS) and one.component == clt.component(n)
    assert "explained" in str(found) and found.to_dict()["0"]["tokens"] == found.layers[0].tokens


def test_a_transcoder_that_says_nothing_costs_what_zeros_cost(model: InterpretableModel):
    clt = cross_layer(LAYERS, WIDTH)
    silent = [CrossLayerWeights(one.W_enc, one.b_enc - 1e4, one.W_dec, one.b_dec * 0) for one in clt.layers]
    found = CrossLayerTranscoder(silent).evaluate(model, TEXTS)
    for one in found.layers.values():
        assert one.l0 == 0 and one.dead_share == 1
        assert abs(one.loss_with_sae - one.loss_zero) < 1e-6


def test_figures_of_one_without_later_decoders_are_those_of_its_layers(model: InterpretableModel):
    clt = cross_layer(LAYERS, WIDTH, apart=False)
    found = clt.evaluate(model, TEXTS)
    alone = model.evaluate_sae(layer_by_layer(clt)[1], TEXTS)
    one = found.layers[1]
    for name in ("explained_variance", "l0", "l1", "loss_with_sae", "loss_mean", "kl_with_sae"):
        assert abs(getattr(one, name) - getattr(alone, name)) <= 1e-4 * max(1, abs(getattr(alone, name))), (
            name
        )


# -- its graphs -----------------------------------------------------------------------------------


def patterns_of(model: InterpretableModel) -> list[np.ndarray]:
    seen, get = model.trace(IDS).activations, model.language_model.backend.get
    return [np.asarray(get(seen[f"layers.{n}.attn.pattern"])[0], np.float64) for n in range(model.n_layers)]


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of three layers whose graph in closed form is quick."""
    shape = {"hidden_size": 16, "intermediate_size": 32, "vocab_size": 50}
    return folder_of("llama", tmp_path_factory.mktemp("narrow"), **shape)


@pytest.mark.parametrize(
    ("reads", "jumps", "skip"),
    [("resid_mid", False, False), ("resid_mid", True, True), ("mlp.input", False, True)],
)
def test_the_graph_of_a_cross_layer_transcoder_is_the_closed_form(backend, narrow, reads, jumps, skip):
    model = opened(narrow, backend)
    clt = cross_layer(LAYERS, 16, n=12, jumps=jumps, skip=skip, reads=reads)
    graph = attribution_graph(model, IDS, clt, max_logits=3, logit_prob=1.0)
    tokens = [int(node.token_id or 0) for node in graph.outputs]
    expected, bias = oracle.layers_graph(oracle.weights_of(narrow), patterns_of(model), IDS, clt, tokens)
    assert graph.matrix.shape == expected.shape and graph.law is not None and graph.law < 1e-4
    scale = np.abs(expected).max()
    assert np.abs(graph.matrix - expected).max() <= 1e-5 * scale
    assert np.abs(graph.bias - bias).max() <= 1e-5 * max(scale, np.abs(bias).max())


@pytest.mark.parametrize("skip", [False, True])
def test_one_without_later_decoders_has_the_graph_of_its_layers(model, skip):
    clt = cross_layer(LAYERS, WIDTH, skip=skip, apart=False)
    one = attribution_graph(model, IDS, clt, targets=[5, 9])
    other = attribution_graph(model, IDS, layer_by_layer(clt), targets=[5, 9])
    assert [node.id for node in one.nodes] == [node.id for node in other.nodes]
    assert np.abs(one.matrix - other.matrix).max() <= 1e-6 * np.abs(other.matrix).max()


@pytest.mark.parametrize("model_type", ["gpt2", "gemma2", "gpt_neox"])
def test_both_wings_make_the_same_graph_and_the_law_holds(model_type, tmp_path):
    if len(mlxterp.available_backends()) < 2:
        pytest.skip("needs both wings")
    folder, graphs = folder_of(model_type, tmp_path), []
    reads = "mlp.input" if model_type == "gpt_neox" else "resid_mid"
    clt = cross_layer(int(SHAPES[model_type].get("num_hidden_layers", 3)), WIDTH, reads=reads)
    for backend in ("mlx", "torch"):
        graphs.append(attribution_graph(opened(folder, backend), IDS, clt, targets=[5, 9]))
    one, other = graphs
    assert [node.id for node in one.nodes] == [node.id for node in other.nodes]
    assert np.abs(one.matrix - other.matrix).max() <= 1e-4 * np.abs(one.matrix).max()
    assert max(one.law, other.law) < 1e-4


def test_a_graph_of_a_folder_is_validated_and_drops_what_circuit_tracer_drops(model, tmp_path):
    folder = cross_layer(LAYERS, WIDTH).save(tmp_path / "clt")
    graph = attribution_graph(model, IDS, folder, targets=[5, 9])
    assert set(graph.transcoders) == {"clt"}
    held = graph.validate(8).modes[0]
    assert held.worst < 1e-4 and held.correlation.value > 0.9999
    theirs = attribution_graph(model, IDS, folder, targets=[5, 9], conventions="circuit-tracer")
    assert all(node.position > 0 for node in theirs.features)
    few = attribution_graph(model, IDS, folder, targets=[5, 9], max_features=10)
    rows, columns = ([table[node.id] for node in nodes] for table, nodes in (
        (graph._rows, few.targets), (graph._columns, few.sources)))  # fmt: skip
    assert np.abs(few.matrix - graph.matrix[np.ix_(rows, columns)]).max() <= 1e-5 * np.abs(graph.matrix).max()


@pytest.mark.parametrize(
    ("name", "dropped"),
    [("google/gemma-3-1b-it", 4), ("mlx-community/gemma-3-4b-it-qat-4bit", 4), ("google/gemma-3-1b-pt", 1)],
)
def test_chats_of_gemma_3_drop_four_positions_as_circuit_tracer_does(model, monkeypatch, name, dropped):
    monkeypatch.setattr(model.session, "name", name)
    monkeypatch.setattr(model.session.plain.model, "model_type", "gemma3_text")
    graph = attribution_graph(
        model, [*IDS, 7, 9], cross_layer(LAYERS, WIDTH), targets=[5], conventions="circuit-tracer"
    )
    assert min(node.position for node in graph.features) == dropped
    first = [graph._columns[n.id] for n in graph.nodes if n.kind == "error" and n.position < dropped]
    assert len(first) == LAYERS * dropped and not graph.matrix[:, first].any()


def test_transcoders_that_do_not_fit_are_refused_by_name(model, tmp_path):
    def refusal(given: Any) -> str:
        with pytest.raises(SAEError) as caught:
            attribution_graph(model, IDS, given)
        return str(caught.value)

    assert "of a model of 2 layers" in refusal(cross_layer(2, WIDTH))
    assert "takes 8" in refusal(cross_layer(LAYERS, 8))
    collection = SAECollection.load(cross_layer(LAYERS, WIDTH).save(tmp_path / "clt"))
    assert "one layer of a cross-layer transcoder" in refusal(collection)

"""The Jacobian lens: its matrices against finite differences, its files, and what is steered by its directions."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlxterp import (
    ComponentError,
    ConfigWarning,
    InputError,
    InterpretableModel,
    JacobianLens,
    MlxterpWarning,
    steering,
)
from mlxterp.lens.jacobian_lens import REPOSITORY
from mlxterp.lens.pullback import Way, prompt_jacobians, unembedding_row
from tests.architectures import build, configs
from tests.patching.asking import opened
from tests.sae.test_from_pretrained import repository
from tests.small import SHAPES, checkpoint

IDS = [3, 14, 15, 92, 65, 35, 89, 7, 61, 8, 120, 4]
SKIP = 4
OTHERS = [t for t in ("mixtral", "mamba", "phi3", "gemma3_text", "olmo2") if t in configs()]
PROMPTS = [[(7 * i + 3 * j * j + 5) % 190 + 2 for j in range(10)] for i in range(12)]
FEW = "too few to trust"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("models")
    return {model_type: root / model_type for model_type in SHAPES}


def fitted(model: InterpretableModel, texts: Any = PROMPTS, **options: Any) -> JacobianLens:
    given = {"skip": SKIP, "verbose": False, "tolerance": 0.0, "rows": 16} | options
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", f".*{FEW}", MlxterpWarning)
        return model.fit_jacobian_lens(texts, **given)


def fresh(folder: Path, backend: str) -> InterpretableModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)
        return InterpretableModel(folder, backend=backend)


def along(
    model: InterpretableModel, layer: int, target: int, vector: np.ndarray, ids: list[int]
) -> np.ndarray:
    """J·vector by a central difference: the stream after a layer is moved at every position that counts."""
    backend, step = model.language_model.backend, 5e-3
    name, end = f"layers.{target}.resid_post", len(ids) - 1

    def ran(sign: float) -> np.ndarray:
        def move(x: Any) -> Any:
            moved = np.zeros(tuple(x.shape), np.float32)
            moved[:, SKIP:end] = sign * step * vector
            return x + backend.put(moved, like=x)

        trace = model.trace([ids], {f"layers.{layer}.resid_post": move}, capture=[name], stop_after=name)
        return backend.get(trace.activations[name]).astype(np.float64)[0, SKIP:end].sum(axis=0)

    return (ran(1.0) - ran(-1.0)) / (2 * step * (end - SKIP))


def assert_is_the_derivative(model: InterpretableModel, ids: list[int]) -> None:
    n = len(model.language_model.layers)
    found = prompt_jacobians(model.anatomy, ids, Way(tuple(range(n - 1)), n - 1, SKIP, 16))
    rng = np.random.default_rng(0)
    for layer in range(n - 1):
        for _ in range(2):
            vector = rng.standard_normal(model.d_model)
            vector /= np.linalg.norm(vector)
            expected = along(model, layer, n - 1, vector, ids)
            apart = np.linalg.norm(found[layer] @ vector - expected)
            assert apart <= 1e-3 * np.linalg.norm(found[layer]) / np.sqrt(
                model.d_model
            ) + 1e-3 * np.linalg.norm(expected)


# -- the matrices ---------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", sorted(SHAPES))
def test_a_matrix_is_the_derivative_in_both_wings(backend, folders, model_type):
    assert_is_the_derivative(opened(model_type, folders[model_type], backend), IDS)


@pytest.mark.parametrize("model_type", OTHERS)
def test_other_architectures_have_matrices_too(model_type):
    pytest.importorskip("mlx.core")
    model = InterpretableModel(build(model_type))
    assert_is_the_derivative(model, [i % model.vocab_size for i in IDS])


def test_without_attention_and_mlp_it_is_the_identity(backend, tmp_path):
    folder = checkpoint("llama", tmp_path / "empty")
    weights = load_file(folder / "model.safetensors")
    for name in weights:
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[name] = np.zeros_like(weights[name])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    model = fresh(folder, backend)
    lens = fitted(model)
    for layer in (0, 1):
        assert np.allclose(lens.jacobians[layer], np.eye(model.d_model), atol=1e-6)
    assert max(lens.identity_distance.values()) < 1e-5
    plain, read = model.logit_lens(IDS), lens(IDS)
    assert np.array_equal(plain.ids, read.ids) and np.allclose(plain.logits, read.logits, atol=1e-4)


def test_both_wings_fit_the_same_lens(folders):
    pytest.importorskip("mlx.core")
    one, other = (fitted(opened("llama", folders["llama"], wing)) for wing in ("mlx", "torch"))
    for layer in one.layers:
        size = np.abs(other.jacobians[layer]).max()
        assert np.allclose(one.jacobians[layer], other.jacobians[layer], atol=1e-3 * size)


def test_the_mean_is_over_prompts_and_rows_of_a_pass_change_nothing(backend, folders):
    model = opened("gpt2", folders["gpt2"], backend)
    way = Way((0, 1), 2, SKIP, 64)
    alone = [prompt_jacobians(model.anatomy, ids, way) for ids in PROMPTS[:10]]
    lens = fitted(model, prompts=10, rows=24)  # 64 is no multiple of 24
    assert lens.n_prompts == 10 and lens.target == 2 and len(lens.changes) == 10
    for layer in (0, 1):
        assert np.allclose(lens.jacobians[layer], np.mean(alone, axis=0)[layer], atol=1e-5)


def test_the_last_layer_to_lead_to_can_be_another(backend, folders):
    model = opened("llama", folders["llama"], backend)
    lens = fitted(model, target=1)
    assert lens.layers == (0,) and lens.target == 1
    read, plain = lens(IDS), model.logit_lens(IDS)
    assert read.layers == (0, 1, 2) and np.array_equal(read.logits[1:], plain.logits[1:])
    assert not np.allclose(read.logits[0], plain.logits[0])


def test_blocks_that_cannot_be_mapped_over_cotangents_run_on_copies(folders, monkeypatch):
    mx = pytest.importorskip("mlx.core")
    model = opened("qwen2", folders["qwen2"], "mlx")
    mapped = fitted(model, prompts=2)

    def refuses(*_arguments: Any, **_options: Any) -> Any:
        raise ValueError("no map")

    monkeypatch.setattr(mx, "vmap", refuses)
    copied = fitted(model, prompts=2)
    for layer in mapped.layers:
        assert np.allclose(mapped.jacobians[layer], copied.jacobians[layer], atol=1e-5)


def test_in_sixteen_bits_it_is_nearly_the_same(backend, folders, tmp_path):
    exact = fitted(opened("llama", folders["llama"], backend), prompts=3)
    inner: Any = fresh(checkpoint("llama", tmp_path / "half"), backend).language_model
    if backend == "mlx":
        import mlx.core as mx

        inner.model.set_dtype(mx.bfloat16)
    else:
        inner.model.bfloat16()
    model = InterpretableModel(inner.model)
    lens = fitted(model, prompts=3)
    for layer in exact.layers:
        apart = np.linalg.norm(lens.jacobians[layer] - exact.jacobians[layer])
        assert 0 < apart < 0.05 * np.linalg.norm(exact.jacobians[layer])
    assert lens(IDS).layers == (0, 1, 2)
    assert lens.direction(17, 1) @ exact.direction(17, 1) > 0.99


def test_what_acts_on_the_model_is_part_of_it_and_is_told(backend, folders):
    model = opened("llama", folders["llama"], backend)
    plain, vector = fitted(model, prompts=2), np.ones(64, np.float32) / 8
    with (
        model.steer(steering.project_out(vector, at="layers.1.resid_post")),
        pytest.warns(MlxterpWarning, match="Something acts on this model while a lens is fitted to it"),
    ):
        steered = fitted(model, prompts=2)
    assert not np.allclose(plain.jacobians[0], steered.jacobians[0], atol=1e-3)
    assert np.allclose(vector @ fitted_at(model, vector), 0, atol=1e-5)
    assert steered.metadata["fit"]["acting"] and not plain.metadata["fit"]["acting"]


def fitted_at(model: InterpretableModel, vector: np.ndarray) -> np.ndarray:
    """The matrix that leads to layer 1 where that layer's stream has nothing along a vector."""
    with model.steer(steering.project_out(vector, at="layers.1.resid_post")):
        return prompt_jacobians(model.anatomy, IDS, Way((0,), 1, SKIP, 16))[0]


# -- fitting --------------------------------------------------------------------------------------


def test_an_interrupted_fit_goes_on_to_the_same_bits(backend, folders, tmp_path, monkeypatch):
    from mlxterp.lens import jacobian_fit

    model, path = opened("llama", folders["llama"], backend), tmp_path / "lens.safetensors"
    whole, told = fitted(model), prompt_jacobians

    def stops(anatomy: Any, ids: Any, way: Way) -> np.ndarray:
        if ids == PROMPTS[7]:
            raise KeyboardInterrupt
        return told(anatomy, ids, way)

    monkeypatch.setattr(jacobian_fit, "prompt_jacobians", stops)
    with pytest.raises(KeyboardInterrupt):
        fitted(model, path=path, save_every=5)
    assert JacobianLens.load(path).n_prompts == 7
    monkeypatch.undo()
    again = fitted(model, path=path)
    assert again.n_prompts == 12 and np.array_equal(again.changes, whole.changes)
    kept = JacobianLens.load(path, model)
    for layer in whole.layers:
        assert np.array_equal(again.jacobians[layer], whole.jacobians[layer])
        assert np.array_equal(kept.jacobians[layer], whole.jacobians[layer])


def test_a_path_with_another_lens_is_refused(backend, folders, tmp_path):
    model, path = opened("llama", folders["llama"], backend), tmp_path / "lens.safetensors"
    fitted(model, prompts=3, path=path)
    before = path.read_bytes()
    for options, what in (
        ({"layers": [0]}, "layers"),
        ({"skip": 5}, "fit"),
        ({"texts": PROMPTS[1:]}, "texts"),
    ):
        with pytest.raises(InputError, match=rf"another Jacobian lens \(its .*{what}.* differ"):
            fitted(model, **{"texts": PROMPTS, "prompts": 3, "path": path, **options})
    assert path.read_bytes() == before
    assert fitted(model, prompts=5, path=path).n_prompts == 5  # more prompts are more of the same


def test_it_ends_where_prompts_change_little(backend, folders):
    model = opened("llama", folders["llama"], backend)
    lens = fitted(model, texts=[PROMPTS[0]] * 30, tolerance=1.0, least=11)
    assert lens.n_prompts == 11 and lens.mean_change < 1.0
    assert np.allclose(lens.changes[1:], 0, atol=1e-6)  # the same text again


def test_short_texts_are_counted_and_few_prompts_are_told(backend, folders):
    model = opened("llama", folders["llama"], backend)
    with pytest.warns(MlxterpWarning, match=f"mean of 2 prompts, which is {FEW}"):
        lens = model.fit_jacobian_lens([[5, 6], *PROMPTS[:2]], skip=SKIP, verbose=False)
    assert lens.metadata["too_short"] == 1 and "1 pieces of text were too short" in str(lens)
    with pytest.raises(InputError, match="None of the 2 texts has 18 tokens or more"):
        model.fit_jacobian_lens([[5, 6], [7] * 17], verbose=False)


def test_long_texts_give_a_prompt_for_each_piece(letter_model):
    lens = fitted(letter_model, texts=["ab c" * 1200, "short!"], context_length=20)
    assert lens.n_prompts == 4 and lens.metadata["too_short"] == 0
    assert fitted(letter_model, texts=["ab c" * 1200], prompts=2, context_length=20).n_prompts == 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prompts": 0}, InputError, "prompts is 0"),
        ({"prompts": 2.5}, InputError, "prompts is 2.5"),
        ({"layers": 3}, ComponentError, "numbered 0 to 2"),
        ({"layers": [0, 2]}, InputError, "Layer 2 is not before layer 2"),
        ({"layers": []}, InputError, "empty"),
        ({"target": 0}, InputError, "none before layer 0"),
        ({"context_length": 5}, InputError, "leaves no position"),
        ({"tolerance": -1}, InputError, "tolerance"),
        ({"rows": 0}, InputError, "rows"),
        ({"texts": "a single text"}, InputError, "list of texts"),
        ({"texts": [[1, 2, 3]]}, InputError, "None of the 1 texts"),
    ],
)
def test_bad_settings_say_what_to_do(folders, options, error, message):
    model = opened("llama", folders["llama"], "torch")
    with pytest.raises(error, match=message):
        fitted(model, **{"texts": PROMPTS, **options})


# -- reading --------------------------------------------------------------------------------------


def test_it_reads_what_matrix_norm_and_head_say(backend, folders):
    model = opened("llama", folders["llama"], backend)
    lens = fitted(model, prompts=3)
    trace = model.trace(IDS, capture=["layers.0.resid_post"])
    stream = model.language_model.backend.get(trace.activations["layers.0.resid_post"])[0]
    logits = model.language_model.backend.get(model.unembed(stream @ lens.jacobians[0].T))
    found = lens(IDS, layers=0, top_k=3)
    assert np.allclose(found.logits[0], -np.sort(-logits, axis=1)[:, :3], atol=1e-3)
    assert found.kind == "Jacobian lens" and str(found).startswith("Jacobian lens:")
    assert "Jacobian lens" in found._repr_html_()


def test_without_the_jacobian_it_is_the_logit_lens(backend, folders):
    model = opened("gpt2", folders["gpt2"], backend)
    lens = fitted(model, prompts=3)
    for read in (lens(IDS, use_jacobian=False), model.jacobian_lens(IDS, use_jacobian=False)):
        plain = model.logit_lens(IDS)
        assert np.array_equal(read.logits, plain.logits) and np.array_equal(read.ids, plain.ids)
        assert read.layers == plain.layers and read.kind == plain.kind


def test_a_model_holds_the_lens_that_was_fitted_or_loaded(folders, tmp_path):
    model = InterpretableModel(checkpoint("llama", tmp_path / "own"), backend="torch")
    with pytest.raises(InputError, match="holds no Jacobian lens"):
        model.jacobian_lens(IDS)
    lens = fitted(model, layers=[1], prompts=3)
    assert model.jacobian_lens(IDS).layers == (1, 2)
    with pytest.raises(InputError, match=r"no layer 0. It has \[1\]"):
        model.jacobian_lens(IDS, layers=0)
    twin = opened("llama", folders["llama"], "torch")
    assert twin.load_jacobian_lens(lens.save(tmp_path / "lens.safetensors")).layers == (1,)
    assert np.array_equal(twin.jacobian_lens(IDS).ids, model.jacobian_lens(IDS).ids)


# -- files ----------------------------------------------------------------------------------------


def test_a_published_file_is_read_without_running_it(folders, tmp_path):
    torch = pytest.importorskip("torch")
    model = opened("llama", folders["llama"], "torch")
    lens = fitted(model, prompts=3)
    path = tmp_path / "wiki_jacobian_lens.pt"
    held = {
        "J": {n: torch.tensor(J).half() for n, J in lens.jacobians.items()}, "n_prompts": 3,
        "source_layers": [0, 1], "d_model": 64, "provenance": {"capture_point": "block_output"},
    }  # fmt: skip
    torch.save(held, path)
    found = JacobianLens.load(path, model)
    assert found.layers == (0, 1) and found.target == 2 and found.n_prompts == 3
    for layer in found.layers:
        assert np.allclose(found.jacobians[layer], lens.jacobians[layer], atol=1e-3)
    torch.save({**held, "provenance": {"capture_point": "attn_out"}}, path)
    with pytest.raises(InputError, match="fitted at 'attn_out'"):
        JacobianLens.load(path)


def test_damaged_and_hostile_files_are_refused(folders, tmp_path):
    torch = pytest.importorskip("torch")
    lens = fitted(opened("llama", folders["llama"], "torch"), prompts=3)
    path = lens.save(tmp_path / "lens.safetensors")
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="digest is not that of its contents"):
        JacobianLens.load(path)
    path.write_bytes(bytes(data[:100]))
    with pytest.raises(InputError, match="cannot be read as a Jacobian lens"):
        JacobianLens.load(path)
    save_file({"J.0": np.eye(4, dtype=np.float32)}, path)
    with pytest.raises(InputError, match="does not say format"):
        JacobianLens.load(path)
    pt = tmp_path / "a.pt"
    for held, message in (
        ({"J": {0: torch.eye(4), 1: torch.eye(5)}, "n_prompts": 1}, "shapes"),
        ({"J": {0: torch.ones(4, 5)}, "n_prompts": 1}, "expected one size"),
        ({"J": {0: torch.full((4, 4), float("nan"))}, "n_prompts": 1}, "finite"),
        ({"J": {"a": torch.eye(4)}, "n_prompts": 1}, "'a' is no layer"),
        ({"J": {}, "n_prompts": 1}, "shapes"),
        ({"weights": torch.eye(4)}, "no matrices by layer under 'J'"),
        ({"J": {0: torch.eye(4)}}, "does not say how it was made"),
        ({"J": {0: Path("x")}, "n_prompts": 1}, "Python objects"),
    ):
        torch.save(held, pt)
        with pytest.raises(InputError, match=message):
            JacobianLens.load(pt)
    pt.write_bytes(b"nothing")
    with pytest.raises(InputError, match="not an archive"):
        JacobianLens.load(pt)
    with pytest.raises(InputError, match="There is no file"):
        JacobianLens.load(tmp_path / "none.pt")
    with pytest.raises(InputError, match=r"\.safetensors"):
        lens.save(tmp_path / "lens.pt")


def test_a_lens_of_another_model_is_refused_or_told(folders, tmp_path):
    lens = fitted(opened("llama", folders["llama"], "torch"), prompts=3)
    wide = InterpretableModel(
        checkpoint("llama", tmp_path / "wide", hidden_size=32, intermediate_size=48), backend="torch"
    )
    with pytest.raises(InputError, match="width 64 and reads up to layer 1; this llama model has width 32"):
        wide.load_jacobian_lens(lens)
    deep = InterpretableModel(checkpoint("llama", tmp_path / "deep", num_hidden_layers=4), backend="torch")
    with pytest.raises(InputError, match="of another model"):
        lens.on(deep)
    other = InterpretableModel(checkpoint("llama", tmp_path / "other", seed=5), backend="torch")
    with pytest.warns(MlxterpWarning, match="fitted to a model with other weights"):
        lens.on(other)
    unbound = JacobianLens(lens.jacobians, 2, 3)
    with pytest.raises(InputError, match="no model yet"):
        unbound(IDS)
    with pytest.raises(InputError, match="no model yet"):
        unbound.direction(5, 0)


def test_a_published_lens_comes_by_its_name(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    hub = pytest.importorskip("huggingface_hub")
    folder = repository(tmp_path, REPOSITORY)
    for name in ("tiny/jlens/wiki/a_jacobian_lens.pt", "two/jlens/wiki/a_jacobian_lens.pt",
                 "two/jlens/code/b_jacobian_lens.pt"):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save({"J": {0: torch.eye(4), 1: torch.eye(4)}, "n_prompts": 9}, folder / name)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert JacobianLens.load("tiny").n_prompts == 9
    assert JacobianLens.load("two/jlens/code").target == 2
    assert JacobianLens.load("two/jlens/wiki/a_jacobian_lens.pt").layers == (0, 1)
    with pytest.raises(InputError, match="has several: two/jlens"):
        JacobianLens.load("two")
    with pytest.raises(InputError, match="none of that name, but of: tiny, two"):
        JacobianLens.load("three")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(InputError, match="HF_HUB_OFFLINE forbids a connection"):
        JacobianLens.load("tiny")


# -- directions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2"])
def test_a_direction_is_the_matrix_transposed_times_the_tokens_row(backend, folders, model_type):
    model = opened(model_type, folders[model_type], backend)
    weights = load_file(folders[model_type] / "model.safetensors")
    head = next(
        weights[n] for n in ("lm_head.weight", "model.embed_tokens.weight", "wte.weight") if n in weights
    )
    row = unembedding_row(model.anatomy, 17)
    cosine = row @ head[17] / np.linalg.norm(row) / np.linalg.norm(head[17])
    assert cosine > 1 - 1e-5  # gemma2 caps its logits
    lens = fitted(model, prompts=3)
    expected = lens.jacobians[1].T @ head[17]
    found = lens.direction(17, 1)
    assert np.allclose(found, expected / np.linalg.norm(expected), atol=1e-4)
    assert np.allclose(lens.direction(17, 1, use_jacobian=False), row / np.linalg.norm(row), atol=1e-6)
    assert list(lens.directions(17)) == [0, 1]
    with pytest.raises(InputError, match="outside the vocabulary"):
        lens.direction(200, 1)


def test_steering_ablating_and_swapping_do_what_they_say(backend, folders):
    model = opened("llama", folders["llama"], backend)
    lens = fitted(model, layers=[1], prompts=3)
    backend_, name = model.language_model.backend, "layers.1.resid_post"

    def stream(edits: Any = None) -> np.ndarray:
        with model.steer(edits or []):
            trace = model.trace(IDS, capture=[name])
            return backend_.get(trace.activations[name])[0].astype(np.float64)

    before, a, b = (
        stream(),
        lens.direction(17, 1).astype(np.float64),
        lens.direction(40, 1).astype(np.float64),
    )
    lengths = np.linalg.norm(before, axis=1, keepdims=True)

    def expected(change: np.ndarray) -> np.ndarray:
        return before + np.concatenate([0 * change[:1], change[1:]])  # the first token stays

    assert np.allclose(stream(steering.lens_steer(lens, 17, 0.5)), expected(0.5 * lengths * a), atol=1e-4)
    capped = stream(steering.lens_steer(lens, 17, -7.0, cap=0.25))
    assert np.allclose(capped, expected(-0.25 * lengths * a), atol=1e-4)
    ablated = stream(steering.lens_ablate(lens, 17))
    assert np.allclose(ablated[1:] @ a, 0, atol=1e-4) and np.allclose(ablated[0], before[0], atol=1e-6)
    change = (before @ a)[:, None] * (b - a)
    assert np.allclose(stream(steering.lens_swap(lens, 17, 40)), expected(change), atol=1e-4)
    short = np.minimum(1.0, 0.01 * lengths / np.linalg.norm(change, axis=1, keepdims=True))
    assert (short < 1).any()
    assert np.allclose(
        stream(steering.lens_swap(lens, 17, 40, cap=0.01)), expected(short * change), atol=1e-4
    )
    everywhere = stream(steering.lens_steer(lens, 17, 0.5, positions="all"))
    assert np.allclose(everywhere, before + 0.5 * lengths * a, atol=1e-4)
    both = stream([*steering.lens_ablate(lens, 17), *steering.lens_steer(lens, 40, 0.5)])
    assert np.allclose(both, ablated + np.concatenate([0 * a[None], 0.5 * np.linalg.norm(
        ablated[1:], axis=1, keepdims=True) * b]), atol=1e-4)  # fmt: skip


def test_generated_tokens_are_steered_only_where_asked_for(demo):
    lens = fitted(demo.model, texts=demo.texts, layers=[1], prompts=3, context_length=24)
    seen: dict[str, int] = {}
    for positions in ("prompt[1:]", "all", "generated"):
        edits = steering.lens_steer(lens, " doll", 0.3, positions=positions)
        counts: list[int] = []

        def watch(x: Any, counts: list[int] = counts) -> Any:
            counts.append(int(x.shape[1]))
            return x

        prompt = "Lily lost her red"
        text = demo.model.generate(prompt, max_tokens=4, steer=edits, interventions={"layers.0": watch})
        assert isinstance(text, str) and sum(counts) >= len(demo.model.tokenize(prompt))
        seen[text] = 1
    assert len(seen) > 1
    with pytest.raises(InputError, match="exactly one"):
        lens.direction(" dolls and balls", 1)
    with pytest.raises(InputError, match="Expected a JacobianLens"):
        steering.lens_steer("lens", " doll")  # type: ignore[arg-type]


def test_vectors_of_two_widths_cannot_be_swapped():
    with pytest.raises(InputError, match="3 and 2 numbers"):
        steering.swap([1.0, 2, 3], [1.0, 2], at="layers.0.resid_post")
    edit = steering.swap([1.0, 2, 3], [1.0, 2, 4], at="layers.0.resid_post", share=0)
    assert edit.is_nothing and "move 0 of direction" in repr(edit)


# -- to look at -----------------------------------------------------------------------------------


def test_a_lens_prints_and_tabulates_how_far_it_is_from_the_identity(folders):
    pytest.importorskip("pandas")
    lens = fitted(opened("llama", folders["llama"], "torch"))
    assert str(lens).splitlines()[0] == "Jacobian lens of 2 layers, to layer 2, from 12 prompts"
    assert "changed the means by" in str(lens) and "<table" in lens._repr_html_()
    frame = lens.to_pandas()
    assert list(frame.columns) == ["layer", "identity_distance"] and list(frame["layer"]) == [0, 1]
    one = np.linalg.norm(lens.jacobians[0] - np.eye(64)) / 8
    assert frame["identity_distance"][0] == pytest.approx(one)
    assert repr(lens) == "JacobianLens(2 layers to layer 2, 12 prompts)"


def test_a_folder_is_not_taken_for_a_damaged_file(tmp_path):
    with pytest.raises(InputError, match=r"is a folder\. A Jacobian lens is a"):
        JacobianLens.load(tmp_path)


def test_a_lens_of_matrices_by_hand_is_checked_and_saved(tmp_path):
    make: Any = JacobianLens
    torch = pytest.importorskip("torch")
    lens = make(
        {np.int64(0): torch.eye(3).bfloat16()}, np.int64(1), np.int64(2), metadata={"k": np.float32(0.5)}
    )
    lens.save(tmp_path / "lens.safetensors")
    again = JacobianLens.load(tmp_path / "lens.safetensors")
    assert again.jacobians[0].tolist() == np.eye(3).tolist() and (again.target, again.n_prompts) == (1, 2)
    own = np.eye(3, dtype=np.float32)
    assert (
        make({0: own}, 1, 2).jacobians[0] is own
        and make({0: np.eye(3)}, 1, 2).jacobians[0].dtype == np.float32
    )
    for given, words in (
        (([np.eye(3)], 1, 2), "expected {layer: matrix}"), (({}, 1, 2), "at least one"),
        (({0: np.full((2, 2), np.nan)}, 1, 2), "holds NaN"), (({0: np.full((2, 2), 1e300)}, 1, 2), "beyond float32"),
        (({0: np.ones((2, 3))}, 1, 2), "expected one size"),
        (({0: np.eye(2), 1: np.eye(3)}, 2, 2), "expected one size"), (({0: "x"}, 1, 2), "real numbers|no array"),
        (({0: np.eye(3)}, "last", 2), "target is"), (({-1: np.eye(3)}, 1, 2), "a layer of jacobians"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            make(*given)

"""The tuned lens (row U4): training in both wings, its files, and those of others."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxterp import ConfigWarning, InputError, InterpretableModel, MlxterpWarning, TunedLens
from mlxterp.lens import lens_comparison
from tests.patching.asking import opened
from tests.small import checkpoint

IDS = [3, 14, 15, 92, 65, 35, 89]
ROWS = [[(5 * i + 3 * j * j + 1) % 190 + 2 for j in range(20)] for i in range(30)]
OPTIONS: dict[str, Any] = {"verbose": False, "batch_tokens": 60, "max_seq_len": 20, "learning_rate": 0.05}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    return tmp_path_factory.mktemp("models") / "llama"


def trained(model: InterpretableModel, texts: Any = ROWS, **options: Any) -> TunedLens:
    return model.train_tuned_lens(texts, **{**OPTIONS, "num_steps": 10, **options})


# -- training -------------------------------------------------------------------------------------


def test_U4_at_first_it_is_the_logit_lens(backend, folder):
    model = opened("llama", folder, backend)
    lens = TunedLens(3, 64).on(model)
    plain = model.logit_lens(IDS)
    for read in (lens(IDS), model.tuned_lens(IDS, lens), trained(model, num_steps=0)(IDS)):
        assert np.array_equal(read.ids, plain.ids) and np.array_equal(read.logits, plain.logits)
        assert read.kind == "Tuned lens"


def test_U4_a_gradient_is_the_derivative_of_the_divergence(backend, folder):
    model = opened("llama", folder, backend)
    wing, rng = model.language_model.backend, np.random.default_rng(0)
    x, final = (rng.standard_normal((3, 64)).astype(np.float32) for _ in range(2))
    target = model.unembed(final)

    def losses(x: np.ndarray) -> np.ndarray:
        return model.language_model.divergence(wing.put(x), target)[0].astype(np.float64)

    logits, aim = (wing.get(y).astype(np.float64) for y in (model.unembed(x), target))
    said, true = (y - np.log(np.exp(y).sum(-1, keepdims=True)) for y in (logits, aim))
    assert np.allclose(losses(x), (np.exp(true) * (true - said)).sum(-1), atol=1e-4)
    gradient = wing.get(model.language_model.divergence(wing.put(x), target)[1])
    for _ in range(3):
        move = rng.standard_normal(x.shape).astype(np.float32)
        expected = (losses(x + 1e-2 * move) - losses(x - 1e-2 * move)).sum() / 2e-2
        assert (gradient * move).sum() == pytest.approx(expected, rel=2e-3, abs=2e-3)


def test_U4_both_wings_train_the_same_lens_in_fifty_steps(folder):
    pytest.importorskip("mlx.core")
    one, other = (trained(opened("llama", folder, wing), num_steps=50) for wing in ("mlx", "torch"))
    assert np.allclose(one.weights, other.weights, atol=1e-3) and np.allclose(
        one.biases, other.biases, atol=1e-3
    )
    assert np.abs(one.weights[0] - np.eye(64)).max() > 0.01
    for layer, (before, after) in one.gain.items():
        assert other.gain[layer] == pytest.approx((before, after), abs=1e-3)
    read = [lens(IDS).logits for lens in (one, other)]
    assert np.allclose(*read, atol=1e-2)


def test_U4_a_step_is_nesterovs_on_a_clipped_gradient(folder):
    model = opened("llama", folder, "torch")
    one = trained(model, num_steps=1, gradient_clip=0.1, learning_rate=0.1)
    size = np.sqrt(((one.weights[0] - np.eye(64)) ** 2).sum() + (one.biases[0] ** 2).sum())
    assert size == pytest.approx(0.1 * 0.1 * 1.9, rel=1e-3)  # gradient and 0.9 of the velocity, which it is
    assert np.array_equal(one.weights[2], np.eye(64)) and not one.biases[2].any()  # the model's own output


def test_U4_the_demos_lens_is_nearer_to_the_end_than_the_logit_lens(demo):
    lens = trained(demo.model, demo.texts[:120], num_steps=25, batch_tokens=128, learning_rate=0.1,
                   held_out=demo.texts[-8:])  # fmt: skip
    assert lens.metadata["held_out_texts"] == 8 and set(lens.gain) == {0, 1, 2, 3}
    for layer in range(3):
        before, after = lens.gain[layer]
        assert after < before
    assert lens.gain[3] == pytest.approx((0, 0), abs=1e-6)
    found = lens_comparison(demo.model, demo.texts[-8:], {"tuned": lens})
    assert (found.interval("tuned", "kl", base="logit")[:3, 1] < 0).all()  # below it, and not by chance
    assert "held-out KL, logit lens" in str(lens) and list(lens.to_pandas().columns) == [
        "layer",
        "logit_lens_kl",
        "kl",
    ]


def test_U4_an_interrupted_training_goes_on_to_the_same_numbers(backend, folder, tmp_path):
    model, path = opened("llama", folder, backend), tmp_path / "run.safetensors"
    whole = trained(model, num_steps=30)

    def stops(step: int, _loss: float) -> None:
        if step == 27:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(model, num_steps=30, checkpoint=path, callback=stops)
    steps: list[int] = []
    again = trained(model, num_steps=30, checkpoint=path, callback=lambda step, _loss: steps.append(step))
    assert steps == list(range(21, 31))
    assert np.array_equal(again.weights, whole.weights) and np.array_equal(again.biases, whole.biases)
    with pytest.raises(InputError, match="another training"):
        trained(model, num_steps=30, checkpoint=path, learning_rate=0.2)
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="or it is damaged"):
        trained(model, num_steps=30, checkpoint=path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": -1}, "num_steps"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"momentum": 1.0}, "momentum"),
        ({"gradient_clip": -1}, "gradient_clip"),
        ({"batch_tokens": 0}, "batch_tokens"),
        ({"callback": 5}, "callback is int"),
        ({"texts": []}, "empty"),
        ({"texts": [[3], [4]]}, "None of the 2 texts has two tokens"),
        ({"texts": "one text"}, "list of texts"),
        ({"held_out": "text"}, "held_out is str"),
    ],
)
def test_bad_settings_say_what_to_do(folder, options, message):
    with pytest.raises(InputError, match=message):
        trained(opened("llama", folder, "torch"), **options)


def test_few_texts_leave_none_to_measure_on(folder):
    with pytest.warns(MlxterpWarning, match="A tuned lens of 60 tokens is not to be trusted"):
        lens = trained(opened("llama", folder, "torch"), ROWS[:3], num_steps=2)
    assert lens.gain == {} and "not measured on held-out texts" in str(lens)


# -- files ----------------------------------------------------------------------------------------


def test_U4_files_of_the_existing_layout_go_there_and_back(folder, tmp_path):
    model = opened("llama", folder, "torch")
    lens = trained(model, save_path=tmp_path / "lens")
    with np.load(tmp_path / "lens.npz") as held:
        assert set(held) == {f"translators_{i}_{part}" for i in range(3) for part in ("weight", "bias")}
        assert np.array_equal(held["translators_1_weight"], lens.weights[1])
    said = json.loads((tmp_path / "lens.json").read_text())
    assert (said["num_layers"], said["hidden_dim"]) == (3, 64)
    for name in ("lens", "lens.npz", "lens.json"):
        found = TunedLens.load(tmp_path / name, model)
        assert np.array_equal(found.weights, lens.weights) and np.array_equal(found.biases, lens.biases)
        assert found.gain == lens.gain
    assert np.array_equal(model.load_tuned_lens(tmp_path / "lens")(IDS).ids, model.tuned_lens(IDS).ids)
    (tmp_path / "lens.json").write_text(
        json.dumps({"num_layers": 3, "hidden_dim": 64})
    )  # as that library writes it
    assert TunedLens.load(tmp_path / "lens").metadata == {}


def test_U4_the_tuned_lens_projects_maps_are_added_to_the_identity(folder, tmp_path):
    torch = pytest.importorskip("torch")
    model = opened("llama", folder, "torch")
    rng = np.random.default_rng(0)
    maps = [(0.1 * rng.standard_normal((64, 64)), rng.standard_normal(64)) for _ in range(3)]
    state = {f"{i}.weight": torch.tensor(W).float() for i, (W, _) in enumerate(maps)}
    state |= {f"{i}.bias": torch.tensor(b).float() for i, (_, b) in enumerate(maps)}
    torch.save(state, tmp_path / "params.pt")
    config = {"base_model_name_or_path": "tiny", "d_model": 64, "num_hidden_layers": 3, "bias": True,
              "lens_type": "linear_tuned_lens", "unembed_hash": "x"}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    lens = TunedLens.load(tmp_path, model)
    assert lens.metadata["model"] == "tiny"
    name = "layers.0.resid_post"
    stream = model.language_model.backend.get(model.trace(IDS, capture=[name]).activations[name])[0]
    W, b = maps[1]  # theirs of layer 1 reads what enters it, which is what leaves layer 0
    expected = stream + stream @ W.T.astype(np.float32) + b.astype(np.float32)
    logits = model.language_model.backend.get(model.unembed(expected))
    assert np.allclose(lens(IDS, layers=0, top_k=1).logits[0, :, 0], logits.max(axis=1), atol=1e-3)
    assert np.array_equal(lens.weights[2], np.eye(64))
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    with pytest.raises(InputError, match=r"maps of 3 layers; its config\.json says 4"):
        TunedLens.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "lens_type": "other"}))
    with pytest.raises(InputError, match="lens_type is 'other'"):
        TunedLens.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="num_hidden_layers is None"):
        TunedLens.load(tmp_path)


def test_damaged_files_and_lenses_of_other_models_are_refused(folder, tmp_path):
    model = opened("llama", folder, "torch")
    lens = trained(model, num_steps=1)
    lens.save(tmp_path / "lens")
    with pytest.raises(InputError, match="there is no file"):
        TunedLens.load(tmp_path / "none")
    data = bytearray((tmp_path / "lens.npz").read_bytes())
    data[300] ^= 1
    (tmp_path / "lens.npz").write_bytes(data)
    with pytest.raises(InputError, match="its sha256 is not"):
        TunedLens.load(tmp_path / "lens")
    np.savez(tmp_path / "lens.npz", a=np.ones(3))
    (tmp_path / "lens.json").write_text(json.dumps({"num_layers": 1, "hidden_dim": 4}))
    with pytest.raises(InputError, match="weight and bias of 1 layers"):
        TunedLens.load(tmp_path / "lens")
    np.savez(tmp_path / "lens.npz", translators_0_weight=np.ones((4, 5)), translators_0_bias=np.ones(4))
    with pytest.raises(InputError, match="expected numbers of"):
        TunedLens.load(tmp_path / "lens")
    for number in (0, 1.5, True, 10**9, "3"):
        (tmp_path / "lens.json").write_text(json.dumps({"num_layers": number, "hidden_dim": 4}))
        with pytest.raises(InputError, match="num_layers is"):
            TunedLens.load(tmp_path / "lens")
    with pytest.raises(InputError, match="has shape"):
        TunedLens(2, 4, weights=np.ones((2, 4, 5)))
    with pytest.raises(InputError, match="no model yet"):
        TunedLens(3, 64)(IDS)
    with pytest.raises(InputError, match="Tuned lens is of another model"):
        TunedLens(4, 64).on(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)
        other = InterpretableModel(checkpoint("llama", tmp_path / "other", seed=5), backend="torch")
    with pytest.raises(InputError, match="holds no tuned lens"):
        other.tuned_lens(IDS)
    with pytest.raises(InputError, match="tuned_lens is str"):
        other.tuned_lens(IDS, "lens")  # type: ignore[arg-type]
    with pytest.warns(MlxterpWarning, match="other weights"):
        other.load_tuned_lens(lens)


def test_maps_and_facts_come_in_every_form_or_are_named(tmp_path):
    torch = pytest.importorskip("torch")
    make: Any = TunedLens
    maps = torch.eye(3)[None].requires_grad_()
    for given in (maps, maps.bfloat16()):
        lens = make(1, 3, weights=given, metadata={"steps": np.int64(5), "rate": np.float32(0.5)})
        assert lens.weights.tolist() == torch.eye(3)[None].tolist()
        lens.save(tmp_path / "lens")
        assert TunedLens.load(tmp_path / "lens").metadata == {"steps": 5, "rate": 0.5}
    for bad in ([1], "x", {"a": float("nan")}, {"a": object()}):
        with pytest.raises(InputError, match="metadata"):
            make(1, 3, metadata=bad)
    for bad in ([1], {"0": 3}, {"x": [1, 2]}):
        with pytest.raises(InputError, match="held_out_kl"):
            print(make(1, 3, metadata={"held_out_kl": bad}))

"""SAEs and transcoders trained while a model runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import (
    SAE,
    ComponentError,
    InputError,
    InterpretableModel,
    MlxterpWarning,
    SAEError,
    SAETrainConfig,
    load_demo,
)
from mlxterp.training.config import ARCHITECTURES

CONFIG = SAETrainConfig(d_hidden=128, k=8, batch_size=256, epochs=2)


@pytest.fixture(scope="module", params=["mlx", "torch"])
def demo(request):
    if request.param not in mlxterp.available_backends():
        pytest.skip(f"{request.param} is not installed")
    if request.param == "torch":
        pytest.importorskip("transformers")
    return load_demo(request.param)


@pytest.fixture(scope="module")
def of_every_architecture(demo, tmp_path_factory):
    """One SAE of each architecture, trained from the same pass of the model, and where they are saved."""
    common: dict[str, Any] = {"d_hidden": 128, "k": 8, "batch_size": 128, "epochs": 3}
    jobs = {
        name: ("layers.1.resid_post", SAETrainConfig(architecture=name, **common)) for name in ARCHITECTURES
    }
    folder = tmp_path_factory.mktemp("saes") / "all"
    return demo.model.train_saes(jobs, demo.texts[:40], folder, verbose=False), folder


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_explains_a_components_activations(demo, of_every_architecture, architecture):
    saes, folder = of_every_architecture
    sae = saes[architecture]
    facts = sae.metadata["training"]
    assert facts["explained_variance"] > 0.35
    low, high = (7.8, 8.01) if "topk" in architecture else (3, 24)
    assert low < facts["l0"] < high
    again = SAE.load(folder / architecture)
    assert again.fingerprint == sae.fingerprint
    assert sae.metadata["architecture"] == architecture and sae.component == "layers.1.resid_post"
    evaluation = sae.evaluate(demo.model, demo.texts[40:44])
    assert evaluation.explained_variance > 0.3


def test_a_layer_and_a_kind_name_the_component(demo, tmp_path):
    config = SAETrainConfig(d_hidden=64, k=8, batch_size=128, epochs=1)
    sae = demo.model.train_sae(1, demo.texts[:5], "residual", config, tmp_path / "sae", verbose=False)
    assert (
        sae.component == "layers.1.resid_post" and SAE.load(tmp_path / "sae").fingerprint == sae.fingerprint
    )


def test_a_transcoder_predicts_another_component(demo):
    texts = demo.texts[:40]
    plain = SAETrainConfig(d_hidden=128, k=8, batch_size=256, epochs=3, target="layers.2.mlp")
    skip = SAETrainConfig(d_hidden=128, k=8, batch_size=256, epochs=3, target="layers.2.mlp", skip=True)
    found = demo.model.train_saes(
        {"plain": ("layers.1.resid_post", plain), "skip": ("layers.1.resid_post", skip)}, texts, verbose=False
    )
    for sae in found.values():
        assert sae.is_transcoder and sae.metadata["component_out"] == "layers.2.mlp"
    scores = {name: sae.metadata["training"]["explained_variance"] for name, sae in found.items()}
    assert min(scores.values()) > 0.25
    assert found["skip"].metadata["architecture"] == "topk_skip_transcoder"


def test_several_saes_from_one_pass_are_those_trained_alone(demo, tmp_path):
    texts = demo.texts[:15]
    other = SAETrainConfig(d_hidden=64, k=4, batch_size=256, epochs=2, architecture="batchtopk")
    both = demo.model.train_saes(
        {"a": ("layers.1.mlp", CONFIG), "b": ("layers.2.resid_post", other)},
        texts,
        tmp_path / "both",
        verbose=False,
    )
    alone = demo.model.train_sae(1, texts, "mlp", CONFIG, verbose=False)
    np.testing.assert_allclose(both["a"].W_dec, alone.W_dec, atol=1e-4)
    assert SAE.load(tmp_path / "both/b").fingerprint == both["b"].fingerprint
    assert (tmp_path / "both.run/training_history.json").is_file()
    larger = SAETrainConfig(k=2, epochs=2, batch_size=512)
    with pytest.raises(InputError, match=r"differ in batch_size"):
        demo.model.train_saes({"a": ("layers.1.mlp", CONFIG), "b": ("layers.1.mlp", larger)}, texts)
    with pytest.raises(InputError, match="empty dictionary"):
        demo.model.train_saes({}, texts)


def test_a_run_of_a_model_goes_on_with_the_same_rows(demo, tmp_path):
    import signal

    def interrupt(row):
        if row["step"] == 9:
            signal.raise_signal(signal.SIGINT)

    texts = demo.texts[:20]
    whole = demo.model.train_sae(1, texts, "mlp", CONFIG, tmp_path / "whole", verbose=False)
    with pytest.warns(MlxterpWarning, match="Interrupted at step 9"):
        demo.model.train_sae(1, texts, "mlp", CONFIG, tmp_path / "cut", verbose=False, log=interrupt)
    cut = demo.model.train_sae(1, texts, "mlp", CONFIG, tmp_path / "cut", verbose=False, resume=True)
    assert whole.metadata["training"]["steps"] > 12
    np.testing.assert_array_equal(whole.W_dec, cut.W_dec)
    with pytest.raises(SAEError, match=r"data.texts.hash was"):
        demo.model.train_sae(1, texts[:-1], "mlp", CONFIG, tmp_path / "cut", verbose=False, resume=True)


def test_metadata_says_what_was_left_out(demo):
    sae = demo.model.train_sae(
        1, demo.texts[:10], "mlp", CONFIG, verbose=False, exclude=("first",), context_length=32
    )
    assert sae.metadata["excluded_tokens"]["first"] > 20
    assert sae.metadata["context_size"] == 32 and sae.metadata["exclude"] == ["first"]


def test_a_text_file_and_a_stream_train_too(demo, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("<|endoftext|>".join(demo.texts[:10]))
    one = demo.model.train_sae(1, str(path), "mlp", CONFIG, verbose=False)
    two = demo.model.train_sae(1, demo.texts[:10], "mlp", CONFIG, verbose=False)
    np.testing.assert_array_equal(one.W_dec, two.W_dec)
    datasets = pytest.importorskip("datasets")
    stream = datasets.Dataset.from_dict({"text": demo.texts[:10]}).to_iterable_dataset()
    with pytest.raises(InputError, match="does not say how long it is"):
        demo.model.train_sae(1, stream, "mlp", CONFIG, verbose=False)
    limited = SAETrainConfig(d_hidden=128, k=8, batch_size=256, tokens=1000)
    sae = demo.model.train_sae(1, stream, "mlp", limited, verbose=False)
    facts = sae.metadata
    assert facts["training"]["tokens"] == 1000 - sum(facts["excluded_tokens"].values())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"dataset": []}, InputError, "empty list"),
        ({"component": "nothing"}, ComponentError, "nothing"),
        (
            {"config": SAETrainConfig(d_hidden=8, k=2, target="layers.1.mlp")},
            SAEError,
            "is the component itself",
        ),
        ({"config": SAETrainConfig(d_hidden=8, k=2, skip=True)}, SAEError, "name what to predict"),
        ({"config": SAETrainConfig(k=4000, expansion_factor=2)}, SAEError, "k=4000 is larger than d_hidden"),
        ({"exclude": ("everything",)}, InputError, "there are: bos, first, sinks"),
        ({"layer": 99}, ComponentError, "99"),
        ({"checkpoint_every": 0}, InputError, "checkpoint_every is 0"),
    ],
)
def test_what_cannot_be_trained_is_refused(demo, change, error, message):
    call = {
        "layer": 1,
        "dataset": demo.texts[:3],
        "component": "mlp",
        "config": CONFIG,
        "verbose": False,
        **change,
    }
    with pytest.raises(error, match=message):
        demo.model.train_sae(**call)


def test_fewer_tokens_than_a_batch_are_told(demo):
    config = SAETrainConfig(d_hidden=64, k=4, batch_size=4096)
    with pytest.warns(MlxterpWarning, match="fewer than batch_size=4096"):
        demo.model.train_sae(1, demo.texts[:1], "mlp", config, verbose=False)


def test_activations_that_are_not_finite_are_named(shared):
    pytest.importorskip("mlx")
    import mlx.core as mx

    model = InterpretableModel(str(shared / "data/models/stories260K"), backend="mlx")
    norm = model.language_model.model.model.layers[1].input_layernorm  # pyright: ignore[reportAttributeAccessIssue]
    norm.weight = norm.weight * mx.inf
    with pytest.raises(SAEError, match=r"activations of layers.1.mlp holds NaN"):
        model.train_sae(1, ["Once upon a time there was a cat."] * 3, "mlp", CONFIG, verbose=False)


def test_a_saved_sae_of_every_batch_architecture_is_a_jumprelu_file(demo, tmp_path):
    import json

    config = SAETrainConfig(d_hidden=64, k=4, batch_size=256, architecture="batchtopk")
    sae = demo.model.train_sae(1, demo.texts[:10], "mlp", config, verbose=False)
    folder = Path(sae.save(tmp_path / "sae", format="saelens"))
    assert json.loads((folder / "cfg.json").read_text())["architecture"] == "jumprelu"
    x = np.random.default_rng(0).standard_normal((20, sae.d_model)).astype(np.float32)
    np.testing.assert_allclose(SAE.load(folder).encode(x), sae.encode(x), atol=1e-6)

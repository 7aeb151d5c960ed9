"""An index, a store and a run of training are bound to the bytes of the model's weights."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import pytest

from mlxterp import (
    SAE,
    FeatureIndex,
    FeatureIndexError,
    InputError,
    InterpretableModel,
    MlxterpWarning,
    SAEError,
    SAETrainConfig,
    collect_activations,
)
from mlxterp.activations.fingerprint import PROBE_TOKENS, model_fingerprint, same_fingerprint
from mlxterp.backends.host.state import WeightsDigest
from tests.letters import LetterTokenizer, llama_of_mlx, random_sae
from tests.small import open_llama

COMPONENT = "layers.1.mlp"
TEXTS = ["the cat sat", "on a red mat and more", "zebra", "to be or not"] * 6
BEYOND = range(PROBE_TOKENS + 20, 160)
"""Token ids that are in the texts and not in the probe."""


@pytest.fixture
def model(letter_model: InterpretableModel) -> InterpretableModel:
    return letter_model


def sae_of(model: InterpretableModel) -> SAE:
    sae = random_sae(model.d_model, d_hidden=48)
    sae.metadata["component"] = COMPONENT
    return sae


def negate_rows(model: InterpretableModel) -> None:
    """Changes the embedding of tokens that no probe looks at, behind the same objects."""
    whole: Any = model.language_model.model  # type: ignore[attr-defined]
    table = whole.model.embed_tokens.weight
    if model.language_model.backend.name == "mlx":
        for row in BEYOND:
            table[row] = -table[row]
    else:
        table.data[list(BEYOND)] *= -1


def changed_behind_the_probe(model: InterpretableModel) -> None:
    components = [model.anatomy.component(COMPONENT)]
    before = model_fingerprint(model.anatomy, components)
    negate_rows(model)
    assert same_fingerprint(before[COMPONENT], model_fingerprint(model.anatomy, components)[COMPONENT])


def test_an_index_is_refused_where_any_weight_has_changed(model, tmp_path):
    sae = sae_of(model)
    index = model.build_index(sae, TEXTS, tmp_path / "index", verbose=False)
    FeatureIndex.open(tmp_path / "index", model, sae)
    assert model.get_top_texts_for_feature(3, sae, None, 1, index=index) == index.top_texts(3)
    changed_behind_the_probe(model)
    with pytest.raises(FeatureIndexError, match="other weights"):
        FeatureIndex.open(tmp_path / "index", model, sae)
    with pytest.raises(FeatureIndexError, match="other weights"):
        model.build_index(sae, TEXTS, tmp_path / "index", verbose=False)
    with pytest.raises(InputError, match="other weights"):
        model.get_top_texts_for_feature(3, sae, None, 1, index=index)
    negate_rows(model)
    FeatureIndex.open(tmp_path / "index", model, sae)


def test_indexes_of_other_weights_are_not_merged(tmp_path):
    sae, parts = sae_of(llama_of_mlx()), []
    for number in range(2):
        model = llama_of_mlx()
        if number:
            negate_rows(model)
        parts.append(tmp_path / f"part{number}")
        model.build_index(sae, TEXTS[: 3 + number], parts[-1], verbose=False)
    with pytest.raises(FeatureIndexError, match="weights"):
        FeatureIndex.merge(parts, tmp_path / "all")


def test_a_store_is_refused_where_any_weight_has_changed(model, tmp_path):
    store = collect_activations(model, TEXTS, COMPONENT, tmp_path / "store", exclude=(), progress=False)
    config = SAETrainConfig(d_hidden=32, k=2, batch_size=64)
    model.train_sae(1, store, config=config, verbose=False)
    changed_behind_the_probe(model)
    with pytest.raises(SAEError, match="other weights"):
        model.train_sae(1, store, config=config, verbose=False)
    with pytest.raises(SAEError, match="other weights"):
        collect_activations(model, TEXTS, COMPONENT, tmp_path / "store", exclude=(), progress=False)


def test_an_interrupted_collection_does_not_go_on_with_other_weights(tmp_path):
    model, folder = llama_of_mlx(), tmp_path / "store"
    settings: dict[str, Any] = {"exclude": (), "progress": False, "batch_tokens": 64}
    collect_activations(model, TEXTS, COMPONENT, folder, **settings)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"complete": False}))
    negate_rows(model)
    with pytest.raises(SAEError):
        collect_activations(model, TEXTS, COMPONENT, folder, **settings)


def test_training_does_not_go_on_with_other_weights(tmp_path):
    model, config = llama_of_mlx(), SAETrainConfig(d_hidden=32, k=2, batch_size=64)
    model.train_sae(1, TEXTS, config=config, save_path=tmp_path / "sae", verbose=False, exclude=())
    model.train_sae(
        1, TEXTS, config=config, save_path=tmp_path / "sae", verbose=False, exclude=(), resume=True
    )
    negate_rows(model)
    with pytest.raises(SAEError, match="weights"):
        model.train_sae(
            1, TEXTS, config=config, save_path=tmp_path / "sae", verbose=False, exclude=(), resume=True
        )


def test_an_adapter_is_another_model(tmp_path):
    from mlx_lm.tuner.lora import LoRALinear

    model = llama_of_mlx()
    sae, whole = sae_of(model), model.language_model.model  # type: ignore[attr-defined]
    model.build_index(sae, TEXTS, tmp_path / "index", verbose=False)
    own = whole.model.layers[0].mlp.up_proj
    whole.model.layers[0].mlp.up_proj = LoRALinear.from_base(own, r=2)
    with pytest.raises(FeatureIndexError, match="other weights"):
        FeatureIndex.open(tmp_path / "index", model, sae)
    whole.model.layers[0].mlp.up_proj = own
    FeatureIndex.open(tmp_path / "index", model, sae)


def test_the_other_wing_and_another_dtype_are_compared_by_probe_and_it_is_said(torch_folder, tmp_path):
    torch = pytest.importorskip("torch")
    model = InterpretableModel(torch_folder, tokenizer=LetterTokenizer(), backend="torch")
    sae = sae_of(model)
    model.build_index(sae, TEXTS, tmp_path / "index", verbose=False)
    other = open_llama(torch_folder, "mlx", LetterTokenizer())
    with pytest.warns(MlxterpWarning, match="fixed tokens"):
        FeatureIndex.open(tmp_path / "index", other, sae)
    model.language_model.model.to(torch.bfloat16)  # type: ignore[attr-defined]
    with pytest.warns(MlxterpWarning, match="fixed tokens"):
        FeatureIndex.open(tmp_path / "index", model, sae)


def test_what_an_older_version_made_is_compared_by_its_probe():
    kept = {"backend": "mlx", "layout": "a", "dtypes": "b", "values": "c"}
    digest = WeightsDigest(**kept)
    assert digest.equals(kept) and WeightsDigest.from_json(kept) == digest
    assert digest.equals(kept | {"values": "d"}) is False and digest.equals(kept | {"layout": "d"}) is False
    for unknown in (None, {}, kept | {"backend": "torch"}, kept | {"dtypes": "d"}, "text"):
        assert digest.equals(unknown) is None
    assert WeightsDigest.from_json({"backend": "mlx"}) is None


def test_a_digest_of_weights_is_the_same_in_another_process_and_order():
    one, two = llama_of_mlx(), llama_of_mlx()
    assert one.language_model.weights_digest() == two.language_model.weights_digest()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.all([one.language_model.state_digest() == one.language_model.state_digest()])

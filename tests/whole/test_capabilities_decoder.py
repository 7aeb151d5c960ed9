"""Rows of the capability list about decoder rows and names of features, on trained models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import mlxterp
from examples.sae_feature import dataset, decoder_analysis, max_activating_examples
from mlxterp import FeatureRegistry, InterpretableModel, SAETrainConfig
from tests.lens.test_feature_logits import numpy_lens, sae_at

FOLDER = Path(dataset.__file__).parent
TRAINED = ("stories260K", "TinyStories-656K", "tinystories_instruct_3m_gpt2")


# -- E2: a decoder row through norm and head ------------------------------------------------------


@pytest.mark.filterwarnings("ignore::mlxterp.ConfigWarning")
@pytest.mark.parametrize("name", [*TRAINED, "demo"])
def test_E2_the_top_tokens_of_a_decoder_row_are_those_of_plain_numpy(backend, request, name):
    folder: Path = mlxterp.demo.FOLDER / "model"
    if name != "demo":
        folder = request.getfixturevalue("shared") / "data" / "models" / name
    model = InterpretableModel(folder, backend=backend)
    weights = _weights(folder)
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    sae = sae_at("layers.1.resid_post", model.d_model, d_hidden=30)
    expected = numpy_lens(weights, "gpt2" if kind == "gpt2" else "llama", sae.W_dec.astype(np.float64))
    for feature, logits in zip(model.feature_logits(sae, range(30), 10), expected, strict=True):
        order = np.argsort(-logits, kind="stable")
        assert np.allclose([x for _, x in feature.promoted], logits[order[:10]], rtol=1e-3)
        assert np.allclose([x for _, x in feature.suppressed], logits[order[::-1][:10]], rtol=1e-3)
        assert np.allclose(logits[list(feature.promoted_ids)], logits[order[:10]], rtol=1e-3)
        assert feature.sd == pytest.approx(logits.std(), rel=1e-3)
        z = logits / logits.std()
        assert feature.skew == pytest.approx((z**3).mean(), abs=1e-2)
        assert feature.kurtosis == pytest.approx((z**4).mean(), rel=1e-2)


def _weights(folder: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    return found


def test_E2_the_lens_is_the_direct_effect_of_a_feature_on_the_logits(demo):
    """Where the stream is long, a step along the row changes centred logits as the lens says."""
    model, sae, texts = demo
    get = model.language_model.backend.get
    stream = get(model.trace(texts[0][:200]).activations["layers.3.resid_post"])[0].astype(np.float64)[-1]
    root = np.sqrt((stream**2).mean())
    feature = model.feature_logits(sae, 77, 10)
    step = 1e-2 * root * sae.W_dec[77]
    orthogonal = step - stream * (step @ stream) / (stream @ stream)  # the rest only changes the norm
    both = get(model.unembed(np.stack([stream + orthogonal, stream - orthogonal]).astype(np.float32)))
    slope = (both[0] - both[1]) / 2e-2
    along = get(model.unembed(stream[None].astype(np.float32)))[0]  # gain · stream / root, through the head
    share = (sae.W_dec[77] @ stream) / (stream @ stream) * root
    expected = slope + along * share
    expected -= expected.mean()
    found = [x for _, x in feature.promoted]
    assert np.allclose(found, expected[list(feature.promoted_ids)], atol=2e-2)


def test_E2_tokens_are_shown_as_they_stand_in_a_text(demo):
    model, sae, _ = demo
    promoted, suppressed = model.feature_logits(sae, 77, 50)
    assert len(promoted) == len(suppressed) == 50
    assert any(token.startswith(" ") for token, _ in promoted)
    assert any(token[0] != " " for token, _ in promoted)
    table = str(model.feature_logits(sae, 77, 5))
    assert "Feature Direction Strength" in table and repr(promoted[0][0]) in table
    ids = InterpretableModel(model.language_model.model)  # type: ignore[attr-defined]
    assert ids.feature_logits(sae, 77, 1).promoted[0][0].startswith("#")


# -- E5 and E7: diverse features, baseline, strength, neighbours -----------------------------------


def test_E5_diverse_features_have_decoder_cosines_below_the_limit(demo):
    _, sae, _ = demo
    chosen = sae.select_diverse(20, 0.1)
    units = sae.W_dec[chosen] / np.linalg.norm(sae.W_dec[chosen], axis=1, keepdims=True)
    cosines = units @ units.T - np.eye(len(chosen))
    assert len(chosen) == 20 and cosines.max() < 0.1


def test_E5_trained_features_promote_tokens_as_random_directions_do_not(demo):
    model, sae, _ = demo
    baseline = model.random_direction_baseline(sae, 200)
    features = model.feature_logits(sae, range(0, sae.d_hidden, 8))
    shares = [baseline.share_with_higher_maximum(feature) for feature in features]
    assert np.mean(np.array(shares) <= 0.05) > 0.25  # five times what chance gives


def test_E7_strength_and_similar_features_are_those_of_brute_force(demo):
    model, sae, _ = demo
    sae = sae.replace(
        weights=replace(sae.weights, W_dec=sae.W_dec * np.linspace(0.5, 3, sae.d_hidden)[:, None])
    )
    norms = np.linalg.norm(sae.W_dec.astype(np.float64), axis=1)
    feature = model.feature_logits(sae, 77)
    assert feature.strength == pytest.approx(norms[77])
    assert feature.relative_strength == pytest.approx(norms[77] / norms.mean())
    cosines = (sae.W_dec.astype(np.float64) @ sae.W_dec[77]) / norms / norms[77]
    cosines[77] = -2
    expected = np.argsort(-cosines)[:5]
    assert [f for f, _ in sae.similar(77, 5)] == expected.tolist()
    assert np.allclose([c for _, c in sae.similar(77, 5)], cosines[expected])


# -- C10: the registry ----------------------------------------------------------------------------


def test_C10_the_guides_registry_is_read_and_written_as_the_guide_does(tmp_path):
    registry = {
        1234: {
            "name": "geographic_locations",
            "description": "Activates on city and country names",
            "examples": ["Paris, France", "Tokyo, Japan", "New York City"],
            "confidence": "high",
            "notes": "Especially strong for European locations",
        },
        5678: {
            "name": "mathematical_notation",
            "description": "Activates on equations and formulas",
            "examples": ["E=mc²", "ax²+bx+c=0"],
            "confidence": "medium",
        },
    }
    guides = tmp_path / "sae_features.json"
    with open(guides, "w") as file:
        json.dump(registry, file, indent=2)
    found = FeatureRegistry.load(guides)
    assert found == registry and found.label(1234) == "geographic_locations" and found.label(1) is None
    assert found.search("european city") == [1234]
    ours = FeatureRegistry(registry).save(tmp_path / "ours.json")
    assert ours.read_text() == guides.read_text() + "\n"


# -- E1, E3, E6, E8, E11: the two scripts ----------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded model with a small SAE."""
    config = SAETrainConfig(d_hidden=256, k=8, epochs=4, batch_size=512)
    monkeypatch.setattr(dataset, "DEMO_CONFIG", config)
    load = mlxterp.load_demo
    monkeypatch.setattr(mlxterp, "load_demo", lambda: load()._replace(texts=load().texts[:40]))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.usefixtures("quick")
def test_E1_E8_E11_the_first_script_shows_texts_bands_and_a_cautious_guess(capsys):
    max_activating_examples.main()
    out = capsys.readouterr().out
    assert "Explained Variance: 0." in out and out.count("Top Activating Texts") == 3
    assert "100%]" in out and "<<" in out and "weak: under a third" in out and "Interpretation:" in out


@pytest.mark.usefixtures("quick")
def test_E2_E5_E7_the_second_script_shows_tokens_strength_neighbours_and_baseline(capsys):
    decoder_analysis.main()
    out = capsys.readouterr().out
    assert out.count("Top Predicted Tokens") == 3 and out.count("cosine of #") == 3
    assert "Feature Direction Strength: 1.000 (normalized" in out and "similarity" in out
    assert out.count("random directions reach a higher top logit") == 3


def test_E8_bands_are_shares_of_the_features_own_maximum():
    class Index:
        def top_texts(self, feature: int, top_k: int) -> list[tuple[str, float, int]]:
            return [("a", 9.0, 0), ("b", 6.0, 0), ("c", 5.9, 0), ("d", 3.0, 0), ("e", 2.9, 0)]

    index: Any = Index()
    assert list(max_activating_examples.bands(index, 0, 8).values()) == [3, 1, 2, 2]


@pytest.mark.parametrize("script", ["max_activating_examples", "decoder_analysis"])
def test_E3_a_script_loads_as_a_module_from_the_root_and_by_its_path_from_its_folder(script):
    root = FOLDER.parents[1]
    module = f"runpy.run_module('examples.sae_feature.{script}', run_name='loaded')"
    path = f"runpy.run_path('{script}.py', run_name='loaded')"
    for code, folder in ((module, root), (path, FOLDER)):
        subprocess.run(
            [sys.executable, "-c", f"import runpy; assert 'main' in {code}"],
            cwd=folder, check=True, env={**os.environ, "PYTHONPATH": f"{root}"},
        )  # fmt: skip


def test_E6_the_fallback_has_96_different_texts_of_12_kinds():
    texts = [text for kind in dataset.FALLBACK.values() for text in kind]
    assert len(dataset.FALLBACK) == 12 and len(texts) == len(set(texts)) == 96


def test_E6_a_data_set_that_cannot_be_loaded_is_named_and_the_others_are_used(monkeypatch, capsys):
    class Fails(mlxterp.HuggingFaceDataset):
        def load(self) -> Any:
            raise RuntimeError("Dataset scripts are no longer supported")

    class Works(mlxterp.HuggingFaceDataset):
        def load(self) -> Any:
            return [{"text": f"text {i}"} for i in range(300)]

    monkeypatch.setattr(dataset, "SOURCES", {"papers": Fails("scientific_papers"), "news": Works("ag_news")})
    assert dataset.load_texts() == [f"text {i}" for i in range(200)]
    assert "Skipped papers (scientific_papers): Dataset scripts" in capsys.readouterr().out
    monkeypatch.setattr(dataset, "SOURCES", {"papers": Fails("scientific_papers")})
    assert len(dataset.load_texts()) == 96
    assert "96 short texts" in capsys.readouterr().out


def test_E6_the_hub_is_not_asked_when_told_so_and_not_waited_for(monkeypatch):
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("asked")

    monkeypatch.setattr(urllib.request, "urlopen", never)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not dataset.hub_in_reach()
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(sys, "argv", ["x", "--offline"])
    assert not dataset.hub_in_reach()
    monkeypatch.setattr(sys, "argv", ["x"])
    monkeypatch.setattr(
        urllib.request, "urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no route"))
    )
    assert not dataset.hub_in_reach(0.1)

"""The same weights give the same values under the same names in both wings."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from mlxterp import ConfigWarning, InterpretableModel, interventions, logit_difference
from mlxterp.anatomy.names import RESIDUAL
from mlxterp.core.sites import ATTENTION_PORTS
from tests.small import SHAPES, checkpoint

pytest.importorskip("mlx.core")
pytest.importorskip("torch")
pytest.importorskip("transformers")

IDS = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38]


@pytest.fixture(scope="module", params=sorted(SHAPES))
def wings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """One checkpoint opened by both libraries."""
    folder = checkpoint(request.param, tmp_path_factory.mktemp(request.param))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)
        return InterpretableModel(folder, backend="mlx"), InterpretableModel(folder, backend="torch")


def values(model: InterpretableModel, names: list[str], changes: dict | None = None) -> list[np.ndarray]:
    t = model.trace(IDS, changes, capture=names)
    return [np.asarray(model.language_model.backend.get(t.activations[name])) for name in names]


def canonical_names(model: InterpretableModel) -> list[str]:
    names = ["embed", "final_norm", "logits"]
    for layer in range(model.n_layers):
        names += [f"layers.{layer}.{leaf}" for leaf in (*RESIDUAL, "attn", "mlp")]
        names += [f"layers.{layer}.attn.{port}" for port in ATTENTION_PORTS]
    return names


def assert_close(a: np.ndarray, b: np.ndarray, name: str) -> None:
    assert a.shape == b.shape, name
    assert np.abs(a - b).max() <= 1e-4 * max(1.0, np.abs(b).max()), name


def test_every_canonical_component_agrees(wings):
    mlx, torch = wings
    names = canonical_names(mlx)
    for name, a, b in zip(names, values(mlx, names), values(torch, names), strict=True):
        assert_close(a, b, name)


def test_canonical_names_are_the_same_on_both_sides(wings):
    canonical = [{n for n in wing.components() if n in set(canonical_names(wing))} for wing in wings]
    assert canonical[0] == canonical[1]


@pytest.mark.parametrize("leaf", ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "attn.z",
                                  "attn.pattern", "attn.q", "attn.v", "mlp"])  # fmt: skip
def test_an_edit_changes_the_logits_alike(wings, leaf):
    mlx, torch = wings
    change = {f"layers.1.{leaf}": interventions.compose(
        interventions.scale(1.5), interventions.noise(0.3, seed=4), positions=slice(2, -1)
    )}  # fmt: skip
    plain = values(mlx, ["logits"])[0]
    a, b = values(mlx, ["logits"], change)[0], values(torch, ["logits"], change)[0]
    assert np.abs(a - plain).max() > 1e-2
    assert_close(a, b, leaf)


def test_assigning_in_the_block_equals_the_same_interventions_in_both_wings(wings):
    for wing in wings:
        get = wing.language_model.backend.get
        vector = np.linspace(-1, 1, wing.d_model, dtype=np.float32)
        with wing.trace(IDS) as block:
            late = wing.layers[2].resid_post
            wing.layers[1].mlp.output[:, -1] += wing.language_model.backend.put(vector)
            wing.layers[2].attn.output *= 0.5
            wing.layers[0].attn.pattern[:, 1] = 0
            wing.layers[1].resid_mid *= 2
            saved = wing.layers[2].resid_post.save()
        given = {
            "layers.1.mlp": interventions.add_vector(vector, positions=-1),
            "layers.2.attn": interventions.scale(0.5),
            "layers.0.attn.pattern": interventions.zero_out(heads=1),
            "layers.1.resid_mid": interventions.scale(2.0),
        }
        assert_close(get(block.output), values(wing, ["logits"], given)[0], "logits")
        assert_close(get(late), values(wing, ["layers.2.resid_post"])[0], "read before the edits")
        assert_close(get(saved), values(wing, ["layers.2.resid_post"], given)[0], "saved")
        assert_close(get(wing(IDS)), values(wing, ["logits"])[0], "unchanged")


def test_gradients_agree(wings):
    objective = logit_difference(5, 6)
    names = ["layers.0.resid_post", "layers.1.attn_out", "layers.1.attn.z", "layers.2.mlp"]
    found = [wing.gradients(IDS, objective, at=names) for wing in wings]
    for name in names:
        a, b = (w.language_model.backend.get(f[name]) for w, f in zip(wings, found, strict=True))
        assert np.abs(a - b).max() <= 1e-3 * np.abs(b).max(), name


def test_unembed_agrees(wings):
    x = np.random.default_rng(0).standard_normal((2, 3, wings[0].d_model)).astype(np.float32)
    a, b = (wing.language_model.backend.get(wing.unembed(x)) for wing in wings)
    assert_close(a, b, "unembed")


def test_greedy_generation_agrees(wings):
    change = {"layers.1.mlp": interventions.scale(2.0)}
    a, b = (w.generate(IDS, max_tokens=8, interventions=change, prefill_step_size=4) for w in wings)
    assert a == b and len(a) > 0


def test_loss_agrees(wings):
    a, b = (wing.loss([IDS, IDS[:4]]) for wing in wings)
    assert a == pytest.approx(b, rel=1e-5)


def test_a_nested_rope_theta_is_used_and_reported(tmp_path: Path):
    folder = checkpoint("qwen2", tmp_path)
    with pytest.warns(ConfigWarning, match="rope_theta=50000"):
        model = InterpretableModel(folder, backend="mlx")
    reference = InterpretableModel(folder, backend="torch")
    a, b = values(model, ["layers.0.attn.q"])[0], values(reference, ["layers.0.attn.q"])[0]
    assert_close(a, b, "q")

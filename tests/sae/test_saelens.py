"""What is saved as SAELens is opened by SAELens itself, with equal numbers."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from mlxterp import SAE, SAEError, SAETrainConfig, train_sae
from mlxterp.training.config import ARCHITECTURES
from mlxterp.variants import AbsTopK, Gated, GroupMax, InputForm, JumpReLU, MatchingPursuit, ReLU, TopK
from mlxterp.weights import SAEWeights
from tests.sae.test_formats import ANOTHER_READING, NAMES, io_of, load

sae_lens = pytest.importorskip("sae_lens", reason="pip install sae-lens, in an environment of its own")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore")


def opened_by_saelens(sae: SAE, folder):
    logging.disable(logging.WARNING)
    return sae_lens.SAE.load_from_disk(str(sae.save(folder / "exported", format="saelens")))


def random_sae(activation, extra=(), form=None, subtract=True, d_out=12) -> SAE:
    rng = np.random.default_rng(0)
    shapes = ((12, 60), (60,), (60, d_out), (d_out,))
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    arrays[2] /= np.linalg.norm(arrays[2], axis=1, keepdims=True)  # pursuit of longer rows runs away
    more = {name: np.abs(rng.standard_normal(60)).astype(np.float32) for name in extra}
    metadata = {"component": "layers.3.resid_pre", "model": "gpt2"}
    return SAE(SAEWeights(*arrays, subtract_b_dec=subtract, extra=more), activation, metadata, form=form)


@pytest.mark.parametrize(
    "sae",
    [
        random_sae(ReLU()),
        random_sae(ReLU(), subtract=False, d_out=9),
        random_sae(JumpReLU(), ["threshold"]),
        random_sae(JumpReLU(), ["threshold"], subtract=False, d_out=9),
        random_sae(Gated(), ["gate_scale", "b_mag"]),
        random_sae(TopK(7)),
        random_sae(TopK(7), form=InputForm("layer_norm")),
        random_sae(TopK(7), form=InputForm("constant_norm"), subtract=False),
        random_sae(AbsTopK(7)),
        random_sae(MatchingPursuit(6, 0.1)),
    ],
    ids=repr,
)
def test_features_and_reconstruction_are_the_same_there(sae, tmp_path):
    theirs = opened_by_saelens(sae, tmp_path)
    x = np.random.default_rng(1).standard_normal((20, 12)).astype(np.float32)
    out, features = sae(x)
    with torch.no_grad():
        np.testing.assert_allclose(theirs.encode(torch.tensor(x)).numpy(), features, atol=2e-4)
        np.testing.assert_allclose(theirs(torch.tensor(x)).numpy(), out, atol=1e-3)
    assert theirs.cfg.metadata.hook_name == "blocks.3.hook_resid_pre"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_trained_here_works_there(architecture, tmp_path):
    x = (np.random.default_rng(2).standard_normal((3000, 12)) * 3 + 1).astype(np.float32)
    config = SAETrainConfig(d_hidden=64, k=4, batch_size=100, architecture=architecture)
    sae = train_sae(x, config, progress=False)
    theirs, again = opened_by_saelens(sae, tmp_path), SAE.load(tmp_path / "exported")
    out, features = sae(x[:50])
    np.testing.assert_allclose(again.encode(x[:50]), features, atol=2e-4)
    with torch.no_grad():
        np.testing.assert_allclose(theirs.encode(torch.tensor(x[:50])).numpy(), features, atol=2e-4)
        np.testing.assert_allclose(theirs(torch.tensor(x[:50])).numpy(), out, atol=1e-3)


@pytest.mark.parametrize("architecture", ["relu", "jumprelu"])
def test_transcoders_trained_here_work_there(architecture, tmp_path):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((3000, 12)).astype(np.float32)
    y = np.maximum(x @ rng.standard_normal((12, 9)).astype(np.float32), 0)
    for skip in (False, True):
        config = SAETrainConfig(d_hidden=64, k=4, batch_size=100, architecture=architecture, skip=skip)
        sae = train_sae(x, config, target=y, progress=False)
        theirs = opened_by_saelens(sae, tmp_path / str(skip))
        out = sae.reconstruct(x[:50])
        with torch.no_grad():
            np.testing.assert_allclose(theirs(torch.tensor(x[:50])).numpy(), out, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_saes_of_other_libraries_reach_saelens_through_us(name, tmp_path):
    sae, io = load(name), io_of(name)
    try:
        theirs = opened_by_saelens(sae, tmp_path)
    except SAEError as error:
        assert "SAELens 6 has no" in str(error)
        return
    if name in ANOTHER_READING:
        return
    features, out = (io.get(f"{key}_inference", io[key]) for key in ("features", "recon"))
    with torch.no_grad():
        assert np.abs(theirs.encode(torch.tensor(io["x"])).numpy() - features).max() < 2e-4
        assert np.abs(theirs(torch.tensor(io["x"])).numpy() - out).max() < 1e-3


def test_what_saelens_has_no_architecture_for_is_refused_by_name(tmp_path):
    with pytest.raises(SAEError, match="group_max"):
        random_sae(GroupMax(6)).save(tmp_path / "sae", format="saelens")
    with pytest.raises(SAEError, match="centred"):
        random_sae(TopK(6), form=InputForm(center=True)).save(tmp_path / "sae", format="saelens")

"""An evaluation's figures are those of plain NumPy, and hold what they must for SAEs that are known."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxterp import SAE, BackendError, InputError, InterpretableModel, SAEError
from mlxterp.evaluation import subject
from mlxterp.evaluation import sums as measuring
from mlxterp.evaluation.evaluation import SAEEvaluation
from mlxterp.variants import ReLU
from mlxterp.weights import SAEWeights
from tests.small import checkpoint
from tests.tiny import WORDS, WordTokenizer

pytest.importorskip("transformers")

WIDTH = 64
RESID, MLP = "layers.1.resid_post", "layers.1.mlp"


def make_texts(*lengths: int) -> list[str]:
    rng = np.random.default_rng(3)
    return [" ".join(rng.choice(WORDS, n)) for n in lengths]


TEXTS = make_texts(12, 5, 1, 150, 9)  # one is longer than a context, one is a single token


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return checkpoint("gpt2", tmp_path_factory.mktemp("gpt2"))


@lru_cache(maxsize=4)
def opened(folder: Path, backend: str) -> InterpretableModel:
    return InterpretableModel(str(folder), tokenizer=WordTokenizer(), backend=backend)


@pytest.fixture
def model(folder: Path, backend: str) -> InterpretableModel:
    return opened(folder, backend)


def make_sae(*arrays: np.ndarray, backend: str = "torch", component: str = RESID, **metadata: Any) -> SAE:
    weights = SAEWeights(*(np.asarray(a, dtype=np.float32) for a in arrays), subtract_b_dec=False)
    return SAE(weights, ReLU(), {"component": component, **metadata}, backend=backend)


def random_sae(backend: str, component: str, **metadata: Any) -> SAE:
    """Of 96 features that fire now and then, some never."""
    rng = np.random.default_rng(5)
    W_enc = rng.standard_normal((WIDTH, 96)) * 0.5
    b_enc = rng.normal(-0.5, 1, 96)
    b_enc[::10] = -1e4
    W_dec = rng.standard_normal((96, WIDTH)) * 0.05
    b_dec = rng.standard_normal(WIDTH) * 0.1
    return make_sae(W_enc, b_enc, W_dec, b_dec, backend=backend, component=component, **metadata)


def perfect_sae(backend: str) -> SAE:
    eye = np.eye(WIDTH)
    return make_sae(
        np.hstack([eye, -eye]), np.zeros(2 * WIDTH), np.vstack([eye, -eye]), np.zeros(WIDTH), backend=backend
    )


def constant_sae(backend: str, value: np.ndarray, component: str = RESID) -> SAE:
    """Features never fire, so b_dec is all there is."""
    zeros = np.zeros((WIDTH, 8))
    return make_sae(zeros, -np.ones(8), zeros.T, value, backend=backend, component=component)


# -- the same in plain NumPy --------------------------------------------------------------------


def contexts_of(texts: list[str], size: int = 128) -> list[list[int]]:
    ids = [WordTokenizer().encode(text) for text in texts]
    cut = [row[i : i + size] for row in ids for i in range(0, len(row), size)]
    return [row for row in cut if len(row) > 1]


def as_rows(value: Any) -> np.ndarray:
    """(positions, width) of a value (1, positions, width) or (1, heads, positions, d_head)."""
    x = np.array(value)[0]
    return x if x.ndim == 2 else x.swapaxes(0, 1).reshape(x.shape[1], -1)


def read(model: InterpretableModel, row: list[int], path: str) -> np.ndarray:
    with model.trace(row) as t:
        pass
    return as_rows(t.activations[path])


def logits_with(model: InterpretableModel, row: list[int], path: str, change: Callable | None) -> np.ndarray:
    """Logits (positions, vocabulary) with all but the first token's rows changed."""
    backend = model.language_model.backend

    def put(x: Any) -> Any:
        old = as_rows(x)
        new = old.copy()
        new[1:] = change(slice(1, None)) if change else old[1:]
        shape = tuple(x.shape)
        if len(shape) == 4:
            new = new.reshape(shape[2], shape[1], shape[3]).swapaxes(0, 1)
        return backend.put(np.ascontiguousarray(new.reshape(shape)), like=x)

    with model.trace(row, interventions={path: put}) as t:
        pass
    return np.array(t.output)[0].astype(np.float64)


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def plain_figures(model: InterpretableModel, sae: SAE, place: str, target: str) -> dict[str, Any]:
    w = sae.weights
    rows = contexts_of(TEXTS)
    xs = [read(model, row, place).astype(np.float64) for row in rows]
    ys = [read(model, row, target).astype(np.float64) for row in rows]
    fs = [np.maximum(x @ w.W_enc + w.b_enc, 0) for x in xs]
    rs = [f @ w.W_dec + w.b_dec for f in fs]
    y, f, r = (np.concatenate([part[1:] for part in parts]) for parts in (ys, fs, rs))
    mean = y.mean(axis=0)
    found: dict[str, Any] = {
        "tokens": len(y),
        "fvu": ((y - r) ** 2).sum() / ((y - mean) ** 2).sum(),
        "l0": (f > 0).sum(axis=1).mean(),
        "l1": f.sum(axis=1).mean(),
        "cosine": np.mean([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(y, r, strict=True)]),
        "l2_ratio": (np.linalg.norm(r, axis=1) / np.linalg.norm(y, axis=1)).mean(),
        "shrinkage": (r**2).sum() / (y * r).sum(),
        "dead_share": (f == 0).all(axis=0).mean(),
        "density": (f > 0).mean(axis=0),
    }
    changes = [
        {"": None, "_with_sae": lambda at, r=r: r[at], "_zero": lambda at: 0.0, "_mean": lambda at: mean}
        for r in rs
    ]
    for name in ("", "_with_sae", "_zero", "_mean"):
        losses, kl = [], []
        for row, change in zip(rows, changes, strict=True):
            clean = log_softmax(logits_with(model, row, target, None))
            new = log_softmax(logits_with(model, row, target, change[name]))
            losses += [-new[i, token] for i, token in enumerate(row[1:])]
            kl += (np.exp(clean) * (clean - new)).sum(axis=1)[1:].tolist()
        found["loss" + name] = np.mean(losses)
        found["kl" + name] = np.mean(kl)
    assert found.pop("kl") == pytest.approx(0, abs=1e-12)
    return found


@pytest.mark.parametrize(
    ("place", "target"), [(RESID, RESID), ("layers.1.attn.z", "layers.1.attn.z"), ("layers.1.mlp.input", MLP)]
)
def test_figures_are_those_of_plain_numpy(model, backend, place, target):
    place, target = (model.anatomy.component(name).name for name in (place, target))
    sae = random_sae(backend, place, **({"component_out": target} if target != place else {}))
    found = sae.evaluate(model, TEXTS)
    expected = plain_figures(model, sae, place, target)
    assert isinstance(found, SAEEvaluation) and found.component == place
    assert 0 < expected["dead_share"] < 1 and expected["kl_with_sae"] > 1e-3  # there is something to see
    np.testing.assert_array_equal(found.density, expected.pop("density"))
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, rel=2e-4, abs=2e-5), name
    assert found.explained_variance == 1 - found.fvu
    for kind, clean in (("loss", found.loss), ("kl", 0.0)):
        for against in ("zero", "mean"):
            worst, sae_s = getattr(found, f"{kind}_{against}"), getattr(found, f"{kind}_with_sae")
            share = (worst - sae_s) / (worst - clean)
            assert getattr(found, f"{kind}_recovered_{against}") == pytest.approx(share, rel=1e-9)


# -- laws ---------------------------------------------------------------------------------------


def test_a_perfect_sae_loses_nothing(model, backend):
    found = perfect_sae(backend).evaluate(model, TEXTS)
    for name in ("explained_variance", "cosine", "l2_ratio", "shrinkage"):
        assert getattr(found, name) == pytest.approx(1, abs=1e-6), name
    assert found.loss_with_sae == pytest.approx(found.loss, abs=1e-6)
    assert found.kl_with_sae == pytest.approx(0, abs=1e-6)
    for name in ("loss_recovered_zero", "loss_recovered_mean", "kl_recovered_zero", "kl_recovered_mean"):
        assert getattr(found, name) == pytest.approx(1, abs=1e-3), name
    assert found.l0 == pytest.approx(WIDTH, abs=0.1)  # each coordinate is above or below 0


def test_an_sae_that_always_gives_the_mean_explains_and_recovers_nothing(model, backend):
    mean = np.concatenate([read(model, row, RESID)[1:] for row in contexts_of(TEXTS)]).mean(axis=0)
    found = constant_sae(backend, mean).evaluate(model, TEXTS)
    assert found.explained_variance == pytest.approx(0, abs=1e-5)
    assert found.loss_with_sae == pytest.approx(found.loss_mean, abs=1e-5)
    assert found.loss_recovered_mean == pytest.approx(0, abs=1e-4)
    assert found.kl_recovered_mean == pytest.approx(0, abs=1e-4)
    assert (found.l0, found.l1, found.dead_share) == (0, 0, 1)


def test_an_sae_that_always_gives_zero_recovers_nothing_of_zero_ablation(model, backend):
    found = constant_sae(backend, np.zeros(WIDTH)).evaluate(model, TEXTS)
    assert found.loss_recovered_zero == found.kl_recovered_zero == 0
    assert found.cosine == found.l2_ratio == 0 and math.isnan(found.shrinkage)
    assert found.to_dict()["shrinkage"] is None


def test_halving_the_decoder_halves_shrinkage(model, backend):
    sae = perfect_sae(backend)
    half = make_sae(sae.W_enc, sae.b_enc, sae.W_dec / 2, sae.b_dec, backend=backend).evaluate(model, TEXTS)
    for name in ("shrinkage", "l2_ratio"):
        assert getattr(half, name) == pytest.approx(0.5, rel=1e-6), name
    assert half.cosine == pytest.approx(1, abs=1e-6)


def test_densities_sum_to_l0(model, backend):
    found = random_sae(backend, RESID).evaluate(model, TEXTS)
    assert found.density.shape == (96,) and found.density.sum() == pytest.approx(found.l0)
    assert found.dead_share == (found.density == 0).mean()


def test_first_tokens_count_in_no_figure(model, backend):
    """Contexts of two tokens: what a figure knows of each is its second token."""
    found = random_sae(backend, RESID).evaluate(model, make_texts(2, 2, 2))
    assert found.tokens == 3
    assert np.isin(found.density, np.arange(4) / 3).all()


def test_a_check_reports_the_figures_of_an_evaluation(model, backend):
    sae = random_sae(backend, RESID)
    report, found = sae.check(model, TEXTS), sae.evaluate(model, TEXTS)
    assert report.component == found.component
    for name in ("tokens", "explained_variance", "fvu", "l0", "dead_share", "loss",
                 "loss_with_sae", "loss_recovered_zero", "loss_recovered_mean"):  # fmt: skip
        assert getattr(report, name) == pytest.approx(getattr(found, name), rel=1e-5), name


def test_figures_do_not_depend_on_how_contexts_are_batched(model, backend, monkeypatch):
    sae = random_sae(backend, RESID)
    whole = sae.evaluate(model, TEXTS).to_dict()
    monkeypatch.setattr(subject, "_BATCH_TOKENS", 20)
    monkeypatch.setattr(measuring, "_BLOCK", 3 * model.vocab_size)
    for name, value in sae.evaluate(model, TEXTS).to_dict().items():
        same = whole[name] if name in ("component", "density") else pytest.approx(whole[name], rel=1e-4)
        assert value == same, name


def test_no_more_tokens_are_run_than_asked_for(model, backend):
    found = perfect_sae(backend).evaluate(model, TEXTS, max_tokens=20)
    assert found.tokens == 11 + 4 + 2  # of 12, 5 and 3 tokens, without the first


def test_what_cannot_be_evaluated_is_refused(model, backend):
    sae = perfect_sae(backend)
    with pytest.raises(InputError, match="InterpretableModel"):
        sae.evaluate(model.language_model, TEXTS)
    with pytest.raises(InputError, match="component="):
        SAE(sae.weights, sae.activation, backend=backend).evaluate(model, TEXTS)
    with pytest.raises(InputError, match="two tokens"):
        sae.evaluate(model, ["cat", "dog"])
    with pytest.raises(InputError, match="does not vary"):
        sae.evaluate(model, ["the cat", "the cat"])
    with pytest.raises(InputError, match="max_tokens"):
        sae.evaluate(model, TEXTS, max_tokens=1)
    with pytest.raises(SAEError, match=r"256 numbers .* takes 64"):
        sae.evaluate(model, TEXTS, component="layers.1.mlp.c_fc")


# -- what is made of it -------------------------------------------------------------------------


def figures(density: np.ndarray, tokens: int = 1000) -> SAEEvaluation:
    numbers: dict[str, Any] = dict.fromkeys(SAEEvaluation.__slots__, 0.5)
    given = {"component": MLP, "tokens": tokens, "density": density, "dead_share": (density == 0).mean()}
    return SAEEvaluation(**(numbers | given))


def test_the_histogram_counts_each_living_feature_once():
    density = np.array([0, 0, 0.001, 0.002, 0.05, 0.5, 1.0])
    counts, edges = figures(density).density_histogram(bins=3)
    assert counts.tolist() == [2, 1, 2]  # 0.001 to 0.01, to 0.1, to 1
    np.testing.assert_allclose(edges, [-3, -2, -1, 0])
    for tokens in (1, 7, 1000, 8192):
        living = np.arange(1, tokens + 1) / tokens
        assert figures(living, tokens).density_histogram()[0].sum() == tokens
    assert figures(density).density_histogram([-2.0, -1.0])[0].tolist() == [1]
    assert figures(np.zeros(4)).density_histogram()[0].sum() == 0


@pytest.mark.parametrize("bins", [0, -3, [1.0], [2.0, 1.0], 2.5])
def test_a_histogram_without_bins_is_refused(bins):
    with pytest.raises(InputError, match="bins"):
        figures(np.ones(3)).density_histogram(bins)


def test_an_evaluation_is_json():
    density = np.array([0, 0.001, 0.02, 0.5])
    found = json.loads(json.dumps(figures(density).to_dict(), allow_nan=False))
    assert set(found) == set(SAEEvaluation.__slots__)
    assert found["component"] == MLP and found["tokens"] == 1000 and found["dead_share"] == 0.25
    assert found["density"]["above_1_percent"] == 0.5 and found["density"]["above_10_percent"] == 0.25
    assert sum(found["density"]["log10_counts"]) == 3
    assert len(found["density"]["log10_edges"]) == len(found["density"]["log10_counts"]) + 1


def test_an_evaluation_prints_as_a_table(model, backend):
    sae = random_sae(backend, RESID)
    lines = str(sae.evaluate(model, TEXTS)).splitlines()
    assert lines[0].startswith("SAE at layers.1.resid_post, 171 tokens, 96 features")
    assert any(line.split()[0] == "KL" for line in lines)
    assert all(len(line) <= 100 for line in lines)


def test_a_plot_is_written(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    evaluation = figures(np.array([0, 0.001, 0.02, 0.5]))
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    figure = evaluation.plot(tmp_path / "sae.png")
    assert (tmp_path / "sae.png").read_bytes().startswith(b"\x89PNG")
    assert [len(axes.patches) for axes in figure.axes] == [1, 4]  # the histogram, and four losses
    assert "matplotlib.pyplot" not in sys.modules  # whose figures are global


def test_a_plot_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BackendError, match=r'pip install "mlxterp\[plot\]", or pip install matplotlib'):
        figures(np.ones(3)).plot()


def test_a_plot_is_shown_in_a_window_where_asked(monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    shown = []
    monkeypatch.setattr(pyplot, "show", lambda: shown.extend(pyplot.get_fignums()))
    figure = figures(np.array([0, 0.001, 0.02, 0.5])).plot(show=True)
    assert shown == [figure.number]
    pyplot.close(figure)

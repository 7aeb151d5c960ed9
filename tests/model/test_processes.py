"""Models and indexes in other processes: what can go there, and what is said where it cannot."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import FeatureIndex, FeatureIndexError, InputError
from mlxterp.hooks import Detector
from mlxterp.interventions import zero_out
from tests.tiny import WordTokenizer, tiny_llama

TEXT = "One day, a little girl named Lily"
LIMIT = 120  # seconds; a hang is far beyond


def run(script: str, backend: str) -> str:
    """What a fresh process prints; two threads, as users have them."""
    start = f"import os, sys, mlxterp\nmodel, sae, texts = mlxterp.load_demo({backend!r})\nTEXT = {TEXT!r}\n"
    settings = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", start + script],
        capture_output=True, text=True, timeout=LIMIT, env=settings,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


IN_A_CHILD = """
print("parent", round(model.loss(TEXT), 4), flush=True)
if os.fork() == 0:
    for what in (
        lambda: model.loss(TEXT), lambda: model.trace(TEXT).output, lambda: model.generate(TEXT, 3),
        lambda: sae.encode_sparse(__import__("numpy").ones((2, sae.d_model), "float32")).n,
        lambda: mlxterp.load_demo(model.language_model.backend.name).model.loss(TEXT),
        lambda: mlxterp.InterpretableModel(model.language_model.model).loss([1, 2, 3]),
    ):
        try:
            print("child", type(what()).__name__, flush=True)
        except mlxterp.MlxterpError as error:
            print("refused", type(error).__name__, "spawn" in str(error), flush=True)
    os._exit(0)
os.wait()
print("parent", round(model.loss(TEXT), 4))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_refuses_mlx_or_runs_torch_and_never_hangs(backend):
    lines = run(IN_A_CHILD, backend).splitlines()
    assert len(lines) == 8 and lines[0] == lines[-1]
    if backend == "mlx":
        assert lines[1:-1] == ["refused BackendError True"] * 6
    else:
        assert lines[1:-1] == [
            "child float",
            "child Tensor",
            "child str",
            "child int",
            "child float",
            "child float",
        ]


WITH_A_POOL = """
import multiprocessing
index = model.build_index(sae, texts[:6], verbose=False)

def ask(thing):
    if isinstance(thing, mlxterp.FeatureIndex):
        return thing.top_texts(3)
    return round(thing.loss(TEXT), 4)

if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(1) as pool:
        print(pool.apply(ask, (index,)) == index.top_texts(3))
        try:
            print(pool.apply(ask, (model,)) == ask(model))
        except mlxterp.BackendError as error:
            print("spawn" in str(error))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_pool_of_forked_workers_reads_an_index_and_is_told_of_spawn(backend):
    assert run(WITH_A_POOL, backend).split() == ["True", "True"]


WITH_SPAWN = """
import multiprocessing, pickle, subprocess
index = model.build_index(sae, texts[:6], verbose=False)
index.labels = {3: {"label": "three"}} if not hasattr(index.labels, "label") else index.labels
with open("things.pickle", "wb") as file:
    pickle.dump((model, index), file)
code = ("import pickle; model, index = pickle.load(open('things.pickle', 'rb'));"
        f"print(round(model.loss({TEXT!r}), 4), index.top_texts(3) == index.top_texts(3), index.n_texts)")
print(subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True).stdout, end="")
print(round(model.loss(TEXT), 4), True, index.n_texts)
"""


def test_a_fresh_process_takes_a_pickled_model_and_index(backend, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    package = str(Path(mlxterp.__file__).parent.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([package, os.environ.get("PYTHONPATH", "")]))
    first, second = run(WITH_SPAWN, backend).splitlines()
    assert first == second


# -- copies ---------------------------------------------------------------------------------------


@pytest.fixture
def demo(backend) -> Any:
    return mlxterp.load_demo(backend)


def logits(model: Any, changes: Any = None) -> np.ndarray:
    return model.language_model.backend.get(model.trace(TEXT, changes).output)


@pytest.mark.parametrize("make", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copied_model_is_the_model_and_independent_of_it(demo, make):
    model = demo.model
    changes = {"layers.1.attn_out": zero_out(), "layers.0.attn.z": zero_out(heads=0)}
    model.trace(TEXT, capture=["layers.1.attn_out", "layers.0.resid_mid"])  # so that components are known
    expected = logits(model), logits(model, changes)
    other = make(model)
    assert np.array_equal(logits(other), expected[0]) and np.array_equal(logits(other, changes), expected[1])
    assert other.name == model.name and other.tokenize(TEXT) == model.tokenize(TEXT)
    embedding: Any = other.language_model.model.model.embed_tokens
    if model.language_model.backend.name == "mlx":
        embedding.weight = embedding.weight * 0
    else:
        embedding.weight.data.zero_()
    assert not np.array_equal(logits(other), expected[0])
    assert np.array_equal(logits(model), expected[0])


@pytest.mark.parametrize("make", [copy.deepcopy, pickle.dumps])
def test_a_model_with_something_attached_says_what_to_do(demo, make):
    handle = demo.model.add_hook(Detector("layers.1.resid_post", statistics=True))
    with pytest.raises(InputError, match="Detach"):
        make(demo.model)
    handle.detach()
    make(demo.model)


def test_a_pickled_index_is_where_it_lies(demo, tmp_path):
    index = demo.model.build_index(demo.sae, demo.texts[:6], tmp_path / "index", verbose=False)
    expected = index.top_texts(3)
    other = pickle.loads(pickle.dumps(index))
    assert len(pickle.dumps(index)) < 10_000  # no weights
    assert other.top_texts(3) == expected and other.path == index.path
    with pytest.raises((InputError, FeatureIndexError)):
        other.top_features("a ball")
    other.attach(demo.model, demo.sae)
    assert other.top_features("a ball") == index.top_features("a ball")
    os.rename(tmp_path / "index", tmp_path / "elsewhere")
    with pytest.raises(FeatureIndexError, match="There is no index"):
        pickle.loads(pickle.dumps(index))


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy])
def test_a_copied_index_answers_also_when_the_first_is_gone(demo, make):
    index: FeatureIndex | None = demo.model.build_index(demo.sae, demo.texts[:6], verbose=False)
    assert index is not None
    expected, hits = index.top_texts(3), index.top_features("a ball")
    other = make(index)
    index = None
    assert other.top_texts(3) == expected and other.top_features("a ball") == hits


@pytest.mark.parametrize("what", ["trace", "activations", "layers", "component", "call"])
@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_what_belongs_to_a_trace_is_not_copied_and_says_what_to_do(what, copied):
    pytest.importorskip("mlx_lm")
    model = tiny_llama(2, tokenizer=WordTokenizer())
    with model.trace("the cat") as trace:
        pass
    found = {
        "trace": trace, "activations": trace.activations, "layers": model.layers, "component": model.layers[0].mlp,
        "call": model.layers[0].mlp.call(0),
    }  # fmt: skip
    with pytest.raises(
        InputError, match="belongs to a model in this process: it is neither copied nor pickled"
    ):
        copied(found[what])

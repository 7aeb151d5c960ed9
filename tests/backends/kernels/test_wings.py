"""The kernels as each wing offers them: plain twins anywhere, real GPUs where there are any."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mlxterp import InputError, get_backend
from mlxterp.errors import MlxterpWarning
from tests.backends.kernels.emulator import best
from tests.backends.kernels.test_decode import in_order

ODD = np.array([[np.nan, -0.0, 0.0, np.inf, -np.inf, -1.5, np.nan, 2.0, -0.0]], np.float32)


@pytest.fixture
def kernels(backend) -> Iterator[ModuleType]:
    """A wing's kernels; what it finds out about them during a test is forgotten."""
    module = importlib.import_module(f"mlxterp.backends.{backend}.kernels")
    module._agrees.cache_clear()
    yield module
    module._agrees.cache_clear()


def rows(n: int, d: int) -> np.ndarray:
    rng = np.random.default_rng(d)
    scores = rng.standard_normal((n, d)).astype(np.float32)
    scores[0] = rng.integers(-2, 3, d)
    scores[1:, rng.integers(0, d, 3)] = np.nan
    return scores


def on_gpu(backend: str, *numbers: np.ndarray) -> list[Any]:
    """The arrays on the backend's GPU; a skip where there is none."""
    if backend == "mlx":
        import mlx.core as mx

        if mx.default_device().type != mx.DeviceType.gpu:
            pytest.skip("MLX has no Metal or CUDA GPU here")
        return [mx.array(x) for x in numbers]
    import torch

    if not torch.cuda.is_available():
        pytest.skip("PyTorch has no CUDA GPU here")
    return [torch.tensor(x.astype(np.int64) if x.dtype == np.uint32 else x, device="cuda") for x in numbers]


def numpy_of(backend: str, *arrays: Any) -> list[np.ndarray]:
    return [get_backend(backend).get(array) for array in arrays]


@pytest.mark.parametrize(("scores", "k"), [(ODD, 9), (ODD, 4), (rows(3, 500), 40), (rows(2, 1), 1), (ODD, 0)])
def test_the_plain_select_is_the_oracle_s(backend, kernels, scores, k):
    found = kernels.select_plain(get_backend(backend).put(scores), k)
    for array, expected in zip(numpy_of(backend, *found), best(scores, k), strict=True):
        np.testing.assert_array_equal(array, expected)


def test_the_plain_decode_skips_empty_slots_whatever_their_id(backend, kernels):
    put = get_backend(backend).put
    ids, values = np.array([[1, 77, 0], [99, 98, 0]], np.int64), np.array([[2, 0, 1], [0, 0, 3]], np.float32)
    table = np.array([[1.0, np.inf], [10.0, 3.0]], np.float32)
    (out,) = numpy_of(backend, kernels.decode_plain(put(ids), put(values), put(table)))
    assert out.tolist() == [[21.0, np.inf], [3.0, np.inf]]


@pytest.mark.parametrize("k", [-1, 10])
def test_a_k_that_the_row_cannot_fill_is_refused(backend, kernels, k):
    with pytest.raises(InputError, match="between 0 and the 9 scores"):
        kernels.select(get_backend(backend).put(ODD), k)


def pretend_a_gpu(backend: str, kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    if backend == "mlx":
        monkeypatch.setattr(kernels, "_gpu", lambda: "metal")
    else:
        monkeypatch.setattr(kernels.torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(kernels.torch.cuda, "current_device", lambda: 0)


def test_kernels_that_do_not_run_are_replaced_with_one_warning(backend, kernels, monkeypatch):
    def broken(*_: Any) -> None:
        raise RuntimeError("cannot compile")

    pretend_a_gpu(backend, kernels, monkeypatch)
    monkeypatch.setattr(kernels, "_disagreement", broken)
    with pytest.warns(MlxterpWarning, match="cannot compile") as warned:
        answers = [kernels.available() for _ in range(2)]
    assert answers == [False, False] and len(warned) == 1


def test_kernels_that_choose_otherwise_are_replaced(backend, kernels, monkeypatch):
    library = importlib.import_module({"mlx": "mlx.core", "torch": "torch"}[backend])
    pretend_a_gpu(backend, kernels, monkeypatch)

    def wrong(scores: Any, k: int) -> tuple[Any, Any]:
        ids, values = kernels.select_plain(scores, k)
        return library.zeros_like(ids), values

    monkeypatch.setattr(kernels, "_select", wrong)
    real = kernels._trial_scores
    monkeypatch.setattr(  # the pretended GPU has no memory, so the trials stay on the CPU
        kernels, "_trial_scores", lambda *gpu: real(library.device("cpu")) if gpu else real()
    )
    with pytest.warns(MlxterpWarning, match="select chose otherwise"):
        assert not kernels.available()
    found = numpy_of(backend, *kernels.select(get_backend(backend).put(ODD), 9))
    assert found[0].tolist() == best(ODD, 9)[0].tolist()


@pytest.mark.gpu
@pytest.mark.parametrize(("n", "d", "k"), [(2, 1, 1), (5, 777, 50), (3, 40000, 32), (2, 3000, 1500)])
def test_a_real_gpu_selects_as_the_oracle(backend, kernels, n, d, k):
    scores = rows(n, d)
    (native,) = on_gpu(backend, scores)
    assert kernels.available()
    for array, expected in zip(numpy_of(backend, *kernels.select(native, k)), best(scores, k), strict=True):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.gpu
@pytest.mark.parametrize(("n", "width", "k"), [(1, 1, 1), (6, 301, 12), (40, 2304, 64)])
def test_a_real_gpu_decodes_as_the_oracle(backend, kernels, n, width, k):
    rng = np.random.default_rng(width)
    table, values = (rng.standard_normal(shape).astype(np.float32) for shape in ((50, width), (n, k)))
    values[values < 0] = 0
    ids = np.where(values == 0, 2**31, rng.integers(0, 50, (n, k))).astype(np.uint32)
    native = on_gpu(backend, ids, values, table)
    assert kernels.available()
    (out,) = numpy_of(backend, kernels.decode(*native))
    np.testing.assert_allclose(out, in_order(ids, values, table), rtol=1e-5, atol=1e-5)


def test_triton_s_interpreter_agrees_with_the_plain_twins():
    if importlib.util.find_spec("triton") is None or importlib.util.find_spec("torch") is None:
        pytest.skip("Triton is not installed")
    code = (
        "import torch, mlxterp; from mlxterp.backends.torch import kernels;"
        "print(repr(kernels._disagreement(torch.device('cpu'))))"
    )
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "''", done.stdout + done.stderr

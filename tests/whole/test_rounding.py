"""What `pytest --rounding SEED` does to the products of both wings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.rounding import VARIABLE, Factors

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("shape", [(), (7,), (300, 5), (2, 150, 5), (0, 4)])
def test_a_row_of_a_product_is_multiplied_by_one_of_a_few_numbers_next_to_1(shape):
    factors = Factors(1).of(shape)
    assert factors.shape == ((*shape[:-1], 1) if shape else ())
    sizes = np.abs(factors - 1)
    assert (sizes >= 2.0**-23).all() and (sizes <= 2.0**-22).all()
    assert np.array_equal(factors, Factors(1).of(shape))
    if factors.size > 100:
        assert len(np.unique(factors)) == 5
        assert not np.array_equal(factors, Factors(2).of(shape))


def differences(library: str, code: str) -> np.ndarray:
    """float64: how much each of some products changes when they are disturbed, as a share of its largest number."""
    program = f"""
import numpy as np
import mlxterp
{library}
rng = np.random.default_rng(0)
def number(*shape): return rng.standard_normal(shape).astype(np.float32)
{code}
before = product()
from tests import rounding
rounding.disturb(1)
after = product()
assert all(np.array_equal(a, b) for a, b in zip(after, product(), strict=True))
print(*(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(after, before, strict=True)))
"""
    plain = {name: value for name, value in os.environ.items() if name != VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env=plain
    )
    assert done.returncode == 0, done.stderr
    return np.array(done.stdout.split(), float)


MLX = """
a, b, c = (mx.array(number(*s)) for s in ((3, 40, 16), (16, 8), (8,)))
w = mx.quantize(mx.array(number(64, 64)), group_size=32, bits=4)
x = mx.array(number(5, 64))
linear, bare = nn.Linear(16, 8), nn.Linear(16, 8, bias=False)
q = mx.array(number(1, 2, 9, 8))
many = mx.array(number(4, 16, 8))
def product():
    found = [
        a @ b, mx.matmul(a, b), mx.addmm(c, a, b), linear(a), bare(a), mx.inner(a, b.T), mx.compile(lambda a: a @ b)(a),
        mx.quantized_matmul(x, *w, group_size=32, bits=4), mx.einsum("bij,jk->bik", a, b),
        mx.gather_mm(a[0][:, None], many, rhs_indices=mx.zeros(40, mx.uint32)),
        mx.fast.scaled_dot_product_attention(q, q, q, scale=0.3),
        mx.grad(lambda a: (a @ b).square().sum())(a),
    ]
    return [np.array(f) for f in found]
"""
TORCH = """
a, b, c = (torch.tensor(number(*s)) for s in ((3, 40, 16), (16, 8), (8,)))
linear, bare = torch.nn.Linear(16, 8), torch.nn.Linear(16, 8, bias=False)
q = torch.tensor(number(1, 2, 9, 8))
leaf = a.clone().requires_grad_()
def slope():
    return torch.autograd.grad((leaf @ b).square().sum(), leaf)[0]
def product():
    out = torch.empty(40, 8)
    found = [
        a @ b, torch.matmul(a, b), torch.addmm(c, a[0], b), linear(a), bare(a), torch.einsum("bij,jk->bik", a, b),
        torch.bmm(a, a.mT), torch.baddbmm(torch.ones(3, 40, 40), a, a.mT), a[0] @ b[:, 0], torch.dot(c, c)[None],
        torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True),
        torch.addmm(c, a[0], b, out=out), slope(), np.matmul(a[0].numpy(), b.numpy()),
    ]
    with torch.inference_mode():
        found.append(a @ b)
    return [f.detach().numpy() if isinstance(f, torch.Tensor) else f for f in found]
"""


PRODUCTS = {"mlx": ("import mlx.core as mx, mlx.nn as nn", MLX), "torch": ("import torch", TORCH)}


def test_every_product_of_both_wings_changes_in_its_last_bits(backend):
    found = differences(*PRODUCTS[backend])
    assert (found > 2.0**-25).all() and (found < 2.0**-19).all(), found


@pytest.mark.parametrize(("library", "array"), [("mlx.core as mx", "mx.array"), ("torch", "torch.tensor")])
def test_products_of_whole_numbers_stay_as_they_are(library, array):
    pytest.importorskip(library.split()[0])
    program = f"import {library}; w = {array}(rng.integers(-3, 4, (30, 30)).astype(np.float32))\n"
    assert differences("", program + "def product(): return [np.array(w @ w)]").tolist() == [0]


def test_processes_that_tests_start_round_alike(pytestconfig):
    program = "import numpy, os; print(hasattr(numpy.matmul, 'rounded_by'), os.environ.get({!r}))"
    done = subprocess.run(
        [sys.executable, "-c", program.format(VARIABLE)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    seed = pytestconfig.getoption("--rounding")
    assert done.stdout.split() == [str(seed is not None), str(seed)]

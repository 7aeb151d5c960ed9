"""The decode kernel, on an emulated threadgroup."""

from __future__ import annotations

import numpy as np
import pytest

from tests.backends.kernels.emulator import Emulator


@pytest.fixture(scope="module")
def emulator(tmp_path_factory) -> Emulator:
    return Emulator(tmp_path_factory.mktemp("decode"))


def in_order(ids: np.ndarray, values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The sum taken slot by slot in float32; empty slots are left out."""
    out = np.zeros((len(ids), table.shape[1]), np.float32)
    for j in range(ids.shape[1]):
        used = values[:, j] != 0
        out[used] += values[used, j, None] * table[ids[used, j]]
    return out


@pytest.mark.parametrize("threads", [1, 4, 64])
@pytest.mark.parametrize(
    ("n", "rows", "width", "k"), [(5, 40, 13, 6), (3, 9, 1, 4), (2, 100, 300, 16), (2, 3, 64, 1)]
)
def test_decoding_sums_rows_in_the_given_order(emulator, n, rows, width, k, threads):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, rows, (n, k)).astype(np.uint32)
    values = rng.standard_normal((n, k)).astype(np.float32)
    table = rng.standard_normal((rows, width)).astype(np.float32)
    assert np.array_equal(emulator.decode(ids, values, table, threads), in_order(ids, values, table))


def test_an_empty_slot_is_skipped_whatever_its_id(emulator):
    ids = np.array([[1, 2**32 - 1, 0], [99, 98, 97]], np.uint32)
    values = np.array([[2.0, 0.0, 1.0], [0.0, -0.0, 0.0]], np.float32)
    table = np.array([[1.0, np.inf], [10.0, 3.0]], np.float32)
    assert emulator.decode(ids, values, table).tolist() == [[21.0, np.inf], [0.0, 0.0]]


def test_an_empty_slot_does_not_bring_in_a_nan_row(emulator):
    table = np.array([[np.nan], [5.0]], np.float32)
    assert emulator.decode(np.array([[0, 1]]), np.array([[0.0, 2.0]]), table).tolist() == [[10.0]]


def test_a_nan_value_is_not_an_empty_slot(emulator):
    assert np.isnan(emulator.decode(np.array([[0]]), np.array([[np.nan]]), np.ones((1, 3)))).all()


def test_no_slots_give_zeros(emulator):
    out = emulator.decode(np.zeros((2, 0)), np.zeros((2, 0)), np.ones((3, 4)))
    assert out.tolist() == [[0.0] * 4] * 2

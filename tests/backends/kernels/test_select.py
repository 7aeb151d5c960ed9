"""The select kernel, on an emulated threadgroup."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mlxterp.backends.kernels import source
from tests.backends.kernels.emulator import EmulationError, Emulator, assert_same

TIGHT = {"WINDOW": 4, "CAPACITY": 8}
"""A buffer so small that it overflows all the time, and several windows."""


@pytest.fixture(scope="module")
def emulator(tmp_path_factory) -> Emulator:
    return Emulator(tmp_path_factory.mktemp("select"))


def gaussian(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


@pytest.mark.parametrize("threads", [1, 2, 32, 256])
@pytest.mark.parametrize(
    ("n", "d", "k"), [(3, 1, 1), (2, 7, 7), (2, 1000, 32), (2, 4099, 5), (1, 6000, 100), (1, 3000, 1500)]
)
def test_random_rows_are_selected_exactly(emulator, n, d, k, threads):
    scores = gaussian(n, d)
    assert_same(emulator.select(scores, k, threads), scores, k)


@settings(max_examples=120, deadline=None)
@given(
    scores=arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 90)),
        elements=st.one_of(
            st.floats(width=32, allow_nan=False),
            st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, np.inf, -np.inf, np.nan, -np.nan]),
        ),
    ),
    share=st.floats(0, 1),
    threads=st.sampled_from([1, 2, 4, 16]),
    tight=st.booleans(),
)
def test_ties_infinities_and_nan_are_selected_as_the_oracle_does(emulator, scores, share, threads, tight):
    k = max(1, round(share * scores.shape[1]))
    found = emulator.select(scores, k, threads, constants=TIGHT if tight else None)
    assert_same(found, scores, k)


@pytest.mark.parametrize("threads", [1, 8])
@pytest.mark.parametrize("k", [1, 30, 700])
def test_among_equals_the_lowest_ids_win(emulator, k, threads):
    few = np.random.default_rng(1).integers(-1, 3, (2, 700)).astype(np.float32)
    scores = np.concatenate([few, np.zeros((1, 700), np.float32)])
    assert_same(emulator.select(scores, k, threads), scores, k)


@pytest.mark.parametrize("constants", [None, TIGHT])
def test_rising_rows_fill_the_buffer_again_and_again_and_stay_exact(emulator, constants):
    scores = np.sort(gaussian(2, 1500), axis=1)
    assert_same(emulator.select(scores, 20, 16, constants=constants), scores, 20)


def test_nan_comes_after_everything_else(emulator):
    scores = np.array([[np.nan, -np.inf, np.nan, 3.0, np.inf]], np.float32)
    found = emulator.select(scores, 5)
    assert found.ids.tolist() == [[4, 3, 1, 0, 2]]
    assert np.isnan(found.values[0, 3:]).all()


def test_minus_zero_equals_zero(emulator):
    assert emulator.select(np.array([[-1.0, -0.0, 0.0, -0.0]], np.float32), 4).ids.tolist() == [[1, 2, 3, 0]]


def test_every_score_is_read_once(emulator):
    assert emulator.select(gaussian(3, 5000), 32, 64).reads == 3 * 5000


def test_all_threads_wait_at_the_same_barriers_whatever_their_number(emulator):
    scores = gaussian(1, 100)
    for threads in (3, 5, 64, 200):  # not only powers of two, and more threads than scores
        assert_same(emulator.select(scores, 10, threads, constants=TIGHT), scores, 10)


def test_no_rows_give_no_ids(emulator):
    assert emulator.select(np.zeros((0, 5), np.float32), 3).ids.shape == (0, 3)


@pytest.mark.parametrize("k", [1, 2, 31, 32, 33, 128, 1024, 5000])
def test_the_buffer_is_a_power_of_two_above_the_window_and_fits_into_16_kib(k):
    chosen = source.select_constants(k)
    window, capacity = chosen["WINDOW"], chosen["CAPACITY"]
    assert capacity > window >= min(k, 1024) and capacity & (capacity - 1) == 0
    assert 8 * capacity <= 16 * 1024


# -- what the emulator finds ------------------------------------------------------------------


BARRIERS = source.body(source.SELECT).count("BARRIER();")
FAULTS = {
    "unwritten": (
        "THREADGROUP(u64, buffer, 4);\nif (TID == 0) ids[ROW] = (u32)buffer[3];\n",
        "nobody has written",
    ),
    "parted": (
        "if (TID % 2) {\nBARRIER();\n} else {\nBARRIER();\n}\n",
        "divergent barrier",
    ),
    "early": ("if (TID == 0) return;\nBARRIER();\n", "divergent barrier"),
    "outside": ("if (TID == 0) ids[ROW] = BITS(scores[2 * d]);\n", "lies outside"),
    "endless": ("for (;;) BARRIER();\n", "does not come to an end"),
    "twice": ("ids[ROW] = TID;\n", "written twice"),
}


def without_barrier(which: int) -> str:
    before, after = source.body(source.SELECT).split("BARRIER();", which + 1)[-2:]
    head = source.body(source.SELECT)[: -len("BARRIER();" + after)]
    assert head.endswith(before)
    return head + ";" + after


@pytest.fixture(scope="module")
def faulty(tmp_path_factory) -> Emulator:
    """Select without one of its barriers, for each of them, and a few bodies with plain faults."""
    texts = {f"without_{i}": without_barrier(i) for i in range(BARRIERS)}
    texts |= {name: text for name, (text, _) in FAULTS.items()}
    extra = "".join(source.function(source.SELECT, "cpp", name=n, text=t) for n, t in texts.items())
    return Emulator(tmp_path_factory.mktemp("faulty"), extra)


@pytest.mark.parametrize("which", range(BARRIERS))
def test_a_missing_barrier_is_found(faulty, which):
    with pytest.raises(EmulationError, match="no barrier between them"):
        faulty.select(gaussian(1, 75), 10, 4, f"without_{which}", TIGHT)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_this_kind_is_found(faulty, name):
    with pytest.raises(EmulationError, match=FAULTS[name][1]):
        faulty.select(gaussian(2, 20), 1, 4, name)

"""Ready-made changes to activations."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxterp import EditError, InputError, get_backend
from mlxterp.core.positions import position_mask
from mlxterp.core.sites import Where
from mlxterp.interventions import add_vector, clamp, compose, noise, replace_with, scale, zero_out

X = np.random.default_rng(0).standard_normal((2, 5, 6)).astype(np.float32)
HEADS = np.random.default_rng(1).standard_normal((2, 3, 5, 4)).astype(np.float32)
VECTOR = np.arange(6, dtype=np.float32)


def run(change, x, backend):
    engine = get_backend(backend)
    return engine.get(change(engine.put(x)))


@pytest.mark.parametrize(
    ("change", "meaning"),
    [
        (zero_out(), lambda x: x * 0),
        (scale(2.5), lambda x: x * np.float32(2.5)),
        (add_vector(VECTOR), lambda x: x + VECTOR),
        (replace_with(VECTOR), lambda x: np.broadcast_to(VECTOR, x.shape)),
        (replace_with(3.0), lambda x: np.full_like(x, 3)),
        (clamp(-0.5, 0.25), lambda x: np.clip(x, -0.5, 0.25)),
        (clamp(low=0.0), lambda x: np.maximum(x, 0)),
        (compose(scale(2.0), add_vector(VECTOR), lambda x: x * 0.5), lambda x: x + VECTOR / 2),
        (compose(), lambda x: x),
    ],
)
def test_a_change_means_the_same_in_every_backend(change, meaning, backend):
    assert np.allclose(run(change, X, backend), meaning(X), atol=1e-6)


@pytest.mark.parametrize("positions", [-1, 0, [1, 3], slice(1, None, 2), slice(-2, None), np.array([4]), []])
def test_a_change_with_positions_leaves_the_others_bit_identical(positions, backend):
    changed = run(add_vector(VECTOR, positions=positions), X, backend)
    touched = np.zeros(5, dtype=bool)
    touched[positions] = True
    assert np.array_equal(changed[:, ~touched], X[:, ~touched])
    assert np.allclose(changed[:, touched], X[:, touched] + VECTOR, atol=1e-6)


def test_heads_and_positions_choose_together(backend):
    changed = run(zero_out(positions=[0, -1], heads=1), HEADS, backend)
    expected = HEADS.copy()
    expected[:, 1, [0, -1]] = 0
    assert np.array_equal(changed, expected)


def test_noise_depends_on_seed_and_position_only(backend):
    whole = run(noise(0.5, seed=3), X, backend) - X
    engine = get_backend(backend)
    tail = noise(0.5, seed=3).apply(engine.put(X[:1, 3:]), Where(np.array([3, 4]), None))
    assert np.allclose(engine.get(tail) - X[:1, 3:], whole[:1, 3:], atol=1e-6)
    assert np.allclose(whole[0], whole[1], atol=1e-6)
    assert not np.allclose(whole, run(noise(0.5, seed=4), X, backend) - X)
    assert whole.std() == pytest.approx(0.5, rel=0.3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.data())
def test_negative_positions_count_from_each_texts_own_end(lengths, data):
    back = data.draw(st.integers(1, min(lengths)))
    where = Where(np.arange(max(lengths)), np.array(lengths))
    mask = position_mask(-back, where)
    assert mask is not None
    for row, length in zip(mask, lengths, strict=True):
        assert np.flatnonzero(row).tolist() == [length - back]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 7), st.data())
def test_chunks_of_a_text_get_the_same_positions_as_the_whole(length, chunk, data):
    bound = st.none() | st.integers(0, 35)
    chosen = data.draw(st.builds(slice, bound, bound, st.integers(1, 4)) | st.lists(st.integers(0, 40)))
    whole = position_mask(chosen, Where(np.arange(length), None))
    starts = range(0, length, chunk)
    parts = [position_mask(chosen, Where(np.arange(s, min(s + chunk, length)), None)) for s in starts]
    assert whole is not None
    assert np.array_equal(whole, np.concatenate([p for p in parts if p is not None], axis=1))


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: zero_out(positions=5), InputError),
        (lambda: zero_out(positions=[0, -6]), InputError),
        (lambda: zero_out(positions=cast(Any, "last")), InputError),
        (lambda: zero_out(positions=cast(Any, 1.5)), InputError),
        (lambda: zero_out(heads=0), EditError),
        (lambda: add_vector(np.zeros(5)), EditError),
        (lambda: replace_with(np.zeros((3, 5, 6))), EditError),
        (lambda: add_vector("text"), EditError),
        (lambda: clamp(), InputError),
        (lambda: clamp(2, 1), InputError),
        (lambda: noise(-1), InputError),
    ],
)
def test_what_cannot_be_done_raises(make, error, backend):
    with pytest.raises(error):
        run(make(), X, backend)


def test_heads_outside_raise(backend):
    with pytest.raises(InputError, match="3 heads"):
        run(zero_out(heads=3), HEADS, backend)


def test_positions_mean_positions_whatever_other_axes_are_as_long(backend):
    engine = get_backend(backend)
    x = engine.put(np.ones((1, 4, 4, 3), np.float32))
    where = Where(np.arange(4), np.array([4]))
    with pytest.raises(EditError, match="more than one axis"):
        zero_out(positions=0).apply(x, where)
    per_head = zero_out(positions=0).apply(x, Where(np.arange(4), np.array([4]), heads_first=True))
    assert engine.get(per_head)[0, :, 0].sum() == 0 and engine.get(per_head).sum() == 36
    flat = zero_out(positions=1).apply(engine.put(np.ones((1, 4, 2, 3), np.float32)), where)
    assert engine.get(flat)[0, 1].sum() == 0 and engine.get(flat).sum() == 18

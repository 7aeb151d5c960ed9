"""Laws of `SparseFeatures`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlxterp import InputError, SparseFeatures, UnknownFeatureError

VALUES = st.one_of(st.just(0.0), st.floats(-8, 8, width=32))


def dense_features(min_rows: int = 0):
    shapes = st.tuples(st.integers(min_rows, 6), st.integers(1, 7))
    return shapes.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=VALUES))


@given(dense_features())
def test_what_was_dense_comes_back_dense(dense):
    assert np.array_equal(SparseFeatures.from_dense(dense).to_dense(), dense)


@given(dense_features())
def test_a_stored_value_is_never_zero(dense):
    features = SparseFeatures.from_dense(dense)
    assert (features.values != 0).all()
    assert len(features.values) == np.count_nonzero(dense)


@given(dense_features(min_rows=1))
def test_transposing_swaps_tokens_and_features(dense):
    transposed = SparseFeatures.from_dense(dense).transpose()
    assert np.array_equal(transposed.to_dense(), dense.T)
    assert all((np.diff(transposed.row(f)[0]) > 0).all() for f in range(transposed.n))


def test_transposing_is_the_same_where_ids_and_rows_take_many_bits():
    rng = np.random.default_rng(0)
    dense = np.round(rng.standard_normal((5000, 6)) * (rng.random((5000, 6)) < 0.1), 1).astype(np.float32)
    few = SparseFeatures.from_dense(dense)
    columns = np.array([3, 70_000, 70_001, 200_000, 1_000_000, 1_048_575], dtype=np.int32)
    many = SparseFeatures(few.indptr, columns[few.indices], few.values, 1 << 20).transpose()
    assert many.indptr[-1] == len(few.values)
    for narrow, wide in enumerate(columns):
        for found, expected in zip(many.row(int(wide)), few.transpose().row(narrow), strict=True):
            assert np.array_equal(found, expected)


@given(dense_features(min_rows=1), st.randoms())
def test_slots_may_come_in_any_order(dense, random):
    ids = np.tile(np.arange(dense.shape[1]), (len(dense), 1))
    for row in ids:
        random.shuffle(row)
    features = SparseFeatures.from_topk(ids, np.take_along_axis(dense, ids, axis=1), dense.shape[1])
    assert np.array_equal(features.to_dense(), dense)
    assert all((np.diff(features.row(i)[0]) > 0).all() for i in range(features.n))


@given(dense_features(min_rows=1))
def test_padded_slots_give_the_same_features(dense):
    features = SparseFeatures.from_dense(dense)
    assert np.array_equal(SparseFeatures.from_topk(*features.to_topk(), features.d_hidden).to_dense(), dense)


@given(dense_features(min_rows=1), st.data())
def test_taking_rows_takes_them_in_the_given_order(dense, data):
    rows = np.array(data.draw(st.lists(st.integers(0, len(dense) - 1))), dtype=np.int64)
    assert np.array_equal(SparseFeatures.from_dense(dense).take(rows).to_dense(), dense[rows])


@given(dense_features(min_rows=1), st.data())
def test_parts_put_together_are_the_whole(dense, data):
    cut = data.draw(st.integers(0, len(dense)))
    parts = [SparseFeatures.from_dense(dense[:cut]), SparseFeatures.from_dense(dense[cut:])]
    assert np.array_equal(SparseFeatures.concat(parts).to_dense(), dense)


def test_a_row_gives_ids_in_order_and_values():
    features = SparseFeatures.from_topk(np.array([[4, 1, 0]]), np.array([[0.5, 2.0, 0.0]]), 5)
    ids, values = features.row(-1)
    assert ids.tolist() == [1, 4]
    assert values.tolist() == [2.0, 0.5]
    assert (features.n, features.indptr.dtype, ids.dtype, values.dtype) == (1, np.int64, np.int32, np.float32)


def test_an_empty_slot_may_hold_any_id():
    assert SparseFeatures.from_topk(np.array([[99, -1]]), np.zeros((1, 2)), 5).values.size == 0


def test_a_feature_outside_the_sae_is_refused():
    with pytest.raises(UnknownFeatureError, match="Feature 5 is outside"):
        SparseFeatures.from_topk(np.array([[5]]), np.ones((1, 1)), 5)


@pytest.mark.parametrize(
    ("ids", "values", "message"),
    [
        ([[1, 1]], [[1.0, 2.0]], "same feature twice"),
        ([[1, 2]], [[1.0, np.nan]], "not finite"),
        ([[1, 2]], [[1.0]], "must both be"),
    ],
)
def test_slots_that_mean_nothing_are_refused(ids, values, message):
    with pytest.raises(InputError, match=message):
        SparseFeatures.from_topk(np.array(ids), np.array(values), 5)


def test_parts_of_two_saes_are_refused():
    one, two = (SparseFeatures.from_dense(np.ones((1, width), np.float32)) for width in (2, 3))
    with pytest.raises(InputError, match="one SAE"):
        SparseFeatures.concat([one, two])
    with pytest.raises(InputError, match="one SAE"):
        SparseFeatures.concat([])


def test_arrays_that_do_not_belong_together_are_refused():
    with pytest.raises(InputError, match="do not belong together"):
        SparseFeatures(np.array([0, 2]), np.zeros(1, np.int32), np.zeros(1, np.float32), 3)


def test_there_is_no_row_beyond_the_last():
    features = SparseFeatures.from_dense(np.ones((2, 2), np.float32))
    with pytest.raises(InputError, match="No row 2"):
        features.row(2)

"""The examples of all features in one sweep are those of each feature."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxterp import FeatureIndex, InputError
from mlxterp.index import example_blocks
from mlxterp.index.example_blocks import _first_of_each
from mlxterp.index.reading import _runs
from mlxterp.index.windows import Windows
from tests.index.made import Made, adversarial, made_index
from tests.index.small import ACTIVATIONS, TEXTS, random_sae

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*have no tokens.*:mlxterp.MlxterpWarning", "ignore:.*longer than the model.*:mlxterp.MlxterpWarning"
)  # fmt: skip


@pytest.fixture(scope="module")
def made() -> Made:
    return adversarial(3, texts=40)


@pytest.fixture(scope="module", params=[(5, 6), (17, 12), (1000, None)], ids=["small", "some", "one shard"])
def index(request, made, tmp_path_factory) -> FeatureIndex:
    return made_index(tmp_path_factory.mktemp("index"), made, *request.param)


def told(examples) -> list:
    return [
        (e.feature_id, e.text, e.text_id, e.position, e.activation, e.start, e.tokens, e.activations.tolist())
        for e in examples
    ]


def assert_same(index: FeatureIndex, n: int | None, before: int = 16, after: int = 8) -> None:
    found = list(index.all_examples(n, before, after))
    assert [feature for feature, _ in found] == list(range(index.d_hidden))
    for feature, examples in found:
        assert told(examples) == told(index.examples(feature, n, before=before, after=after)), feature


@pytest.mark.parametrize("n", [None, 1, 3, 100])
@pytest.mark.parametrize(("before", "after"), [(16, 8), (0, 0), (3, 20), (80, 1)])
def test_they_are_the_examples_of_each_feature(index: FeatureIndex, n, before, after):
    assert_same(index, n, before, after)


@pytest.mark.parametrize("pairs", [1, 70])
def test_they_do_not_depend_on_how_much_is_held_at_once(index: FeatureIndex, monkeypatch, pairs):
    monkeypatch.setattr(example_blocks, "_PAIRS", pairs)
    assert_same(index, 3)


@pytest.mark.parametrize("bits", [0, 2])
def test_windows_with_one_hash_are_compared(index: FeatureIndex, monkeypatch, bits):
    real = example_blocks._mixed
    monkeypatch.setattr(example_blocks, "_mixed", lambda ids: real(ids) & np.uint64(2**bits - 1))
    assert_same(index, 3)


def test_places_that_are_alike_are_passed_over_until_there_are_enough(tmp_path):
    ids = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    same = [[20 + i, 21, *ids] for i in range(60)]  # one window around token 6, sixty texts
    tokens = [*same, *([i, *ids] for i in range(60, 70))]
    activations = [np.zeros((len(row), 3), np.float32) for row in tokens]
    for text, rows in enumerate(activations):
        rows[tokens[text].index(6), 1] = 5.0 - text / 100
        rows[0, 2] = 1
    index = made_index(tmp_path / "index", Made(tokens, activations), 100, None)
    assert len(index.examples(1, 2)) == 1 and len(index.examples(2, 30)) == 30
    for n in (1, 2, 20):
        assert_same(index, n)


def test_equal_beginnings_take_one_value_as_in_every_ranking(tmp_path):
    made = adversarial(5, texts=30)
    for text, rows in enumerate(made.activations):
        rows *= np.float32(1 + 0.004 * (text % 5))  # as rounding would have it
    for shard_tokens in (9, 1000):
        assert_same(made_index(tmp_path / str(shard_tokens), made, shard_tokens, 9), 4)


@pytest.mark.parametrize("kind", ["topk", "abs_topk"])
def test_the_tokens_are_written_as_in_the_text(model, kind):
    texts = [*TEXTS, "A 😀 for Tom and 😀😀 for Lily", "Tom said: “no” — and left…", "x" * 40]
    index = model.build_index(random_sae(ACTIVATIONS[kind], model.d_model), texts, exclude=())
    assert_same(index, 20)
    assert_same(index, 5, 2, 1)
    for feature, examples in index.all_examples(20):
        for e in examples:  # each by itself, as the tokenizer reads it
            alone = Windows(index, 16, 8).at(feature, e.text_id, e.position)
            assert (e.tokens, e.start) == (alone.tokens, alone.start)
    assert_same(FeatureIndex.open(index.path), 5)


def test_they_are_written_as_lines_and_as_parquet(index: FeatureIndex, tmp_path):
    from pyarrow import parquet

    found = index.all_examples(4, 2, 1)
    expected = [
        {"feature_id": f, "rank": rank, "text_id": e.text_id, "position": e.position, "activation": e.activation,
         "start": e.start, "tokens": list(e.tokens), "activations": e.activations.tolist()}
        for f in range(index.d_hidden) for rank, e in enumerate(index.examples(f, 4, before=2, after=1), 1)
    ]  # fmt: skip
    path = Path(found.to_jsonl(tmp_path / "all.jsonl"))
    assert [json.loads(line) for line in path.read_text().splitlines()] == expected
    assert parquet.read_table(found.to_parquet(tmp_path / "all.parquet")).to_pylist() == expected
    assert found.to_pandas().to_dict("records") == expected
    assert list(found.rows()) == expected
    with pytest.raises(InputError, match="to a path"):
        found.to_parquet("memory://all.parquet")


def test_a_file_that_is_not_whole_does_not_stay(index: FeatureIndex, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    found = index.all_examples(4)
    monkeypatch.setattr(type(index), "_spelled", stop)
    for write in (found.to_jsonl, found.to_parquet):
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "file")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [{"n": 0}, {"n": 1.5}, {"before": -1}, {"after": "2"}])
def test_what_cannot_be_asked_raises(index: FeatureIndex, wrong):
    with pytest.raises(InputError):
        index.all_examples(**wrong)


def test_an_index_is_a_sequence_of_cards(index: FeatureIndex):
    assert [card.feature_id for card in index] == list(range(index.d_hidden))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), max_size=30),
    st.sampled_from([1, 1 << 40, 0x9E3779B97F4A7C15]),
)
def test_the_first_of_each_is_found_where_keys_share_their_upper_bits_too(drawn, factor):
    row = np.array([row for row, _, _ in drawn], dtype=np.int64)
    key = np.array([key * factor % (1 << 64) + low for _, key, low in drawn], dtype=np.uint64)
    first, which = _first_of_each(row, key)
    pairs = list(zip(row.tolist(), key.tolist(), strict=True))
    assert which.tolist() == [pairs.index(pair) for pair in pairs]
    assert first.tolist() == [pairs.index(pair) == i for i, pair in enumerate(pairs)]


def test_runs_beyond_the_tokens_are_the_nearest():
    tokens = np.arange(100, dtype=np.int32)
    for starts in (np.arange(-12, 98), np.arange(-3, 4)):
        found = _runs(tokens, starts, 11)
        assert np.array_equal(found, np.clip(starts[:, None] + np.arange(11), 0, 99))
    assert _runs(tokens[:5], np.arange(-2, 5), 11).shape == (7, 11)

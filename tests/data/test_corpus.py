"""Laws of `Corpus`: every token once, with the most context there is, in batches that fit."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxterp import InputError, MlxterpWarning, NoTokenizerError
from mlxterp.data.corpus import Corpus

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def corpus_of(lengths: list[int]) -> Corpus:
    """Every token has an id of its own."""
    ends = np.cumsum(lengths)
    return Corpus.from_token_ids([list(range(e - n, e)) for n, e in zip(lengths, ends, strict=True)])


def batches(corpus: Corpus, *args, **kwargs) -> list:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MlxterpWarning)
        return list(corpus.batches(*args, **kwargs))


@given(LENGTHS, st.integers(1, 100), st.none() | st.integers(1, 50))
def test_every_token_comes_exactly_once_under_its_position_in_the_text(lengths, budget, limit):
    corpus = corpus_of(lengths)
    seen = []
    for batch in batches(corpus, budget, limit):
        rows, columns, positions = batch.kept()
        ids = batch.tokens.ids[rows, columns]
        assert np.array_equal(corpus.offsets[batch.text_ids[rows]] + positions, ids)
        seen += ids.tolist()
    assert sorted(seen) == list(range(sum(lengths)))


@given(LENGTHS, st.integers(1, 100), st.none() | st.integers(1, 50))
def test_batches_keep_to_the_budget_and_windows_to_the_limit(lengths, budget, limit):
    for batch in batches(corpus_of(lengths), budget, limit):
        rows, longest = batch.tokens.ids.shape
        assert rows * longest <= budget or rows == 1
        assert limit is None or longest <= limit


@given(LENGTHS, st.integers(2, 20))
def test_each_token_comes_from_the_window_with_most_context(lengths, limit):
    for batch in batches(corpus_of(lengths), 64, limit):
        rows, columns, positions = batch.kept()
        for row, column, position in zip(rows, columns, positions, strict=True):
            stride = limit // 2
            starts = [s for s in range(0, lengths[batch.text_ids[row]], stride) if s <= position < s + limit]
            assert column == position - min(starts)


@given(LENGTHS, st.integers(2, 20))
def test_beyond_the_first_window_half_the_positions_are_context(lengths, limit):
    for batch in batches(corpus_of(lengths), 64, limit):
        _, columns, positions = batch.kept()
        later = positions >= limit
        assert (columns[later] >= limit - limit // 2).all()


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=8))
def test_prefixes_are_equal_exactly_where_the_text_so_far_is_equal(rows):
    prefixes = Corpus.from_token_ids(rows).prefixes().tolist()
    texts = [tuple(row[: i + 1]) for row in rows for i in range(len(row))]
    assert len(prefixes) == len(texts)
    assert len(set(zip(prefixes, texts, strict=True))) == len(set(prefixes)) == len(set(texts))


def test_shorter_texts_come_first_so_that_little_is_padded():
    texts = [batch.text_ids.tolist() for batch in corpus_of([5, 1, 9, 1, 5]).batches(10)]
    assert texts == [[1, 3], [0, 4], [2]]


def test_one_warning_counts_the_long_texts():
    with pytest.warns(MlxterpWarning, match="2 of 3 texts are longer than the model's 4 positions") as caught:
        list(corpus_of([3, 9, 20]).batches(8, 4))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(corpus_of([3, 9, 20]).batches(8, 20))


def test_texts_are_tokenized_as_they_are():
    corpus = Corpus.from_texts(["ab", "c"], lambda text: [ord(c) for c in text])
    assert corpus.tokens.tolist() == [97, 98, 99]
    assert corpus.offsets.tolist() == [0, 2, 3]
    assert (len(corpus), corpus.lengths.tolist(), corpus.ids(0).tolist()) == (2, [2, 1], [97, 98])
    assert corpus.texts == ("ab", "c")
    assert (corpus.tokens.dtype, corpus.offsets.dtype) == (np.int32, np.int64)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("one text", "Put a single text into a list"),
        ([], "empty list"),
        (["a", 3], "Text 1 is int"),
        (["a", ""], "Text 1 of 2 has no tokens"),
        (None, "got NoneType"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(texts, message):
    with pytest.raises(InputError, match=message):
        Corpus.from_texts(texts, lambda text: [ord(c) for c in text])


def test_texts_need_a_tokenizer():
    with pytest.raises(NoTokenizerError, match="takes token ids"):
        Corpus.from_texts(["a"], None)


def test_a_budget_below_one_is_refused():
    with pytest.raises(InputError, match="at least 1"):
        corpus_of([1]).batches(0)
    with pytest.raises(InputError, match="empty list"):
        Corpus.from_token_ids([])

"""Contexts hold every token once, in blocks that are the same whenever they are asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxterp import InputError, MlxterpWarning
from mlxterp.data.contexts import ListedContexts, StreamedContexts, open_contexts
from mlxterp.data.dataset import ListedTexts, StreamedTexts


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split()]


def texts_of_lengths(lengths: list[int]) -> list[str]:
    """Texts whose tokens are 0, 1, 2, … all through."""
    starts = np.cumsum([0, *lengths])
    return [" ".join(map(str, range(a, a + n))) for a, n in zip(starts, lengths, strict=False)]


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=20),
    st.integers(1, 12),
    st.integers(1, 60),
    st.integers(0, 3),
)
def test_every_token_is_in_one_context_of_an_epoch(lengths, length, block_tokens, epoch):
    contexts = ListedContexts(
        ListedTexts(texts_of_lengths(lengths)), numbers, length, block_tokens, seed=1, progress=False
    )
    blocks = [contexts.block(epoch, i) for i in range(contexts.blocks(epoch))]
    assert sorted(np.concatenate([block.tokens for block in blocks])) == list(range(sum(lengths)))
    for block in blocks:
        assert block.lengths.max() <= length
        for i in range(len(block)):
            assert (np.diff(block.ids(i)) == 1).all()
    again = contexts.block(epoch, len(blocks) - 1)
    np.testing.assert_array_equal(again.tokens, blocks[-1].tokens)


def test_epochs_and_seeds_have_other_orders():
    texts = ListedTexts(texts_of_lengths([5] * 40))

    def order(seed: int, epoch: int) -> list[int]:
        return ListedContexts(texts, numbers, 5, 1000, seed, progress=False).block(epoch, 0).tokens.tolist()

    assert order(0, 0) != order(0, 1) and order(0, 0) != order(1, 0)
    assert order(0, 0) == order(0, 0)


def test_a_limit_takes_texts_at_random_and_so_many_tokens():
    texts = ListedTexts(texts_of_lengths([10] * 50))
    contexts = ListedContexts(texts, numbers, 4, 30, seed=0, limit=101, progress=False)
    tokens = np.concatenate([contexts.block(0, i).tokens for i in range(contexts.blocks(0))])
    assert contexts.tokens == len(tokens) == len(set(tokens.tolist())) == 101
    assert tokens.max() > 300
    with pytest.warns(MlxterpWarning, match="tokens=900 asked for, 500 are there"):
        ListedContexts(texts, numbers, 4, 30, seed=0, limit=900, progress=False)


def stream(lengths: list[int]) -> StreamedTexts:
    return StreamedTexts([{"text": text} for text in texts_of_lengths(lengths)], "text")


def ids_of(contexts: StreamedContexts, epoch: int, index: int) -> list[int]:
    block = contexts.block(epoch, index)
    return [] if block is None else block.tokens.tolist()


def test_a_streams_blocks_come_in_its_order_and_again():
    contexts = StreamedContexts(stream([7] * 10), numbers, 5, 20, limit=60)
    assert contexts.blocks(0) == 3
    blocks = [ids_of(contexts, 0, i) for i in range(3)]
    assert blocks[0] == list(range(20)) and sum(map(len, blocks)) == 60
    assert ids_of(contexts, 0, 1) == blocks[1]
    assert ids_of(contexts, 1, 0) == blocks[0]


def test_a_stream_that_ends_early_has_empty_blocks():
    contexts = StreamedContexts(stream([7]), numbers, 5, 20, limit=60)
    assert ids_of(contexts, 0, 0) == list(range(7))
    assert contexts.block(0, 2) is None


def test_a_stream_needs_a_limit():
    with pytest.raises(InputError, match="does not say how long it is"):
        open_contexts(stream([3]), numbers, 5, 20, 0, None, False)


def test_texts_without_tokens_are_refused():
    with pytest.raises(InputError, match="There are no tokens"):
        ListedContexts(ListedTexts(["", " "]), numbers, 5, 20, 0, progress=False)

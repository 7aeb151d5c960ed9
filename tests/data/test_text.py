"""Tokens as text: joined they are the text, whatever bytes a tokenizer splits it into."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxterp.data.text import pieces_of
from mlxterp.index.examples import Window
from mlxterp.index.summary import token_pieces

TEXT = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from("ab  \n.,'\ufffd€é😀👩\u200d👧\ufe0f中文\x00"),
    max_size=24,
)


@cache
def byte_level() -> Any:
    """Byte-level BPE, as GPT-2 has it: any byte can be a token of its own."""
    tokenizers = pytest.importorskip("tokenizers")
    level = tokenizers.pre_tokenizers.ByteLevel
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer, made.decoder = level(add_prefix_space=False), tokenizers.decoders.ByteLevel()
    made.train_from_iterator(
        ["the cat sat on the mat é"] * 3,
        tokenizers.trainers.BpeTrainer(
            vocab_size=290, initial_alphabet=level.alphabet(), show_progress=False
        ),
    )
    return made


@cache
def byte_fallback() -> Any:
    """SentencePiece with bytes for what it does not know, as Llama has it: a run of bytes is decoded as one."""
    tokenizers = pytest.importorskip("tokenizers")
    words = [("<unk>", 0.0), *((f"<0x{i:02X}>", -20.0) for i in range(256)), ("▁", -3.0), ("▁the", -2.0)]
    model = tokenizers.models.Unigram(
        [*words, *((c, -4.0) for c in "abcthe.,'")], unk_id=0, byte_fallback=True
    )
    made, parts = tokenizers.Tokenizer(model), tokenizers.decoders
    made.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    made.decoder = parts.Sequence(
        [parts.Replace("▁", " "), parts.ByteFallback(), parts.Fuse(), parts.Strip(" ", 1, 0)]
    )
    return made


class Cleaned:
    """A tokenizer that removes spaces before punctuation, unless it is told not to."""

    clean_up_tokenization_spaces = True

    def decode(self, ids: list[int], clean_up_tokenization_spaces: bool = True) -> str:
        text = byte_fallback().decode(ids)
        return text.replace(" .", ".").replace(" ,", ",") if clean_up_tokenization_spaces else text


@pytest.mark.parametrize("tokenizer", [byte_level, byte_fallback])
@given(TEXT)
def test_the_pieces_of_a_text_are_the_text(tokenizer, text):
    ids = tokenizer().encode(text).ids
    pieces = pieces_of(tokenizer(), ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == tokenizer().decode(ids)
    if tokenizer is byte_level:
        assert "".join(pieces) == text


@pytest.mark.parametrize("tokenizer", [byte_level, byte_fallback])
@given(TEXT)
def test_the_pieces_that_tokens_usually_are_change_no_answer(tokenizer, text):
    ids = tokenizer().encode(text).ids
    assert pieces_of(tokenizer(), ids, token_pieces(tokenizer(), ids)) == pieces_of(tokenizer(), ids)


def test_where_the_usual_pieces_are_the_text_it_is_decoded_once():
    class Counting:
        calls = 0

        def decode(self, ids: list[int]) -> str:
            self.calls += 1
            return byte_level().decode(ids)

    tokenizer, ids = Counting(), byte_level().encode("the cat sat on the mat").ids
    usual = pieces_of(byte_level(), ids)
    assert pieces_of(tokenizer, ids, usual) == usual and tokenizer.calls == 1


@pytest.mark.parametrize("tokenizer", [byte_level, byte_fallback])
@given(st.lists(st.integers(0, 255), max_size=16))
def test_the_pieces_of_any_tokens_are_what_they_decode_to(tokenizer, ids):
    pieces = pieces_of(tokenizer(), ids)
    assert len(pieces) == len(ids) and "".join(pieces) == tokenizer().decode(ids)


def test_a_replacement_character_of_the_text_is_one_character():
    for tokenizer in (byte_level(), byte_fallback()):
        ids = tokenizer.encode("a\ufffd\ufffdb€\ufffd").ids
        pieces = pieces_of(tokenizer, ids)
        assert [p for p in pieces if p.strip()] == ["a", "\ufffd", "\ufffd", "b", "€", "\ufffd"]


def test_spaces_before_punctuation_are_kept():
    ids = byte_fallback().encode("the cat .  a , b").ids
    assert "".join(pieces_of(Cleaned(), ids)) == "the cat .  a , b"


def test_the_tokens_of_a_model_are_its_text(demo):
    for text in ("A 😀 for Tom\ufffd!", "naïve 中文\n\n", "👩‍👧 € "):
        tokens = demo.model.to_str_tokens(text)
        assert len(tokens) == len(demo.model.tokenize(text))
        assert "".join(tokens) == demo.model.decode(demo.model.tokenize(text)) and "".join(tokens).endswith(
            text
        )


def test_an_examples_tokens_are_part_of_its_text(demo, tmp_path):
    texts = ["Tom saw 😀😀😀😀 and 中文中文中文中文 and then \ufffd\ufffd!", "中文" * 20]
    index = demo.model.build_index(demo.sae, texts, tmp_path / "index", exclude=(), verbose=False)
    for feature in index.live.tolist():
        for example in index.examples(feature, before=3, after=3):
            assert "".join(example.tokens) in f"<|endoftext|>{example.text}"


def test_a_window_within_a_run_of_bytes_is_read_from_where_the_run_begins():
    from mlxterp.index.base import IndexBase

    tokenizer = byte_fallback()
    text = "the 中文中文中文中文中文中文 cat"
    ids = tokenizer.encode(text).ids
    index = object.__new__(IndexBase)
    index.__dict__["_pieces"] = {i: tokenizer.decode([i]) for i in set(ids)}

    class Model:
        class anatomy:
            class model:
                pass

    Model.anatomy.model.tokenizer = tokenizer  # pyright: ignore[reportAttributeAccessIssue]
    index._source = Model  # pyright: ignore[reportAttributeAccessIssue]
    whole = pieces_of(tokenizer, ids)

    def window(first: int, last: int) -> Window:
        import numpy as np

        first, last = max(first, 0), min(last, len(ids))
        return Window(np.array(ids[first:last]), np.zeros(last - first), first)

    for at in range(len(ids)):
        shown = window(at, at + 2)
        found = index._pieces_of(shown, lambda more, at=at: window(at - more, at + 2 + more), text)
        assert tuple(found) == whole[at : at + 2]

"""A text's tokens without what a tokenizer puts around it, whatever kind of tokenizer that is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mlxterp import InputError
from mlxterp.core.tokens import encode_bare


class Around:
    """BOS 1 and EOS 2 around the letters; `encode` takes a text alone."""

    def encode(self, text: str) -> list[int]:
        text.encode("utf-8")
        return [1, *(10 + ord(c) for c in text), 2]


class Bare:
    """As `tokenizers.Tokenizer`: an object that holds the ids."""

    def encode(self, text: str, add_special_tokens: bool = True) -> Any:
        return SimpleNamespace(ids=[1] * add_special_tokens + [10 + ord(c) for c in text])


@pytest.mark.parametrize("tokenizer", [Around(), Bare()])
def test_special_tokens_are_left_out(tokenizer):
    assert encode_bare(tokenizer, "ab") == [107, 108] and encode_bare(tokenizer, "") == []


def test_half_a_character_is_named():
    with pytest.raises(InputError, match="lone surrogate"):
        encode_bare(Around(), "a\ud800")

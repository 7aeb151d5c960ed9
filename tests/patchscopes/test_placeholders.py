"""Placeholders: found where they are one token, chosen where none was named; and the prompts that hold them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlxterp import InputError, patchscopes
from mlxterp.data.text import decode
from mlxterp.patchscopes.placeholders import found_placeholder, occurrences, positions_of, unknown_token
from mlxterp.patchscopes.prompts import prompts_of
from tests.patchscopes.test_verbalizer import ChatTokenizer
from tests.small import open_llama


class Words:
    """A token for each word or sign, "<unk>" among them; "Xy" is two."""

    unk_token = "<unk>"
    eos_token_id = None
    known = ("<unk>", "<s>", "X", "Xy", "x", " ", '"', "dog", "Z")

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        import re

        words = re.findall(r"<unk>|\w+|\s|.", text.replace("Xy", "X dog"))
        return [1] * add_special_tokens + [self.known.index(w) if w in self.known else 7 for w in words]

    def decode(self, ids: Any) -> str:
        return "".join(self.known[int(i)] if int(i) < len(self.known) else "?" for i in ids)


WORDS = Words()


@pytest.fixture(scope="module")
def model():
    pytest.importorskip("mlx.core")
    return open_llama(None, "mlx", ChatTokenizer()).session.plain.model


def test_D22_the_unknown_token_is_taken_where_a_tokenizer_has_one_of_its_own():
    assert unknown_token(WORDS) == "<unk>"
    assert found_placeholder(WORDS, WORDS.encode('dog "<unk>" X')) == "<unk>"
    assert found_placeholder(WORDS, WORDS.encode("dog X")) == "X"

    class Gpt2(Words):
        unk_token = "<|endoftext|>"

    assert unknown_token(Gpt2()) is None and unknown_token(object()) is None


def test_every_placeholder_is_found_at_its_own_token():
    ids = WORDS.encode('X dog "X" <unk>')
    assert positions_of(WORDS, ids, "X") == (1, 6)
    assert positions_of(WORDS, ids, 0) == (9,)
    assert positions_of(WORDS, ids, "<unk>") == (9,)


def test_a_placeholder_that_is_only_part_of_a_word_is_none():
    assert occurrences("Xylophone X, X's aX", "X") == 2
    assert occurrences("a ? b?", "?") == 2
    with pytest.raises(InputError, match="holds no placeholder"):
        positions_of(WORDS, WORDS.encode("Z dog"), "X")


def test_a_placeholder_of_several_tokens_is_refused_with_the_tokens():
    class Split(Words):
        def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
            return [2, 4]  # "X" and "x"

    with pytest.raises(
        InputError, match=r"'Xx' stands once in the prompt, and is a token of its own never.*X\|x"
    ):
        positions_of(Split(), [2, 4], "Xx")


def test_the_packages_own_questions_take_what_is_one_token(model):
    [prompt], named = prompts_of(model, None, None, None)
    assert named == "X" and len(prompt.positions) == 2
    assert all(decode(model.tokenizer, [prompt.ids[p]]) == "X" for p in prompt.positions)
    several, _ = prompts_of(model, ["meaning", "about", "repeat"], "Z", True)
    assert [len(one.positions) for one in several] == [2, 2, 3]
    own, _ = prompts_of(model, patchscopes.Question("What is {x}?", "It is "), None, False)
    assert own[0].text.endswith("What is X?\nIt is ")


def test_no_placeholder_in_the_vocabulary_is_told(model):
    class Pairs(ChatTokenizer):
        """Two letters a token, so that nothing is one letter."""

        def decode(self, ids: Any) -> str:
            return "".join(f"{super(Pairs, self).decode([i])}~" for i in ids)

    real = model.tokenizer
    model.tokenizer = Pairs()
    try:
        with pytest.raises(InputError, match="is a token of its own in the package's questions"):
            prompts_of(model, None, None, None)
    finally:
        model.tokenizer = real


def test_chats_go_through_the_template_and_on_from_the_beginning_of_the_answer(model):
    messages = [{"role": "user", "content": "What is X?"}, {"role": "assistant", "content": "X is "}]
    [prompt], _ = prompts_of(model, messages, None, None)
    assert prompt.text == "[What is X?]X is " and len(prompt.positions) == 2
    [alone], _ = prompts_of(model, messages[:1], None, None)
    assert alone.text == "[What is X?]"
    [turn], _ = prompts_of(model, "What is X?", None, True)
    assert turn.ids == alone.ids
    with pytest.raises(InputError, match="begins with the user's turn"):
        prompts_of(model, messages[1:], None, None)


def test_prompts_may_be_token_ids_and_several_of_any_kind(model):
    ids = model.tokenize("What is X?")
    found, _ = prompts_of(model, [ids, "What is X?", "meaning"], "X", False)
    assert found[0].ids == found[1].ids and len(found) == 3
    [array], _ = prompts_of(model, np.array(ids), "X", False)
    assert array.ids == ids
    with pytest.raises(InputError, match=r"Prompt 1: The prompt holds no placeholder"):
        prompts_of(model, ["What is X?", "What?"], "X", False)

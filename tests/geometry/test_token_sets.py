"""Named sets of tokens: what makes them, what a tokenizer lacks, and which are ready made."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mlxterp import InputError
from mlxterp.errors import NoTokenizerError
from mlxterp.geometry import TokenSets
from tests.letters import TOKENIZER


class Listed:
    """A tokenizer whose tokens are listed; the last is special."""

    def __init__(self, *texts: str):
        self.texts = [*texts, "<end>"]
        self.all_special_ids = [len(texts)]

    def get_vocab(self) -> dict[str, int]:
        return {f"{text}/{i}": i for i, text in enumerate(self.texts)}

    def encode(self, text: str) -> list[int]:
        return [0] if text else []

    def decode(self, ids, **_) -> str:
        return "".join(self.texts[i] for i in ids)


TOKENS = Listed(
    "a", " cat", "Cat", "dog", " Dog", "DOG", "walking", "7", "12", "...", "\n", "{}", " the", "é", "дом", "日本", ""
)  # fmt: skip
SETS = TokenSets.standard(TOKENS, min_size=1)


def named(sets: TokenSets, name: str) -> list[str]:
    return [sets.texts[i] for i in sets[name]]


class TestOwnSets:
    def test_a_word_in_lower_case_stands_for_its_capitalised_form_and_for_any_space_around(self):
        sets = TokenSets.of(TOKENS, {"pets": ["cat", "dog"], "names": ["Dog"]})
        assert named(sets, "pets") == [" cat", "Cat", "dog", " Dog"] and named(sets, "names") == [" Dog"]

    def test_a_regular_expression_sees_the_leading_space(self):
        sets = TokenSets.of(TOKENS, {"spaced": "^ ", "short": re.compile(r"^\d$"), "ing": "ing$"})
        assert named(sets, "spaced") == [" cat", " Dog", " the"]
        assert named(sets, "short") == ["7"] and named(sets, "ing") == ["walking"]

    def test_a_predicate_says_which_texts_belong(self):
        assert named(TokenSets.of(TOKENS, {"long": lambda text: len(text) > 4}), "long") == ["walking"]

    def test_special_tokens_and_tokens_without_text_belong_to_no_set(self):
        sets = TokenSets.of(TOKENS, {"all": lambda _: True})
        assert len(sets["all"]) == len(sets.texts) - 2 and sets.texts[-2:] == ("", "")

    def test_words_that_are_no_tokens_are_named(self):
        sets = TokenSets.of(TOKENS, {"pets": ["cat", "hamster", "newt", "owl", "rat", "yak"]})
        assert sets.missing == {"pets": "no tokens: 'hamster', 'newt', 'owl', 'rat' and 1 more"}
        assert "left out: pets (no tokens: 'hamster'" in str(sets)

    @pytest.mark.parametrize(
        ("sets", "message"),
        [
            ({"pets": ["hamster"]}, "'pets' has no token"), ({"x": "("}, "no regular expression"), ({}, "without sets"),
            (["cat"], "a dictionary"), ({"x": 5}, "a list of words, a regular expression or a function"),
            ({"x": []}, "a list of words"), ({"x": ["a", 3]}, "a list of words"), ({3: ["cat"]}, "name is a string"),
        ],
    )  # fmt: skip
    def test_what_makes_no_set_is_refused(self, sets, message):
        with pytest.raises(InputError, match=message):
            TokenSets.of(TOKENS, sets)

    def test_a_set_of_all_tokens_is_refused(self):
        every = Listed("a", "b")
        every.all_special_ids = []
        with pytest.raises(InputError, match="every token"):
            TokenSets.of(every, {"all": lambda _: True})

    def test_without_a_tokenizer_or_its_list_of_tokens_nothing_can_be_said(self):
        with pytest.raises(NoTokenizerError, match="tokenizer="):
            TokenSets.of(None, {"x": "x"})
        with pytest.raises(InputError, match="get_vocab"):
            TokenSets.standard(TOKENIZER)


class TestStandardSets:
    @pytest.mark.parametrize(
        ("name", "texts"),
        [
            ("starts with d", ["dog", " Dog", "DOG"]), ("capitalised", ["Cat", " Dog"]), ("all capitals", ["DOG"]),
            ("digits", ["7", "12"]), ("punctuation", ["...", "{}"]), ("leading space", [" cat", " Dog", " the"]),
            ("white space", ["\n"]), ("-ing", ["walking"]), ("determiners", ["a", " the"]),
            ("nouns", [" cat", "Cat", "dog", " Dog"]), ("Latin with accents", ["é"]), ("Cyrillic", ["дом"]),
            ("Han", ["日本"]), ("code symbols", ["{}"]),
        ],
    )  # fmt: skip
    def test_each_has_the_tokens_that_its_name_says(self, name, texts):
        assert named(SETS, name) == texts

    def test_what_the_tokenizer_lacks_is_left_out_and_named(self):
        assert "Hangul" not in SETS and SETS.missing["Hangul"] == "0 tokens"
        fewer = TokenSets.standard(TOKENS, min_size=3)
        assert fewer.missing["Han"] == "1 token" and "starts with d" in fewer
        with pytest.raises(InputError, match="Lower min_size="):
            TokenSets.standard(TOKENS, min_size=100)

    def test_the_demo_has_letters_forms_suffixes_and_parts_of_speech(self, demo):
        sets = TokenSets.standard(demo.model.tokenizer)
        assert set(sets.groups.values()) == {"letter", "form", "suffix", "part of speech", "code"}
        assert all(len(ids) >= 5 and np.all(np.diff(ids) > 0) for ids in sets.values())
        assert {" he", " She", "they"} & set(named(sets, "pronouns"))


class TestTogether:
    def test_two_are_joined_and_the_right_one_wins(self):
        own = TokenSets.of(TOKENS, {"pets": ["cat"], "digits": ["7"]})
        both = SETS | own
        assert named(both, "pets") == [" cat", "Cat"] and named(both, "digits") == ["7"]
        assert both.groups["pets"] == "own" and both.missing["Hangul"] == "0 tokens"
        with pytest.raises(InputError, match="different tokenizers"):
            _ = SETS | TokenSets.of(Listed("cat", "x"), {"pets": ["cat"]})

    def test_some_are_chosen_by_name(self):
        assert list(SETS.only("Han", "digits")) == ["Han", "digits"]
        with pytest.raises(InputError, match="No set 'Hun'"):
            SETS.only("Hun")
        with pytest.raises(InputError, match="at least one"):
            SETS.only()

    def test_print_shows_sizes_and_tokens(self):
        assert re.search(r"digits +2  '7', '12'", str(SETS)) and repr(SETS).startswith("TokenSets(")

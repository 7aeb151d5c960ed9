"""Named sets of a tokenizer's tokens, to ask what a decoder direction writes: `TokenSets`.

`enrichment` holds features against them. A set is made of words, of a regular expression or of a predicate on the
token's text; `TokenSets.standard` brings sets that most questions begin with.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core import checks
from ..core.options import names_options
from ..core.tokens import encode_text
from ..data.text import token_after
from ..errors import InputError, NoTokenizerError
from .parts_of_speech import PARTS_OF_SPEECH

Rule = Callable[[str], bool]
"""Whether a token's text belongs."""
OWN = "own"
"""The group of sets that a user makes."""
_LEAST = 5
"""A standard set with fewer tokens says too little."""
_SHOWN = 4
"""Tokens of each set, and words in a message."""
_CODE = frozenset("{}[]()<>=+*/\\|&^%$#@~`_;")
_SUFFIXES = ("ing", "ed", "ly", "er", "est", "s", "tion", "ness", "ful", "less", "able", "ment", "n't")
_SCRIPTS = {
    "Latin with accents": ("LATIN",), "Greek": ("GREEK",), "Cyrillic": ("CYRILLIC",), "Hebrew": ("HEBREW",),
    "Arabic": ("ARABIC",), "Devanagari": ("DEVANAGARI",), "Bengali": ("BENGALI",), "Tamil": ("TAMIL",),
    "Thai": ("THAI",), "Georgian": ("GEORGIAN",), "Armenian": ("ARMENIAN",), "Han": ("CJK",),
    "Kana": ("HIRAGANA", "KATAKANA"), "Hangul": ("HANGUL",),
}  # fmt: skip
"""Script → what the Unicode names of its letters begin with."""


class UnknownSetError(InputError, KeyError):
    """There is no such set of tokens."""

    def __str__(self) -> str:  # KeyError would show the message quoted and escaped
        return str(self.args[0])


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class TokenSets(Mapping[str, np.ndarray]):
    """Named sets of tokens: a mapping from name to token ids. `print` shows sizes and some tokens of each.

    Attributes:
        members: Name → int64, ascending token ids.
        groups: Name → what kind of set it is ("letter", "form", "suffix", "part of speech", "script", "code"; "own"
            for sets of `TokenSets.of`).
        missing: What the tokenizer lacks, in words: a whole set (`standard`), or words of a set that are no single
            tokens (`of`), by the set's name.
        texts: Text of every token as it stands after others; "" for special tokens and for ids without text. The
            place is the id.
    """

    members: Mapping[str, np.ndarray]
    groups: Mapping[str, str]
    missing: Mapping[str, str]
    texts: tuple[str, ...]

    @staticmethod
    @names_options
    def of(tokenizer: Any, sets: Mapping[str, Any]) -> TokenSets:
        """Sets of one's own.

        Args:
            tokenizer: As of `model.tokenizer`.
            sets: Name → words (tokens whose text without white space around it is one of them; a word in lower case
                stands for its capitalised form too); or a regular expression, as a string or compiled, that is found in
                the token's text, with its leading space; or a function of that text that says whether it belongs.

        Raises:
            InputError: A set has no token or all of them, a rule is none of these, or there are no sets.
            NoTokenizerError: There is no tokenizer.

        Examples:
            >>> from mlxterp.geometry import TokenSets
            >>> sets = TokenSets.of(model.tokenizer, {
            ...     "pets": ["dog", "cat", "hamster"], "-ing": r"ing$", "long": lambda text: len(text) > 12
            ... })
            >>> [sets.texts[i] for i in sets["pets"]]
            [' dog', ' cat']
            >>> sets.missing["pets"]
            "no tokens: 'hamster'"
        """
        if not isinstance(sets, Mapping) or not sets:
            raise InputError(
                "sets is a dictionary from name to words, a regular expression or a function,"
                f" got {type(sets).__name__}{' without sets' if isinstance(sets, Mapping) else ''}."
            )
        texts = token_texts(tokenizer)
        members: dict[str, np.ndarray] = {}
        missing: dict[str, str] = {}
        for name, given in sets.items():
            if not isinstance(name, str) or not name:
                raise InputError(f"A set's name is a string, got {name!r}.")
            rule, words = _rule(name, given)
            members[name] = _matching(texts, rule)
            _check_size(name, members[name], texts)
            if lacking := _lacking(texts, members[name], words):
                missing[name] = f"no tokens: {lacking}"
        return TokenSets(members, dict.fromkeys(members, OWN), missing, texts)

    @staticmethod
    @names_options
    def standard(tokenizer: Any, min_size: int = _LEAST) -> TokenSets:
        """Sets that most questions begin with; what this tokenizer has too few tokens for is left out and named.

        Initial letters; capitals, digits, punctuation, leading space, white space; suffixes of English; its parts of
        speech, by a list of words; languages by their script; symbols of code. Sets overlap.

        Args:
            tokenizer: As of `model.tokenizer`.
            min_size: A set with fewer tokens is left out; `missing` names it.

        Raises:
            InputError: No set has as many tokens.
            NoTokenizerError: There is no tokenizer.

        Examples:
            >>> from mlxterp.geometry import TokenSets
            >>> sets = TokenSets.standard(model.tokenizer)
            >>> len(sets["digits"]), sets.missing["Hangul"]
            (11, '0 tokens')
        """
        least, texts = checks.count(min_size, "min_size"), token_texts(tokenizer)
        members: dict[str, np.ndarray] = {}
        groups: dict[str, str] = {}
        missing: dict[str, str] = {}
        for group, rules in _standard_rules().items():
            for name, rule in rules.items():
                ids = _matching(texts, rule)
                if len(ids) < least:
                    missing[name] = f"{len(ids)} token{'' if len(ids) == 1 else 's'}"
                elif len(ids) < len(texts):
                    members[name], groups[name] = ids, group
        if not members:
            raise InputError(f"No standard set has {least} tokens of this tokenizer. Lower min_size=.")
        return TokenSets(members, groups, missing, texts)

    def only(self, *names: str) -> TokenSets:
        """Some of the sets, in this order.

        Raises:
            InputError: There is no such set, or none was named.
        """
        for name in names:
            _ = self[name]
        if not names:
            raise InputError(f"Name at least one set of: {', '.join(self.members)}.")
        return self._with({name: self.members[name] for name in names}, self.groups, {})

    def __or__(self, other: TokenSets) -> TokenSets:
        """Both; where a name is in both, the right one's set is taken.

        Raises:
            InputError: They are of different tokenizers.
        """
        if not isinstance(other, TokenSets):
            return NotImplemented
        if self.texts != other.texts:
            raise InputError("These sets are of different tokenizers. Make both with the same one.")
        groups = {**self.groups, **other.groups}
        return self._with({**self.members, **other.members}, groups, {**self.missing, **other.missing})

    def _with(
        self, members: dict[str, np.ndarray], groups: Mapping[str, str], missing: Mapping[str, str]
    ) -> TokenSets:
        return TokenSets(members, {name: groups[name] for name in members}, missing, self.texts)

    def __getitem__(self, name: str) -> np.ndarray:
        known = isinstance(name, str)
        if known and name in self.members:
            return self.members[name]
        why = f": left out ({self.missing[name]} of this tokenizer)" if known and name in self.missing else ""
        raise UnknownSetError(f"No set {name!r:.60}{why}. There are: {', '.join(self.members)}.")

    def __iter__(self) -> Iterator[str]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)

    def __str__(self) -> str:
        rows = [f"{len(self)} sets of {len(self.texts):,} tokens"]
        for name, ids in self.members.items():
            some = ", ".join(repr(self.texts[i]) for i in ids[:_SHOWN])
            rows.append(f"  {name:<20} {len(ids):>7,}  {some}{', …' if len(ids) > _SHOWN else ''}")
        if self.missing:
            rows.append("left out: " + "; ".join(f"{name} ({why})" for name, why in self.missing.items()))
        return "\n".join(rows)

    def __repr__(self) -> str:
        return f"TokenSets({len(self)} sets of {len(self.texts)} tokens)"


def token_texts(tokenizer: Any) -> tuple[str, ...]:
    """Text of every token of a tokenizer as it stands after others, by id.

    "" stands for special tokens and for ids that the tokenizer has no text for.

    Raises:
        NoTokenizerError: There is no tokenizer.
        InputError: It does not say what its tokens are.
    """
    if tokenizer is None:
        raise NoTokenizerError("Token sets need a tokenizer: InterpretableModel(model, tokenizer=…).")
    if not all(callable(getattr(tokenizer, name, None)) for name in ("get_vocab", "encode", "decode")):
        raise InputError(
            f"{type(tokenizer).__name__} does not list its tokens (get_vocab). Give a tokenizer, such as"
            " model.tokenizer."
        )
    special = {int(i) for i in getattr(tokenizer, "all_special_ids", None) or ()}
    known = sorted({int(i) for i in tokenizer.get_vocab().values()} - special)
    texts = [""] * (max([*known, *special], default=-1) + 1)
    before = encode_text(tokenizer, "a")[-1:]  # so that a leading space is kept
    for token in known:
        texts[token] = token_after(tokenizer, before, token)
    return tuple(texts)


def _matching(texts: tuple[str, ...], rule: Rule) -> np.ndarray:
    return np.array([i for i, text in enumerate(texts) if text and rule(text)], dtype=np.int64)


def _rule(name: str, given: Any) -> tuple[Rule, frozenset[str]]:
    """What decides, and the words where words were given.

    Raises:
        InputError: It is none of these.
    """
    if isinstance(given, (str, re.Pattern)):
        try:
            pattern = re.compile(given)
        except re.error as error:
            raise InputError(f"Set {name!r}: {given!r} is no regular expression: {error}.") from error
        return lambda text: pattern.search(text) is not None, frozenset()
    if callable(given):
        return lambda text: bool(given(text)), frozenset()
    if isinstance(given, Iterable) and not isinstance(given, (bytes, bytearray, Mapping)):
        words = list(given)
        if words and all(isinstance(word, str) and word.strip() for word in words):
            stripped = frozenset(word.strip() for word in words)
            return _words(stripped), stripped
    raise InputError(
        f"Set {name!r} is a list of words, a regular expression or a function of a token's text, got {given!r}."
    )


def _words(words: frozenset[str]) -> Rule:
    forms = words | {_capitalised(word) for word in words if word == word.lower()}
    return lambda text: text.strip() in forms


def _capitalised(word: str) -> str:
    return word[:1].upper() + word[1:]


def _check_size(name: str, ids: np.ndarray, texts: tuple[str, ...]) -> None:
    if not len(ids):
        raise InputError(
            f"Set {name!r} has no token of this tokenizer. Words must be single tokens;"
            " print(TokenSets.standard(tokenizer)) shows what tokens look like."
        )
    if len(ids) == len(texts):
        raise InputError(f"Set {name!r} has every token: nothing is left to compare it with.")


def _lacking(texts: tuple[str, ...], ids: np.ndarray, words: frozenset[str]) -> str:
    """Words that no token writes, some of them by name; "" where there are none."""
    there = {texts[i].strip() for i in ids}
    lacking = sorted(word for word in words if not {word, _capitalised(word)} & there)
    more = f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
    return ", ".join(map(repr, lacking[:_SHOWN])) + more


# -- the standard sets ------------------------------------------------------------------------------


def _standard_rules() -> dict[str, dict[str, Rule]]:
    """Group → name → rule."""
    return {
        "letter": {f"starts with {letter}": _initial(letter) for letter in string.ascii_lowercase},
        "form": {
            "capitalised": lambda text: text.strip()[:1].isupper() and not _is_shouted(text),
            "all capitals": _is_shouted,
            "digits": lambda text: text.strip().isdecimal(),
            "punctuation": _is_punctuation,
            "leading space": lambda text: text[0] == " " and not text.isspace(),
            "white space": str.isspace,
        },
        "suffix": {f"-{suffix}": _suffix(suffix) for suffix in _SUFFIXES},
        "part of speech": {name: _words(words) for name, words in PARTS_OF_SPEECH.items()},
        "script": {name: _script(starts) for name, starts in _SCRIPTS.items()},
        "code": {"code symbols": lambda text: bool(text.strip()) and set(text.strip()) <= _CODE},
    }


def _initial(letter: str) -> Rule:
    return lambda text: text.strip()[:1].lower() == letter


def _suffix(suffix: str) -> Rule:
    def ends(text: str) -> bool:
        word = text.strip().lower().replace("’", "'")
        return word.endswith(suffix) and word.replace("'", "").isalpha()

    return ends


def _is_shouted(text: str) -> bool:
    word = text.strip()
    return len(word) > 1 and word.isalpha() and word.isupper()


def _is_punctuation(text: str) -> bool:
    return bool(text.strip()) and all(unicodedata.category(c)[0] == "P" for c in text.strip())


def _script(starts: tuple[str, ...]) -> Rule:
    """Tokens with a letter, all of whose letters are of a script (of Latin: with one beyond ASCII)."""

    def written(text: str) -> bool:
        letters = [c for c in text if c.isalpha()]
        foreign = any(not c.isascii() for c in letters)
        return foreign and all(unicodedata.name(c, "").startswith(starts) for c in letters)

    return written

"""Who writes: prompts in, texts out. `OpenAIJudge` and `LocalJudge` write with a language model, `CorpusWriter` takes
sentences that are there."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np

from ..core import checks
from ..core.texts import listed
from ..errors import InputError
from ..index.examples import FeatureExample
from .explainers import word_at
from .judges import TokenListJudge, holds, parts_of
from .marks import whole

_SENTENCE = re.compile(r"[^.!?\n]+[.!?]+[\"”’']*")
_SHORTEST, _LONGEST = 4, 40
"""Words of a sentence."""


@dataclass(frozen=True, eq=False, slots=True)
class Prompt:
    """What a writer is asked. A language model reads `text`; a writer that reads none goes by the rest.

    Attributes:
        text: The whole prompt.
        task: "explain"; "fitting" and "near_miss": texts that an explanation fits, and that it nearly fits; "similar":
            texts like the examples.
        explanation: What texts are to fit.
        n: Texts that are wanted.
        examples: Windows that are shown.
        known: Whole texts that what is written may not be taken from.
        draw: Which of several draws this is, from 0.
        part: 1 where a choice among candidates is made by these texts, 0 where what was chosen so is scored: the two
            share none. None where nothing is chosen.
    """

    text: str
    task: str = ""
    explanation: str = ""
    n: int = 1
    examples: tuple[FeatureExample, ...] = ()
    known: tuple[str, ...] = ()
    draw: int = 0
    part: int | None = None


Asked = Prompt | str | Sequence[Mapping[str, str]]
"""A prompt; a user's words; or messages with "role" and "content", as chat models take them."""


class Writer(Protocol):
    """Writes texts. Each depends on its own prompt alone."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def write(
        self, prompts: Sequence[Asked], max_tokens: int = 256, *, temperature: float = 0.0, seed: int = 0
    ) -> list[str | None]:
        """A text for each prompt, None where that failed.

        Args:
            max_tokens: Of each text, at most.
            temperature: 0 takes the likeliest token; a prompt given twice is then written once. Above 0 each of several
                equal prompts is another draw.
            seed: Of the draws, in [0, 2**64).
        """
        ...


def messages_of(asked: Asked) -> list[dict[str, str]]:
    """A prompt as messages; half characters (lone surrogates) become question marks.

    Raises:
        InputError: It is none.
    """
    if isinstance(asked, (str, Prompt)):
        asked = [{"role": "user", "content": asked if isinstance(asked, str) else asked.text}]
    try:
        found = [{"role": whole(str(one["role"])), "content": whole(one["content"])} for one in asked]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"A prompt is text, a Prompt, or messages with role and content; got {asked!r:.80}."
        ) from error
    if not found or not any(one["content"] for one in found):
        raise InputError("A prompt is empty.")
    return found


def numbered(keys: Sequence[Any], temperature: float) -> list[int]:
    """Which draw each prompt is: 0 the first time that a key comes, then 1; all 0 where nothing is drawn."""
    seen: Counter[Any] = Counter()
    found = []
    for key in keys:
        found.append(seen[key] if temperature else 0)
        seen[key] += 1
    return found


class CorpusWriter:
    """Sentences of texts in place of written ones, so that a generation test needs no language model.

    An explanation is taken as a list of words, as `TokenListJudge` does. Sentences with one of the words fit it; those
    without any that share most other words with one that fits are near misses. Like examples are sentences with
    a word that the examples are strongest on. A sentence of a text that the prompt names as known is never taken. It
    explains nothing.

    Args:
        texts: Best others than those of the index, or at least more.
        seed: Of the order in which sentences are taken, in [0, 2**64).

    Raises:
        InputError: There are no sentences of 4 to 40 words in it.

    Examples:
        >>> from mlxterp import autointerp
        >>> writer = autointerp.CorpusWriter(["The dog saw a ball. It was a red ball! Tom ran away."])
        >>> [found] = writer.write([autointerp.Prompt("", "fitting", '"ball"', n=1)])
        >>> "ball" in found
        True
    """

    def __init__(self, texts: Iterable[str], seed: int = 0):
        several = listed(texts)
        self._seed = checks.seed(seed)
        pairs = [
            (one.strip(), number) for number, text in enumerate(several) for one in _SENTENCE.findall(text)
        ]
        kept = {one: number for one, number in pairs if _SHORTEST <= len(one.split()) <= _LONGEST}
        if not kept:
            raise InputError(
                f"There are no sentences of {_SHORTEST} to {_LONGEST} words in these {len(several)} texts."
            )
        order = np.random.default_rng(self._seed).permutation(len(kept))
        self._sentences = [list(kept)[i] for i in order]
        self._words = [parts_of(one) for one in self._sentences]
        self._rows: dict[str, list[int]] = {}
        for row, words in enumerate(self._words):
            for word in dict.fromkeys(words):
                self._rows.setdefault(word, []).append(row)

    @property
    def name(self) -> str:
        """How many sentences there are."""
        return f"{len(self._sentences)} sentences of a corpus"

    def write(
        self, prompts: Sequence[Asked], max_tokens: int = 256, *, temperature: float = 0.0, seed: int = 0
    ) -> list[str | None]:
        """Sentences as a JSON list for each prompt; None for a prompt that wants no texts, or where none is found.

        Args:
            max_tokens: Not looked at.
            temperature: Not looked at.
            seed: Which sentences come first.
        """
        del max_tokens, temperature
        found = [self._texts(one, seed) if isinstance(one, Prompt) else [] for one in prompts]
        return [json.dumps(texts, ensure_ascii=False) if texts else None for texts in found]

    def _texts(self, prompt: Prompt, seed: int) -> list[str]:
        if prompt.task in ("fitting", "near_miss"):
            words = TokenListJudge().words(prompt.explanation)
        elif prompt.task == "similar":
            words = tuple(dict.fromkeys(parts_of(word_at(one)) for one in prompt.examples))
        else:
            return []
        words = tuple(word for word in words if word)
        n = len(self._sentences)
        first = int(np.random.default_rng([self._seed, seed]).integers(n)) if seed else 0
        fits = {i for word in words for i in self._rows.get(word[0], ()) if holds(self._words[i], word)}
        left_out = {i for i in range(n) if prompt.part is not None and i % 2 != prompt.part}
        rows = sorted(fits - left_out, key=lambda i: (i - first) % n)
        shown = list(islice((i for i in rows if self._is_new(i, prompt.known)), prompt.n * (prompt.draw + 1)))
        if prompt.task == "near_miss":
            shown = self._near(shown, fits | left_out, words, prompt.known)
        return [self._sentences[i] for i in shown[prompt.n * prompt.draw :]]

    def _near(
        self, shown: list[int], without: set[int], words: tuple[tuple[str, ...], ...], known: Sequence[str]
    ) -> list[int]:
        """For each sentence that fits, one that does not and shares most other words with it; each once."""
        listed_words = {part for word in words for part in word}
        found: list[int] = []
        for one in shown:
            mine = set(self._words[one]) - listed_words
            shared = Counter(i for word in sorted(mine) for i in self._rows[word])
            alike = {
                i: n / (len(mine) + len(set(self._words[i])) - n)
                for i, n in shared.items()
                if i not in without
            }
            nearest = sorted(alike, key=lambda i: (-alike[i], i))
            found += next(([i] for i in nearest if i not in found and self._is_new(i, known)), [])
        return found

    def _is_new(self, i: int, known: Sequence[str]) -> bool:
        return not any(self._sentences[i] in text for text in known)

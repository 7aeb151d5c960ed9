"""Who explains: windows where a feature is active in, a sentence out. `TokenListExplainer` asks no language model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from ..concepts.explanations import Explanation
from ..core import checks
from ..index.examples import FeatureExample
from .examples import Sample

_LEAST = 0.005
"""Of the windows that a word must add."""


class Explainer(Protocol):
    """Explains a feature by windows in which it is active."""

    @property
    def name(self) -> str:
        """The explanations' source."""
        ...

    def explain(self, feature_id: int, samples: Sequence[Sample]) -> Explanation | None:
        """What the feature means; None where nothing can be said.

        Args:
            samples: Windows where it is active, the strongest first; then where it is not, the plan's `contrast`.
        """
        ...


class TokenListExplainer:
    """Lists the words that a feature fires on. The baseline that a language model must beat.

    A word is what a token belongs to, in lower case. One after the other the words are taken that, together with those
    before, stand in the most windows where the feature fires on them, and in the fewest where it does not; a word that
    hardly helps is left out.

    Args:
        words: At most so many.

    Examples:
        >>> from mlxterp import autointerp
        >>> drawn = autointerp.collect(index, [ball], autointerp.Plan(least=1), verbose=False)[ball]
        >>> autointerp.TokenListExplainer(1).explain(ball, drawn.explaining).text
        'fires on "ball"'
    """

    def __init__(self, words: int = 5):
        self._words = checks.count(words, "words")

    @property
    def name(self) -> str:
        return f"token list of {self._words}"

    def explain(self, feature_id: int, samples: Sequence[Sample]) -> Explanation | None:
        active = [sample for sample in samples if sample.active]
        listed = _telling([list(_words(sample)) for sample in active], self._words)
        if not listed:
            return None
        text = "fires on " + ", ".join('"' + word.replace('"', '\\"') + '"' for word in listed)
        return Explanation(feature_id, text, self.name)


def _telling(windows: Sequence[Sequence[tuple[str, bool]]], n: int) -> list[str]:
    """The words that tell best where a feature fires, at most n; the commonest first among equals.

    Args:
        windows: The words of each, and whether the feature fires on them.
    """
    fired = Counter(word for words in windows for word, active in words if active and word)
    seen = [set(words) for words in windows]
    hit = {word: _where(seen, word, True) for word in fired}
    missed = {word: _where(seen, word, False) for word in fired}
    left, found = [word for word, _ in fired.most_common()], []
    hits = alarms = np.zeros(len(windows), dtype=bool)
    best = -np.inf
    while left and len(found) < n:
        scores = [float((hits | hit[w]).mean() - (alarms | missed[w]).mean()) for w in left]
        at = int(np.argmax(scores))
        if scores[at] <= best + _LEAST:
            break
        best, word = scores[at], left.pop(at)
        found.append(word)
        hits, alarms = hits | hit[word], alarms | missed[word]
    return found


def _where(windows: Sequence[set[tuple[str, bool]]], word: str, active: bool) -> np.ndarray:
    """bool, (windows,): whether a word stands in each where the feature fires, or where it does not."""
    return np.array([(word, active) in words for words in windows], dtype=bool)


def _words(sample: Sample) -> Iterator[tuple[str, bool]]:
    """The words of a window, and whether the feature fires on one of their tokens."""
    tokens, active = sample.example.tokens, sample.example.activations != 0
    first = 0
    for end in range(1, len(tokens) + 1):
        if end < len(tokens) and tokens[end - 1][-1:].isalnum() and tokens[end][:1].isalnum():
            continue
        yield "".join(tokens[first:end]).strip().lower(), bool(active[first:end].any())
        first = end


def word_at(example: FeatureExample) -> str:
    """The word that a window's strongest token belongs to, in lower case."""
    tokens, at = example.tokens, example.position - example.start
    first = at
    while first > 0 and tokens[first][:1].isalnum() and tokens[first - 1][-1:].isalnum():
        first -= 1
    end = at + 1
    while end < len(tokens) and tokens[end - 1][-1:].isalnum() and tokens[end][:1].isalnum():
        end += 1
    return "".join(tokens[first:end]).strip().lower()

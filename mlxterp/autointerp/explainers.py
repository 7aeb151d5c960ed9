"""Who explains: windows where a feature is active in, a sentence out. `TokenListExplainer` asks no language model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from ..concepts.explanations import Explanation
from ..core import checks
from ..index.examples import FeatureExample
from .examples import Sample


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
    """Lists what a feature fires on: the words at its strongest tokens, the commonest first.

    The baseline that a language model must beat. A token within a word gives the whole word.

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
        counted: Counter[str] = Counter()
        for sample in samples:
            if sample.active:
                counted[word_at(sample.example)] += 1
        listed = [word for word, _ in counted.most_common() if word][: self._words]
        if not listed:
            return None
        text = "fires on " + ", ".join('"' + word.replace('"', '\\"') + '"' for word in listed)
        return Explanation(feature_id, text, self.name)


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

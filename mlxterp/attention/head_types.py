"""Heads by what they read: `detect_induction_heads`, `detect_head_types`, `find_attention_pattern`, a detector.

The names are those of the existing library. What is told of a single text is a description of that text;
`head_scores` measures over many draws, beside a control.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..anatomy.session import Model, session_of
from ..backends.host.conversion import to_numpy
from ..core import checks
from ..core.integers import as_integer
from ..core.options import checks_options, names_options
from ..errors import InputError
from ..hooks.session import ModelSession
from . import scores
from .head_scores import HeadScore, head_scores
from .random_tokens import DRAWS, special_tokens
from .reader import attention_patterns


@checks_options
class AttentionPatternDetector:
    """Says of a pattern which types of head it looks like, by thresholds.

    Args:
        induction_threshold, previous_token_threshold, first_token_threshold, current_token_threshold: A head is of a
            type where its score is above it.

    Examples:
        >>> import numpy as np
        >>> from mlxterp.attention import AttentionPatternDetector
        >>> AttentionPatternDetector().classify_head(np.eye(6, k=-1))
        ['previous_token']
    """

    def __init__(
        self,
        induction_threshold: float = 0.4,
        previous_token_threshold: float = 0.5,
        first_token_threshold: float = 0.3,
        current_token_threshold: float = 0.3,
    ):
        self.induction_threshold = checks.fraction(induction_threshold, "induction_threshold")
        self.previous_token_threshold = checks.fraction(previous_token_threshold, "previous_token_threshold")
        self.first_token_threshold = checks.fraction(first_token_threshold, "first_token_threshold")
        self.current_token_threshold = checks.fraction(current_token_threshold, "current_token_threshold")

    def analyze_head(
        self, attention_pattern: Any, seq_len_for_induction: int | None = None
    ) -> dict[str, float]:
        """Scores of one pattern (queries, keys) by type.

        Args:
            seq_len_for_induction: Length of what is repeated; without it there is no "induction".
        """
        pattern = _one(attention_pattern)
        found = {
            "previous_token": scores.previous_token_score(pattern),
            "first_token": scores.first_token_score(pattern),
            "current_token": scores.current_token_score(pattern),
        }
        if seq_len_for_induction is not None:
            found["induction"] = scores.induction_score(pattern, seq_len_for_induction)
        return found

    def classify_head(self, attention_pattern: Any, seq_len_for_induction: int | None = None) -> list[str]:
        """The types whose threshold a pattern is above; ["unknown"] where there is none."""
        found = self.analyze_head(attention_pattern, seq_len_for_induction)
        return [name for name, x in found.items() if x > getattr(self, f"{name}_threshold")] or ["unknown"]


@names_options
def detect_head_types(
    model: Model,
    text: Any = None,
    threshold: float = 0.4,
    layers: int | Iterable[int] | None = None,
    *,
    n_random_tokens: int = 50,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, list[tuple[int, int]]]:
    """Heads by type: {"previous_token": [(layer, head), …], "first_token", "current_token", "unknown"}.

    With a text, what its patterns look like, by thresholds alone. Without one, heads are measured on repeated random
    tokens over many draws, "induction" and "duplicate_token" too, and count only where they are above their control
    (`HeadScores.types`).

    Args:
        text: One text, or its token ids; None takes repeated random tokens.
        threshold: A head is of a type where its score is above it.
        layers: Layer numbers; None takes all that have attention.
        n_random_tokens, draws, seed: Of the random tokens, as in `head_scores`.

    Raises:
        InputError: The text has special tokens only; and as `attention_patterns` and `head_scores` say.
        ComponentError: As they say.

    Examples:
        >>> from mlxterp.attention import detect_head_types
        >>> detect_head_types(model, "Lily lost her red ball. Tom found it.")["previous_token"]
        [(1, 3), (2, 3)]
    """
    threshold = checks.fraction(threshold, "threshold")
    if text is None:
        measured = head_scores(model, layers, n_random_tokens=n_random_tokens, draws=draws, seed=seed)
        return measured.types(threshold)
    detector = AttentionPatternDetector(threshold, threshold, threshold, threshold)
    found: dict[str, list[tuple[int, int]]] = {
        "previous_token": [], "first_token": [], "current_token": [], "unknown": [],
    }  # fmt: skip
    for layer, head, pattern in _patterns(model, text, layers):
        for name in detector.classify_head(pattern):
            found[name].append((layer, head))
    return found


@names_options
def detect_induction_heads(
    model: Model,
    n_random_tokens: int = 50,
    n_repeats: int = 2,
    threshold: float = 0.4,
    layers: int | Iterable[int] | None = None,
    seed: int = 42,
    *,
    draws: int = DRAWS,
) -> list[HeadScore]:
    """Heads that read what followed the same token before, on repeated random tokens; highest first.

    A head counts where its mean over the draws is above the threshold and above 97.5 % of the draws of shuffled tokens.

    Args:
        n_random_tokens, n_repeats, layers, seed, draws: As in `head_scores`.
        threshold: Of the score, a share.

    Raises:
        ComponentError, InputError: As `head_scores` says.

    Examples:
        >>> from mlxterp.attention import detect_induction_heads
        >>> found = detect_induction_heads(model, n_random_tokens=20, threshold=0.1)
        >>> all(head.control < head.score for head in found)
        True
    """
    found = head_scores(
        model, layers, n_random_tokens=n_random_tokens, n_repeats=n_repeats, draws=draws, seed=seed
    )
    induction = set(found.types(threshold)["induction"])
    return [one for one in found.top("induction", len(found.heads)) if (one.layer, one.head) in induction]


@names_options
def find_attention_pattern(
    model: Model,
    text: Any,
    pattern_fn: Callable[[np.ndarray], float],
    threshold: float = 0.5,
    layers: int | Iterable[int] | None = None,
) -> list[HeadScore]:
    """Heads whose pattern on a text scores above a threshold by any function; highest first.

    Args:
        text: One text, or its token ids.
        pattern_fn: Takes a pattern (queries, keys), float32, and gives a number.
        threshold: Of that number.
        layers: Layer numbers; None takes all that have attention.

    Raises:
        InputError: The function gives something else than a number, or the text has special tokens only.
        ComponentError: As `attention_patterns` says.

    Examples:
        >>> from mlxterp.attention import find_attention_pattern
        >>> heads = find_attention_pattern(model, "Lily lost her red ball.", lambda a: a[-1, 0], threshold=0.3)
        >>> heads[0].name  # the last token rests on the first one most
        'L3H1'
    """
    if not callable(pattern_fn):
        raise InputError(
            f"pattern_fn is {type(pattern_fn).__name__}; expected a function of a pattern (queries, keys)."
        )
    threshold = checks.finite(threshold, "threshold")
    found = []
    for layer, head, pattern in _patterns(model, text, layers):
        score = checks.finite(pattern_fn(pattern.copy()), f"What pattern_fn gives for L{layer}H{head}")
        if score > threshold:
            found.append(HeadScore(layer, head, score, "custom"))
    return sorted(found, key=lambda one: -one.score)


def head_pairs(heads: Any) -> list[tuple[int, int]]:
    """(layer, head) of each, once: of pairs, of `HeadScore`s, or of one of them.

    Raises:
        InputError: It is something else, or none.
    """
    if isinstance(heads, str) or (not isinstance(heads, (HeadScore, Iterable))):
        raise InputError(
            f"heads= is {heads!r:.60}; expected (layer, head), or what detect_induction_heads gives."
        )
    several = [heads] if isinstance(heads, HeadScore) or _is_pair(heads) else list(heads)
    found = []
    for one in several:
        pair: Any = (one.layer, one.head) if isinstance(one, HeadScore) else one
        if not _is_pair(pair):
            raise InputError(
                f"heads= holds {one!r}; expected (layer, head), or what detect_induction_heads gives."
            )
        found.append(
            (checks.integer(pair[0], "a layer of heads="), checks.integer(pair[1], "a head of heads="))
        )
    if not found:
        raise InputError("heads= is empty. Name at least one (layer, head).")
    return list(dict.fromkeys(found))


def _is_pair(given: Any) -> bool:
    two = isinstance(given, (tuple, list, np.ndarray)) and len(given) == 2
    return two and all(as_integer(x) is not None for x in given)


def _patterns(model: Model, text: Any, layers: Any) -> Iterable[tuple[int, int, np.ndarray]]:
    """(layer, head, pattern) of one text."""
    session = session_of(model, ModelSession)
    batch = session.batch(text)
    if len(batch.lengths) > 1:
        raise InputError(f"Expected one text, got {len(batch.lengths)}. Ask for each of them.")
    if set(batch.ids[0].tolist()) <= special_tokens(session.plain.model):
        raise InputError(
            "The text has special tokens only, on which heads of every type look alike. Give a text of words, or none:"
            " then heads are measured on random tokens."
        )
    found = attention_patterns(model, text, layers)
    for layer in found:
        for i, head in enumerate(found.heads[layer]):
            yield layer, head, found[layer][0, i]


def _one(given: Any) -> np.ndarray:
    array = to_numpy(given, "attention_pattern")
    if array.ndim != 2:
        raise InputError(f"attention_pattern is one head's (queries, keys), got shape {array.shape}.")
    return array

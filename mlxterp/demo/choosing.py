"""Which features of a text are worth showing: for each word the one that says most about it.

The tour and the command line search the same stories (`story_index`). A feature tells most where it is
strong here and rare elsewhere, as words do in a search (tf-idf), on a word that is itself rare.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..index import FeatureIndex, FeatureStats
from ..model.interpretable import InterpretableModel
from ..viz import TokenView
from . import Demo

_STORIES = 120
_LEAST = 20
"""Tokens where a feature has to be active, for its figures to mean something."""
_DENSEST = 0.02
_NEAR_ITS_MAXIMUM = 0.8
_CANDIDATES = 256
_PROMOTED = 5


@dataclass(frozen=True, eq=False, slots=True)
class Noticed:
    """A feature that a text switches on."""

    feature_id: int
    position: int
    """Of the token where it is strongest."""
    token: str
    activation: float
    stats: FeatureStats
    """Over the stories."""
    promoted: list[str]
    """Tokens that it makes likelier to come next, by itself."""

    @property
    def words(self) -> list[str]:
        """Words it is most often active on, the commonest first; pieces of words only where there is nothing else."""
        return words_of(self.stats)


def short_stories(demo: Demo) -> list[str]:
    """The first stories that fit into the model's positions."""
    limit = demo.model.language_model.max_positions or math.inf
    return [story for story in demo.texts if len(demo.model.tokenize(story)) <= limit][:_STORIES]


def story_index(demo: Demo, verbose: bool = True) -> FeatureIndex:
    """An index of the short stories, in a temporary folder."""
    return demo.model.build_index(demo.sae, short_stories(demo), verbose=verbose)


def noticed(demo: Demo, index: FeatureIndex, text: str, n: int) -> list[Noticed]:
    """At most n features of a text, on different words, the most telling first.

    Those come later that are far from the strongest they get, then those that mark where a text begins, and those
    that are on at many tokens of the stories, or at hardly any.

    Raises:
        InputError: No feature is active on the text.
    """
    model = demo.model
    view = model.visualize_feature_activations(text, demo.sae, *demo.place, top_k=_CANDIDATES)
    rarity = _rarity(model, short_stories(demo), text)
    best: dict[int, tuple[int, float, int]] = {}
    for row, tier in enumerate(_tiers(view, index)):
        feature, position = view.feature_ids[row], int(view.activations[row].argmax())
        density = max(int(index.summary.count[feature]), 1) / index.n_tokens
        score = float(view.activations[row].max()) * math.log(1 / density) * rarity[position]
        best[position] = min(best.get(position, (9, 0.0, 0)), (tier, -score, row))
    if len(best) > 1:
        best.pop(0, None)  # the beginning-of-text token
    if not best:
        raise InputError(f"No feature is active on the text {text!r}. Give a longer one.")
    rows = [row for _, _, row in sorted(best.values())[:n]]
    ids = [view.feature_ids[row] for row in rows]
    return [
        Noticed(
            feature, peak := int(view.activations[row].argmax()), view.tokens[peak],
            float(view.activations[row].max()), index.stats(feature), [token for token, _ in logits.promoted],
        ) for row, feature, logits in zip(rows, ids, model.feature_logits(demo.sae, ids, _PROMOTED), strict=True)
    ]  # fmt: skip


def words_of(stats: FeatureStats) -> list[str]:
    """See `Noticed.words`."""
    counted: Counter[str] = Counter()
    for token, count in stats.top_tokens:
        counted[token.strip().casefold()] += count
    often = [word for word, count in counted.most_common() if count > 1 or count == stats.count]
    words = [word for word in often if len(word) > 1 and word.isalpha()]
    return words or often or list(counted)


def _tiers(view: TokenView, index: FeatureIndex) -> list[int]:
    """How late each feature of the view is to be shown: 0 to 2."""
    count = np.array([index.summary.count[f] for f in view.feature_ids])
    maximum = np.array([index.summary.maximum[f] for f in view.feature_ids])
    later = view.activations.argmax(axis=1) > 1  # behind the beginning-of-text token and the first word
    known = (count >= _LEAST) & (count <= _DENSEST * index.n_tokens)
    near = view.activations.max(axis=1) >= _NEAR_ITS_MAXIMUM * maximum
    return np.where(later & known & near, 0, np.where(later & known, 1, 2)).tolist()


def _rarity(model: InterpretableModel, stories: list[str], text: str) -> list[float]:
    """log(tokens of the stories / how often this one occurs), for each token of the text."""
    counts = Counter(token for story in stories for token in model.tokenize(story))
    total = sum(counts.values())
    return [math.log(total / (1 + counts[token])) for token in model.tokenize(text)]

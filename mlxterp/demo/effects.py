"""What a feature does in the model: it is switched off, or turned up, and the model's answer is compared.

An edit adds its change to the activation and leaves everything else as it is: what the SAE does not
reconstruct stays in place.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from ..model.interpretable import InterpretableModel
from ..steering import Edit, ablate, add_feature
from . import Demo
from .choosing import Noticed

PROMPT = "Once upon a time there was a"
_TOKENS = 40
_STRENGTHS = (1.0, 1.5)
_OWN = 4
_LIVELY = 0.5
"""Share of a continuation's tokens that differ, for it to be more than a stammer."""


@dataclass(frozen=True, eq=False, slots=True)
class Ablation:
    """The next token with a feature on, and with it switched off."""

    feature: Noticed
    before: list[tuple[str, float]]
    """Likeliest tokens with their probabilities."""
    after: list[tuple[str, float]]
    before_of_best: float
    """Probability of the token that was likeliest before."""
    after_of_best: float
    story: str
    """What the model writes."""
    story_without: str


@dataclass(frozen=True, eq=False, slots=True)
class Amplification:
    """What the model writes as it is, and with a feature added on every token."""

    feature: Noticed
    strength: float
    """As a multiple of the strongest it is in the stories."""
    story: str
    story_with: str


def strongest_ablation(demo: Demo, text: str, features: Sequence[Noticed]) -> Ablation:
    """The feature whose ablation changes the next token most."""
    model = demo.model
    before = _next_token(model, text)
    off = {f.feature_id: ablate(demo.sae, f.feature_id) for f in features}
    after = {f.feature_id: _next_token(model, text, off[f.feature_id]) for f in features}
    feature = max(features, key=lambda f: float(np.abs(after[f.feature_id] - before).sum()))
    best, changed = int(before.argmax()), after[feature.feature_id]
    return Ablation(
        feature, _likeliest(model, before), _likeliest(model, changed), float(before[best]), float(changed[best]),
        model.generate(text, _TOKENS // 2),
        model.generate(text, _TOKENS // 2, steer=off[feature.feature_id]),
    )  # fmt: skip


def clearest_amplification(demo: Demo, features: Sequence[Noticed]) -> Amplification:
    """The feature whose words the model takes up most when it is turned up, and how far that was."""
    model = demo.model
    story = model.generate(PROMPT, _TOKENS)
    common = Counter(word for text in demo.texts for word in _words(text))
    found: list[tuple[tuple[bool, float], Amplification]] = []
    for feature in features:
        wanted = signs_of(feature)
        for strength in _STRENGTHS:
            edit = add_feature(demo.sae, feature.feature_id, strength * feature.stats.maximum)
            written = model.generate(PROMPT, _TOKENS, steer=edit)
            words = _words(written)
            lively = len(set(words)) >= _LIVELY * len(words)
            gain = _weight(words, wanted, common) - _weight(_words(story), wanted, common)
            found.append(((lively, gain), Amplification(feature, strength, story, written)))
    return max(found, key=lambda pair: pair[0])[1]


def signs_of(feature: Noticed) -> set[str]:
    """Words that show that a feature is at work: those it is most often on at, and those it promotes."""
    return {*feature.words[:_OWN], *(token.strip().casefold() for token in feature.promoted)}


def _next_token(model: InterpretableModel, text: str, edit: Edit | None = None) -> np.ndarray:
    """float64, (vocabulary,): probabilities."""
    with model.steer(edit) if edit is not None else nullcontext():
        logits = model.language_model.backend.get(model(text))[0, -1].astype(np.float64)
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def _likeliest(model: InterpretableModel, probabilities: np.ndarray) -> list[tuple[str, float]]:
    best = np.argsort(-probabilities, kind="stable")[:4]
    return [(model.decode([int(i)]), float(probabilities[i])) for i in best]


def _words(text: str) -> list[str]:
    return [word.strip('.,!?"').casefold() for word in text.split()]


def _weight(words: Sequence[str], wanted: Container[str], common: Counter[str]) -> float:
    """How much of a text is made of these words; a rare word weighs more."""
    total = sum(common.values())
    return sum(math.log(total / (1 + common[word])) for word in words if word in wanted) / max(len(words), 1)

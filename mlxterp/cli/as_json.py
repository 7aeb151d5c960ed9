"""Answers as plain values, for `--json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..autointerp import Scores
from ..concepts.explanations import Explanation, Score
from ..index import FeatureHit
from ..viz import FeatureCard, TokenView


def text_features(text: str, view: TokenView | None = None, peaks: Sequence[int] = ()) -> dict[str, Any]:
    """`mlxterp features`: the features of a text, strongest first, each at its strongest token."""
    if view is None:
        return {"text": text, "features": []}
    return {
        "text": text,
        "component": view.component,
        "features": [
            {
                "feature_id": feature,
                "activation": float(row[peak]),
                "position": peak,
                "token": view.tokens[peak],
            }
            for feature, row, peak in zip(view.feature_ids, view.activations, peaks, strict=True)
        ],
    }


def feature_texts(feature_id: int, rows: Sequence[tuple[str, float, int]]) -> dict[str, Any]:
    """`mlxterp texts`: the texts of a feature, strongest first."""
    found = [
        {"text": text, "activation": float(value), "position": int(position)}
        for text, value, position in rows
    ]
    return {"feature_id": feature_id, "texts": found}


def hits(found: Sequence[FeatureHit]) -> dict[str, Any]:
    """`mlxterp search`: features of words, those that fit best first."""
    return {"features": [one._asdict() for one in found]}


def view(part: FeatureCard | TokenView) -> dict[str, Any]:
    """`mlxterp show`: a card, or a text by features."""
    if isinstance(part, FeatureCard):
        return _card(part)
    rows = zip(part.feature_ids, part.activations.tolist(), strict=True)
    features = [{"feature_id": feature, "activations": values} for feature, values in rows]
    return {"component": part.component, "tokens": list(part.tokens), "features": features}


def _card(card: FeatureCard) -> dict[str, Any]:
    stats = card.stats
    counts, edges = stats.histogram
    return {
        "feature_id": card.feature_id,
        "label": card.label,
        "component": card.component,
        "count": int(stats.count),
        "n_tokens": int(stats.n_tokens),
        "density": float(stats.density),
        "mean": float(stats.mean),
        "maximum": float(stats.maximum),
        "histogram": {"counts": counts.tolist(), "edges": edges.tolist()},
        "top_tokens": [list(pair) for pair in stats.top_tokens],
        "promoted": None if card.logits is None else [list(pair) for pair in card.logits.promoted],
        "suppressed": None if card.logits is None else [list(pair) for pair in card.logits.suppressed],
        "similar": [{"feature_id": f, "cosine": c, "label": name} for f, c, name in card.similar],
        "coactive": [{"feature_id": f, "overlap": overlap} for f, overlap in card.coactive],
        "examples": {
            title: [
                {
                    "text_id": e.text_id,
                    "position": e.position,
                    "activation": float(e.activation),
                    "tokens": list(e.tokens),
                    "activations": e.activations.tolist(),
                    "start": e.start,
                }
                for e in examples
            ]
            for title, examples in card.groups()
        },
        "facts": dict(card.facts),
    }


def explanations(told: Sequence[Explanation]) -> list[dict[str, Any]]:
    """`mlxterp explain`: each with its feature."""
    return [{"feature_id": one.feature_id, "explanation": one.text, "source": one.source} for one in told]


def scores(found: Scores) -> dict[str, Any]:
    """`mlxterp score`: the means, each with chance and controls, and each explanation's."""
    return {
        "judge": found.judge,
        "seed": found.seed,
        "means": {task: _score(found.mean(task)) | {"controls": _controls(found, task)} for task in found.tasks},
        "explanations": [
            {
                "feature_id": one.explanation.feature_id, "explanation": one.explanation.text, "reason": one.reason,
                "scores": {task: _score(score) for task, score in one.scores.items() if task in one.details},
            }
            for one in found
        ],
    }  # fmt: skip


def _score(score: Score | None) -> dict[str, Any]:
    if score is None:
        return {}
    return {
        "value": score.value, "chance": score.chance, "interval": score.interval, "n": score.n, "failed": score.failed
    }  # fmt: skip


def _controls(found: Scores, task: str) -> dict[str, Any]:
    return {
        name: {"mean": one.control_mean, "interval": one.control_interval, "above": one.stands_out}
        for name, one in found.controls.get(task, {}).items()
    }

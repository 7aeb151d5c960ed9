"""Answers as plain values, for `--json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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

"""Features of a site's file, packed: strings as numbers, activations as shares of the feature's largest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..lens.feature_logits import feature_logits
from . import answers
from .shown_index import ShownIndex

_STEPS = 255
_DIGITS = 4


class Strings:
    """Strings of a file, each once."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        """The number of a string."""
        return self.numbers.setdefault(text, len(self.numbers))

    def pairs(self, rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
        """(string, number) with the string's number."""
        return [[self(text), rounded(value)] for text, value in rows]


def packed_features(shown: ShownIndex, features: Sequence[int], n: int, per_band: int) -> dict[str, Any]:
    """What a file says of features; keys that would be empty are left out."""
    strings = Strings()
    said = {f: answers.feature(shown, f, n, per_band) for f in features}
    spoken = _logits(shown, features, strings)
    packed = {str(f): {**_packed(one, strings), **spoken.get(f, {})} for f, one in said.items()}
    return {"strings": list(strings.numbers), "features": packed}


def _packed(said: dict[str, Any], strings: Strings) -> dict[str, Any]:
    scale = abs(said["max"]) or 1.0
    counts, edges = said["hist"]
    found = {
        "label": said["label"], "by": said["by"], "explanations": said["explanations"], "flags": said["flags"],
        "hist": [round(4 * math.log2(edges[0])), counts] if counts else [],
        **{name: strings.pairs(said[name]) for name in ("tokens", "before", "after")},
        "top": [_window(one, scale, strings) for one in said["top"]],
        "bands": [[one["q"], [_window(e, scale, strings) for e in one["examples"]]] for one in said["bands"]],
        "hard": [_window(one, scale, strings) for one in said["hard"]],
        "together": [[f, rounded(value)] for f, value in said["together"]],
        "similar": [[f, rounded(value)] for f, value in said["similar"]],
        "range": said["range"], "best": said["best"],
    }  # fmt: skip
    return {key: value for key, value in found.items() if value not in (None, [])}


def _window(said: dict[str, Any], scale: float, strings: Strings) -> list[Any]:
    acts = np.asarray(said["acts"])
    active = np.flatnonzero(acts)
    steps = np.sign(acts[active]) * np.clip(np.ceil(np.abs(acts[active]) / scale * _STEPS), 1, _STEPS)
    return [
        said["text"], said["pos"], rounded(said["act"]), said["start"], [strings(one) for one in said["tokens"]],
        active.tolist(), steps.astype(int).tolist(),
    ]  # fmt: skip


def _logits(shown: ShownIndex, features: Sequence[int], strings: Strings) -> dict[int, dict[str, Any]]:
    source = shown.index.source
    if source is None:
        return {}
    component = None if source.sae.is_transcoder else source.component.name
    found = feature_logits(
        source.anatomy, source.sae, features, answers.LOGITS, component=component, bins=answers.LOGIT_BINS
    )
    packed = {}
    for one in found:
        assert one.histogram is not None
        counts, edges = one.histogram
        packed[one.feature_id] = {
            "logits": {
                "up": strings.pairs(one.promoted), "down": strings.pairs(one.suppressed),
                "norm": rounded(one.strength), "relative_norm": rounded(one.relative_strength),
                "hist": [rounded(edges[0]), rounded(edges[-1]), list(counts)],
            }
        }  # fmt: skip
    return packed


def rounded(value: float) -> float:
    """To four digits; whole numbers stay."""
    return value if isinstance(value, int) else float(f"{value:.{_DIGITS}g}")

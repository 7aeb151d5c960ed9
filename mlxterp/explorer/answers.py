"""What the explorer says of a feature, a token, a text: plain dictionaries, as JSON takes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..core.ranking import Firings
from ..index import FeatureExample
from ..lens.feature_logits import feature_logits
from .shown_index import ShownIndex

BANDS = (8, 6, 4, 2, 0)
"""Tenths of the ranks that are shown, strongest first."""
_TOP, _PER_BAND, _NEAR, _AROUND = 12, 3, 8, 8
_BEFORE, _AFTER = 8, 6


def about(shown: Sequence[ShownIndex], **more: Any) -> dict[str, Any]:
    """What is shown."""
    sources = [_source(one) for one in shown]
    return {**sources[0], "sources": sources, **more}


def feature(shown: ShownIndex, number: int) -> dict[str, Any]:
    """All that is known of one feature without running the model."""
    index = shown.index
    stats = index.stats(number)
    counts, edges = stats.histogram
    top = index.examples(number, _TOP)
    before, after = _neighbours(shown, number)
    return {
        "id": number, "label": index.label(number), "by": None, "name": None, "note": "", "etag": "none",
        "explanations": [], "count": stats.count, "density": stats.density, "mean": stats.mean,
        "max": stats.maximum, "texts": stats.n_texts, "hist": [counts.tolist(), [float(edge) for edge in edges]],
        "tokens": [list(one) for one in stats.top_tokens], "before": before, "after": after,
        "top": [window(one) for one in top], "bands": _bands(shown, number, top), "hard": [],
        "together": [list(one) for one in index.coactivation(number, top_k=_NEAR)] if stats.count else [],
        "similar": [] if index.source is None else [list(one) for one in index.similar(number, _NEAR)],
        "flags": [], "range": None, "best": None, "facts": {}, "python": f"index[{number}]",
    }  # fmt: skip


def window(example: FeatureExample) -> dict[str, Any]:
    """A window of a text."""
    return {
        "text": example.text_id, "pos": example.position, "act": float(example.activation), "start": example.start,
        "tokens": list(example.tokens), "acts": [float(value) for value in example.activations],
    }  # fmt: skip


def peek(shown: ShownIndex, numbers: Iterable[int]) -> dict[str, Any]:
    """The strongest window of each feature that is active somewhere."""
    found = {f: shown.index.examples(f, 1, before=_BEFORE, after=_AFTER) for f in numbers}
    return {str(f): window(several[0]) for f, several in found.items() if several}


def logits(shown: ShownIndex, number: int) -> dict[str, Any]:
    """What a feature promotes and suppresses; runs the model's head."""
    source = shown.index._with_source()
    component = None if source.sae.is_transcoder else source.component.name
    found = feature_logits(source.anatomy, source.sae, [number], 10, component=component)[0]
    return {
        "up": [list(one) for one in found.promoted], "down": [list(one) for one in found.suppressed],
        "norm": found.strength, "relative_norm": found.relative_strength, "mean": found.mean, "sd": found.sd,
        "skew": found.skew, "kurtosis": found.kurtosis, "folded": "final norm folded in",
    }  # fmt: skip


def _source(shown: ShownIndex) -> dict[str, Any]:
    index = shown.index
    return {
        "id": str(shown.number), "name": shown.name, "sae": index.sae_name, "component": index.component,
        "d": index.d_hidden, "tokens": index.n_tokens, "texts": index.n_texts, "model": index._meta.model.get("name"),
        "fingerprint": index.fingerprint, "excluded": index.excluded, "live": index.source is not None,
        "writable": False, "signed": False, "map": False, "calibrated": False, "file": None,
    }  # fmt: skip


def _bands(shown: ShownIndex, number: int, top: Sequence[FeatureExample]) -> list[dict[str, Any]]:
    seen = {_looks(one) for one in top}
    found = []
    for tenth in BANDS:
        several = shown.index.examples(number, _PER_BAND + len(seen), tenth)
        new = [one for one in several if _looks(one) not in seen][:_PER_BAND]
        seen |= {_looks(one) for one in new}
        if new:
            found.append(
                {"q": tenth, "lo": tenth / 10, "hi": (tenth + 1) / 10, "examples": [window(e) for e in new]}
            )
    return found


def _looks(example: FeatureExample) -> tuple[object, ...]:
    """Equal for windows that look alike."""
    return example.tokens, example.position - example.start


def _neighbours(shown: ShownIndex, number: int) -> tuple[list[Any], list[Any]]:
    """The commonest tokens before and after the tokens where a feature is active, over all of them."""
    before: Counter[int] = Counter()
    after: Counter[int] = Counter()
    for shard in shown.index._reader.shards():
        rows = shard.firings(number)[0].astype(np.int64)
        pieces = shard.pieces_of(rows)
        for step, counter, inside in (
            (-1, before, rows > shard.offsets[pieces]), (1, after, rows + 1 < shard.offsets[pieces + 1])
        ):  # fmt: skip
            ids, numbers = np.unique(shard.tokens[rows[inside] + step], return_counts=True)
            counter.update(dict(zip(ids.tolist(), numbers.tolist(), strict=True)))
    return _commonest(shown, before), _commonest(shown, after)


def _commonest(shown: ShownIndex, counted: Counter[int]) -> list[Any]:
    ranked = sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:_AROUND]
    return [[shown.index._piece(token), n] for token, n in ranked]


def firings(shown: ShownIndex, number: int) -> Firings:
    """Every token where a feature is active."""
    return shown.index._reader.firings(number)

"""Attention patterns as one offline page: tokens, heads, layers and the weights between tokens, under the hand.

The page is one file: its data, a script (`pattern_page.js`) and a style sheet. Its policy allows that one script, by
its hash, and nothing that would be fetched. Tokens reach the page as JSON and the screen as text nodes. Weights are
kept in steps of 1/255, those that are not 0 only, and unpacked when a layer is looked at.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .escaping import escaped, one_line, own_token
from .page import app_page
from .palette import ramp

_STEPS = 255
_COLORS = 32
_LARGEST = 64 << 20
"""Bytes of a page, at most."""


@dataclass(frozen=True, eq=False, slots=True)
class PatternText:
    """One text of a page.

    Attributes:
        tokens: The text of each token.
        patterns: Layer → float32 (heads, tokens, tokens).
        shares: Layer → (heads, tokens): length of each value vector as a share of the head's longest; None leaves the
            choice of value-weighted patterns out.
    """

    tokens: Sequence[str]
    patterns: Mapping[int, np.ndarray]
    shares: Mapping[int, np.ndarray] | None = None


def pattern_page(
    title: str,
    facts: Sequence[str],
    texts: Sequence[PatternText],
    heads: Mapping[int, Sequence[int]],
    *,
    notation: str = "LH",
    overview: bool = True,
    chosen: Sequence[tuple[int, int]] = (),
) -> str:
    """A whole HTML document to explore patterns.

    Args:
        title: Plain text.
        facts: Sentences for its foot.
        texts: Of the same layers.
        heads: Layer → numbers of its heads.
        notation: "LH" names a head L3H5, "dot" 3.5.
        overview: Whether all layers and heads are shown side by side.
        chosen: (layer, head) of heads to mark; the first is opened.

    Raises:
        InputError: The page would be larger than 64 MiB.
    """
    facts = [
        *facts,
        f"Weights are shown in steps of 1/{_STEPS}; smaller ones than {0.5 / _STEPS:.3f} as 0.",
        "Keys: ← → token, ↑ ↓ layer, [ ] head, M mean of heads, S direction, V value-weighted, Esc unlock, T theme.",
    ]
    told = "".join(f"<li>{escaped(fact)}</li>" for fact in facts)
    data = _data(texts, heads, notation, overview, chosen)
    if len(data) > _LARGEST:
        raise InputError(
            f"The page would have {len(data) / 2**20:.0f} MiB, more than a browser opens with ease (64). Choose fewer"
            " layers= or heads=, or a shorter text."
        )
    body = (
        f'<div class="mxa-app" id="mxm"><header class="mxa-head"><h1 class="mxa-title">{escaped(title)}</h1></header>'
        "<noscript>These patterns are drawn by the page's own script, which is switched off here.</noscript>"
        f'<footer class="mxa-foot"><ul>{told}</ul></footer></div>{data}'
    )
    return app_page(title, body, _part("js"), _part("css"))


@cache
def _part(ending: str) -> str:
    return (Path(__file__).parent / f"pattern_page.{ending}").read_text(encoding="utf-8")


def _data(
    texts: Sequence[PatternText],
    heads: Mapping[int, Sequence[int]],
    notation: str,
    overview: bool,
    chosen: Sequence[tuple[int, int]],
) -> str:
    """The element that holds what the script draws."""
    colors = {mode: [ramp(i / (_COLORS - 1), mode) for i in range(_COLORS)] for mode in ("light", "dark")}
    said: dict[str, Any] = {
        "layers": [{"layer": int(layer), "heads": [int(h) for h in own]} for layer, own in heads.items()],
        "texts": [_text(one, list(heads)) for one in texts],
        "dot": notation == "dot",
        "overview": overview,
        "chosen": [[int(layer), int(head)] for layer, head in chosen],
        "colors": {mode: [behind for behind, _ in found] for mode, found in colors.items()},
        "inks": {mode: [text for _, text in found] for mode, found in colors.items()},
    }
    text = json.dumps(said, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    safe = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return f'<script type="application/json" id="mxm-data">{safe}</script>'


def _text(one: PatternText, layers: Sequence[int]) -> dict[str, Any]:
    return {
        "tokens": [own_token(token) if not token.strip() else one_line(token) for token in one.tokens],
        "packed": [packed(one.patterns[layer]) for layer in layers],
        "shares": None if one.shares is None else [_base64(one.shares[layer], "<f4") for layer in layers],
    }


def packed(weights: np.ndarray) -> list[str]:
    """Weights (heads, tokens, tokens) in steps of 1/255: how many of each row are not 0, their keys and their steps."""
    steps = np.clip(np.round(np.nan_to_num(weights) * _STEPS), 0, _STEPS).astype(np.uint8)
    _, _, keys = np.nonzero(steps)
    kind = "u1" if weights.shape[-1] <= 256 else "<u2"
    return [
        _base64(np.count_nonzero(steps, axis=-1), "<u2"), _base64(keys, kind), _base64(steps[steps > 0], "u1"),
    ]  # fmt: skip


def _base64(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values).astype(kind).tobytes()).decode("ascii")

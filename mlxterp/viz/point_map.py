"""Points of a map as a page to explore it, and as a picture for notebooks.

The page is one file: its data, a script (`point_map.js`) and a style sheet. Its policy allows that one script, by its
hash, and nothing that would be fetched. Labels and tokens reach the page as JSON and the screen as text nodes.
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

from .escaping import escaped, one_line, token_line
from .page import app_page
from .palette import GREY, group_color, scale_color

_GRID = 65535
"""Places along a side of the page's map."""
_PICTURE, _PICTURED = 600, 12_000
"""Side of a picture, and points on it at most."""
_SMALLEST, _LARGEST = 2.2, 5.0
"""Diameters of the points of the widest and the narrowest SAE, in pixels."""
_NAMED = 12


@dataclass(frozen=True, eq=False, slots=True)
class Colouring:
    """What points can be coloured by.

    Attributes:
        name: What it is called.
        values: int64, (n,): the group of each point, -1 for none; or float64 (NaN for none), where there are no groups.
        groups: Names of the groups; None colours by value.
        ordered: Whether the groups have an order, which their colours show: the first is grey.
    """

    name: str
    values: np.ndarray
    groups: tuple[str, ...] | None = None
    ordered: bool = False

    def color(self, group: int, mode: str = "light") -> str:
        """Of a group, as #rrggbb."""
        return group_color(group, mode, len(self.groups or ()) if self.ordered else None)


@dataclass(frozen=True, eq=False, slots=True)
class Points:
    """Points of a map and what is said of them.

    Attributes:
        title: Plain text.
        facts: Sentences under it.
        coordinates: float32, (n, 2).
        width: int64, (n,): of each point's SAE.
        feature_id: int64, (n,).
        labels: Of each point; "" where it has none.
        tokens: Of each point; () where none are known.
        colourings: What they can be coloured by; the first is shown first.
        marks: (x, y, text) of words that stand on the map.
    """

    title: str
    facts: tuple[str, ...]
    coordinates: np.ndarray
    width: np.ndarray
    feature_id: np.ndarray
    labels: Sequence[str]
    tokens: Sequence[Sequence[str]]
    colourings: tuple[Colouring, ...]
    marks: tuple[tuple[float, float, str], ...] = ()

    def sizes(self) -> np.ndarray:
        """float64, (n,): diameters in pixels, larger for narrower SAEs."""
        widths = np.unique(self.width)
        steps = np.linspace(_LARGEST, _SMALLEST, len(widths)) if len(widths) > 1 else np.array([3.0])
        return steps[np.searchsorted(widths, self.width)]

    def placed(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Coordinates within [0, 1], alike in both directions and centred; the corner and the side of that square."""
        low, high = self.coordinates.min(axis=0), self.coordinates.max(axis=0)
        side = float((high - low).max()) or 1.0
        corner = (low + high) / 2 - side / 2
        return (self.coordinates - corner) / side, corner, side


def point_map_page(points: Points) -> str:
    """A whole HTML document to explore the points: colour, search, hover, zoom, and a lasso whose points it lists."""
    facts = "".join(f"<li>{escaped(fact)}</li>" for fact in points.facts)
    body = (
        f'<div class="mxm-app" id="mxm"><header class="mxm-head"><h1 class="mxm-title">{escaped(points.title)}</h1>'
        f'<span class="mxm-count">{len(points.coordinates):,} points</span></header>'
        f"<noscript>This map is drawn by its own script, which is switched off here.</noscript>"
        f'<footer class="mxm-foot"><ul>{facts}</ul></footer>'
        f"</div>{_data(points)}"
    )
    return app_page(points.title, body, _part("js"), _part("css"))


@cache
def _part(ending: str) -> str:
    return (Path(__file__).parent / f"point_map.{ending}").read_text(encoding="utf-8")


def _data(points: Points) -> str:
    """The element that holds what the script draws."""
    xy, corner, side = points.placed()
    words = sorted({token for own in points.tokens for token in own})
    place = {word: i for i, word in enumerate(words)}
    most = max((len(own) for own in points.tokens), default=0)
    tokens = np.full((len(points.tokens), most), -1, dtype="<i4")
    for i, own in enumerate(points.tokens):
        tokens[i, : len(own)] = [place[word] for word in own]
    widths = np.unique(points.width)
    said = {
        "n": len(xy),
        "xy": _packed(np.round(xy * [1, -1] * _GRID + [0, _GRID]), "<u2"),
        "ids": _packed(points.feature_id, "<i4"),
        "widths": widths.tolist(),
        "width": _packed(np.searchsorted(widths, points.width), "<u2"),
        "labels": [one_line(label) for label in points.labels] if any(points.labels) else [],
        "words": [token_line(word) for word in words],
        "most": most,
        "tokens": _packed(tokens, "<i4"),
        "sizes": np.linspace(_LARGEST, _SMALLEST, len(widths)).tolist() if len(widths) > 1 else [3.0],
        "colourings": [_colouring(one) for one in points.colourings],
        "marks": [
            [(x - float(corner[0])) / side, 1 - (y - float(corner[1])) / side, one_line(text)]
            for x, y, text in points.marks
        ],
        "scale": {mode: [scale_color(i / 31, mode) for i in range(32)] for mode in ("light", "dark")},
        "grey": GREY,
    }
    text = json.dumps(said, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    safe = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return f'<script type="application/json" id="mxm-data">{safe}</script>'


def _colouring(one: Colouring) -> Mapping[str, Any]:
    if one.groups is None:
        known = one.values[np.isfinite(one.values)]
        low, high = np.quantile(known, [0.01, 0.99]).tolist() if len(known) else (0.0, 1.0)
        values = np.where(np.isfinite(one.values), one.values, np.nan)
        return {"name": one_line(one.name), "low": low, "high": high, "values": _packed(values, "<f4")}
    colors = {mode: [one.color(i, mode) for i in range(len(one.groups))] for mode in ("light", "dark")}
    groups = [one_line(name) for name in one.groups]
    return {
        "name": one_line(one.name),
        "groups": groups,
        "colors": colors,
        "values": _packed(one.values, "<i4"),
    }


def _packed(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values).astype(kind).tobytes()).decode("ascii")


# -- a picture ------------------------------------------------------------------------------------


def panel(points: Points, table: str, level: int, element_id: str) -> str:
    """HTML without style sheet and scripts: a picture of the points by their first colouring, facts and a table.

    Args:
        table: HTML.
        level: Of its heading.
        element_id: Of the outermost element; "" gives it none.
    """
    anchor = f' id="{element_id}"' if element_id else ""
    facts = "".join(f"<p>{escaped(fact)}</p>" for fact in points.facts)
    return (
        f'<section class="mxt-panel"{anchor} aria-label="Map"><h{level} class="mxt-title">{escaped(points.title)}'
        f"</h{level}>{_picture(points)}{facts}{table}</section>"
    )


def _picture(points: Points) -> str:
    """SVG of the points, every so many-th where there are many; each colour is one path."""
    chosen = points.colourings[0]
    step = max(1, -(-len(points.coordinates) // _PICTURED))
    xy = np.round(points.placed()[0][::step] * [1, -1] * (_PICTURE - 10) + [5, _PICTURE - 5]).astype(int)
    groups, paths = chosen.values[::step], []
    for group in np.unique(groups):
        dots = "".join(f"M{x} {y}h0" for x, y in xy[groups == group].tolist())
        paths.append(f'<path stroke="{chosen.color(int(group), "both")}" d="{dots}"></path>')
    names = chosen.groups or ()
    told = f"coloured by {chosen.name}" + (f": {', '.join(names)}" if 1 < len(names) <= _NAMED else "")
    told += f"; one point of {step}" if step > 1 else ""
    return (
        f'<figure><svg class="mxt-map" viewBox="0 0 {_PICTURE} {_PICTURE}" role="img" aria-label="Points of the map">'
        f'{"".join(paths)}</svg><p class="mxt-muted">{escaped(told)}</p></figure>'
    )

"""HTML read back with the standard parser, and values that views are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

import numpy as np

from mlxterp import FeatureCard

HOSTILE = '</p><script>alert(1)</script>"\'&amp; http://x.test/ onload="a()" \x00\x1b[31m\r\ud83d\u2028\u202e\n\tend'
VOID = {"meta", "br", "img", "link", "input"}
TAGS = {
    "html", "head", "meta", "title", "style", "body", "main", "div", "section", "article", "nav", "footer", "figure",
    "h1", "h2", "h3", "h4", "h5", "p", "span", "mark", "b", "i", "a", "code", "ul", "ol", "li", "dl", "dt", "dd",
    "details", "summary", "table", "caption", "thead", "tbody", "tr", "th", "td", "svg", "desc", "rect", "line", "text",
}  # fmt: skip
ATTRIBUTES = {
    "lang", "charset", "http-equiv", "content", "name", "class", "id", "title", "dir", "role", "open", "href", "scope",
    "aria-label", "viewbox", "x", "y", "width", "height", "x1", "x2", "y1", "y2", "text-anchor",
}  # fmt: skip


class Reader(HTMLParser):
    """Tags with their attributes, the text of each element of a class, and the style sheet."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.style = ""
        self.everything = ""
        self._open: list[tuple[str, str, list[str]]] = []
        self._done: list[tuple[str, str, str]] = []
        self.feed(html)
        self.close()
        assert not self._open, "an element is not closed"

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        assert len(found) == len(attrs), f"an attribute of {tag} is given twice"
        self.elements.append((tag, found))
        if tag not in VOID and not self.get_starttag_text().endswith("/>"):  # type: ignore[union-attr]
            self._open.append((tag, found.get("class") or "", []))

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        name, classes, text = self._open.pop()
        assert name == tag
        self._done.append((tag, classes, "".join(text)))

    def handle_data(self, data):
        if self._open and self._open[-1][0] == "style":
            self.style += data
            return
        self.everything += data
        for _, _, text in self._open:
            text.append(data)

    def of_class(self, name: str) -> list[str]:
        """Texts of the elements of a class."""
        return [text for _, classes, text in self._done if name in classes.split()]

    def of_tag(self, name: str) -> list[str]:
        return [text for tag, _, text in self._done if tag == name]


def assert_offline(html: str) -> Reader:
    """Nothing but the elements and attributes that views write; nothing that a browser would fetch or run."""
    read = Reader(html)
    assert {tag for tag, _ in read.elements} <= TAGS
    for _, attributes in read.elements:
        assert set(attributes) <= ATTRIBUTES
        assert (attributes.get("href") or "#").startswith("#")
    assert not any(
        word in read.style.lower() for word in ("url(", "@import", "http", "expression", "@font-face")
    )
    return read


@dataclass
class Stats:
    count: int = 3
    n_tokens: int = 1000
    density: float = 0.003
    mean: float = 2.0
    maximum: float = 4.0
    histogram: tuple[np.ndarray, np.ndarray] = field(
        default_factory=lambda: (np.array([0, 1, 0, 2, 0]), np.geomspace(0.25, 8, 6))
    )
    top_tokens: tuple[tuple[str, int], ...] = ((" cat", 2), ("\n", 1))


@dataclass
class Example:
    text: str = "the cat sat on the mat"
    text_id: int = 7
    position: int = 2
    activation: float = 4.0
    tokens: tuple[str, ...] = (" cat", " sat", " on")
    activations: np.ndarray = field(default_factory=lambda: np.array([0, 4, 1], np.float32))
    start: int = 1


@dataclass
class Logits:
    promoted: tuple[tuple[str, float], ...] = ((" mat", 3.5),)
    suppressed: tuple[tuple[str, float], ...] = ((" dog", -2.5),)
    histogram: tuple[tuple[int, ...], tuple[float, ...]] | None = ((1, 7, 2), (-2.5, -0.5, 1.5, 3.5))


def card(feature_id: int = 5, label: str | None = "cats", **changes) -> FeatureCard:
    """A small card; any field can be replaced."""
    values = {
        "stats": Stats(), "examples": {"Strongest": [Example(), Example()]}, "logits": Logits(),
        "similar": [(9, 0.75, "dogs"), (11, 0.5, None)], "coactive": [(9, 0.25), (12, 0.125)],
        "neighbours": {9: ("dogs", (" dog",)), 11: (None, (" cow", " hen")), 12: ("birds", ())}, "sae_name": "tiny SAE",
        "component": "layers.1.mlp", "facts": {"data": "stories", "tokens": "1,000"},
    }  # fmt: skip
    return FeatureCard(feature_id, label, **(values | changes))

"""`FeatureReport`: several cards, token views and sections of text in one offline HTML file.

The demo and the command line write one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .card import FeatureCard
from .escaping import escaped, one_line, visible
from .page import Links, page
from .spans import bold, wants_color
from .token_view import TokenView
from .view import View


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with some text under it.

    Attributes:
        title: The heading.
        text: Plain text; its line breaks are kept.
    """

    title: str
    text: str = ""

    def fragment(self, level: int = 2, links: Links | None = None, element_id: str = "") -> str:
        """HTML without style sheet; the heading is of this `level`."""
        anchor = f' id="{element_id}"' if element_id else ""
        text = f'<p class="mxt-lead">{escaped(self.text)}</p>' if self.text else ""
        return f'<h{level} class="mxt-h2"{anchor}>{escaped(self.title)}</h{level}>{text}'

    def to_str(self, color: bool | None = None) -> str:
        """For the terminal: the heading, and the text under it."""
        heading = bold(one_line(self.title), wants_color(color))
        return f"{heading}\n{visible(self.text)}" if self.text else heading


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class FeatureReport(View):
    """Cards, token views and sections of text on one page.

    Attributes:
        title: Heading of the page.
        parts: In the order shown. Cards of features that other cards name as similar are linked.
        intro: Plain text under the title.
    """

    title: str
    parts: Sequence[FeatureCard | TokenView | Section]
    intro: str = ""

    def fragment(self, level: int = 2, links: Links | None = None, element_id: str = "") -> str:
        """HTML without style sheet: the title, what is on the page, then its parts."""
        ids = {i: f"mxt-{i}" for i in range(len(self.parts))}
        linked = {
            (part.sae_name, part.feature_id): ids[i]
            for i, part in enumerate(self.parts)
            if isinstance(part, FeatureCard)
        }
        sections = any(isinstance(part, Section) for part in self.parts)
        body = "".join(
            part.fragment(level if isinstance(part, Section) or not sections else level + 1, linked, ids[i])
            for i, part in enumerate(self.parts)
        )
        anchor = f' id="{element_id}"' if element_id else ""
        intro = f'<p class="mxt-lead">{escaped(self.intro)}</p>' if self.intro else ""
        heading = f'<h{level - 1} class="mxt-h1"{anchor}>{escaped(self.title)}</h{level - 1}>'
        return f"{heading}{intro}{self._contents(ids)}{body}"

    def _title(self) -> str:
        return self.title

    def _body(self) -> str:
        return self.fragment()

    # -- in the terminal ----------------------------------------------------------------------

    def to_str(self, color: bool | None = None) -> str:
        """For the terminal: the title, then every part with an empty line before it.

        Args:
            color: None colours where the output is a terminal and NO_COLOR is not set.
        """
        color = wants_color(color)
        parts = (part.to_str(color) for part in self.parts)
        return "\n\n".join([bold(one_line(self.title), color), *filter(None, [visible(self.intro)]), *parts])

    def __repr__(self) -> str:
        return f"FeatureReport({one_line(self.title)!r}, {len(self.parts)} parts)"

    def _contents(self, ids: dict[int, str]) -> str:
        """Links to the cards; nothing where there are fewer than two."""
        entries = [
            f'<li><a href="#{ids[i]}">{part.feature_id}{f" {escaped(part.label)}" if part.label else ""}</a></li>'
            for i, part in enumerate(self.parts)
            if isinstance(part, FeatureCard)
        ]
        if len(entries) < 2:
            return ""
        return f'<nav aria-label="Features"><ul class="mxt-chips"><li>Features:</li>{"".join(entries)}</ul></nav>'


def cards_page(cards: Sequence[FeatureCard | TokenView], title: str, intro: str = "") -> str:
    """A whole HTML document of several cards and token views."""
    return page(title, FeatureReport(title, tuple(cards), intro).fragment())

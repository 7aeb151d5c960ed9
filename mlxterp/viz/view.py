"""`View`: what every picture of the package is. A class gives its HTML and its text, and gets the rest.

A picture is a value with `fragment` (its HTML, to stand on a page) and `to_str` (its text, for the terminal).
`View` makes of them a notebook's cell, a file that needs no network, and what `print` shows. Anything with a
`fragment` can stand on a report's page.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path

from .page import Links, cell, page, write_page


class View(ABC):
    """A picture: shown by notebooks, printed in the terminal, written as one HTML file."""

    __slots__ = ()

    @abstractmethod
    def fragment(self, level: int = 3, links: Links | None = None, element_id: str = "") -> str:
        """HTML without style sheet and scripts, for a page.

        Args:
            level: Of its heading; headings within are one below.
            links: Where features are shown on the same page, for links to them.
            element_id: Id of the outermost element; "" gives it none.
        """

    @abstractmethod
    def to_str(self, color: bool | None = None) -> str:
        """For the terminal.

        Args:
            color: None colours where the output is a terminal and NO_COLOR is not set.
        """

    @abstractmethod
    def _title(self) -> str:
        """Title of the page that `to_html` writes, plain text."""

    def _body(self) -> str:
        """What stands on that page."""
        return self.fragment(level=1)

    def _page(self) -> str:
        """That page, a whole document."""
        return page(self._title(), self._body())

    def to_html(self, path: str | os.PathLike) -> Path:
        """Writes one HTML file that needs no network; returns its path.

        Raises:
            InputError: The folder does not exist, or `path` is a folder.
        """
        return write_page(path, self._page())

    def _repr_html_(self) -> str:
        return cell(self)

    def __str__(self) -> str:
        return self.to_str()

"""What features do, to look at: in notebooks, as one offline HTML file, and in the terminal.

`TokenView` colours one text, `FeatureCard` shows one feature, `FeatureReport` puts several of them on one
page. Each is a `View`, which makes a notebook's cell and a file of its HTML. All text is escaped, nothing is
fetched, and no script runs. NumPy only.
"""

from .card import FeatureCard
from .page import page
from .report import FeatureReport, Section, cards_page
from .token_view import TokenView
from .view import View

__all__ = ["FeatureCard", "FeatureReport", "Section", "TokenView", "View", "cards_page", "page"]

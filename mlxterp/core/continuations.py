"""One text of several that are continued together, and the pieces that come of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .sites import SiteEdit


@dataclass(eq=False, slots=True)
class Continuation:
    """A prompt and how it is continued. Backends read it; `wanted` is for who reads the pieces."""

    prompt: Sequence[int]
    """Token ids."""
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    edits: Sequence[SiteEdit] = ()
    """Changes of this text alone; texts that share an edit hold the very same object."""
    wanted: bool = True
    """Set to False, the text ends here."""

    @property
    def whole(self) -> int:
        """How many tokens it may come to."""
        return len(self.prompt) + self.max_tokens


@dataclass(frozen=True, slots=True)
class Piece:
    """What one more token of a text gave, or how it ended."""

    row: int
    """Which text, in the order given."""
    token: int | None = None
    """None where text is left over at the end."""
    text: str = ""
    ended: bool = False
    """Whether it is the text's last piece; that has no token."""
    failure: Exception | None = None
    """Why the text could not go on."""

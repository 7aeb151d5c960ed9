"""What tab completion and `dir` list: names that users are meant to use."""

from __future__ import annotations


class PublicNames:
    """A base whose `dir` lists public names only; the others work as ever."""

    __slots__ = ()

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if not name.startswith("_")]

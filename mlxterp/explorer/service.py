"""`Service`: what the explorer's routes share, and what a request names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.requests import Request

from .generation import Last
from .guard import Refused
from .model_thread import ModelThread
from .pages import files
from .shown_index import ShownIndex

_READERS = 2
_LONGEST_QUERY = 1000


class Service:
    """What the routes share.

    Args:
        shown: The indexes, the default one first.
        token: What requests have to have.
    """

    def __init__(self, shown: Sequence[ShownIndex], token: str):
        self.shown, self.token = tuple(shown), token
        self.model = ModelThread()
        self.files = files()
        self.last: Last | None = None
        """What came of the last generation."""
        self._readers = ThreadPoolExecutor(_READERS, "mlxterp-read")

    def ended(self, last: Last) -> None:
        """Keeps what came of a generation."""
        self.last = last

    def close(self) -> None:
        """Ends its threads."""
        self.model.stop()
        self._readers.shutdown(cancel_futures=True)

    async def read(self, function: Callable[..., Any], *given: Any) -> Any:
        """What a function says that runs no model."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, function, *given)

    async def ran(self, function: Callable[..., Any], *given: Any) -> Any:
        """What a function says that runs the model."""
        return await asyncio.wrap_future(self.model.soon(lambda: function(*given)))

    # -- what a request names -----------------------------------------------------------------

    def source(self, request: Request) -> ShownIndex:
        """The index that an address names."""
        return self.source_named(str(request.path_params["source"]))

    def source_named(self, name: str) -> ShownIndex:
        """The index of a number.

        Raises:
            Refused: There is none.
        """
        number = whole(name, 6)
        if number is None or number >= len(self.shown):
            raise Refused(
                404, f"There is no index {name[:40]!r}: {len(self.shown)} are shown, numbered from 0."
            )
        return self.shown[number]

    def live(self, request: Request) -> ShownIndex:
        """The index that an address names, which has its model.

        Raises:
            Refused: There is none, or it has none.
        """
        shown = self.source(request)
        if shown.index.source is None:
            raise Refused(
                503,
                "This needs the model: serve the index with it (index.attach(model, sae), or --model and --sae).",
            )
        return shown


def whole(name: str, digits: int) -> int | None:
    """The number that a part of an address is, of so many digits at most; None where it is none."""
    return int(name) if name.isascii() and name.isdecimal() and len(name) <= digits else None


def feature_named(name: str, shown: ShownIndex) -> int:
    """The feature of a number.

    Raises:
        Refused: There is none.
    """
    d, number = shown.index.d_hidden, whole(name, 12)
    if number is None or number >= d:
        raise Refused(404, f"There is no feature {name[:40]!r}: this SAE has {d:,}, numbered from 0.")
    return number


def feature_of(request: Request, shown: ShownIndex) -> int:
    """The feature that an address names.

    Raises:
        Refused: There is none.
    """
    return feature_named(str(request.path_params["feature"]), shown)


def query_of(request: Request) -> str:
    """The words that a request asks for.

    Raises:
        Refused: There are none, or too many.
    """
    query = request.query_params.get("q", "")
    if not query.strip() or len(query) > _LONGEST_QUERY:
        raise Refused(400, f"Say what to look for: q=, with at most {_LONGEST_QUERY:,} characters.")
    return query


def number_of(request: Request, name: str, default: int, most: int) -> int:
    """A number of a request.

    Raises:
        Refused: It is none, or out of its range.
    """
    given = request.query_params.get(name, str(default))
    number = whole(given, 9)
    if number is None or not 1 <= number <= most:
        raise Refused(400, f"{name} is {given[:40]!r}; expected a number from 1 to {most}.")
    return number

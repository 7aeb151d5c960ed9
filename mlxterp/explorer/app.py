"""The server's routes: each asks `answers`, and sends what it says."""

from __future__ import annotations

import asyncio
import mimetypes
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..core.version import version
from ..errors import FeatureIndexError, InputError, MlxterpError, UnknownFeatureError
from . import answers
from .guard import App, Guard, Refused, answer, hosts_of, refusal
from .model_thread import ModelThread
from .pages import files, index_page
from .shown_index import ShownIndex

_READERS = 2
_PEEKS = 100
_HITS = 200


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
        self._readers = ThreadPoolExecutor(_READERS, "mlxterp-read")

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
        """The index of a number."""
        if not (name.isascii() and name.isdecimal() and len(name) < 6 and int(name) < len(self.shown)):
            raise Refused(404, f"There is no index {name!r} here: {len(self.shown)} are shown, numbered from 0.")
        return self.shown[int(name)]

    def feature(self, request: Request, shown: ShownIndex) -> int:
        """The feature that an address names."""
        return feature_named(str(request.path_params["feature"]), shown)

    # -- pages and files ----------------------------------------------------------------------

    async def page(self, request: Request) -> Response:
        """The page, for who has the address that was printed."""
        if not Guard.knows(dict(request.headers), dict(request.scope), self.token):
            text = "Open the address that was printed where the explorer was started: it holds the key to this page."
            return Response(text, 403, media_type="text/plain; charset=utf-8")
        return Response(index_page("live", self.token), headers=_FRESH, media_type="text/html; charset=utf-8")

    async def file(self, request: Request) -> Response:
        """A file of the pages."""
        name = str(request.path_params["name"])
        if name not in self.files:
            raise Refused(404, "There is no such file.")
        return Response(self.files[name], headers=_FRESH, media_type=mimetypes.guess_type(name)[0])

    # -- reading ------------------------------------------------------------------------------

    async def about(self, request: Request) -> Response:
        """What is shown."""
        return answer(answers.about(self.shown, version=version(), live=self.shown[0].index.source is not None))

    async def status(self, request: Request) -> Response:
        """Whether the model is free."""
        return answer({"busy": self.model.busy, "waiting": self.model.waiting, "last": None})

    async def table(self, request: Request) -> Response:
        """The table of all features."""
        shown = self.source(request)
        etag = await self.read(lambda: shown.etag)
        headers = {"etag": etag, "cache-control": "no-cache", "vary": "accept-encoding"}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["content-encoding"] = "gzip"
            body = await self.read(lambda: shown.packed_table)
        else:
            body = shown.table
        return Response(body, headers=headers, media_type="application/octet-stream")

    async def feature_page(self, request: Request) -> Response:
        """A feature."""
        shown = self.source(request)
        return answer(await self.read(answers.feature, shown, self.feature(request, shown)))

    async def logits(self, request: Request) -> Response:
        """What a feature promotes."""
        shown = self.live(request)
        return answer(await self.ran(answers.logits, shown, self.feature(request, shown)))

    async def peek(self, request: Request) -> Response:
        """The strongest windows of several features."""
        shown = self.source(request)
        named = [one for one in request.query_params.get("ids", "").split(",") if one]
        if len(named) > _PEEKS:
            raise Refused(400, f"At most {_PEEKS} features at a time, got {len(named)}.")
        return answer(await self.read(answers.peek, shown, [feature_named(one, shown) for one in named]))

    async def token_hits(self, request: Request) -> Response:
        """Features of a token."""
        shown, query, k = self.source(request), _query(request), _number(request, "k", 50, _HITS)
        try:
            found = await self.read(shown.index.features_for_token, query, k)
        except InputError as error:
            raise Refused(404, str(error)) from None
        return answer([list(one) for one in found])

    async def search(self, request: Request) -> Response:
        """Features of words."""
        shown, query, k = self.source(request), _query(request), _number(request, "k", 50, _HITS)
        return answer([list(one) for one in await self.read(shown.index.search, query, k)])

    def live(self, request: Request) -> ShownIndex:
        """The index that an address names, with its model."""
        shown = self.source(request)
        if shown.index.source is None:
            raise Refused(
                503, "This needs the model: serve the index with it (index.attach(model, sae), or --model and --sae)."
            )
        return shown


_FRESH = {"cache-control": "no-cache"}


def feature_named(name: str, shown: ShownIndex) -> int:
    """The feature of a number.

    Raises:
        Refused: There is none.
    """
    d = shown.index.d_hidden
    if not (name.isascii() and name.isdecimal() and len(name) < 12 and int(name) < d):
        raise Refused(404, f"There is no feature {name[:40]!r}: this SAE has {d:,}, numbered from 0.")
    return int(name)


def _query(request: Request) -> str:
    query = request.query_params.get("q", "")
    if not query.strip() or len(query) > 1000:
        raise Refused(400, "Say what to look for: q=, with at most 1,000 characters.")
    return query


def _number(request: Request, name: str, default: int, most: int) -> int:
    given = request.query_params.get(name, str(default))
    if not (given.isascii() and given.isdecimal() and 0 < len(given) < 9 and 1 <= int(given) <= most):
        raise Refused(400, f"{name} is {given[:40]!r}; expected a number from 1 to {most}.")
    return int(given)


def _safe(route: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """A route whose errors are answers."""

    async def safe(request: Request) -> Response:
        try:
            return await route(request)
        except Refused as refused:
            return refusal(refused)
        except UnknownFeatureError as error:
            return refusal(Refused(404, str(error)))
        except FeatureIndexError as error:
            return refusal(Refused(503, str(error)))
        except MlxterpError as error:
            return refusal(Refused(400, str(error)))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            told = f"Something went wrong in mlxterp ({type(error).__name__}); the terminal says where."
            return refusal(Refused(500, told))

    return safe


async def _unknown(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    return refusal(Refused(status, "There is nothing at this address."))


def application(service: Service, port: int, frames: str = "'none'") -> App:
    """The server's app, guarded.

    Args:
        frames: Addresses of pages that may show it in a frame.
    """
    at = "/api/{source}"
    routes: list[tuple[str, Callable[[Request], Awaitable[Response]], str]] = [
        ("/", service.page, "GET"),
        ("/static/{name}", service.file, "GET"),
        ("/api/about", service.about, "GET"),
        ("/api/status", service.status, "GET"),
        (f"{at}/table", service.table, "GET"),
        (f"{at}/feature/{{feature}}", service.feature_page, "GET"),
        (f"{at}/logits/{{feature}}", service.logits, "GET"),
        (f"{at}/peek", service.peek, "GET"),
        (f"{at}/token", service.token_hits, "GET"),
        (f"{at}/search", service.search, "GET"),
    ]
    app = Starlette(
        routes=[Route(path, _safe(route), methods=[method]) for path, route, method in routes],
        exception_handlers={HTTPException: _unknown},
    )
    return Guard(app, hosts_of(port), service.token, frames)


def folder_of_pages() -> Path:
    """Where the pages lie."""
    return Path(__file__).parent / "web"

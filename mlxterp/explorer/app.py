"""The server's routes: each asks `answers`, and sends what it says."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..errors import FeatureIndexError, InputError, MlxterpError, UnknownFeatureError, WriteError
from . import answers
from .comparison import compared
from .event_stream import EventStream
from .generation import MOST_TOKENS, Events, Generation, Last, request_of
from .guard import LARGEST_BODY, App, Guard, Refused, answer, hosts_of, json_body, knows_token, refusal
from .label_file import NONE, ConflictError, ReadOnlyError
from .model_thread import MOST, BusyError, ModelThread
from .pages import files, index_page
from .shown_index import ShownIndex

_READERS = 2
_PEEKS, _HITS, _LONGEST_QUERY = 100, 200, 1000
_LARGEST_NAMES = 8 << 20
"""Bytes of a file of names."""


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
        number = _whole(name, 6)
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

    # -- pages and files ----------------------------------------------------------------------

    async def page(self, request: Request) -> Response:
        """The page, for who has the address that was printed."""
        if not knows_token(request.scope, self.token):
            text = "Open the address that was printed where the explorer was started: it holds the key to this page."
            return Response(text, 403, _FRESH, media_type="text/plain; charset=utf-8")
        page = index_page("live", self.token)
        return Response(page, headers={"cache-control": "no-store"}, media_type="text/html; charset=utf-8")

    async def file(self, request: Request) -> Response:
        """A file of the pages."""
        name = str(request.path_params["name"])
        if name not in self.files:
            raise Refused(404, "There is no such file.")
        kind = _KINDS.get(name.rpartition(".")[2], "application/octet-stream")
        return Response(self.files[name], headers=_FRESH, media_type=kind)

    # -- reading ------------------------------------------------------------------------------

    async def about(self, request: Request) -> Response:
        """What is shown."""
        limits = {"text_bytes": LARGEST_BODY, "max_tokens": MOST_TOKENS, "queue": MOST}
        return answer(
            await self.read(lambda: answers.about(self.shown, limits=limits, python="index.serve()"))
        )

    async def status(self, request: Request) -> Response:
        """Whether the model is free."""
        last = None if self.last is None else asdict(self.last)
        return answer({"busy": self.model.busy, "waiting": self.model.waiting, "last": last})

    async def table(self, request: Request) -> Response:
        """The table of all features."""
        shown = self.source(request)
        etag = await self.read(lambda: shown.etag)
        headers = {"etag": etag, "cache-control": "no-cache", "vary": "accept-encoding"}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        body = shown.table
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["content-encoding"] = "gzip"
            body = await self.read(lambda: shown.packed_table)
        return Response(body, headers=headers, media_type="application/octet-stream")

    async def feature(self, request: Request) -> Response:
        """A feature."""
        shown = self.source(request)
        return answer(await self.read(answers.feature, shown, _feature(request, shown)))

    async def logits(self, request: Request) -> Response:
        """What a feature promotes."""
        shown = self.live(request)
        return answer(await self.ran(answers.logits, shown, _feature(request, shown)))

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

    async def text(self, request: Request) -> Response:
        """A whole text of the index."""
        shown, name = self.source(request), str(request.path_params["text"])
        number = _whole(name, 12)
        if number is None or number >= shown.index.n_texts:
            texts = shown.index.n_texts
            raise Refused(404, f"There is no text {name[:40]!r}: this index has {texts:,}, numbered from 0.")
        of = request.query_params.get("feature")
        feature = None if of is None else feature_named(of, shown)
        return answer(await self.read(answers.text, shown, number, feature))

    async def compare(self, request: Request) -> Response:
        """Two features side by side."""
        sides = []
        for name in ("a", "b"):
            source, _, feature = request.query_params.get(name, "").partition(":")
            if not feature:
                raise Refused(
                    400, "Say what to compare: a=SOURCE:FEATURE&b=SOURCE:FEATURE, such as a=0:741&b=0:5."
                )
            shown = self.source_named(source)
            sides.append((shown, feature_named(feature, shown)))
        return answer(await self.read(compared, *sides))

    # -- the model ----------------------------------------------------------------------------

    async def own_text(self, request: Request) -> Response:
        """The features of a text that somebody wrote."""
        shown, said = self.live(request), await json_body(request)
        if unknown := set(said) - {"text"}:
            raise Refused(400, f"{min(unknown)!r} is unknown here; text is expected.")
        if not isinstance(said.get("text"), str) or not said["text"]:
            raise Refused(400, "The text is empty.")
        return answer(await self.ran(answers.features_of, shown, said["text"]))

    async def steer(self, request: Request) -> Response:
        """Text with edits beside the same without, as it grows."""
        shown, said = self.live(request), await json_body(request)
        made = request_of(said, str(shown.number), lambda name: self.source_named(name).index)
        generation = Generation(shown.index._with_source().anatomy, made)
        if self.model.full:
            raise BusyError
        await self.ran(generation.prepare)
        events = Events(generation, self.model, self._ended)
        return EventStream(events.stream())

    def _ended(self, last: Last) -> None:
        self.last = last

    # -- names --------------------------------------------------------------------------------

    async def labels(self, request: Request) -> Response:
        """All names."""
        return answer(await self.read(answers.labels, self.source(request)))

    async def set_label(self, request: Request) -> Response:
        """Names a feature."""
        shown = self.source(request)
        feature, seen = _feature(request, shown), _seen(request)
        said = await json_body(request)
        if unknown := set(said) - {"name", "note"}:
            raise Refused(400, f"{min(unknown)!r} is unknown here; name and note are expected.")
        await self._changed(
            shown, feature, shown.labels.set, feature, said.get("name"), said.get("note", ""), seen
        )
        return answer(await self.read(answers.label, shown, feature))

    async def remove_label(self, request: Request) -> Response:
        """Takes a feature's name away."""
        shown = self.source(request)
        feature = _feature(request, shown)
        await self._changed(shown, feature, shown.labels.remove, feature, _seen(request))
        return answer(await self.read(answers.label, shown, feature))

    async def names_json(self, request: Request) -> Response:
        """The names as a file."""
        return _download(
            await self.read(self.source(request).labels.as_json), "names.json", "application/json"
        )

    async def names_csv(self, request: Request) -> Response:
        """The names as a table."""
        return _download(await self.read(self.source(request).labels.as_csv), "names.csv", "text/csv")

    async def take_names(self, request: Request) -> Response:
        """Names of a file that the browser read."""
        shown, said = self.source(request), await json_body(request, _LARGEST_NAMES)
        text, kind, replace = said.get("text"), said.get("format", "json"), said.get("replace", False)
        if not isinstance(text, str) or not isinstance(kind, str) or not isinstance(replace, bool):
            raise Refused(
                400, 'Expected {"text": the file, "format": "json" or "csv", "replace": true or false}.'
            )
        found = await self._changed(shown, None, shown.labels.take, text, kind, replace)
        return answer(asdict(found))

    async def _changed(
        self, shown: ShownIndex, feature: int | None, change: Callable[..., Any], *given: Any
    ) -> Any:
        """Changes names.

        Raises:
            Refused: They cannot be changed, or were by somebody else.
        """
        try:
            return await self.read(change, *given)
        except ConflictError:
            assert feature is not None
            now = await self.read(answers.label, shown, feature)
            current = None if now["etag"] == NONE else {key: now[key] for key in ("name", "note", "etag")}
            told = (
                "Somebody else has changed this name since it was shown here. Look at it, then name it again."
            )
            raise Refused(409, told, current=current) from None
        except ReadOnlyError:
            raise Refused(403, "Names are not changed here: the explorer was started read-only.") from None
        except WriteError as error:
            raise Refused(403, f"{error} Another place: serve with labels=FILE, or --labels FILE.") from None


_FRESH = {"cache-control": "no-cache"}
_KINDS = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}


def _whole(name: str, digits: int) -> int | None:
    """The number that a part of an address is, of so many digits at most; None where it is none."""
    return int(name) if name.isascii() and name.isdecimal() and len(name) <= digits else None


def feature_named(name: str, shown: ShownIndex) -> int:
    """The feature of a number.

    Raises:
        Refused: There is none.
    """
    d, number = shown.index.d_hidden, _whole(name, 12)
    if number is None or number >= d:
        raise Refused(404, f"There is no feature {name[:40]!r}: this SAE has {d:,}, numbered from 0.")
    return number


def _feature(request: Request, shown: ShownIndex) -> int:
    return feature_named(str(request.path_params["feature"]), shown)


def _query(request: Request) -> str:
    query = request.query_params.get("q", "")
    if not query.strip() or len(query) > _LONGEST_QUERY:
        raise Refused(400, f"Say what to look for: q=, with at most {_LONGEST_QUERY:,} characters.")
    return query


def _number(request: Request, name: str, default: int, most: int) -> int:
    given = request.query_params.get(name, str(default))
    number = _whole(given, 9)
    if number is None or not 1 <= number <= most:
        raise Refused(400, f"{name} is {given[:40]!r}; expected a number from 1 to {most}.")
    return number


def _seen(request: Request) -> str:
    """The etag of the entry that the browser saw."""
    seen = request.headers.get("if-match")
    if not seen:
        raise Refused(
            428, "Say which entry this replaces: If-Match: its etag, or none where there is no entry."
        )
    return seen.strip().strip('"')


def _download(text: str, name: str, kind: str) -> Response:
    headers = {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"}
    return Response(text.encode("utf-8"), headers=headers, media_type=f"{kind}; charset=utf-8")


def _safe(route: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """A route whose errors are answers."""

    async def safe(request: Request) -> Response:
        try:
            return await route(request)
        except Refused as refused:
            return refusal(refused)
        except BusyError:
            busy = Refused(503, f"The model is busy: {MOST} generations run or wait. Try again in a moment.")
            busy.headers["retry-after"] = "2"
            return refusal(busy)
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


async def _unknown(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    told = "This address does not take that method." if status == 405 else "There is nothing at this address."
    return refusal(Refused(status, told))


def application(service: Service, port: int, frames: str = "'none'") -> App:
    """The server's app, guarded.

    Args:
        frames: Addresses of pages that may show it in a frame.
    """
    at, one = "/api/{source}", "{feature}"
    routes: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("GET", "/", service.page),
        ("GET", "/static/{name}", service.file),
        ("GET", "/api/about", service.about),
        ("GET", "/api/status", service.status),
        ("GET", "/api/compare", service.compare),
        ("GET", f"{at}/table", service.table),
        ("GET", f"{at}/feature/{one}", service.feature),
        ("GET", f"{at}/logits/{one}", service.logits),
        ("GET", f"{at}/peek", service.peek),
        ("GET", f"{at}/token", service.token_hits),
        ("GET", f"{at}/search", service.search),
        ("GET", f"{at}/text/{{text}}", service.text),
        ("GET", f"{at}/labels", service.labels),
        ("GET", f"{at}/names.json", service.names_json),
        ("GET", f"{at}/names.csv", service.names_csv),
        ("POST", f"{at}/text", service.own_text),
        ("POST", f"{at}/steer", service.steer),
        ("POST", f"{at}/names", service.take_names),
        ("PUT", f"{at}/label/{one}", service.set_label),
        ("DELETE", f"{at}/label/{one}", service.remove_label),
    ]
    app = Starlette(
        routes=[Route(path, _safe(route), methods=[method]) for method, path, route in routes],
        exception_handlers={HTTPException: _unknown},
    )
    return Guard(app, hosts_of(port), service.token, frames)

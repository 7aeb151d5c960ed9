"""What may ask the server: the page that it gave out itself, and nothing else.

Web pages of strangers reach a server on one's own machine too: by its address, or by a name that they point at it. So
the Host has to be this server's, the Origin its own, and everything but the static files needs a token that only
the printed address has. Every answer carries a policy that fetches nothing from elsewhere.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import Response

from ..core.files import strict_json

TOKEN_HEADER = b"x-mlxterp-token"
QUIET = "x-mlxterp-quiet"
"""A request with this header gets a refusal as an answer, with its status beside: the browser notes no error."""
LARGEST_BODY = 64 * 1024
"""Bytes of a request."""
_DRAINED = 8 << 20
"""Bytes of a body that is too large which are still read, so that the browser sees the answer."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors "
)
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]


class Refused(Exception):
    """A request that gets a sentence and a status instead of an answer."""

    def __init__(self, status: int, sentence: str, **more: Any):
        super().__init__(sentence)
        self.status, self.sentence, self.more = status, sentence, more
        self.headers: dict[str, str] = {}


def answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON in ASCII, without NaN."""
    body = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    kept = {"cache-control": "no-store", **(headers or {})}
    return Response(body, status, kept, media_type="application/json")


def refusal(refused: Refused, quietly: bool = False) -> Response:
    """A refusal as the browser gets it; quietly, its status is 200 and the true one stands in x-mlxterp-status."""
    said = {"error": refused.sentence, **refused.more}
    if quietly:
        return answer(said, headers={**refused.headers, "x-mlxterp-status": str(refused.status)})
    return answer(said, refused.status, refused.headers)


async def json_body(request: Request, largest: int = LARGEST_BODY) -> dict[str, Any]:
    """What a request says.

    Raises:
        Refused: It is no JSON object, or too large.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, f"JSON is expected (Content-Type: application/json), got {kind or 'nothing'!r}.")
    body = await _read(request, largest)
    try:
        found = strict_json(body)
    except ValueError as error:
        raise Refused(400, f"The request is not the JSON that is expected: {error}.") from None
    if not isinstance(found, dict):
        raise Refused(400, f"A JSON object is expected, got {type(found).__name__}.")
    return found


async def _read(request: Request, largest: int) -> bytes:
    """All of a body. What is too large is read to its end where that is near, else the connection is closed."""
    parts: list[bytes] = []
    size = 0
    refused = Refused(413, f"A request has at most {largest:,} bytes.")
    said = request.headers.get("content-length", "0")
    if said.isdecimal() and int(said) > _DRAINED:
        refused.headers["connection"] = "close"
        raise refused
    async for part in request.stream():
        size += len(part)
        if size <= largest:
            parts.append(part)
        elif size > _DRAINED:
            refused.headers["connection"] = "close"
            raise refused
    if size > largest:
        raise refused
    return b"".join(parts)


class Guard:
    """Lets requests through to an app: those of its own page.

    Args:
        hosts: "name:port" that the server answers to.
        token: What the printed address has.
        frames: Addresses of pages that may show it in a frame.
    """

    def __init__(self, app: App, hosts: Iterable[str], token: str, frames: str = "'none'"):
        self._app, self._token = app, token
        self._hosts = frozenset(hosts)
        self._origins = frozenset(f"http://{host}" for host in self._hosts)
        self._headers = [
            (name.encode(), value.encode())
            for name, value in {"content-security-policy": _POLICY + frames, **_HEADERS}.items()
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls it."""
        if scope["type"] != "http":
            return

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *self._headers]}
            await send(message)

        refused = self._refused(scope)
        if refused is not None:
            await refusal(refused)(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)

    def _refused(self, scope: Scope) -> Refused | None:
        """Why a request is refused; None where it is not."""
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        if headers.get("host") not in self._hosts:
            return Refused(421, f"This server answers to {', '.join(sorted(self._hosts))} only.")
        if headers.get("origin", "") not in ("", *self._origins):
            return Refused(403, "Requests of other pages are refused.")
        api = scope["path"].startswith("/api")
        if api and headers.get("sec-fetch-site", "") in ("cross-site", "same-site"):
            return Refused(403, "Requests of other pages are refused.")
        if scope["method"] not in ("GET", "HEAD", "POST", "PUT", "DELETE"):
            return Refused(403 if scope["method"] == "OPTIONS" else 405, "There is no such method here.")
        if api and not knows_token(scope, self._token):
            return Refused(
                403, "This request has no token. Open the address that was printed where it was started."
            )
        return None


def knows_token(scope: Any, token: str) -> bool:
    """Whether a request has the token: in its header, or, where it only reads, in its address."""
    given = [value for name, value in scope["headers"] if name.lower() == TOKEN_HEADER]
    if scope["method"] in ("GET", "HEAD"):
        given += [one.encode() for one in parse_qs(scope["query_string"].decode("latin-1")).get("t", [])[:1]]
    return any(secrets.compare_digest(one, token.encode()) for one in given)


def hosts_of(port: int) -> Collection[str]:
    """The names under which a server on this machine is asked."""
    return [f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")]

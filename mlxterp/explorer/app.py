"""The server's app: which route answers to which address, and how errors are told."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..errors import FeatureIndexError, MlxterpError, UnknownFeatureError
from . import name_routes, routes
from .guard import QUIET, App, Guard, Refused, hosts_of, refusal
from .model_thread import MOST, BusyError
from .service import Service

Answer = Callable[[Service, Request], Awaitable[Response]]


def _safe(service: Service, route: Answer) -> Callable[[Request], Awaitable[Response]]:
    """A route whose errors are answers."""

    async def safe(request: Request) -> Response:
        try:
            return await route(service, request)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            return refusal(_refused(error), quietly=QUIET in request.headers)

    return safe


def _refused(error: Exception) -> Refused:
    """What is told of an error."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, BusyError):
        busy = Refused(503, f"The model is busy: {MOST} generations run or wait. Try again in a moment.")
        busy.headers["retry-after"] = "2"
        return busy
    if isinstance(error, UnknownFeatureError):
        return Refused(404, str(error))
    if isinstance(error, FeatureIndexError):
        return Refused(503, str(error))
    if isinstance(error, MlxterpError):
        return Refused(400, str(error))
    traceback.print_exception(error, file=sys.stderr)
    return Refused(500, f"Something went wrong in mlxterp ({type(error).__name__}); the terminal says where.")


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
    table: list[tuple[str, str, Answer]] = [
        ("GET", "/", routes.page),
        ("GET", "/static/{name}", routes.file),
        ("GET", "/api/about", routes.about),
        ("GET", "/api/status", routes.status),
        ("GET", "/api/compare", routes.compare),
        ("GET", f"{at}/table", routes.table),
        ("GET", f"{at}/feature/{one}", routes.feature),
        ("GET", f"{at}/logits/{one}", routes.logits),
        ("GET", f"{at}/explain/{one}", routes.explain),
        ("GET", f"{at}/peek", routes.peek),
        ("GET", f"{at}/token", routes.token_hits),
        ("GET", f"{at}/search", routes.search),
        ("GET", f"{at}/text/{{text}}", routes.text),
        ("GET", f"{at}/labels", name_routes.labels),
        ("GET", f"{at}/names.json", name_routes.names_json),
        ("GET", f"{at}/names.csv", name_routes.names_csv),
        ("POST", f"{at}/text", routes.own_text),
        ("POST", f"{at}/steer", routes.steer),
        ("POST", f"{at}/names", name_routes.take_names),
        ("PUT", f"{at}/label/{one}", name_routes.set_label),
        ("DELETE", f"{at}/label/{one}", name_routes.remove_label),
    ]
    app = Starlette(
        routes=[Route(path, _safe(service, route), methods=[method]) for method, path, route in table],
        exception_handlers={HTTPException: _unknown},
    )
    return Guard(app, hosts_of(port), service.token, frames)

"""What the server answers to about names. Each function is a route."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..errors import WriteError
from . import answers
from .guard import Refused, answer, json_body
from .label_file import NONE, ConflictError, ReadOnlyError
from .service import Service, feature_of
from .shown_index import ShownIndex

_LARGEST = 8 << 20
"""Bytes of a file of names."""


# -- names --------------------------------------------------------------------------------


async def labels(service: Service, request: Request) -> Response:
    """All names."""
    return answer(await service.read(answers.labels, service.source(request)))


async def set_label(service: Service, request: Request) -> Response:
    """Names a feature."""
    shown = service.source(request)
    feature, seen = feature_of(request, shown), _seen(request)
    said = await json_body(request)
    if unknown := set(said) - {"name", "note"}:
        raise Refused(400, f"{min(unknown)!r} is unknown here; name and note are expected.")
    await _changed(
        service, shown, feature, shown.labels.set, feature, said.get("name"), said.get("note", ""), seen
    )
    return answer(await service.read(answers.label, shown, feature))


async def remove_label(service: Service, request: Request) -> Response:
    """Takes a feature's name away."""
    shown = service.source(request)
    feature = feature_of(request, shown)
    await _changed(service, shown, feature, shown.labels.remove, feature, _seen(request))
    return answer(await service.read(answers.label, shown, feature))


async def names_json(service: Service, request: Request) -> Response:
    """The names as a file."""
    return _download(
        await service.read(service.source(request).labels.as_json), "names.json", "application/json"
    )


async def names_csv(service: Service, request: Request) -> Response:
    """The names as a table."""
    return _download(await service.read(service.source(request).labels.as_csv), "names.csv", "text/csv")


async def take_names(service: Service, request: Request) -> Response:
    """Names of a file that the browser read."""
    shown, said = service.source(request), await json_body(request, _LARGEST)
    text, kind, replace = said.get("text"), said.get("format", "json"), said.get("replace", False)
    if not isinstance(text, str) or not isinstance(kind, str) or not isinstance(replace, bool):
        raise Refused(
            400, 'Expected {"text": the file, "format": "json" or "csv", "replace": true or false}.'
        )
    found = await _changed(service, shown, None, shown.labels.take, text, kind, replace)
    return answer(asdict(found))


async def _changed(
    service: Service, shown: ShownIndex, feature: int | None, change: Callable[..., Any], *given: Any
) -> Any:
    """Changes names.

    Raises:
        Refused: They cannot be changed, or were by somebody else.
    """
    try:
        return await service.read(change, *given)
    except ConflictError:
        assert feature is not None
        now = await service.read(answers.label, shown, feature)
        current = None if now["etag"] == NONE else {key: now[key] for key in ("name", "note", "etag")}
        told = "Somebody else has changed this name since it was shown here. Look at it, then name it again."
        raise Refused(409, told, current=current) from None
    except ReadOnlyError:
        raise Refused(403, "Names are not changed here: the explorer was started read-only.") from None
    except WriteError as error:
        raise Refused(403, f"{error} Another place: serve with labels=FILE, or --labels FILE.") from None


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

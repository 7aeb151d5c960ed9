"""What the server answers to, but for names: pages, features, texts, generations. Each function is a route."""

from __future__ import annotations

from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import Response

from ..errors import InputError
from . import answers
from .comparison import compared
from .event_stream import EventStream
from .generation import MOST_TOKENS, Events, Generation, request_of
from .guard import LARGEST_BODY, Refused, answer, json_body, knows_token
from .model_thread import MOST, BusyError
from .pages import index_page
from .service import Service, feature_named, feature_of, number_of, query_of, whole

_PEEKS, _HITS = 100, 200
_FRESH = {"cache-control": "no-cache"}
_KINDS = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}


# -- pages and files ----------------------------------------------------------------------


async def page(service: Service, request: Request) -> Response:
    """The page, for who has the address that was printed."""
    if not knows_token(request.scope, service.token):
        text = (
            "Open the address that was printed where the explorer was started: it holds the key to this page."
        )
        return Response(text, 403, _FRESH, media_type="text/plain; charset=utf-8")
    page = index_page("live", service.token)
    return Response(page, headers={"cache-control": "no-store"}, media_type="text/html; charset=utf-8")


async def file(service: Service, request: Request) -> Response:
    """A file of the pages."""
    name = str(request.path_params["name"])
    if name not in service.files:
        raise Refused(404, "There is no such file.")
    kind = _KINDS.get(name.rpartition(".")[2], "application/octet-stream")
    return Response(service.files[name], headers=_FRESH, media_type=kind)


# -- reading ------------------------------------------------------------------------------


async def about(service: Service, request: Request) -> Response:
    """What is shown."""
    limits = {"text_bytes": LARGEST_BODY, "max_tokens": MOST_TOKENS, "queue": MOST}
    return answer(
        await service.read(lambda: answers.about(service.shown, limits=limits, python="index.serve()"))
    )


async def status(service: Service, request: Request) -> Response:
    """Whether the model is free."""
    last = None if service.last is None else asdict(service.last)
    return answer({"busy": service.model.busy, "waiting": service.model.waiting, "last": last})


async def table(service: Service, request: Request) -> Response:
    """The table of all features."""
    made = await service.read(service.source(request).packed_table)
    headers = {"etag": made.etag, "cache-control": "no-cache", "vary": "accept-encoding"}
    if request.headers.get("if-none-match") == made.etag:
        return Response(status_code=304, headers=headers)
    zipped = "gzip" in request.headers.get("accept-encoding", "")
    if zipped:
        headers["content-encoding"] = "gzip"
    return Response(
        made.zipped if zipped else made.data, headers=headers, media_type="application/octet-stream"
    )


async def feature(service: Service, request: Request) -> Response:
    """A feature."""
    shown = service.source(request)
    return answer(await service.read(answers.feature, shown, feature_of(request, shown)))


async def logits(service: Service, request: Request) -> Response:
    """What a feature promotes."""
    shown = service.live(request)
    return answer(await service.ran(answers.logits, shown, feature_of(request, shown)))


async def explain(service: Service, request: Request) -> Response:
    """What a feature fires on, where nobody has explained it."""
    shown = service.source(request)
    return answer(await service.read(answers.explained, shown, feature_of(request, shown)))


async def peek(service: Service, request: Request) -> Response:
    """The strongest windows of several features."""
    shown = service.source(request)
    named = [one for one in request.query_params.get("ids", "").split(",") if one]
    if len(named) > _PEEKS:
        raise Refused(400, f"At most {_PEEKS} features at a time, got {len(named)}.")
    return answer(await service.read(answers.peek, shown, [feature_named(one, shown) for one in named]))


async def token_hits(service: Service, request: Request) -> Response:
    """Features of a token."""
    shown, query, k = service.source(request), query_of(request), number_of(request, "k", 50, _HITS)
    try:
        found = await service.read(shown.index.features_for_token, query, k)
    except InputError as error:
        raise Refused(404, str(error)) from None
    return answer([list(one) for one in found])


async def search(service: Service, request: Request) -> Response:
    """Features of words."""
    shown, query, k = service.source(request), query_of(request), number_of(request, "k", 50, _HITS)
    return answer([list(one) for one in await service.read(shown.index.search, query, k)])


async def text(service: Service, request: Request) -> Response:
    """A whole text of the index."""
    shown, name = service.source(request), str(request.path_params["text"])
    number = whole(name, 12)
    if number is None or number >= shown.index.n_texts:
        texts = shown.index.n_texts
        raise Refused(404, f"There is no text {name[:40]!r}: this index has {texts:,}, numbered from 0.")
    of = request.query_params.get("feature")
    feature = None if of is None else feature_named(of, shown)
    return answer(await service.read(answers.text, shown, number, feature))


async def compare(service: Service, request: Request) -> Response:
    """Two features side by side."""
    sides = []
    for name in ("a", "b"):
        source, _, feature = request.query_params.get(name, "").partition(":")
        if not feature:
            raise Refused(
                400, "Say what to compare: a=SOURCE:FEATURE&b=SOURCE:FEATURE, such as a=0:741&b=0:5."
            )
        shown = service.source_named(source)
        sides.append((shown, feature_named(feature, shown)))
    return answer(await service.read(compared, *sides))


# -- the model ----------------------------------------------------------------------------


async def own_text(service: Service, request: Request) -> Response:
    """The features of a text that somebody wrote."""
    shown, said = service.live(request), await json_body(request)
    if unknown := set(said) - {"text"}:
        raise Refused(400, f"{min(unknown)!r} is unknown here; text is expected.")
    if not isinstance(said.get("text"), str) or not said["text"]:
        raise Refused(400, "The text is empty.")
    return answer(await service.ran(answers.features_of, shown, said["text"]))


async def steer(service: Service, request: Request) -> Response:
    """Text with edits beside the same without, as it grows."""
    shown, said = service.live(request), await json_body(request)
    made = request_of(said, str(shown.number), lambda name: service.source_named(name).index)
    generation = Generation(shown.index._with_source().anatomy, made)
    if service.model.full:
        raise BusyError
    await service.ran(generation.prepare)
    events = Events(generation, service.model, service.ended)
    return EventStream(events.stream())

"""`EventStream`: events of a generation, sent as they come, until the browser goes away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


class EventStream(Response):
    """Server-sent events (text/event-stream), each a line of JSON.

    The events come from an asynchronous generator, so that it is closed in this task. A generator of a thread would be
    advanced in any thread of a pool, where MLX's streams die.

    Args:
        events: What to send, some at a time; closed when the browser goes away, too.
    """

    def __init__(self, events: AsyncGenerator[list[dict[str, Any]], None]):
        super().__init__(headers=_HEADERS, media_type="text/event-stream")
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls it."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        sending = asyncio.ensure_future(self._send(send))
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, gone):
                task.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)
            await self._events.aclose()

    async def _send(self, send: Send) -> None:
        async for several in self._events:
            lines = [f"data: {json.dumps(one, ensure_ascii=True, allow_nan=False)}\n\n" for one in several]
            await send({"type": "http.response.body", "body": "".join(lines).encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

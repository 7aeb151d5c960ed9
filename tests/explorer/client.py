"""A browser's requests to an explorer, without the browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

JSON = {"content-type": "application/json"}


class Client:
    """Asks one explorer.

    Args:
        url: Its address, with the token.
    """

    def __init__(self, url: str):
        self.base, _, self.token = url.partition("/?t=")
        self.http = httpx.Client(
            base_url=self.base, headers={"x-mlxterp-token": self.token}, timeout=60, trust_env=False
        )

    def get(self, path: str, **headers: str) -> Any:
        """The answer to a GET below /api."""
        return self.http.get(f"/api/{path}", headers=headers)

    def said(self, path: str) -> Any:
        """What a GET says, which has to be answered."""
        answer = self.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, value: Any) -> Any:
        """The answer to a POST of JSON; text is sent as it is."""
        text = value if isinstance(value, (str, bytes)) else json.dumps(value)
        return self.http.post(f"/api/{path}", content=text, headers=JSON)

    def name(self, feature: int, name: str, seen: str, note: str = "") -> Any:
        """The answer to naming a feature."""
        said = json.dumps({"name": name, "note": note})
        return self.http.put(f"/api/0/label/{feature}", content=said, headers={**JSON, "if-match": seen})

    @contextmanager
    def steering(self, **request: Any) -> Iterator[Iterator[dict[str, Any]]]:
        """The events of a generation, as they come."""
        with self.http.stream("POST", "/api/0/steer", content=json.dumps(request), headers=JSON) as answer:
            assert answer.status_code == 200, answer.read()
            lines = (line for line in answer.iter_lines() if line.startswith("data: "))
            yield (json.loads(line.removeprefix("data: ")) for line in lines)

    def steered(self, **request: Any) -> list[dict[str, Any]]:
        """All events of a generation."""
        with self.steering(**request) as events:
            return list(events)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes its connections."""
        self.http.close()


def text_of(events: list[dict[str, Any]], side: str) -> str:
    """What was written on one side."""
    return "".join(event["piece"] for event in events if event.get("on") == side)


def end_of(events: list[dict[str, Any]], side: str) -> dict[str, Any]:
    """How one side ended."""
    [found] = [event for event in events if event.get("end") == side]
    return found

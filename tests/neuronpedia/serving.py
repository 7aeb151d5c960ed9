"""A local server whose answers a function decides, for what speaks Neuronpedia's API."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[str], tuple[int, dict[str, str], Any]]
"""A path → status, headers ("Claims" is a length that is not kept to), and a body: bytes, or what becomes JSON."""


@contextmanager
def serving(answer: Answer) -> Iterator[tuple[str, list[str]]]:
    """Within the block a server: its address, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            status, headers, given = answer(self.path)
            data = given if isinstance(given, bytes) else json.dumps(given).encode()
            length = headers.pop("Claims", str(len(data)))
            self.send_response(status)
            for name, value in {"Content-Length": length, **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def row(index: Any, description: Any, **more: Any) -> dict[str, Any]:
    """A row of the export."""
    return {
        "modelId": "gpt2-small", "layer": "8-res_fs768-jb", "index": index, "description": description,
        "explanationModelName": "gpt-x", "typeName": "oai_token-act-pair", **more,
    }  # fmt: skip

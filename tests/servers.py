"""A real mlx_lm.server for tests that ask a language model; `conftest.chat_server` starts one with the demo model."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlxterp import demo


@contextmanager
def running_server(home: Path, model: Path = demo.FOLDER / "model") -> Iterator[str]:
    """Its base URL, while it runs.

    Args:
        home: A folder in place of the hub's cache.
        model: The folder of another model.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = subprocess.Popen(
        [sys.executable, "-m", "mlx_lm", "server", "--model", str(model), "--port", str(port)],
        env={**os.environ, "HF_HOME": str(home)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(1500):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                assert run.poll() is None
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        run.kill()
        run.wait()

"""`serve`: an index in the browser, from a server on one's own machine, in a thread of its own."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Iterable
from types import TracebackType
from typing import Any
from urllib.parse import quote

from ..core import checks
from ..core.feature_ids import Feature, feature_id
from ..core.options import names_options
from ..core.places import path_of
from ..core.progress import in_notebook
from ..errors import BackendError, InputError
from ..index import FeatureIndex
from ..steering.calibration import Calibration
from ..viz.escaping import attribute
from .label_file import LabelFile
from .shown_index import ShownIndex

HOST = "127.0.0.1"
_NEAR_PORTS = 100


class Explorer:
    """A server that shows indexes; `serve` makes one. Use it `with`, or `stop` it.

    Attributes:
        url: Its address, with the key that lets the page in. A notebook shows it in a frame.
    """

    def __init__(self, shown: list[ShownIndex], port: int, frames: str = "'none'"):
        try:
            import uvicorn

            from .app import application
            from .service import Service
        except ModuleNotFoundError as error:
            raise BackendError(
                f'The explorer needs {error.name}, which is not installed: pip install "mlxterp[serve]"'
            ) from error
        self._socket = _bound(port)
        self.port: int = self._socket.getsockname()[1]
        token = secrets.token_urlsafe(24)
        self.url = f"http://{HOST}:{self.port}/?t={token}"
        self._service = Service(shown, token)
        config = uvicorn.Config(
            application(self._service, self.port, frames), lifespan="off", log_config=None, log_level="warning",
            access_log=False, ws="none", timeout_graceful_shutdown=3, server_header=False, date_header=False,
            loop="asyncio", http="h11",
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlxterp-serve", daemon=True)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            self._stopped.wait(0.005)

    def _run(self) -> None:
        try:
            asyncio.run(self._server.serve(sockets=[self._socket]))
        finally:
            self._stopped.set()

    @property
    def running(self) -> bool:
        """Whether it answers."""
        return self._thread.is_alive()

    def steer_address(self, index: FeatureIndex, feature: Feature, prompt: str = "") -> str:
        """The address of the steer page with a feature of an index that is shown, turned up by its own maximum.

        Args:
            prompt: What the page's prompt says; "" leaves the page's own.

        Raises:
            InputError: It does not show this index.
            UnknownFeatureError: `feature` lies outside [0, d_hidden).
        """
        source = next((one.number for one in self._service.shown if _same(one.index, index)), None)
        if source is None:
            raise InputError(f"This explorer does not show {index!r}. Give it to serve, in others=[...].")
        edit = f"e={source}:{feature_id(feature, index.d_hidden)}:add:1"
        said = f"p={quote(prompt, safe='')}&" if prompt else ""
        return f"{self.url}#/steer?{said}{edit}"

    def stop(self) -> None:
        """Ends it: generations end at their next token, and the port is free. Twice is harmless."""
        self._service.close()
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def wait(self) -> None:
        """Returns when it is stopped, or raises KeyboardInterrupt at Ctrl-C."""
        while not self._stopped.wait(0.5):
            pass

    def __enter__(self) -> Explorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"Explorer({self.url}{'' if self.running else ', stopped'})"

    def _repr_html_(self) -> str:
        url = attribute(self.url)
        return (
            f'<p><a href="{url}" target="_blank" rel="noopener">Open the explorer</a></p>'
            f'<iframe src="{url}" width="100%" height="720" style="border:0"></iframe>'
        )


@names_options
def serve(
    index: FeatureIndex, port: int = 0, open: bool = True, others: Iterable[FeatureIndex] = (), *,
    labels: str | os.PathLike | None = None, read_only: bool = False, calibrations: Iterable[Calibration] = (),
) -> Explorer:  # fmt: skip
    """Shows an index in the browser; see `FeatureIndex.serve`."""
    port = checks.integer(port, "port", 0, 65535)
    opened, read_only = checks.flag(open, "open"), checks.flag(read_only, "read_only")
    shown = [
        ShownIndex(
            number, one, LabelFile(one, None if number or labels is None else path_of(labels), read_only)
        )
        for number, one in enumerate(_indexes(index, others))
    ]
    shown[0].calibrations = {made.feature: made for made in _calibrations(calibrations)}
    notebook = in_notebook()
    explorer = Explorer(shown, port, _FRAMES if notebook else "'none'")
    if opened and not notebook:
        webbrowser.open(explorer.url)
    return explorer


def _same(one: FeatureIndex, other: Any) -> bool:
    """Whether two are of one folder."""
    return one is other or (isinstance(other, FeatureIndex) and one.path == other.path)


def _indexes(index: FeatureIndex, others: Any) -> list[FeatureIndex]:
    if isinstance(others, FeatureIndex) or not isinstance(others, Iterable):
        raise InputError("others is a list of indexes, that are shown beside this one.")
    found = [index, *others]
    for one in found:
        if not isinstance(one, FeatureIndex):
            raise InputError(f"Expected a FeatureIndex (FeatureIndex.open), got {type(one).__name__}.")
    return found


def _calibrations(given: Any) -> list[Calibration]:
    found = (
        [given] if isinstance(given, Calibration) else list(given) if isinstance(given, Iterable) else None
    )
    if found is None or not all(isinstance(one, Calibration) for one in found):
        raise InputError("calibrations is a list of what steering.calibrate gave.")
    return found


_FRAMES = "'self' http://localhost:* http://127.0.0.1:* vscode-webview:"
"""Pages of notebooks on one's own machine. They know the address, which holds the key."""


def _bound(port: int) -> socket.socket:
    """A socket at a port of this machine; 0 takes a free one.

    Raises:
        InputError: The port is in use.
    """
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if sys.platform != "win32":
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((HOST, port))
        return found
    except OSError as error:
        found.close()
        free = next((other for other in range(port + 1, port + _NEAR_PORTS) if _is_free(other)), None)
        hint = f"Port {free} is free." if free is not None else "port=0 takes a free one."
        raise InputError(f"Port {port} cannot be used ({error.strerror or error}). {hint}") from error


def _is_free(port: int) -> bool:
    if port > 65535:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as one:
        if sys.platform != "win32":
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((HOST, port))
        except OSError:
            return False
    return True

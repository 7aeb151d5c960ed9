"""A server that speaks Neuronpedia's API, and the folder that keeps what it said.

An answer is taken as it is: whole, of a bounded size, and as strict JSON; or there is an error that names the address.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..core import checks
from ..core.files import atomic_write, strict_json
from ..core.places import cache_folder, path_of
from ..errors import InputError, NetworkError, warn

T = TypeVar("T")
BASE_URL = "https://www.neuronpedia.org"
_LARGEST = 512 * 2**20
"""Bytes of an answer. The explanations of 100,000 features are about 30 MB."""
_PIECE = 1 << 20
_UNREADABLE = (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True, slots=True)
class Server:
    """Where features are looked up.

    Attributes:
        base_url: Its address.
        folder: Keeps what it said; None keeps nothing.
        timeout: Seconds without any answer after which it counts as gone.
    """

    base_url: str
    folder: Path | None
    timeout: float

    @staticmethod
    def of(base_url: Any, cache: Any, timeout: Any) -> Server:
        """The server that a call names.

        Args:
            cache: A folder; None is the user's own, False keeps nothing.

        Raises:
            InputError: The address is none, or the timeout no number above 0.
        """
        if not isinstance(base_url, str) or not _is_address(base_url):
            raise InputError(f"base_url={base_url!r}; expected an address such as {BASE_URL}.")
        folder = None if cache is False else own_folder() if cache is None else path_of(cache)
        return Server(base_url.rstrip("/"), folder, checks.finite(timeout, "timeout", above=0.0))

    def asked(self, path: str, kept_as: tuple[str, ...], read: Callable[[Any], T]) -> T:
        """What the server says at a path; from the folder where that has it.

        Args:
            kept_as: Names of the file below the folder.
            read: What is made of the JSON; raises ValueError, TypeError or KeyError where it is something else. Then
                nothing is kept.

        Raises:
            NetworkError: The server cannot be reached, breaks off, or sends something else.
            InputError: It has no such thing (404).
        """
        file = self._file(kept_as)
        if file is not None and file.is_file():
            try:
                return read(strict_json(file.read_bytes()))
            except _UNREADABLE as error:
                warn(f"{file} cannot be read ({error}), so it is brought again.")
        url = f"{self.base_url}{path}"
        try:
            body = _body(url, self.timeout)
        except _Gone as error:
            raise NetworkError(f"{url} cannot be read: {error}.{self._remedy(file)}") from error.__cause__
        try:
            found = strict_json(body)
            made = read(found)
        except _UNREADABLE as error:
            raise NetworkError(
                f"{url} does not answer as Neuronpedia does: {error}. Is it its API?{self._remedy(file)}"
            ) from error
        if file is not None:
            with atomic_write(file) as draft:
                draft.write_text(json.dumps(found), encoding="utf-8")
        return made

    def _file(self, kept_as: tuple[str, ...]) -> Path | None:
        if self.folder is None:
            return None
        host = re.sub(r"[^A-Za-z0-9.-]", "_", urllib.parse.urlsplit(self.base_url).netloc)
        return self.folder.joinpath(host, *kept_as[:-1], f"{kept_as[-1]}.json")

    def _remedy(self, file: Path | None) -> str:
        said = " Check the connection (proxy, firewall) and call again, or give base_url= of a server that has it."
        if file is None:
            return said
        return f"{said} Without a network, what was brought on another machine can be copied to {file}."


def _is_address(url: str) -> bool:
    try:
        host = urllib.parse.urlsplit(url).hostname
    except ValueError:
        return False
    return bool(host) and re.fullmatch(r"https?://\S+", url) is not None


def own_folder() -> Path:
    """Where this user's answers are kept."""
    return cache_folder() / "neuronpedia"


def checked_name(given: Any, what: str, example: str) -> str:
    """The id of a model or source.

    Raises:
        InputError: Neuronpedia has none of that form.
    """
    if isinstance(given, str) and _NAME.fullmatch(given) and ".." not in given:
        return given
    raise InputError(f"{what}={given!r}; expected a name such as {example!r}.")


def unicode(text: str) -> str:
    """A text without halves of characters, which cannot be written, and without NUL."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")


class _Gone(Exception):
    """There is no whole answer."""


def _body(url: str, timeout: float) -> bytes:
    """What is sent, all of it.

    Raises:
        InputError: There is no such thing.
        _Gone: The server cannot be reached, refuses, or breaks off.
    """
    request = urllib.request.Request(url, headers={"Accept": "application/json", "User-Agent": "mlxterp"})
    try:
        with _opener().open(request, timeout=timeout) as reply:
            said = reply.headers.get("Content-Length")
            parts, size = [], 0
            while piece := reply.read(_PIECE):
                parts.append(piece)
                size += len(piece)
                if size > _LARGEST:
                    raise _Gone(f"it sends more than {_LARGEST >> 20} MiB")
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 404:
            raise InputError(f"{url}: the server has no such model, source or feature (404).") from error
        raise _Gone(f"status {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _Gone(str(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        late = isinstance(error, (TimeoutError, socket.timeout))
        said = f"nothing came for {timeout:g} seconds" if late else str(error) or type(error).__name__
        raise _Gone(said) from error
    if said is not None and said.isdigit() and size < int(said):
        raise _Gone(f"it broke off after {size} of {said} bytes")
    return b"".join(parts)


def _opener() -> urllib.request.OpenerDirector:
    """http and https only, also where a server sends elsewhere."""
    made = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor, urllib.request.UnknownHandler,
    ):  # fmt: skip
        made.add_handler(handler())
    return made

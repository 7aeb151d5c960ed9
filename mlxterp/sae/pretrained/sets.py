"""Sets of transcoders by the name of their repository: what of it is needed, brought from the hub.

A repository holds the files of a set, or a `config.yaml` that lists where each layer's lies (circuit-tracer's way).
Names: "owner/name", "owner/name@revision", and "hf://owner/name/folder@revision" for a folder in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ...core.places import expanded, is_repository, looks_like_path
from ...errors import InputError, SAEError
from ..formats.circuit_tracer import CONFIG, metadata_of
from ..formats.settings import Settings, read_config
from .fetch import Fetched
from .hub import download, list_files

_HUB = "hf://"
_ACROSS = "cross_layer_transcoder"
_WEIGHTS = (".safetensors", ".npz", ".pt", ".pth")
_SETTINGS = (".json", ".yaml", ".yml")
_SETS = (
    re.compile(r"W_(?:enc|dec)_\d+\.safetensors"), re.compile(r"params_layer_\d+\.safetensors"),
    re.compile(r"layer_\d+\.safetensors"),
)  # fmt: skip
"""Files of a set at the top of its folder: of cross-layer transcoders, and one for each layer."""


@dataclass(frozen=True, slots=True)
class HubPlace:
    """A repository of the hub, or a folder in it.

    Attributes:
        repo: owner/name.
        path: Of the folder or file in it; "" is all of it.
        revision: Branch, tag or commit; None is the newest.
    """

    repo: str
    path: str = ""
    revision: str | None = None

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"{_HUB}{self.repo}/{self.path}{at}" if self.path else f"{self.repo}{at}"

    @property
    def config(self) -> str:
        """Name of the settings of a set in the repository."""
        return f"{self.path}/{CONFIG}" if self.path else CONFIG


@dataclass(frozen=True, slots=True)
class Listed:
    """A layer's transcoder that a set's settings name.

    Attributes:
        place: Its file.
        facts: What the settings say of it.
    """

    place: HubPlace
    facts: dict[str, Any]

    def fetch(self) -> Fetched:
        """Brings the file."""
        folder = download(self.place.repo, [self.place.path], revision=self.place.revision)
        return Fetched(folder / self.place.path, facts=self.facts)


def hub_place(given: Any, revision: str | None = None) -> HubPlace | None:
    """What a name means on the hub; None where it is none, or leads to something on this machine.

    Raises:
        InputError: It begins with "hf://" and goes on as no name does, or names a revision beside `revision`.
    """
    if not isinstance(given, str):
        return None
    if given.startswith(_HUB):
        found = _of_address(given)
    else:
        name, _, said = given.partition("@")
        if (
            looks_like_path(name)
            or name.count("/") != 1
            or not is_repository(name)
            or expanded(given).exists()
        ):
            return None
        found = HubPlace(name, "", said or None)
    if revision is not None and found.revision not in (None, revision):
        raise InputError(f"{given!r} names the revision {found.revision!r}, and revision= is {revision!r}.")
    return HubPlace(found.repo, found.path, revision or found.revision)


def _of_address(given: str) -> HubPlace:
    """hf://owner/name/path@revision, or hf://owner/name/path?revision=… as circuit-tracer writes it."""
    parts = urlsplit(given)
    path, _, said = f"{parts.netloc}{parts.path}".partition("@")
    owner, name, *rest = [*path.strip("/").split("/"), ""]
    revision = said or next(iter(parse_qs(parts.query).get("revision", [])), None)
    inner = "/".join(rest).strip("/")
    if not name or not is_repository(f"{owner}/{name}") or ".." in PurePosixPath(inner).parts:
        raise InputError(f"{given!r} names nothing on the hub: expected hf://owner/name/folder@revision.")
    return HubPlace(f"{owner}/{name}", inner, revision)


def fetch_set(place: HubPlace) -> Path | list[Listed]:
    """The folder on this machine that holds a set; or, by layer, where the files lie that its settings list.

    Only the set's weights and settings are brought; what a list names is brought when it is opened.

    Raises:
        SAEError: No such repository, revision or folder, no weights there, no access, or offline and not in the cache.
    """
    held = list_files(place.repo, place.revision)
    if place.config in held:
        folder = download(place.repo, [place.config], revision=place.revision)
        config = read_config(folder / place.config)
        if (listed := config.peek("transcoders")) is not None:
            found = _listed(config, listed, place)
            if config.peek("model_kind") != _ACROSS:
                return found
            if (folder_of_all := _folder_of(found, place)) != place:
                return fetch_set(folder_of_all)
    names = _needed(held, place)
    folder = download(place.repo, names, revision=place.revision)
    return folder / place.path if place.path else folder


def _listed(config: Settings, listed: Any, place: HubPlace) -> list[Listed]:
    if not isinstance(listed, list) or not listed or not all(isinstance(one, str) for one in listed):
        raise SAEError(f"{CONFIG} of {place} has transcoders: {listed!r:.100}; expected a list of files.")
    found = []
    for layer, one in enumerate(listed):
        at = _of_address(one) if one.startswith(_HUB) else _beside(one, place)
        if not at.path:
            raise SAEError(f"{CONFIG} of {place} names {one!r} for layer {layer}, which is no file.")
        found.append(Listed(at, metadata_of(config, f"layer_{layer}.", "mlp.hook_in")))
    return found


def _folder_of(listed: Sequence[Listed], place: HubPlace) -> HubPlace:
    """Where the layers of a cross-layer transcoder lie together."""
    folders = {(one.place.repo, one.place.path.rpartition("/")[0], one.place.revision) for one in listed}
    if len(folders) != 1:
        raise SAEError(
            f"{CONFIG} of {place} lists layers of a cross-layer transcoder in {len(folders)} folders."
        )
    return HubPlace(*folders.pop())


def _beside(name: str, place: HubPlace) -> HubPlace:
    """A file of the same repository."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise SAEError(f"{CONFIG} of {place} names {name!r}, which lies outside it.")
    return HubPlace(place.repo, str(PurePosixPath(place.path) / path), place.revision)


def _needed(held: Sequence[str], place: HubPlace) -> list[str]:
    """The set's files: those of a known set at the top of its folder, else all weights below it, with their settings.

    Raises:
        SAEError: There are none.
    """
    start = f"{place.path}/" if place.path else ""
    below = {name[len(start) :]: name for name in held if name.startswith(start)}
    weights = [name for name in below if name.endswith(_WEIGHTS)]
    for pattern in _SETS:
        if of_set := [name for name in weights if pattern.fullmatch(name)]:
            weights = of_set
            break
    if not weights:
        raise SAEError(f"{place} holds no transcoders: none of its {len(below)} files are weights.")
    folders = {"", *(str(parent) for name in weights for parent in PurePosixPath(name).parents)} - {"."}
    settings = [
        name for name in below
        if name.endswith(_SETTINGS) and name.rpartition("/")[0] in folders
    ]  # fmt: skip
    return sorted(below[name] for name in {*weights, *settings})

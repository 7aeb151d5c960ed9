"""Where the SAEs of a collection come from: folders, releases and paths, opened when they are first asked for.

A `Member` is one of them. What is known of it before it is opened (from our own settings, `collection.json` or the
table of releases) is enough to find it by layer and width.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ..anatomy.names import hook_component
from ..backends import get_backend
from ..core import checks
from ..core.digests import same_file
from ..core.integers import as_integer, is_listable
from ..core.places import expanded
from ..errors import InputError, SAEError
from .formats import own, saes_in
from .formats.source import Files
from .manifest import MANIFEST, SIZES, Key, read_manifest
from .model_names import named_model
from .pretrained import PretrainedSAE, is_release, pretrained_saes
from .pretrained.fetch import Fetched, fetch
from .pretrained.sets import HubPlace, fetch_set, hub_place
from .sae import SAE, opened

Members = dict[Key, "Member"]


class Member:
    """One SAE of a collection: as it is, or how to open it and what is known of it before."""

    def __init__(
        self,
        sae: SAE | None = None,
        opens: Callable[[], SAE] | None = None,
        known: Mapping[str, Any] | None = None,
    ):
        self._sae, self._opens, self._known = sae, opens, dict(known or {})

    def sae(self, keep: bool = True) -> SAE:
        """The SAE, opened if need be; `keep` holds it for the next time."""
        if self._sae is not None:
            return self._sae
        assert self._opens is not None
        found = self._opens()
        self._sae = found if keep else None
        return found

    def fact(self, name: str) -> Any:
        """One of "component", "d_model", "d_hidden" and "d_out", without opening the SAE where that is known."""
        said = self._known.get(name) if self._sae is None else None
        return getattr(self.sae(), name) if said is None else said

    def model(self) -> str | None:
        """The model that its metadata name; None where they name none, or the SAE is not opened yet."""
        return None if self._sae is None else named_model(self._sae.metadata)

    def layer(self) -> int | None:
        """Number of the layer that its component lies in; None for what lies in none."""
        return layer_of(self.fact("component"))

    def let_go(self) -> None:
        """Forgets what was opened from a file."""
        if self._opens is not None:
            self._sae = None


def layer_of(component: str | None) -> int | None:
    """Number of the layer that a component lies in; None for what lies in none."""
    found = re.match(r"layers\.(\d+)(?:\.|$)", component or "")
    return None if found is None else int(found[1])


# -- folders --------------------------------------------------------------------------------------


def in_folder(
    path: str | os.PathLike, format: str | None, backend: str | None, device: str | None, k: int | None
) -> Members:
    """The SAEs of a folder: those that its `collection.json` names, or whatever SAEs are in it, by their names.

    Raises:
        SAEError: There is none, one of them cannot be opened, or `collection.json` is damaged.
        InputError: There is no such backend.
    """
    _check_backend(backend)
    k = checks.count_or_none(k, "k", error=SAEError)
    folder = expanded(path) if isinstance(path, (str, os.PathLike)) else None
    if folder is not None and (folder / MANIFEST).is_file():
        if format not in (None, "mlxterp"):
            raise SAEError(
                f"The SAEs of the collection {folder} are in the format 'mlxterp', not {format!r}."
            )
        return {entry["key"]: _saved(folder, entry, backend, device, k) for entry in read_manifest(folder)}
    members: Members = {}
    for found, files in saes_in(path, format):
        name = _name_below(expanded(path), files.path)
        member = Member(
            opens=partial(opened, Fetched(files.path, found), backend, device, k, mapped=True),
            known=_known_of(found, files),
        )
        members[f"{name}{files.path.suffix}" if name in members else name] = member
    return members


def _saved(
    folder: Path, entry: Mapping[str, Any], backend: str | None, device: str | None, k: int | None
) -> Member:
    """An SAE that `collection.json` names."""
    return Member(
        opens=partial(_as_saved, folder / entry["folder"], entry["config"], backend, device, k),
        known={name: entry[name] for name in ("component", *SIZES)},
    )


def _as_saved(folder: Path, digest: str, backend: str | None, device: str | None, k: int | None) -> SAE:
    try:
        same_file(folder / own.CONFIG, digest)
    except (OSError, ValueError) as error:
        raise SAEError(
            f"{folder} is not the SAE that was saved with this collection: {error}. Get it again; SAE.load opens it by"
            " itself."
        ) from error
    return opened(Fetched(folder, "mlxterp"), backend, device, k, mapped=True)


def at_path(path: Any, key: Key) -> Member:
    """The SAE at a path, not opened yet."""
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"SAE {key!r}: expected an SAE or the path of one, got {type(path).__name__}.")
    found = saes_in(path)
    if len(found) > 1:
        raise SAEError(f"SAE {key!r}: {path} holds {len(found)} SAEs. Give the path of one.")
    name, files = found[0]
    opens = partial(opened, Fetched(files.path, name), None, None, None, mapped=True)
    return Member(opens=opens, known=_known_of(name, files))


def _check_backend(backend: str | None) -> None:
    """Raises InputError where there is no such backend, though no SAE is opened yet."""
    if backend is not None:
        get_backend(backend)


def _known_of(format: str, files: Files) -> dict[str, Any]:
    """What our own settings say of an SAE; they are checked when it is opened."""
    if format != "mlxterp":
        return {}
    config = files.config(own.CONFIG)
    metadata = config.whole("metadata")
    component = metadata.get("component") if isinstance(metadata, Mapping) else None
    sizes = {name: as_integer(config.get(name)) for name in SIZES}
    return {**sizes, "component": component if isinstance(component, str) else None}


def _name_below(folder: Path, path: Path) -> str:
    """The name of the SAE at `path`: its path below the folder; its own name where it is the folder."""
    if path == folder:
        return path.stem if path.is_file() else path.resolve().name
    below = path.relative_to(folder)
    return (below.with_suffix("") if path.is_file() else below).as_posix()


# -- releases -------------------------------------------------------------------------------------


def of_release(
    release: str, ids: Iterable[str] | str | None, layers: Any, widths: Any, backend: str | None,
    device: str | None, revision: str | None,
) -> Members:  # fmt: skip
    """Published SAEs by their ids; see `SAECollection.from_release`."""
    _check_backend(backend)
    if not isinstance(release, str) or not is_release(release):
        place = hub_place(release, revision)
        if place is None:
            raise SAEError(
                f'{release!r} is no release. mlxterp.pretrained_saes("words of its name") searches them. A repository'
                ' of the hub is named "owner/name".'
            )
        if any(given is not None for given in (ids, layers, widths)):
            raise InputError(
                f"ids=, layers= and widths= choose from a release, and {release!r} is a repository. Take its SAEs and"
                " choose from those: collection.where(width=…)."
            )
        return of_repository(place, backend, device)
    entries = _chosen(release, ids)
    if layers is not None:
        wanted = _numbers(layers, "layers", 0)
        entries = [entry for entry in entries if layer_of(hook_component(entry.hook)) in wanted]
    if widths is not None:
        wanted = _numbers(widths, "widths", 1)
        entries = [entry for entry in entries if _width_said(entry) in wanted]
    if not entries:
        asked = {"layers": layers, "widths": widths}
        told = " and ".join(f"{name}={given!r}" for name, given in asked.items() if given is not None)
        raise SAEError(f"No SAE of {release!r} has {told}. pretrained_saes(release={release!r}) lists them.")
    return {entry.sae_id: _published(entry, backend, device, revision) for entry in entries}


def of_repository(place: HubPlace, backend: str | None = None, device: str | None = None) -> Members:
    """The SAEs of a repository of the hub, by their names, or by layer where its settings list them."""
    found = fetch_set(place)
    if isinstance(found, Path):
        return in_folder(found, None, backend, device, None)
    return {
        layer: Member(
            opens=lambda one=one: opened(one.fetch(), backend, device, None, mapped=True),
            known={"component": one.facts.get("component")},
        )
        for layer, one in enumerate(found)
    }


def _published(entry: PretrainedSAE, backend: str | None, device: str | None, revision: str | None) -> Member:
    known = {"component": hook_component(entry.hook), "d_hidden": _width_in(entry.sae_id)}
    return Member(opens=partial(_downloaded, entry, backend, device, revision), known=known)


def _downloaded(entry: PretrainedSAE, backend: str | None, device: str | None, revision: str | None) -> SAE:
    return opened(fetch(entry.release, entry.sae_id, revision), backend, device, None, mapped=True)


def _chosen(release: str, ids: Iterable[str] | str | None) -> list[PretrainedSAE]:
    entries = [entry for entry in pretrained_saes(release=release) if entry.release == release]
    if ids is None:
        return entries
    by_id = {entry.sae_id: entry for entry in entries}
    wanted = [ids] if isinstance(ids, str) else list(ids)
    if unknown := [name for name in wanted if name not in by_id]:
        raise SAEError(
            f"Release {release!r} has no SAE {unknown[0]!r}; it has {len(by_id)}, such as {next(iter(by_id))!r}."
        )
    return [by_id[name] for name in dict.fromkeys(wanted)]


def _numbers(given: Any, what: str, least: int) -> set[int]:
    several = given if is_listable(given) else [given]
    return {checks.integer(one, f"an entry of {what}", least) for one in several}


def _width_said(entry: PretrainedSAE) -> int:
    width = _width_in(entry.sae_id)
    if width is None:
        raise InputError(
            f"{entry.sae_id!r} of {entry.release!r} does not say its number of features, so SAEs cannot be chosen by"
            " widths=. Name them by ids=."
        )
    return width


def _width_in(sae_id: str) -> int | None:
    """The number of features that an id says: "width_16k" is 2^14, "hook_resid_pre_768" is 768."""
    if found := re.search(r"width_(\d+)([km])", sae_id):
        exact = int(found[1]) * {"k": 1_000, "m": 1_000_000}[found[2]]
        return min((1 << power for power in range(8, 31)), key=lambda width: abs(width - exact))
    found = re.search(r"hook_[a-z_]+_(\d{3,})$", sae_id)
    return int(found[1]) if found else None

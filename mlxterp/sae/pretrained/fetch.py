"""A published SAE by name: its files brought from the hub, and what the table knows about them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...anatomy.names import hook_component
from ...core.places import looks_like_path, near
from ...errors import InputError, SAEError
from ..formats.settings import NORMALISATIONS
from .hub import download, list_files
from .table import PretrainedSAE, files_of, find_pretrained, is_release, suggestion

_ENDINGS = (".safetensors", ".npz", ".pt", ".pth")
_CONFIGS = (".json", ".yaml", ".yml")
_FORMATS = {"gemma_scope_transcoder": "gemma_scope"}
"""Loaders whose format has another name."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """Where an SAE lies on this machine, and what to read it with."""

    path: str | os.PathLike
    format: str | None = None
    norm_scaling_factor: float | None = None
    normalize: str | None = None
    """What the table says over the file's own setting."""
    facts: dict[str, Any] | None = None
    """For the metadata."""


def fetch(release: str, sae_id: str | None, revision: str | None = None) -> Fetched:
    """Brings the files of an SAE of the table, or of any hub repository ("owner/name").

    Args:
        sae_id: As SAELens names it; for a repository, the file or folder in it.

    Raises:
        SAEError: Unknown release, id, repository or file; no access; offline and not in the cache.
    """
    if not isinstance(release, str) or not isinstance(sae_id, (str, type(None))):
        raise InputError(f"A release and an id are strings, got {release!r}, {sae_id!r}.")
    if not is_release(release) and looks_like_path(release):
        raise SAEError(
            f"{release!r} is a path, not a release or a repository. What lies on this machine is opened by"
            f" SAE.load({release!r}).{near(release)}"
        )
    if "/" in release and not is_release(release):
        return _from_repository(release, sae_id, revision)
    entry = find_pretrained(release, sae_id)
    names = files_of(entry, list_files(entry.repo_id, revision))
    folder = download(entry, names, revision=revision)
    override = entry.config_overrides.get("normalize_activations")
    return Fetched(
        folder / entry.path, _FORMATS.get(entry.loader, entry.loader), entry.norm_scaling_factor,
        NORMALISATIONS.get(str(override)), _facts(entry),
    )  # fmt: skip


def _facts(entry: PretrainedSAE) -> dict[str, Any]:
    found = {
        "release": entry.release,
        "sae_id": entry.sae_id,
        "model": entry.model,
        "hook": entry.hook,
        "component": hook_component(entry.hook),
        "component_out": hook_component(entry.hook_out),
        "neuronpedia_id": entry.neuronpedia_id,
        "l0": entry.l0,
        "explained_variance": entry.variance_explained,
        "center_writing_weights": entry.model_kwargs.get("center_writing_weights"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _from_repository(repo: str, path: str | None, revision: str | None) -> Fetched:
    held = list_files(repo, revision)
    names = _needed(held, path, repo)
    folder = download(repo, names, revision=revision)
    return Fetched(folder / path if path else folder)


def _needed(held: Sequence[str], path: str | None, repo: str) -> list[str]:
    """The weights asked for, and the small settings files beside and above them."""
    path = (path or "").strip("/")
    weights = [
        n for n in held if n.endswith(_ENDINGS) and (n == path or not path or n.startswith(path + "/"))
    ]
    if not weights:
        raise SAEError(
            f"{repo} holds no weights at {path or 'its top'!r}.{suggestion(path, held)} It holds {len(held)} files."
        )
    folders = {name.rpartition("/")[0] for name in weights}
    if path not in held and len({_stem(folder) for folder in folders}) > 1:
        shown = ", ".join(sorted(folders)[:5])
        raise SAEError(
            f"{repo} holds SAEs in {len(folders)} folders: {shown}, … Name one: from_pretrained({repo!r}, …)."
        )
    around = folders | {folder.rpartition("/")[0] for folder in folders}
    configs = [n for n in held if n.endswith(_CONFIGS) and n.rpartition("/")[0] in around]
    return sorted({*weights, *configs})


def _stem(folder: str) -> str:
    return folder.removesuffix("/checkpoints")

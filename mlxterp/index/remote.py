"""Indexes at fsspec URLs ("s3://bucket/index", "memory://index"): copied here to read, and there to keep."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..core.files import DRAFT, atomic_folder
from ..core.places import path_of
from ..errors import BackendError, FeatureIndexError, IndexWriteError
from .files import write_atomically
from .folder import META

_AGAIN = "Nothing of it is left there; make room or choose another path, and save again."


def is_url(path: Any) -> bool:
    """Whether a path is a URL that fsspec opens."""
    return isinstance(path, str) and "://" in path


def fetched(url: str) -> Path:
    """A temporary folder with what lies at a URL.

    Raises:
        FeatureIndexError: It cannot be reached, or holds no index.
    """
    files, root = _filesystem(url)
    folder = Path(tempfile.mkdtemp(prefix="mlxterp-index-"))
    try:
        if not files.isfile(f"{root}/{META}"):  # before anything is copied: a URL can hold very much else
            raise FileNotFoundError(f"there is no index, it has no {META}.")
        names = [name for name in files.find(root) if not name.endswith("/")]
        for name in names:
            target = folder / os.path.relpath("/" + name.lstrip("/"), "/" + root.strip("/"))
            if not target.resolve().is_relative_to(folder.resolve()):
                raise OSError(f"{name} lies outside of it")
            target.parent.mkdir(parents=True, exist_ok=True)
            files.get_file(name, str(target))
    except (OSError, ValueError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise FeatureIndexError(f"{url} cannot be read: {error}") from error
    return folder


def refuse_index(url: str) -> None:
    """Raises FeatureIndexError where an index lies at a URL already."""
    files, root = _filesystem(url)
    try:
        there = files.isfile(f"{root}/{META}")
    except (OSError, ValueError) as error:
        raise FeatureIndexError(f"{url} cannot be reached: {error}") from error
    if there:
        raise FeatureIndexError(
            f"An index lies at {url} already: FeatureIndex.open({url!r}). Choose another place or remove it first."
        )


def copied(folder: Path, target: str | os.PathLike) -> Path | str:
    """Copies an index's folder to a new folder or URL; `index.json` last, so that half a copy is no index."""
    names = sorted(
        (p.relative_to(folder) for p in folder.rglob("*") if p.is_file()), key=lambda p: str(p) == META
    )
    names = [name for name in names if not any(part.startswith(DRAFT) for part in name.parts)]
    if is_url(target):
        refuse_index(str(target))
        files, root = _filesystem(str(target))
        try:
            for name in names:
                files.makedirs(f"{root}/{name.parent.as_posix()}", exist_ok=True)
                files.put_file(str(folder / name), f"{root}/{name.as_posix()}")
        except (OSError, ValueError) as error:
            raise IndexWriteError(
                f"Nothing can be written to {target}: {error}. Half a copy is no index: make room there or choose"
                " another place, and save again."
            ) from error
        return str(target)
    place = path_of(target)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise FeatureIndexError(f"{place} holds something already. Choose another path or remove it first.")
    with atomic_folder(place, error=FeatureIndexError, remedy=_AGAIN) as draft:
        for name in names:
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, draft / name)
    return place


def write_at(url: str, parts: Iterable[bytes]) -> str:
    """Writes a file at a URL; returns it.

    Raises:
        FeatureIndexError: Nothing can be written there.
    """
    files, place = _filesystem(url)
    try:
        files.makedirs(place.rpartition("/")[0], exist_ok=True)
        with files.open(place, "wb") as file:
            for part in parts:
                file.write(part)
    except (OSError, ValueError) as error:
        raise IndexWriteError(
            f"Nothing can be written to {url}: {error}. Make room there or choose another place, and write again."
        ) from error
    return url


def written(path: str | os.PathLike, parts: Iterable[bytes]) -> Path | str:
    """Writes a file, whole or not at all, at a path or a URL; returns which.

    Raises:
        FeatureIndexError: Nothing can be written there.
    """
    if is_url(path):
        return write_at(str(path), parts)
    target = path_of(path)
    write_atomically(target, parts)
    return target


def _filesystem(url: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError as error:
        raise BackendError('URLs need fsspec: pip install "mlxterp[remote]".') from error
    try:
        files, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise FeatureIndexError(f"{url} cannot be opened: {error}") from error
    return files, root.rstrip("/")

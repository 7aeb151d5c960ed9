"""Published SAEs: finding one, and bringing its files from the Hugging Face hub."""

import os

from ...core.places import is_repository, looks_like_path
from .hub import download, list_files
from .table import PretrainedSAE, files_of, find_pretrained, is_release, pretrained_saes


def is_published(name: str | os.PathLike) -> bool:
    """Whether `name` is a release of the table, or looks like a repository of the hub ("owner/name")."""
    if looks_like_path(name):
        return False
    return is_release(str(name)) or (str(name).count("/") == 1 and is_repository(str(name)))


__all__ = [
    "PretrainedSAE",
    "download",
    "files_of",
    "find_pretrained",
    "is_published",
    "is_release",
    "list_files",
    "pretrained_saes",
]

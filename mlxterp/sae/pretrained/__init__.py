"""Published SAEs: finding one, and bringing its files from the Hugging Face hub."""

from .hub import download, list_files
from .table import PretrainedSAE, files_of, find_pretrained, is_release, pretrained_saes


def is_published(name: str) -> bool:
    """Whether `name` is a release of the table, or looks like a repository of the hub ("owner/name")."""
    parts = name.split("/")
    repository = len(parts) == 2 and all(part and not part.startswith((".", "~")) for part in parts)
    return is_release(name) or repository


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

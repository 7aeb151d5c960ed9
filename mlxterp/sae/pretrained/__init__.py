"""Published SAEs: finding one, and bringing its files from the Hugging Face hub."""

from .hub import download, list_files
from .table import PretrainedSAE, files_of, find_pretrained, pretrained_saes

__all__ = ["PretrainedSAE", "download", "files_of", "find_pretrained", "list_files", "pretrained_saes"]

"""Sparse autoencoders: using, loading, saving and measuring them."""

from .formats import FORMATS
from .metrics import explained_variance
from .sae import SAE

__all__ = ["FORMATS", "SAE", "explained_variance"]

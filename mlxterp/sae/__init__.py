"""Sparse autoencoders: using, loading, saving and measuring them."""

from .collection import SAECollection
from .formats import FORMATS
from .metrics import explained_variance
from .sae import SAE

__all__ = ["FORMATS", "SAE", "SAECollection", "explained_variance"]

"""Sparse autoencoders: using, loading, saving and measuring them."""

from .collection import SAECollection
from .cross_layer import CrossLayerTranscoder
from .cross_layer_weights import CrossLayerWeights
from .formats import FORMATS
from .metrics import explained_variance
from .sae import SAE

__all__ = [
    "FORMATS",
    "SAE",
    "CrossLayerTranscoder",
    "CrossLayerWeights",
    "SAECollection",
    "explained_variance",
]

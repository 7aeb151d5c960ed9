"""Sparse autoencoders: using, loading, saving, training and measuring them."""

from .config import SAETrainConfig
from .formats import FORMATS
from .metrics import explained_variance
from .sae import SAE
from .training import train_sae

__all__ = ["FORMATS", "SAE", "SAETrainConfig", "explained_variance", "train_sae"]

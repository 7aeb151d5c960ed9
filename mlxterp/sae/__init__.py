"""Sparse autoencoders: using, saving, training and measuring them."""

from .config import SAETrainConfig
from .metrics import explained_variance
from .sae import SAE
from .training import train_sae

__all__ = ["SAE", "SAETrainConfig", "explained_variance", "train_sae"]

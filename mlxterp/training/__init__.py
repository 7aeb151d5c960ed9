"""Training of sparse autoencoders and transcoders: `train_sae` for arrays; `features.train` for a model's texts."""

from .arrays import train_sae
from .config import SAETrainConfig

__all__ = ["SAETrainConfig", "train_sae"]

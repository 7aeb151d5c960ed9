"""Training of sparse autoencoders and transcoders: `train_sae` for arrays; `on_texts` for a model's texts."""

from .config import SAETrainConfig
from .on_arrays import train_sae

__all__ = ["SAETrainConfig", "train_sae"]

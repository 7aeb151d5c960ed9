"""Feature geometry, each figure beside its control: families, splitting, maps, absorption, meta-SAEs, universality.

Most of these figures look alike on random input; see `random_like` and `Controlled`.
"""

from ..core.controls import Controlled, random_like
from .meta_pairs import SharedPairs
from .meta_sae import MetaSAE, train_meta_sae

__all__ = ["Controlled", "MetaSAE", "SharedPairs", "random_like", "train_meta_sae"]

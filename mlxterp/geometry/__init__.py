"""Feature geometry, each figure beside its control: families, splitting, maps, absorption, meta-SAEs, universality.

Most of these figures look alike on random input; see `random_like` and `Controlled`.
"""

from ..core.controls import Controlled, random_like
from .neighbours import Neighbours, cosine_neighbours

__all__ = ["Controlled", "Neighbours", "cosine_neighbours", "random_like"]

"""Feature geometry, each figure beside its control: families, splitting, maps, absorption, meta-SAEs, universality.

Most of these figures look alike on random input; see `random_like` and `Controlled`.
"""

from ..core.controls import Controlled, random_like
from .alignment import aligned_activations
from .children import Child, Splitting
from .neighbours import Neighbours, cosine_neighbours
from .partners import Partners, Universality
from .splitting import splitting
from .stitching import Stitching, stitching
from .universality import universality

__all__ = [
    "Child",
    "Controlled",
    "Neighbours",
    "Partners",
    "Splitting",
    "Stitching",
    "Universality",
    "aligned_activations",
    "cosine_neighbours",
    "random_like",
    "splitting",
    "stitching",
    "universality",
]

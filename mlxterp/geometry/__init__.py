"""Feature geometry, each figure beside its control: families, splitting, maps, absorption, meta-SAEs, universality.

Most of these figures look alike on random input; see `random_like` and `Controlled`.
"""

from ..core.controls import Controlled, random_like
from .alignment import aligned_activations
from .children import Child, Splitting
from .coactivation import apart, coactivation, coactivation_graph
from .neighbours import Neighbours, cosine_neighbours
from .pairs import Apart, Coactivation, FeaturePairs
from .partners import Partners, Universality
from .splitting import splitting
from .stitching import Stitching, stitching
from .universality import universality

__all__ = [
    "Apart",
    "Child",
    "Coactivation",
    "Controlled",
    "FeaturePairs",
    "Neighbours",
    "Partners",
    "Splitting",
    "Stitching",
    "Universality",
    "aligned_activations",
    "apart",
    "coactivation",
    "coactivation_graph",
    "cosine_neighbours",
    "random_like",
    "splitting",
    "stitching",
    "universality",
]

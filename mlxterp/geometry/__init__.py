"""Feature geometry, each figure beside its control: families, splitting, maps, absorption, meta-SAEs, universality.

Most of these figures look alike on random input; see `random_like` and `Controlled`.
"""

from ..core.controls import Controlled, random_like
from .alignment import aligned_activations
from .apart import Apart, apart
from .children import Child, Splitting
from .coactivation import coactivation, coactivation_graph
from .families import Firing, both_on, firing_on, load_family, search, train_family
from .labels import Found
from .neighbours import Neighbours, cosine_neighbours
from .on_text import OnText
from .pairs import Coactivation, FeaturePairs
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
    "Firing",
    "Found",
    "Neighbours",
    "OnText",
    "Partners",
    "Splitting",
    "Stitching",
    "Universality",
    "aligned_activations",
    "apart",
    "both_on",
    "coactivation",
    "coactivation_graph",
    "cosine_neighbours",
    "firing_on",
    "load_family",
    "random_like",
    "search",
    "splitting",
    "stitching",
    "train_family",
    "universality",
]

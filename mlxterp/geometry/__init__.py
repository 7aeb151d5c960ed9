"""Feature geometry, each figure beside its control: families, splitting, maps, absorption, meta-SAEs, universality.

Most of these figures look alike on random input; see `random_like` and `Controlled`.
"""

from ..core.controls import Controlled, random_like
from .absorption import Absorber, Absorption, MissedToken, absorption
from .concept_examples import ConceptExamples, concept_examples
from .first_letter import FirstLetter, first_letter
from .mediation import Ablated, Mediation
from .meta_pairs import SharedPairs
from .meta_sae import MetaSAE, train_meta_sae
from .probes import Probe, probe

__all__ = [
    "Ablated", "Absorber", "Absorption", "ConceptExamples", "Controlled", "FirstLetter", "Mediation", "MetaSAE",
    "MissedToken", "Probe", "SharedPairs", "absorption", "concept_examples", "first_letter", "probe", "random_like",
    "train_meta_sae",
]  # fmt: skip

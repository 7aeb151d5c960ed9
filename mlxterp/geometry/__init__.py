"""Feature geometry, each figure beside its control: families, splitting, maps, absorption, meta-SAEs, universality.

Most of these figures look alike on random input; see `random_like` and `Controlled`.
"""

from ..core.controls import Controlled, random_like
from .absorption import Absorber, Absorption, MissedToken, absorption
from .alignment import aligned_activations
from .apart import Apart, apart
from .children import Child, Splitting
from .clusters import Clusters
from .coactivation import coactivation, coactivation_graph
from .concept_examples import ConceptExamples, concept_examples
from .decoder_map import decoder_map
from .enrichment import Enrichment, enrichment
from .families import Firing, both_on, firing_on, load_family, search, train_family
from .first_letter import FirstLetter, first_letter
from .labels import Found
from .logit_classes import Limits, LogitClasses, logit_classes
from .maps import DecoderMap
from .mediation import Ablated, Mediation
from .meta_pairs import SharedPairs
from .meta_sae import MetaSAE
from .meta_training import train_meta_sae
from .neighbours import Neighbours, cosine_neighbours
from .on_text import OnText
from .pairs import Coactivation, FeaturePairs
from .partners import Partners, Universality
from .probe_fits import Fitted
from .probes import Probe, probe
from .sparse_probing import KProbe, ProbedSet, SparseProbing, sparse_probe
from .splitting import splitting
from .stitching import Stitching, stitching
from .token_sets import TokenSets
from .universality import universality

__all__ = [
    "Ablated",
    "Absorber",
    "Absorption",
    "Apart",
    "Child",
    "Clusters",
    "Coactivation",
    "ConceptExamples",
    "Controlled",
    "DecoderMap",
    "Enrichment",
    "FeaturePairs",
    "Firing",
    "FirstLetter",
    "Fitted",
    "Found",
    "KProbe",
    "Limits",
    "LogitClasses",
    "Mediation",
    "MetaSAE",
    "MissedToken",
    "Neighbours",
    "OnText",
    "Partners",
    "Probe",
    "ProbedSet",
    "SharedPairs",
    "SparseProbing",
    "Splitting",
    "Stitching",
    "TokenSets",
    "Universality",
    "absorption",
    "aligned_activations",
    "apart",
    "both_on",
    "coactivation",
    "coactivation_graph",
    "concept_examples",
    "cosine_neighbours",
    "decoder_map",
    "enrichment",
    "firing_on",
    "first_letter",
    "load_family",
    "logit_classes",
    "probe",
    "random_like",
    "search",
    "sparse_probe",
    "splitting",
    "stitching",
    "train_family",
    "train_meta_sae",
    "universality",
]

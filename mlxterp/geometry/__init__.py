"""Feature geometry, each figure beside its control: families, splitting, maps, absorption, meta-SAEs, universality.

Most of these figures look alike on random input; see `random_like` and `Controlled`.
"""

from ..core.controls import Controlled, random_like
from .enrichment import Enrichment, enrichment
from .logit_classes import Limits, LogitClasses, logit_classes
from .token_sets import TokenSets

__all__ = [
    "Controlled",
    "Enrichment",
    "Limits",
    "LogitClasses",
    "TokenSets",
    "enrichment",
    "logit_classes",
    "random_like",
]

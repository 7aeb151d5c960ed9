"""Names, top texts and scales of an SAE's features: from texts to named concepts, and back to texts."""

from .analysis import ActiveConcept, ConceptConsistency, ConceptReview
from .concepts import Concepts
from .explanations import Concept, Explanation, Score

__all__ = [
    "ActiveConcept",
    "Concept",
    "ConceptConsistency",
    "ConceptReview",
    "Concepts",
    "Explanation",
    "Score",
]

"""Attribution graphs: what features, errors and tokens of a prompt add to its features and predictions.

`model.attribution_graph(prompt, transcoders)` makes an `AttributionGraph`. The method is that of Ameisen et al.,
"Circuit Tracing" (2025), and of circuit-tracer; the pass is frozen generically, and a law checks every graph.
"""

from .attribution import attribution_graph
from .graph import AttributionGraph
from .heads import HeadLoading, HeadLoadings
from .intervention import FeatureIntervention, Predicted
from .interventions import feature_intervention
from .nodes import Edge, Node
from .paths import Path
from .qk import QKAttribution, QKTerm
from .training import train_transcoders
from .validation import Mode, Validation

__all__ = [
    "AttributionGraph", "Edge", "FeatureIntervention", "HeadLoading", "HeadLoadings", "Mode", "Node", "Path",
    "Predicted", "QKAttribution", "QKTerm", "Validation", "attribution_graph", "feature_intervention",
    "train_transcoders",
]  # fmt: skip

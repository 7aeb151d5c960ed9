"""The existing mlxterp's names with its meanings: `from mlxterp.compat.mlxterp import …` for `from mlxterp import …`.

What is the same in both is the same here; what has another meaning in this library (`collect_activations`, the order of
`logit_lens`'s arguments, `zero_out` as a function of an activation) has that library's. Values are this library's:
exact activations, positions from each text's own end, patterns by exact layer.
"""

from ... import visualization
from ...activations.at_positions import batch_get_activations, get_activations
from ...lens import TunedLens
from ...sae import SAE
from . import changes as interventions
from .cache import ActivationCache, collect_activations
from .changes import (
    InterventionComposer,
    add_vector,
    clamp,
    noise,
    replace_at_positions,
    replace_with,
    scale,
    zero_out,
)
from .model import InterpretableModel
from .training import SAEConfig, SAETrainer, train_tuned_lens

__all__ = [
    "SAE",
    "ActivationCache",
    "InterpretableModel",
    "InterventionComposer",
    "SAEConfig",
    "SAETrainer",
    "TunedLens",
    "add_vector",
    "batch_get_activations",
    "clamp",
    "collect_activations",
    "get_activations",
    "interventions",
    "noise",
    "replace_at_positions",
    "replace_with",
    "scale",
    "train_tuned_lens",
    "visualization",
    "zero_out",
]

"""Edits that steer a model, made as plain values: of an SAE's features, along directions, under conditions.

with model.steer(amplify(sae, 42, 1.5)):
    model.generate("Once upon a time")

Strengths have units: `add_feature(sae, 42, 0.5, units="max")`.
"""

from ..edits.conditions import Condition, direction, feature
from ..edits.directions import add_direction, norm_preserving, project_out, swap, threshold_add
from ..edits.edits import Edit
from ..edits.features import ablate, add_feature, amplify, clamp, max_activation
from ..edits.lens_directions import lens_ablate, lens_steer, lens_swap
from .calibrate import calibrate, output_score
from .calibration import Calibration
from .contrast import difference_of_means, pca_direction
from .receipt import Gate, Measure, Receipt
from .sweep import Sweep, sweep
from .vectors import SteeringVector, load_vectors, save_vectors

__all__ = [
    "Calibration",
    "Condition",
    "Edit",
    "Gate",
    "Measure",
    "Receipt",
    "SteeringVector",
    "Sweep",
    "ablate",
    "add_direction",
    "add_feature",
    "amplify",
    "calibrate",
    "clamp",
    "difference_of_means",
    "direction",
    "feature",
    "lens_ablate",
    "lens_steer",
    "lens_swap",
    "load_vectors",
    "max_activation",
    "norm_preserving",
    "output_score",
    "pca_direction",
    "project_out",
    "save_vectors",
    "swap",
    "sweep",
    "threshold_add",
]

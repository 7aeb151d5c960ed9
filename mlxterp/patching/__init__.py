"""Activation and attribution patching: which activations make the difference between two runs.

`activation_patching` runs a corrupted text with activations of a clean run put in, one place at a time;
`attribution_patching` estimates the same for all places from one gradient. Both give a `PatchingResult`.

    result.py ← activation.py, attribution.py ← question.py (what is asked), places.py (components and
    their clean values), pair.py (two texts lined up), metrics.py (numbers of the logits)
"""

from .activation import activation_patching
from .attribution import attribution_patching
from .metrics import DISTANCES
from .result import PatchingResult

__all__ = ["DISTANCES", "PatchingResult", "activation_patching", "attribution_patching"]

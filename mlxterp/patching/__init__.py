"""Activation and attribution patching, and causal tracing: which activations make the difference between two runs.

`activation_patching` runs a corrupted text with activations of a clean run put in, one place at a time;
`attribution_patching` estimates the same for all places from one gradient. Both give a `PatchingResult`.
`causal_trace` needs one text: noise on its subject takes the answer away, and clean states bring it back.

    result.py ← activation.py, attribution.py ← question.py (what is asked), places.py (components and
    their clean values), pair.py (two texts lined up), metrics.py (numbers of the logits)
    causal_map.py ← causal_trace.py
"""

from .activation import activation_patching
from .attribution import attribution_patching
from .causal_map import CausalTrace
from .causal_trace import causal_trace
from .metrics import DISTANCES
from .result import PatchingResult

__all__ = [
    "DISTANCES",
    "CausalTrace",
    "PatchingResult",
    "activation_patching",
    "attribution_patching",
    "causal_trace",
]

"""A name for exactly one SAE: what an index or a registry of names keeps, so that it is not used with another."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from ..variants import Activation, InputForm, activation_to_dict
from ..weights import SAEWeights


def fingerprint(weights: SAEWeights, activation: Activation, form: InputForm) -> str:
    """sha256 of everything that features depend on."""
    facts = [activation_to_dict(activation), weights.subtract_b_dec, repr(form)]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for name, array in weights.arrays().items():
        digest.update(f"{name} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()

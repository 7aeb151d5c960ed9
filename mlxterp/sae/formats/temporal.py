"""Temporal SAEs as their authors publish them: `conf.yaml` + `latest_ckpt.safetensors`."""

from __future__ import annotations

import numpy as np

from ...variants import Temporal
from .saelens import temporal_weights
from .source import Arrays, Files, Parts, setting

_CONFIG, _WEIGHTS = "conf.yaml", "latest_ckpt.safetensors"


def matches(files: Files) -> bool:
    """Whether the files are of this format."""
    return files.has(_CONFIG, _WEIGHTS)


def read(files: Files) -> Parts:
    """The SAE that the files hold."""
    config = files.config(_CONFIG)
    sae = setting(config, "sae", dict, ..., _CONFIG)
    llm = setting(config, "llm", dict, {}, _CONFIG)
    tied = setting(sae, "tied_weights", bool, True, _CONFIG)
    kept = files.k if files.k is not None else setting(sae, "kval_topk", int, None, _CONFIG)
    activation = Temporal(
        setting(sae, "n_heads", int, 8, _CONFIG),
        setting(sae, "n_attn_layers", int, 1, _CONFIG),
        kept if setting(sae, "sae_diff_type", str, "topk", _CONFIG) == "topk" else None,
        setting(sae, "scaling_factor", float, 1.0, _CONFIG),
    )
    names = {"W_dec": "D", "b_dec": "b", **({} if tied else {"W_enc": "E"})}
    arrays = _flat_bias(files.arrays(_WEIGHTS))
    weights = temporal_weights(
        arrays, names, activation, {"d": setting(llm, "dimin", int, None, _CONFIG)}, True
    )
    layer = files.hint(r"/layer_(\d+)/")
    facts = {"component": f"layers.{layer[1]}.resid_post"} if layer else {}
    return Parts(weights, activation, facts)


def _flat_bias(arrays: Arrays) -> Arrays:
    """b is sometimes stored as one row."""
    if "b" in arrays and np.ndim(arrays["b"]) == 2 and len(arrays["b"]) == 1:
        return Arrays(arrays.path, {**dict(arrays), "b": arrays["b"][0]})
    return arrays

"""Temporal SAEs as their authors publish them: `conf.yaml` + `latest_ckpt.safetensors`."""

from __future__ import annotations

from ...errors import SAEError
from ...variants import Temporal
from .attention import temporal_k, temporal_weights
from .parts import Parts
from .settings import Settings, one_of, setting
from .source import Files

_CONFIG, _WEIGHTS = "conf.yaml", "latest_ckpt.safetensors"


def matches(files: Files) -> bool:
    """Whether the files are of this format."""
    return files.has(_CONFIG, _WEIGHTS)


def read(files: Files) -> Parts:
    """The SAE that the files hold."""
    config = files.config(_CONFIG)
    sae = setting(config, "sae", dict, ..., _CONFIG)
    llm = setting(config, "llm", dict, Settings({}), _CONFIG)
    one_of(sae, "sae_type", ("temporal",), None, f"{_CONFIG}: sae")
    if setting(sae, "inference_mode_batchtopk", bool, False, _CONFIG) or sae.get("use_pos_encoding"):
        raise SAEError(
            f"{_CONFIG}: temporal SAEs with a BatchTopK threshold or positions are not known to mlxterp."
        )
    tied = setting(sae, "tied_weights", bool, True, _CONFIG)
    activation = Temporal(
        setting(sae, "n_heads", int, 8, _CONFIG),
        setting(sae, "n_attn_layers", int, 1, _CONFIG),
        temporal_k(sae, files.k, "topk", f"{_CONFIG}: sae"),
        setting(sae, "scaling_factor", float, 1.0, _CONFIG),
    )
    names = {"W_dec": "D", "b_dec": "b", **({} if tied else {"W_enc": "E"})}
    arrays = files.arrays(_WEIGHTS)
    shape = arrays.shape("b") or ()
    width = {"d": setting(llm, "dimin", int, None, _CONFIG)}
    weights = temporal_weights(arrays, names, activation, width, True, row=len(shape) == 2 and shape[0] == 1)
    layer = files.hint(r"/layer_(\d+)/")
    facts = {"component": f"layers.{layer[1]}.resid_post"} if layer else {}
    return Parts(weights, activation, facts)

"""What files of temporal SAEs have in common, SAELens's and their authors': attention, and what is kept."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...errors import SAEError
from ...variants import Temporal
from ...weights import SAEWeights
from .settings import Settings, one_of, setting
from .source import Arrays


def temporal_k(config: Settings, k: int | None, default: str, where: str) -> int | None:
    """How many features of what is not predicted are kept; None keeps all that are positive."""
    if one_of(config, "sae_diff_type", ("topk", "relu"), default, where) == "relu":
        config.pass_over("kval_topk")
        return None
    if k is not None:
        config.get("kval_topk")  # what the user says is instead of it
        return k
    return setting(config, "kval_topk", int, ..., where)


def temporal_weights(
    arrays: Arrays,
    names: Mapping[str, str],
    activation: Temporal,
    sizes: dict[str, int | None],
    subtracts: bool,
    row: bool = False,
) -> SAEWeights:
    """Weights of a temporal SAE, its attention in `extra`; `names` says what the file calls them.

    Args:
        row: Whether b_dec is stored as one row.
    """
    if not 1 <= activation.n_attn_layers <= len(arrays):
        raise SAEError(
            f"{arrays.path} holds no {activation.n_attn_layers} layers of attention, as its settings say."
        )
    shapes = {names["W_dec"]: "n d", names["b_dec"]: "one d" if row else "d"}
    if "W_enc" in names:
        shapes[names["W_enc"]] = "d n"
    for i in range(activation.n_attn_layers):
        for part, shape in (("q_target", "m n"), ("k_ctx", "m n"), ("v_ctx", "n n"), ("c_proj", "n n")):
            shapes[f"attn_layers.{i}.{part}.weight"] = shape
            shapes[f"attn_layers.{i}.{part}.bias"] = shape[0]
    a = arrays.take(shapes, sizes)
    W_dec, b_dec = a.pop(names["W_dec"]), a.pop(names["b_dec"]).reshape(-1)
    W_enc = a.pop(names["W_enc"]) if "W_enc" in names else W_dec.T
    n = len(W_dec)
    if (
        activation.n_heads < 1
        or n % activation.n_heads
        or a["attn_layers.0.q_target.bias"].size % activation.n_heads
    ):
        raise SAEError(
            f"{arrays.path}: {activation.n_heads} heads do not divide attention over {n} features."
        )
    extra = {name.replace("attn_layers", "attention"): array for name, array in a.items()}
    return SAEWeights(W_enc, np.zeros(n, np.float32), W_dec, b_dec, subtracts, extra)

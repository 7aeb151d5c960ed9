"""The attribution graph of a one-layer Llama in closed form, NumPy float64; only the attention pattern is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from mlxterp import SAE
from mlxterp.variants import JumpReLU, TopK

HEADS, KEYS, EPS = 4, 2, 1e-6
Arrays = dict[str, np.ndarray]


def weights_of(folder: Path) -> Arrays:
    return {name: value.astype(np.float64) for name, value in load_file(folder / "model.safetensors").items()}


def graph(
    weights: Arrays, pattern: np.ndarray, ids: list[int], sae: SAE, tokens: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """(targets, sources) of features, errors and embeddings; and the bias of each target.

    Args:
        pattern: (heads, positions, positions).
        tokens: The outputs that are explained.
    """
    block = {name.removeprefix("model.layers.0."): value for name, value in weights.items()}
    x, n = weights["model.embed_tokens.weight"][ids], len(ids)
    width = x.shape[1]
    through = np.einsum("pq,de->pdqe", np.eye(n), np.eye(width)) + _attention(block, pattern, x)
    middle = np.einsum("pdqe,qe->pd", through, x)
    scale, gain = _scale(middle), block["post_attention_layernorm.weight"]
    read = middle * scale * gain
    active = _features(read, sae)
    out = _mlp(block, read)
    skip = sae.weights.extra.get("W_skip", np.zeros((width, width))).astype(np.float64)
    missed = out - (active @ sae.W_dec.astype(np.float64) + sae.b_dec + read @ skip)
    last_scale, last_gain = _scale(middle + out), weights["model.norm.weight"]
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])

    places = [(p, i) for p in range(n) for i in np.flatnonzero(active[p])]
    found = np.zeros((len(places) + len(tokens), len(places) + 2 * n))
    values = np.zeros(len(found))
    for row, (p, i) in enumerate(places):
        direction = scale[p] * gain * sae.W_enc[:, i].astype(np.float64)
        found[row, len(places) + n :] = np.einsum("d,dqe,qe->q", direction, through[p], x)
        values[row] = active[p, i]
    for number, token in enumerate(tokens):
        row, last = len(places) + number, n - 1
        direction = last_scale[last] * last_gain * (head[token] - head.mean(axis=0))
        for column, (p, i) in enumerate(places):
            if p == last:
                found[row, column] = active[p, i] * (direction @ sae.W_dec[i].astype(np.float64))
        found[row, len(places) + last] = direction @ missed[last]
        passed = direction + (skip @ direction) * scale[last] * gain
        found[row, len(places) + n :] = np.einsum("d,dqe,qe->q", passed, through[last], x)
        values[row] = direction @ (middle + out)[last]
    return found, values - found.sum(axis=1)


def head_loadings(
    weights: Arrays, pattern: np.ndarray, ids: list[int], sae: SAE, feature: tuple[int, int], source: int
) -> np.ndarray:
    """(heads,): what each head carries from a token to a feature.

    Args:
        feature: Its position and id.
        source: The token's position.
    """
    block = {name.removeprefix("model.layers.0."): value for name, value in weights.items()}
    x = weights["model.embed_tokens.weight"][ids]
    middle = x + np.einsum("pdqe,qe->pd", _attention(block, pattern, x), x)
    position, number = feature
    direction = _scale(middle)[position] * block["post_attention_layernorm.weight"]
    direction = direction * sae.W_enc[:, number].astype(np.float64)
    alone = np.eye(len(pattern))[:, :, None, None] * pattern
    return np.array([direction @ _attention(block, one, x)[position, :, source] @ x[source] for one in alone])


def _scale(x: np.ndarray) -> np.ndarray:
    return 1 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + EPS)


def _attention(block: Arrays, pattern: np.ndarray, x: np.ndarray) -> np.ndarray:
    """What attention adds at each position for a change of the stream at each: (positions, width, positions, width)."""
    size = block["self_attn.v_proj.weight"].shape[0] // KEYS
    n, width = x.shape
    found = np.zeros((n, width, n, width))
    normed = _scale(x) * 1.0
    for head in range(HEADS):
        group = head // (HEADS // KEYS)
        values = (
            block["self_attn.v_proj.weight"][group * size : (group + 1) * size]
            * block["input_layernorm.weight"]
        )
        moved = block["self_attn.o_proj.weight"][:, head * size : (head + 1) * size] @ values
        found += np.einsum("pq,q,de->pdqe", pattern[head], normed[:, 0], moved)
    return found


def _features(read: np.ndarray, sae: SAE) -> np.ndarray:
    before = read @ sae.W_enc.astype(np.float64) + sae.b_enc
    active = np.maximum(before, 0)
    if isinstance(sae.activation, JumpReLU):
        assert sae.threshold is not None
        active[before <= sae.threshold] = 0
    if isinstance(sae.activation, TopK):
        for row in active:
            row[np.argsort(-row, kind="stable")[sae.activation.k :]] = 0
    return active


def _mlp(block: Arrays, read: np.ndarray) -> np.ndarray:
    gate, up = read @ block["mlp.gate_proj.weight"].T, read @ block["mlp.up_proj.weight"].T
    return (gate / (1 + np.exp(-gate)) * up) @ block["mlp.down_proj.weight"].T

"""The attribution graph of a one-layer Llama in closed form, NumPy float64; only the attention pattern is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from mlxterp import SAE, CrossLayerTranscoder
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


def layers_graph(
    weights: Arrays, patterns: list[np.ndarray], ids: list[int], clt: CrossLayerTranscoder, tokens: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """(targets, sources) of features, errors and embeddings of a cross-layer transcoder; and each target's bias.

    Every source is sent through the layers by itself, with all scales and patterns as they are in the prompt.

    Args:
        patterns: Of each layer, (heads, positions, positions).
    """
    n, layers = len(ids), range(clt.n_layers)
    blocks = [{k.removeprefix(f"model.layers.{i}."): v for k, v in weights.items()} for i in layers]
    embedded = weights["model.embed_tokens.weight"][ids]
    stream, through, read, scales, outs = embedded, [], [], [], []
    for block, pattern in zip(blocks, patterns, strict=True):
        through.append(
            np.einsum("pq,de->pdqe", np.eye(n), np.eye(stream.shape[1])) + _attention(block, pattern, stream)
        )
        middle = np.einsum("pdqe,qe->pd", through[-1], stream)
        scales.append(_scale(middle) * block["post_attention_layernorm.weight"])
        read.append(middle if clt.reads == "resid_mid" else middle * scales[-1])
        outs.append(_mlp(block, middle * scales[-1]))
        stream = middle + outs[-1]
    active = [_cross_features(x, clt, layer) for layer, x in zip(layers, read, strict=True)]
    places = [(layer, p, i) for layer in layers for p in range(n) for i in np.flatnonzero(active[layer][p])]
    written = np.zeros((len(places) + (clt.n_layers + 1) * n, clt.n_layers, n, stream.shape[1]))
    for row, (layer, p, i) in enumerate(places):
        written[row, layer:, p] = active[layer][p, i] * clt.layers[layer].W_dec.take(np.array([i]))[0]
    for layer in layers:
        missed = outs[layer] - cross_decoded(active, clt, layer, read[layer])
        for p in range(n):
            written[len(places) + layer * n + p, layer, p] = missed[p]
    moving = np.zeros((len(written), n, stream.shape[1]))
    for p in range(n):
        moving[len(places) + clt.n_layers * n + p, p] = embedded[p]
    found = np.zeros((len(places) + len(tokens), len(written)))
    values = np.array([active[layer][p, i] for layer, p, i in places] + [0.0] * len(tokens))
    for layer in layers:
        moving = np.einsum("pdqe,sqe->spd", through[layer], moving)
        seen = moving if clt.reads == "resid_mid" else moving * scales[layer]
        for row, (at, p, i) in enumerate(places):
            if at == layer:
                found[row] = seen[:, p] @ clt.layers[layer].W_enc.take(np.array([i]))[0].astype(np.float64)
        skip = clt.layers[layer].W_skip
        moving = moving + written[:, layer] + (0 if skip is None else seen @ skip.astype(np.float64))
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    last = _scale(stream)[-1] * weights["model.norm.weight"]
    for number, token in enumerate(tokens):
        direction = last * (head[token] - head.mean(axis=0))
        found[len(places) + number] = moving[:, -1] @ direction
        values[len(places) + number] = direction @ stream[-1]
    return found, values - found.sum(axis=1)


def cross_decoded(
    active: list[np.ndarray], clt: CrossLayerTranscoder, layer: int, read: np.ndarray
) -> np.ndarray:
    """What a layer's MLP puts out by the features of all layers up to it."""
    found = clt.layers[layer].b_dec + np.zeros(1)
    for source in range(layer + 1):
        decoder = clt.layers[source].W_dec.take(np.arange(active[source].shape[-1])).astype(np.float64)
        found = found + active[source] @ decoder[:, layer - source]
    skip = clt.layers[layer].W_skip
    return found if skip is None else found + read @ skip.astype(np.float64)


def _cross_features(x: np.ndarray, clt: CrossLayerTranscoder, layer: int) -> np.ndarray:
    one = clt.layers[layer]
    before = x @ one.W_enc.take(np.arange(one.d_hidden)).T.astype(np.float64) + one.b_enc
    return np.where(before > (0 if one.threshold is None else one.threshold), before, 0)


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

"""What heads write of what they read, through their own values and output projection (the OV circuit).

No weight matrix is looked up: each head is made to read every token itself, the others of the layer write nothing, and
what is added to the stream goes through the final norm and head. So it holds for grouped heads, biases and post-norms.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..core.sites import Array, Run, Where
from .random_tokens import captured

_LOGITS = 1 << 24
"""Logits held at once."""


def copying(
    anatomy: Anatomy, ids: np.ndarray, skip: int, layers: Sequence[int], heads: dict[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """How much each head writes the token that it reads, and how much it writes another one (the control).

    A token's logit around the mean, over the mean absolute one: 0 for a head that writes something else, positive where
    it copies. The other token is the next one of `ids`.

    Args:
        ids: (tokens,): one sequence.
        skip: Tokens at its beginning that do not count.
        heads: Heads of each layer.

    Returns:
        float64, (tokens − skip, heads of all layers), twice.
    """
    own, other = [], []
    for layer in layers:
        for out in _written(anatomy, ids, layer, heads[layer]):
            pair = _shares(anatomy, out[skip:], ids[skip:])
            own.append(pair[0])
            other.append(pair[1])
    return np.stack(own, axis=1), np.stack(other, axis=1)


def _written(anatomy: Anatomy, ids: np.ndarray, layer: int, heads: int) -> list[Array]:
    """What each head adds to the stream, (tokens, d_model), where it reads each token itself."""
    model, backend = anatomy.model, anatomy.model.backend
    (v,) = captured(model, ids[None], [anatomy.component(f"layers.{layer}.attn.v")])
    values = np.repeat(backend.get(v).astype(np.float32), heads // int(v.shape[1]), axis=1)
    rows = np.zeros((heads + 1, *values.shape[1:]), dtype=np.float32)  # the last row: nobody writes
    for head in range(heads):
        rows[head, head] = values[0, head]

    def change(x: Array, _where: Where, _run: Run) -> Array:
        return backend.put(rows, x)

    z = anatomy.component(f"layers.{layer}.attn.z")
    repeated = np.tile(ids, (heads + 1, 1))
    out = anatomy.component(f"layers.{layer}.attn_out")
    (added,) = captured(model, repeated, [out], edits=z.edits(change, None))
    return [added[head] - added[heads] for head in range(heads)]


def _shares(anatomy: Anatomy, out: Array, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(tokens,): logits of each token, and of the next one, around the mean and over the mean absolute one."""
    model, found = anatomy.model, []
    step = max(1, _LOGITS // model.vocab_size)
    for start in range(0, len(ids), step):
        logits = model.backend.get(model.decode_stream(out[start : start + step])).astype(np.float32)
        logits -= logits.mean(axis=1, keepdims=True)
        size = np.abs(logits).mean(axis=1)
        rows = np.arange(len(logits))
        pair = [logits[rows, np.roll(ids, -by)[start : start + len(logits)]] for by in (0, 1)]
        found.append(np.stack(pair) / np.where(size > 0, size, 1))
    return tuple(np.concatenate(found, axis=1).astype(np.float64))  # type: ignore[return-value]

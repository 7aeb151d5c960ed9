"""A GPT-2 of two layers whose weights are written by hand: L0H0 reads the token before, L1H1 is an induction head.

The stream has three parts of 64: which token it is, which position, and which token came before. Its norms are set so
that they change nothing, MLPs are 0, and every other head reads all tokens alike and writes nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlxterp import InterpretableModel
from tests.small import checkpoint

PART = 64
WIDTH = 3 * PART
TOKEN, POSITION, BEFORE = (slice(i * PART, (i + 1) * PART) for i in range(3))
SHARP = 112.0
"""A match scores 112 / √64 = 14 above the rest."""


def written(folder: Path) -> Path:
    """Writes the model in hub layout; returns the folder."""
    shape = {"n_embd": WIDTH, "n_layer": 2, "n_head": 3, "n_inner": 4 * WIDTH}
    checkpoint("gpt2", folder, vocab_size=PART, n_positions=PART, n_ctx=PART, **shape)
    from safetensors.numpy import load_file, save_file

    found = {name: np.zeros_like(x) for name, x in load_file(folder / "model.safetensors").items()}
    one = np.eye(PART, dtype=np.float32)
    found["wte.weight"][:, TOKEN] = one
    found["wpe.weight"][:, POSITION] = one
    for layer, ones in ((0, 2), (1, 3)):  # of so many numbers in the stream that are 1
        mean = ones / WIDTH
        found[f"h.{layer}.ln_1.weight"][:] = np.sqrt(mean - mean**2)
        found[f"h.{layer}.ln_1.bias"][:] = mean
    first, second = (found[f"h.{layer}.attn.c_attn.weight"] for layer in (0, 1))
    q, k, v = (slice(i * WIDTH, (i + 1) * WIDTH) for i in range(3))
    first[:, q][POSITION, TOKEN] = SHARP * np.eye(PART, k=-1)  # position p asks for p − 1; head 0
    first[:, k][POSITION, TOKEN] = one
    first[:, v][TOKEN, TOKEN] = one
    found["h.0.attn.c_proj.weight"][TOKEN, BEFORE] = one
    second[:, q][TOKEN, POSITION] = SHARP * one  # a token asks for what it came before; head 1
    second[:, k][BEFORE, POSITION] = one
    second[:, v][TOKEN, POSITION] = one
    found["h.1.attn.c_proj.weight"][POSITION, TOKEN] = 4 * one
    found["ln_f.weight"][:] = 4.0
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def opened(folder: Path, backend: str) -> InterpretableModel:
    return InterpretableModel(folder, backend=backend)

"""circuit-tracer's graph of a cross-layer transcoder and its interventions, which our tests compare with.

In an environment of its own:

    pip install torch==2.13.0 && pip install circuit-tracer==0.5.0
    PYTHON benchmarks/cross_layer_peers.py ../shared/data/models/tinystories_instruct_3m_gpt2 \\
        tests/circuits/cross_layer.npz

The transcoder is random, with thresholds at which about a tenth of a feature's tokens are active. One thread.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import one_thread  # noqa: F401  isort: skip  (before all that computes)
import numpy as np
import torch
from graph_peers import without_transcoders
from safetensors.numpy import save_file

PROMPT = "Lily lost her red ball. She was very"
FEATURES, ACTIVE = 16, 0.1
MODES: dict[str, dict[str, Any]] = {
    "all": {"constrained_layers": range(8)}, "attention": {"freeze_attention": True},
    "nothing": {"freeze_attention": False},
}  # fmt: skip


def main(folder: str, path: str) -> None:
    """Writes the fixture."""
    from circuit_tracer import attribute  # type: ignore[import-not-found]
    from circuit_tracer.transcoder.cross_layer_transcoder import load_clt  # type: ignore[import-not-found]

    model = without_transcoders(folder)
    ids = model.ensure_tokenized(PROMPT)
    weights = transcoder(model, ids)
    with tempfile.TemporaryDirectory() as place:
        for name in {key.rpartition("_")[2] for key in weights}:
            own = {
                key: value.astype(np.float32) for key, value in weights.items() if key.endswith(f"_{name}")
            }
            decoder = {key: own.pop(key) for key in list(own) if key.startswith("W_dec")}
            save_file(own, Path(place) / f"W_enc_{name}.safetensors")
            save_file(decoder, Path(place) / f"W_dec_{name}.safetensors")
        clt = load_clt(place, device=torch.device("cpu"), dtype=torch.float32, lazy_decoder=False)
    model._configure_replacement_model(clt)
    graph = attribute(ids, model, max_n_logits=10, desired_logit_prob=0.95, batch_size=64)
    active, values = graph.active_features.numpy(), graph.activation_values.numpy()
    n, outputs = len(active), len(graph.logit_targets)
    matrix = graph.adjacency_matrix.numpy()
    rows = [*range(n), *range(len(matrix) - outputs, len(matrix))]
    asked = interventions(active, values, len(ids))
    found = {
        "ids": ids.numpy(), "active": active, "activations": values, "matrix": matrix[rows, :-outputs],
        "interventions": np.array(asked), **weights,
    }  # fmt: skip
    for name, options in MODES.items():
        logits, activations = model.feature_intervention(ids, asked, **options)
        found[f"logits_{name}"] = logits.squeeze(0)[-1].numpy()
        found[f"activations_{name}"] = activations.numpy()
    np.savez_compressed(path, **found)


def transcoder(model: Any, ids: torch.Tensor) -> dict[str, np.ndarray]:
    """float16: arrays by their names in circuit-tracer's files."""
    draw, layers, width = np.random.default_rng(3), model.cfg.n_layers, model.cfg.d_model
    _, seen = model.run_with_cache(ids, names_filter=lambda name: name.endswith("hook_resid_mid"))
    found: dict[str, np.ndarray] = {}
    for layer in range(layers):
        x = seen[f"blocks.{layer}.hook_resid_mid"][0].numpy()
        encoder = draw.normal(size=(FEATURES, width)) / np.sqrt(width)
        before = x[1:] @ encoder.T
        found |= {
            f"W_enc_{layer}": encoder, f"b_enc_{layer}": -np.quantile(before, 1 - ACTIVE, axis=0),
            f"threshold_{layer}": np.abs(draw.normal(size=FEATURES)) * before.std() / 20,
            f"W_dec_{layer}": draw.normal(size=(FEATURES, layers - layer, width)) / np.sqrt(width) / 3,
            f"b_dec_{layer}": draw.normal(size=width) / 20,
        }  # fmt: skip
    return {name: value.astype(np.float16) for name, value in found.items()}


def interventions(active: np.ndarray, values: np.ndarray, tokens: int) -> list[tuple[int, int, int, float]]:
    """An active feature of layer 0 three times as large, one of layer 3 taken away, and one of layer 5 brought up."""
    chosen = []
    for layer, factor in ((0, 3.0), (3, 0.0)):
        number = next(i for i, (at, position, _) in enumerate(active) if at == layer and position > 2)
        chosen.append((*map(int, active[number]), float(values[number]) * factor))
    return [*chosen, (5, tokens - 1, 7, 4.0)]


if __name__ == "__main__":
    main(*sys.argv[1:])

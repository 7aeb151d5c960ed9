"""Whether the embedded model can be asked about its SAE's features: each feature's own word, beside controls.

    python benchmarks/patchscope_demo.py

A feature that fires mostly on one word is put in the place of X in "One day, Lily saw a X. The", before layers 1 and 2,
at six lengths. What is measured is how much the log-probability of its word rises at the best of them, beside a
covariance-matched random direction and the next feature's direction. The table is printed as it is.
"""

from __future__ import annotations

from typing import Any

import one_thread  # noqa: F401  isort: skip  (before all that computes)
import mlxterp  # isort: skip  (first: it brings MLX an optimised BLAS)

import numpy as np
from common import report

from mlxterp.core.controls import bootstrap
from mlxterp.core.numeric import log_softmax
from mlxterp.geometry import random_like

PROMPT, LAYERS, SCALES = "One day, Lily saw a X. The", (1, 2), (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
LEAST, SHARE, FEATURES, STORIES = 12, 0.6, 50, 150


def words(model: Any, index: Any) -> list[tuple[int, int]]:
    """(feature, token) of features that fire mostly on one word, some of them drawn."""
    found = []
    for feature in index.live:
        stats = index.stats(int(feature))
        if stats.count < LEAST or not stats.top_tokens:
            continue
        word, times = stats.top_tokens[0]
        ids = model.tokenize(f"a{word}")[-1:]
        if times > SHARE * stats.count and word.strip().isalpha() and len(word.strip()) > 2:
            found.append((int(feature), int(ids[0])))
    chosen = np.random.default_rng(0).permutation(len(found))[:FEATURES]
    return [found[i] for i in chosen]


def logp(model: Any, layer: int, vectors: np.ndarray) -> np.ndarray:
    """float64, (rows, vocabulary): of the token after the prompt, with each vector in the place of X."""
    backend = model.language_model.backend
    place = [i for i, piece in enumerate(model.to_str_tokens(PROMPT)) if piece.strip() == "X"]

    def placed(x: Any) -> Any:
        x[:, place] = backend.put(vectors.astype(np.float32)[:, None], x)
        return x

    change = {f"layers.{layer}.resid_pre": placed}
    out = model.trace([PROMPT] * len(vectors), change, capture=[]).last_logits
    return log_softmax(np.asarray(backend.get(out)))


def rises(model: Any, layer: int, rows: np.ndarray, tokens: list[int], length: float) -> np.ndarray:
    """float64, (features,): how much each one's word gains at its best length."""
    backend = model.language_model.backend
    before = log_softmax(np.asarray(backend.get(model(PROMPT)))[0, -1:])[0]
    found = []
    for row, token in zip(rows, tokens, strict=True):
        unit = row / np.linalg.norm(row)
        found.append(logp(model, layer, np.outer(SCALES, unit) * length)[:, token].max() - before[token])
    return np.array(found)


def shown(values: np.ndarray) -> str:
    """A median with its 95 % interval over features."""
    low, high = bootstrap(values, lambda rows: float(np.median(rows)))
    return f"{np.median(values):.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    """Measures and reports."""
    model, sae, texts = mlxterp.load_demo()
    stories = [text for text in texts if len(model.tokenize(text)) <= 256][:STORIES]
    chosen = words(model, model.build_index(sae, stories, verbose=False))
    features, tokens = [f for f, _ in chosen], [t for _, t in chosen]
    decoder = np.asarray(sae.W_dec)
    rows: dict[str, Any] = {"features that fire mostly on one word": len(chosen)}
    for layer in LAYERS:
        length = model.patchscope(
            decoder[0], PROMPT, layer=layer, scales=[1.0], max_tokens=1, control=False, verbose=False
        ).unit
        own = rises(model, layer, decoder[features], tokens, length)
        other = rises(model, layer, decoder[[*features[1:], features[0]]], tokens, length)
        random = rises(model, layer, random_like(decoder, "covariance", 0)[: len(chosen)], tokens, length)
        rows[f"layer {layer}, rise of the word's log p (nats, median): its feature"] = shown(own)
        rows[f"layer {layer}, the same: another feature"] = shown(other)
        rows[f"layer {layer}, the same: a random direction"] = shown(random)
        low, high = bootstrap((own > other).astype(float))
        rows[f"layer {layer}, share where the feature beats the other"] = (
            f"{(own > other).mean():.2f} [{low:.2f}, {high:.2f}]"
        )
    notes = ["intervals: 95 %, bootstrap over features; each direction at the best of its own lengths"]
    report("patchscope_demo", rows, notes)


if __name__ == "__main__":
    main()

"""Attention patterns computed with NumPy from queries and keys; small models, some with windows within the text."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlxterp import InterpretableModel
from tests.architectures import build

TOKENS = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26, 43]
SETTINGS: dict[str, dict[str, Any]] = {
    "gemma2": {"sliding_window": 6},
    "gemma3_text": {"sliding_window": 6},
    "gpt_oss": {"sliding_window": 6},
    "cohere2": {"sliding_window": 6},
    "exaone4": {"sliding_window": 6},
}
ARCHITECTURES = (
    "llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "phi3", "mixtral", "olmo2",
    "gpt_oss", "smollm3", "cohere2", "exaone4", "glm4", "starcoder2", "stablelm",
)  # fmt: skip
GLOBAL = {"gemma3_text": (2, 5), "cohere2": (3,), "exaone4": (3,), "gpt_oss": (1, 3)}
"""Layers that see the whole text, of models whose others have a window."""


def opened(model_type: str) -> InterpretableModel:
    return InterpretableModel(build(model_type, **SETTINGS.get(model_type, {})))


def window_of(model_type: str, layer: int) -> int | None:
    sliding = model_type in GLOBAL and layer not in GLOBAL[model_type]
    return 6 if sliding else None


def pattern(
    q: np.ndarray, k: np.ndarray, scale: float, window: int | None = None, cap: float | None = None,
    sinks: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """softmax(q kᵀ · scale + mask) in float64, (texts, heads, tokens, tokens)."""
    k = np.repeat(k, q.shape[1] // k.shape[1], axis=1).astype(np.float64)
    scores = np.einsum("bhqd,bhkd->bhqk", q.astype(np.float64), k) * scale
    if cap is not None:
        scores = np.tanh(scores / cap) * cap
    apart = np.arange(q.shape[2])[:, None] - np.arange(k.shape[2])
    seen = (apart >= 0) & (apart < (window or len(apart)))
    scores = np.where(seen, scores, -np.inf)
    if sinks is not None:
        column = np.broadcast_to(sinks.reshape(1, -1, 1, 1), (*scores.shape[:3], 1))
        scores = np.concatenate([scores, column], axis=-1)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights[..., : k.shape[2]]


def attribute(model: InterpretableModel, layer: int, name: str) -> Any:
    """What a module of the block's attention keeps under a name; None where none does."""
    lm: Any = model.language_model
    block = lm.tree.by_path[lm.layers[layer]].module
    other = ("mlp", "norm", "rope")  # which have scales of their own
    modules = [m for path, m in block.named_modules() if not any(word in path for word in other)]
    found = (getattr(m, name, None) for m in modules)
    return next((x for x in found if x is not None and not callable(x)), None)

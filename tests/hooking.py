"""What the tests of hooks ask of a model by other means."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlxterp import InterpretableModel

TEXTS = ["Once upon a time there was a dog.", "Lily had a red ball", "The end."]
PROMPT = "Once upon a time there was a little"
PLACES = [
    "layers.1.mlp",
    "layers.1.mlp.input",
    "layers.2.resid_post",
    "layers.1.attn_out",
    "layers.1.attn.z",
    "logits",
]


def numbers(model: InterpretableModel, x: Any) -> np.ndarray:
    return model.language_model.backend.get(x)


def logits(model: InterpretableModel, inputs: Any = TEXTS) -> list[np.ndarray]:
    """Of each text, without padding."""
    found = numbers(model, model(inputs))
    lengths = [len(model.tokenize(text)) for text in ([inputs] if isinstance(inputs, str) else inputs)]
    return [row[:n] for row, n in zip(found, lengths, strict=True)]


def without_tokenizer(model: InterpretableModel) -> InterpretableModel:
    return InterpretableModel(model.language_model.model)  # pyright: ignore[reportAttributeAccessIssue]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def read(model: InterpretableModel, text: str, path: str) -> np.ndarray:
    """(positions, width) of one text, by a trace."""
    with model.trace(text) as t:
        pass
    x = numbers(model, t.activations[path])[0]
    return (x.swapaxes(0, 1) if path.endswith(".z") else x).reshape(len(model.tokenize(text)), -1)

"""Some sentences of a story teller, and what the tests of concepts ask of a model by other means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests import oracle

SIGNATURE = "layers.1"
TEXTS = [
    "Lily lost her red ball in the park and she was very sad.",
    "Tom saw a big dog. The dog was kind and wanted to play.",
    "Once upon a time there was a little girl who loved to read books.",
    "The sun was hot, so Ben and his mom went to swim in the lake.",
    "Mia made a cake with her dad. It was sweet, and everyone liked it.",
    "The bird sat on the tree and sang a song all day.",
    "One day a boy found a shiny key under his bed.",
    "The cat did not like the rain, so it hid in the house.",
    "Anna shared her toys with Sam. They became best friends.",
    "A frog jumped into the pond with a loud splash!",
    "Max was scared of the dark until he got a night light.",
    "The teacher told the class a funny story about a bear.",
]


def brute_force(
    model: Any, sae: Any, texts: Sequence[str], component: str = "layers.1.resid_post"
) -> dict[int, list[tuple[str, float]]]:
    """Every feature's texts, the strongest first: each text is run by itself."""
    rows = [model.tokenize(text) for text in texts]
    streams = [model.language_model.backend.get(model.trace(text).activations[component]) for text in texts]
    dense = oracle.share_prefixes([sae.encode(stream[0]) for stream in streams], rows)
    strongest = np.array([features.max(axis=0) for features in dense])  # (texts, features)
    order = np.argsort(-strongest, axis=0, kind="stable")
    return {
        f: [(texts[int(i)], float(strongest[i, f])) for i in order[:, f] if strongest[i, f] > 0]
        for f in np.flatnonzero(strongest.any(axis=0)).tolist()
    }


def logits(model, text: str = TEXTS[0]) -> np.ndarray:
    return model.language_model.backend.get(model(text))


def feature_on(model, sae, text: str = TEXTS[0]) -> int:
    """One that is active in the middle of a text."""
    return model.get_top_features_for_text(text, sae, 1, "resid_post", top_k=6)[4][0]


def residual(model) -> Any:
    """What the first text has in the residual stream after layer 1."""
    with model.trace(TEXTS[0]) as t:
        pass
    return t.activations["layers.1.resid_post"]

"""Tiny models and SAEs for the tests of `mlxterp.compat.saelens`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from mlxterp import SAE as OwnSAE
from mlxterp import ConfigWarning, InterpretableModel
from mlxterp.compat.saelens import HookedSAETransformer, get_act_name
from mlxterp.variants import InputForm, JumpReLU, TopK
from mlxterp.weights import SAEWeights
from tests.tiny import WORDS, WordTokenizer

IDS = [[3, 14, 15, 92, 65, 35, 89, 79, 32, 38]]
BOS = 50


class BosTokenizer(WordTokenizer):
    """Words, and a BOS token that is not added."""

    bos_token_id = BOS
    eos_token_id = None

    def decode(self, ids: Any) -> str:
        return " ".join("<bos>" if i == BOS else WORDS[i] if i < len(WORDS) else "?" for i in ids)


def opened(folder: Path, backend: str, tokenizer: Any = None) -> HookedSAETransformer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)
        return HookedSAETransformer(InterpretableModel(folder, tokenizer or BosTokenizer(), backend))


def numpy(model: HookedSAETransformer, x: Any) -> np.ndarray:
    return np.asarray(model.interpretable.language_model.backend.get(x))


def random_sae(
    component: str | None = "layers.1.resid_pre", activation: Any = None, d_in: int = 64, d_out: int = 64,
    form: InputForm | None = None, seed: int = 0, **metadata: Any,
) -> OwnSAE:  # fmt: skip
    rng = np.random.default_rng(seed)
    shapes = ((d_in, 96), (96,), (96, d_out), (d_out,))
    arrays = [rng.standard_normal(shape).astype(np.float32) * 0.3 for shape in shapes]
    extra = {"threshold": np.full(96, 0.2, np.float32)} if isinstance(activation, JumpReLU) else {}
    weights = SAEWeights(
        *arrays, subtract_b_dec=d_in == d_out and "component_out" not in metadata, extra=extra
    )
    return OwnSAE(
        weights, activation or TopK(9), {"component": component, **metadata} if component else {}, form=form
    )


def at(layer: int, name: str) -> str:
    return get_act_name(name, layer)

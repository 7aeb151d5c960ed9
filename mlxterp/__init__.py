"""Interpretability of language models on your own machine.

import mlxterp
model = mlxterp.InterpretableModel("mlx-community/Llama-3.2-1B-Instruct-4bit")
with model.trace("Paris is the capital of") as t:
    model.layers[5].mlp.output[:, -1] *= 2
t.output
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from .blas import preload_blas

preload_blas()  # before anything imports mlx

if TYPE_CHECKING:
    from . import interventions, steering
    from .attaching import AttachedSAE
    from .backends import available_backends, get_backend
    from .concepts import Concepts
    from .dataset import HuggingFaceDataset
    from .demo import load_demo
    from .errors import (
        BackendError,
        ComponentError,
        ConfigWarning,
        EditError,
        FeatureIndexError,
        GradientError,
        InputError,
        MlxterpError,
        MlxterpWarning,
        NeverCalledError,
        NotALanguageModelError,
        NotFiniteError,
        NoTokenizerError,
        SAEError,
        TraceError,
        UnknownFeatureError,
        WriteError,
    )
    from .features.check import SAECheck
    from .features.collecting import collect_activations
    from .features.evaluation import SAEEvaluation
    from .hooks import Controller, Detector
    from .index import FeatureExample, FeatureIndex, FeatureStats
    from .lens import FeatureLogits, RandomDirections
    from .local_store import LocalStore
    from .model import InterpretableModel
    from .objectives import logit_difference
    from .patching import PatchingResult
    from .registry import FeatureRegistry
    from .sae import SAE
    from .sae.pretrained import PretrainedSAE, pretrained_saes
    from .sae.sae import BatchTopKSAE, TopKSAE
    from .sparse import SparseFeatures
    from .store import ActivationStore
    from .stream_lens import LogitLens
    from .trace import Trace
    from .training import SAETrainConfig, train_sae
    from .viz import FeatureCard, FeatureReport, TokenView

__version__ = "0.1.0"

_HOMES = {
    "attaching": ("AttachedSAE",),
    "backends": ("available_backends", "get_backend"),
    "concepts": ("Concepts",),
    "dataset": ("HuggingFaceDataset",),
    "demo": ("load_demo",),
    "errors": (
        "BackendError",
        "ComponentError",
        "ConfigWarning",
        "EditError",
        "FeatureIndexError",
        "GradientError",
        "InputError",
        "MlxterpError",
        "MlxterpWarning",
        "NeverCalledError",
        "NotALanguageModelError",
        "NotFiniteError",
        "NoTokenizerError",
        "SAEError",
        "TraceError",
        "UnknownFeatureError",
        "WriteError",
    ),
    "features.check": ("SAECheck",),
    "features.collecting": ("collect_activations",),
    "features.evaluation": ("SAEEvaluation",),
    "hooks": ("Controller", "Detector"),
    "index": ("FeatureExample", "FeatureIndex", "FeatureStats"),
    "lens": ("FeatureLogits", "RandomDirections"),
    "local_store": ("LocalStore",),
    "model": ("InterpretableModel",),
    "objectives": ("logit_difference",),
    "patching": ("PatchingResult",),
    "registry": ("FeatureRegistry",),
    "sae": ("SAE",),
    "sae.pretrained": ("PretrainedSAE", "pretrained_saes"),
    "sae.sae": ("BatchTopKSAE", "TopKSAE"),
    "sparse": ("SparseFeatures",),
    "store": ("ActivationStore",),
    "stream_lens": ("LogitLens",),
    "trace": ("Trace",),
    "training": ("SAETrainConfig", "train_sae"),
    "viz": ("FeatureCard", "FeatureReport", "TokenView"),
}
"""Where public names live. They are looked up when first used: importing the package loads next to nothing."""


def __getattr__(name: str) -> Any:
    home = next((module for module, names in _HOMES.items() if name in names), None)
    if home is not None:
        value = globals()[name] = getattr(importlib.import_module(f".{home}", __name__), name)
        return value
    if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}") is not None:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)


__all__ = [
    "SAE",
    "ActivationStore",
    "AttachedSAE",
    "BackendError",
    "BatchTopKSAE",
    "ComponentError",
    "Concepts",
    "ConfigWarning",
    "Controller",
    "Detector",
    "EditError",
    "FeatureCard",
    "FeatureExample",
    "FeatureIndex",
    "FeatureIndexError",
    "FeatureLogits",
    "FeatureRegistry",
    "FeatureReport",
    "FeatureStats",
    "GradientError",
    "HuggingFaceDataset",
    "InputError",
    "InterpretableModel",
    "LocalStore",
    "LogitLens",
    "MlxterpError",
    "MlxterpWarning",
    "NeverCalledError",
    "NoTokenizerError",
    "NotALanguageModelError",
    "NotFiniteError",
    "PatchingResult",
    "PretrainedSAE",
    "RandomDirections",
    "SAECheck",
    "SAEError",
    "SAEEvaluation",
    "SAETrainConfig",
    "SparseFeatures",
    "TokenView",
    "TopKSAE",
    "Trace",
    "TraceError",
    "UnknownFeatureError",
    "WriteError",
    "available_backends",
    "collect_activations",
    "get_backend",
    "interventions",
    "load_demo",
    "logit_difference",
    "pretrained_saes",
    "steering",
    "train_sae",
]

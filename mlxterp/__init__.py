"""Interpretability of language models on your own machine.

Examples in docstrings go on from these lines; they run offline, on the model that comes with the package:

    >>> import mlxterp
    >>> model, sae, stories = mlxterp.load_demo()  # or InterpretableModel("hub/repo") and model.load_sae(…)
    >>> texts = [story for story in stories if len(model.tokenize(story)) <= 256][:40]
    >>> index = model.build_index(sae, texts, verbose=False)
    >>> ball = index.search("ball")[0].feature_id  # a feature that fires on the word
    >>> model.generate("Lily lost her red", max_tokens=1)
    'ball'
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from .core.blas import preload_blas

preload_blas()  # before anything imports mlx

if TYPE_CHECKING:
    __version__: str
    from . import interventions, steering
    from .activations.collect import collect_activations
    from .activations.local_store import LocalStore
    from .activations.store import ActivationStore
    from .backends import available_backends, get_backend
    from .concepts import Concepts, Explanation
    from .concepts.registry import FeatureRegistry
    from .core.sparse import SparseFeatures
    from .data.dataset import HuggingFaceDataset
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
    from .evaluation.check import SAECheck
    from .evaluation.evaluation import SAEEvaluation
    from .hooks import Controller, Detector
    from .hooks.attached_sae import AttachedSAE
    from .index import FeatureExample, FeatureIndex, FeatureStats
    from .lens.feature_logits import FeatureLogits, RandomDirections
    from .lens.logit_lens import LogitLens
    from .model.interpretable import InterpretableModel
    from .patching import PatchingResult
    from .sae import SAE, SAECollection
    from .sae.pretrained import PretrainedSAE, pretrained_saes
    from .sae.sae import BatchTopKSAE, TopKSAE
    from .tracing.objectives import logit_difference
    from .tracing.trace import Trace
    from .training import SAETrainConfig, train_sae
    from .viz import FeatureCard, FeatureReport, TokenView

_HOMES = {
    "hooks.attached_sae": ("AttachedSAE",),
    "backends": ("available_backends", "get_backend"),
    "concepts": ("Concepts", "Explanation"),
    "data.dataset": ("HuggingFaceDataset",),
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
    "evaluation.check": ("SAECheck",),
    "activations.collect": ("collect_activations",),
    "evaluation.evaluation": ("SAEEvaluation",),
    "hooks": ("Controller", "Detector"),
    "index": ("FeatureExample", "FeatureIndex", "FeatureStats"),
    "lens": ("FeatureLogits", "RandomDirections"),
    "activations.local_store": ("LocalStore",),
    "model": ("InterpretableModel",),
    "tracing.objectives": ("logit_difference",),
    "patching": ("PatchingResult",),
    "concepts.registry": ("FeatureRegistry",),
    "sae": ("SAE", "SAECollection"),
    "sae.pretrained": ("PretrainedSAE", "pretrained_saes"),
    "sae.sae": ("BatchTopKSAE", "TopKSAE"),
    "core.sparse": ("SparseFeatures",),
    "activations.store": ("ActivationStore",),
    "lens.logit_lens": ("LogitLens",),
    "tracing.trace": ("Trace",),
    "training": ("SAETrainConfig", "train_sae"),
    "viz": ("FeatureCard", "FeatureReport", "TokenView"),
}
"""Where public names live. They are looked up when first used: importing the package loads next to nothing."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value = globals()[name] = importlib.import_module(".core.version", __name__).version()
        return value
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
    "Explanation",
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
    "SAECollection",
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

"""Interpretability of language models on your own machine.

import mlxterp
model = mlxterp.InterpretableModel("mlx-community/Llama-3.2-1B-Instruct-4bit")
with model.trace("Paris is the capital of") as t:
    model.layers[5].mlp.output[:, -1] *= 2
t.output
"""

from .blas import preload_blas

preload_blas()  # before anything imports mlx

from . import interventions, steering  # noqa: E402
from .attaching import AttachedSAE  # noqa: E402
from .backends import available_backends, get_backend  # noqa: E402
from .concepts import Concepts  # noqa: E402
from .dataset import HuggingFaceDataset  # noqa: E402
from .demo import load_demo  # noqa: E402
from .errors import (  # noqa: E402
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
    NoTokenizerError,
    SAEError,
    TraceError,
    UnknownFeatureError,
)
from .features.check import SAECheck  # noqa: E402
from .features.collecting import collect_activations  # noqa: E402
from .features.evaluation import SAEEvaluation  # noqa: E402
from .index import FeatureExample, FeatureIndex, FeatureStats  # noqa: E402
from .lens import FeatureLogits, RandomDirections  # noqa: E402
from .local_store import LocalStore  # noqa: E402
from .model import InterpretableModel  # noqa: E402
from .objectives import logit_difference  # noqa: E402
from .patching import PatchingResult  # noqa: E402
from .registry import FeatureRegistry  # noqa: E402
from .sae import SAE  # noqa: E402
from .sae.pretrained import PretrainedSAE, pretrained_saes  # noqa: E402
from .sae.sae import BatchTopKSAE, TopKSAE  # noqa: E402
from .sparse import SparseFeatures  # noqa: E402
from .store import ActivationStore  # noqa: E402
from .stream_lens import LogitLens  # noqa: E402
from .trace import Trace  # noqa: E402
from .training import SAETrainConfig, train_sae  # noqa: E402
from .viz import FeatureCard, FeatureReport, TokenView  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "SAE",
    "ActivationStore",
    "AttachedSAE",
    "BackendError",
    "BatchTopKSAE",
    "ComponentError",
    "Concepts",
    "ConfigWarning",
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

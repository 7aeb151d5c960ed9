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
    from . import interventions as interventions
    from . import steering as steering
    from .activations.at_positions import batch_get_activations as batch_get_activations
    from .activations.at_positions import get_activations as get_activations
    from .activations.collect import collect_activations as collect_activations
    from .activations.local_store import LocalStore as LocalStore
    from .activations.store import ActivationStore as ActivationStore
    from .backends import available_backends as available_backends
    from .backends import get_backend as get_backend
    from .circuits import AttributionGraph as AttributionGraph
    from .concepts import Concepts as Concepts
    from .concepts import Explanation as Explanation
    from .concepts.registry import FeatureRegistry as FeatureRegistry
    from .core.sparse import SparseFeatures as SparseFeatures
    from .data.dataset import HuggingFaceDataset as HuggingFaceDataset
    from .demo import load_demo as load_demo
    from .errors import BackendError as BackendError
    from .errors import CircuitError as CircuitError
    from .errors import ComponentError as ComponentError
    from .errors import ConfigWarning as ConfigWarning
    from .errors import EditError as EditError
    from .errors import FeatureIndexError as FeatureIndexError
    from .errors import GradientError as GradientError
    from .errors import InputError as InputError
    from .errors import MlxterpError as MlxterpError
    from .errors import MlxterpWarning as MlxterpWarning
    from .errors import NeverCalledError as NeverCalledError
    from .errors import NotALanguageModelError as NotALanguageModelError
    from .errors import NotFiniteError as NotFiniteError
    from .errors import NoTokenizerError as NoTokenizerError
    from .errors import SAEError as SAEError
    from .errors import TraceError as TraceError
    from .errors import UnknownFeatureError as UnknownFeatureError
    from .errors import WriteError as WriteError
    from .evaluation.check import SAECheck as SAECheck
    from .evaluation.evaluation import SAEEvaluation as SAEEvaluation
    from .geometry.families import load_family as load_family
    from .hooks import Controller as Controller
    from .hooks import Detector as Detector
    from .hooks.attached_sae import AttachedSAE as AttachedSAE
    from .index import FeatureExample as FeatureExample
    from .index import FeatureIndex as FeatureIndex
    from .index import FeatureStats as FeatureStats
    from .index import FeatureTable as FeatureTable
    from .lens.feature_logits import FeatureLogits as FeatureLogits
    from .lens.feature_logits import RandomDirections as RandomDirections
    from .lens.jacobian_lens import JacobianLens as JacobianLens
    from .lens.logit_lens import LogitLens as LogitLens
    from .lens.tuned_lens import TunedLens as TunedLens
    from .model.interpretable import InterpretableModel as InterpretableModel
    from .neuronpedia.dashboard import display_dashboard as display_dashboard
    from .patching import PatchingResult as PatchingResult
    from .patchscopes import Patchscope as Patchscope
    from .sae import SAE as SAE
    from .sae import SAECollection as SAECollection
    from .sae.pretrained import PretrainedSAE as PretrainedSAE
    from .sae.pretrained import pretrained_saes as pretrained_saes
    from .sae.sae import BatchTopKSAE as BatchTopKSAE
    from .sae.sae import TopKSAE as TopKSAE
    from .tracing.objectives import logit_difference as logit_difference
    from .tracing.trace import Trace as Trace
    from .training import SAETrainConfig as SAETrainConfig
    from .training import train_sae as train_sae
    from .viz import FeatureCard as FeatureCard
    from .viz import FeatureReport as FeatureReport
    from .viz import TokenView as TokenView

_HOMES = {
    "hooks.attached_sae": ("AttachedSAE",),
    "backends": ("available_backends", "get_backend"),
    "concepts": ("Concepts", "Explanation"),
    "data.dataset": ("HuggingFaceDataset",),
    "demo": ("load_demo",),
    "errors": (
        "BackendError",
        "CircuitError",
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
    "activations.at_positions": ("batch_get_activations", "get_activations"),
    "activations.collect": ("collect_activations",),
    "evaluation.evaluation": ("SAEEvaluation",),
    "circuits": ("AttributionGraph",),
    "geometry.families": ("load_family",),
    "hooks": ("Controller", "Detector"),
    "index": ("FeatureExample", "FeatureIndex", "FeatureStats", "FeatureTable"),
    "lens": ("FeatureLogits", "RandomDirections"),
    "activations.local_store": ("LocalStore",),
    "model": ("InterpretableModel",),
    "tracing.objectives": ("logit_difference",),
    "patching": ("PatchingResult",),
    "patchscopes": ("Patchscope",),
    "neuronpedia": ("display_dashboard",),
    "concepts.registry": ("FeatureRegistry",),
    "sae": ("SAE", "SAECollection"),
    "sae.pretrained": ("PretrainedSAE", "pretrained_saes"),
    "sae.sae": ("BatchTopKSAE", "TopKSAE"),
    "core.sparse": ("SparseFeatures",),
    "activations.store": ("ActivationStore",),
    "lens.jacobian_lens": ("JacobianLens",),
    "lens.tuned_lens": ("TunedLens",),
    "lens.logit_lens": ("LogitLens",),
    "tracing.trace": ("Trace",),
    "training": ("SAETrainConfig", "train_sae"),
    "viz": ("FeatureCard", "FeatureReport", "TokenView"),
}
"""Where public names live. They are looked up when first used: importing the package loads next to nothing."""
_MODULES = ("interventions", "steering")
"""Public names that are modules."""


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


# Type checkers take the names of the block above.
__all__ = sorted(  # pyright: ignore[reportUnsupportedDunderAll]
    [*_MODULES, *(name for names in _HOMES.values() for name in names)],
    key=lambda name: (not name.isupper(), name.islower(), name),
)

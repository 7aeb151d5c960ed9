"""SAELens's and TransformerLens's calls: change `from sae_lens import …` to `from mlxterp.compat.saelens import …`.

Arrays are native: hook functions, caches and weights are MLX arrays on the MLX wing and torch tensors on the torch
wing (`backend="torch"` when loading). Layouts of per-head values and the BOS in front of text are TransformerLens's;
weights are the model's own, as with `from_pretrained_no_processing`.
"""

from .activations_store import ActivationsStore
from .cache import ActivationCache
from .config import HookedTransformerConfig, SAEConfig, SAEMetadata
from .hooks import HookPoint
from .model import HookedTransformer
from .names import get_act_name
from .pretrained import PretrainedSAELookup, get_pretrained_saes_directory
from .sae import SAE
from .sae_model import HookedSAETransformer

__all__ = [
    "SAE",
    "ActivationCache",
    "ActivationsStore",
    "HookPoint",
    "HookedSAETransformer",
    "HookedTransformer",
    "HookedTransformerConfig",
    "PretrainedSAELookup",
    "SAEConfig",
    "SAEMetadata",
    "get_act_name",
    "get_pretrained_saes_directory",
]

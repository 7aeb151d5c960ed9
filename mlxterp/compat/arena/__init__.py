"""Names of ARENA's section "Understanding latents", with its signatures and columns.

    from mlxterp.compat.arena import AutoInterp, AutoInterpConfig, Example, compute_sae_umap_data

Its cells run with these imports. Models and SAEs may be those of `mlxterp.compat.saelens` or of mlxterp itself; what is
computed is what the calls of `mlxterp.geometry` and `mlxterp.autointerp` give, which show the controls too.
"""

from ..saelens.pretrained import get_pretrained_saes_directory
from .autointerp import AutoInterp
from .config import AutoInterpConfig
from .example import Example
from .maps import compute_sae_umap_data
from .neuronpedia import display_dashboard, load_and_process_autointerp_dfs
from .patch_scoping import GENERATE_KWARGS, generate_patch_scoping_explanation, hook_fn_patch_scoping
from .prompts import Messages
from .replies import Predictions
from .results import Results
from .show import display_messages
from .windows import get_k_largest_indices, index_with_buffer

__all__ = [
    "GENERATE_KWARGS",
    "AutoInterp",
    "AutoInterpConfig",
    "Example",
    "Messages",
    "Predictions",
    "Results",
    "compute_sae_umap_data",
    "display_dashboard",
    "display_messages",
    "generate_patch_scoping_explanation",
    "get_k_largest_indices",
    "get_pretrained_saes_directory",
    "hook_fn_patch_scoping",
    "index_with_buffer",
    "load_and_process_autointerp_dfs",
]  # fmt: skip

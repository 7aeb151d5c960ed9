"""Names of ARENA's section "Understanding latents", with its signatures and columns.

    from mlxterp.compat.arena import compute_sae_umap_data

Its cells run with these imports. Models and SAEs may be those of `mlxterp.compat.saelens` or of mlxterp itself; what is
computed is what the calls of `mlxterp.geometry` give, which show the controls too.
"""

from .maps import compute_sae_umap_data
from .patch_scoping import GENERATE_KWARGS, generate_patch_scoping_explanation, hook_fn_patch_scoping

__all__ = [
    "GENERATE_KWARGS",
    "compute_sae_umap_data",
    "generate_patch_scoping_explanation",
    "hook_fn_patch_scoping",
]

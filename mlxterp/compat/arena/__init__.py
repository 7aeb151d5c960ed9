"""Names of ARENA's section "Understanding latents", with its signatures and columns.

    from mlxterp.compat.arena import compute_sae_umap_data

Its cells run with these imports. Models and SAEs may be those of `mlxterp.compat.saelens` or of mlxterp itself; what is
computed is what the calls of `mlxterp.geometry` give, which show the controls too.
"""

from ..saelens.pretrained import get_pretrained_saes_directory
from .maps import compute_sae_umap_data
from .neuronpedia import display_dashboard, load_and_process_autointerp_dfs

__all__ = [
    "compute_sae_umap_data",
    "display_dashboard",
    "get_pretrained_saes_directory",
    "load_and_process_autointerp_dfs",
]

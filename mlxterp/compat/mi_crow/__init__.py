"""Mi-Crow's names: its guides run with these imports.

    from mlxterp.compat.mi_crow import HuggingFaceDataset, LanguageModel, LocalStore, TextDataset, TopKSae

The modules are called as there too: `mlxterp.compat.mi_crow.mechanistic.sae`, `.datasets`, `.language_model`, `.store`
and `.hooks`. Names are Mi-Crow's, meanings are mlxterp's: an attached SAE changes the output only by what was
manipulated (`mode="replace"` puts the reconstruction in its place), features are those that the top-k keeps, and a text
counts once.
"""

from .datasets import HuggingFaceDataset, TextDataset
from .language_model import LanguageModel
from .store import LocalStore
from .topk_sae import TopKSae

__all__ = ["HuggingFaceDataset", "LanguageModel", "LocalStore", "TextDataset", "TopKSae"]

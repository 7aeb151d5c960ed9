"""Mi-Crow's module of SAEs."""

from ..topk_sae import TopKSae

__all__ = ["TopKSae"]

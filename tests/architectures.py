"""Small random models of every architecture in mlx-lm: the shared ones and, listed here, the rest."""

from __future__ import annotations

import importlib
import json
import sys
import types
from functools import cache
from pathlib import Path
from typing import Any

from tests.conftest import SHARED

MORE = json.loads((Path(__file__).parent / "more_architectures.json").read_text())
NOT_ON_CPU = {"bitnet", "muse_spark", "phi3small"}
"""Metal-only kernels; phi3small corrupts the heap of the process."""


@cache
def configs() -> dict[str, dict[str, Any]]:
    """Model type → config."""
    listed = SHARED / "conformance" / "architectures.json"
    return {**MORE, **(json.loads(listed.read_text()) if listed.is_file() else {})}


def model_types() -> list[str]:
    """Model types that run on a CPU, sorted."""
    return sorted(set(configs()) - NOT_ON_CPU)


def build(model_type: str, seed: int = 0, **settings: Any) -> Any:
    """A small random model in float32; zero weights become small random ones: no check passes on zeros.

    Args:
        settings: Of its config, to be other than those listed.
    """
    import mlx.core as mx
    from mlx.utils import tree_map

    sys.modules.setdefault("hf_olmo", types.ModuleType("hf_olmo"))  # mlx_lm.models.olmo exits without it
    mx.random.seed(seed)
    module = importlib.import_module(f"mlx_lm.models.{model_type}")
    config = json.loads(json.dumps(configs()[model_type] | settings))  # from_dict may change what it is given
    model = module.Model(module.ModelArgs.from_dict(config))
    model.eval()

    def fill(p: Any) -> Any:
        zero = p.ndim >= 2 and mx.issubdtype(p.dtype, mx.floating) and not mx.any(p != 0).item()
        return 0.02 * mx.random.normal(p.shape).astype(p.dtype) if zero else p

    model.update(tree_map(fill, model.parameters()))
    mx.eval(model.parameters())
    return model

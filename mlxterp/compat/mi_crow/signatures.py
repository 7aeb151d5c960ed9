"""Layer signatures: paths as PyTorch writes them, or as Mi-Crow joins them by "_"."""

from __future__ import annotations

import re
from typing import Any

from ...anatomy.names import ROOTS
from ...errors import ComponentError, InputError
from ...model.interpretable import InterpretableModel

_BLOCK = re.compile(r"(?:^|_)(?:layers|h|blocks)_(\d+)(?:_(\w+))?$")


def component_of(model: InterpretableModel, signature: Any) -> str:
    """The canonical path of a component, by "transformer.h.0.attn.c_proj", by any name that mlxterp knows, or by
    "gpt2lmheadmodel_transformer_h_0_attn_c_proj".

    Raises:
        InputError: It is no string (Mi-Crow counts all modules; numbers mean different things in different libraries).
        ComponentError: No such component.
    """
    if not isinstance(signature, str):
        raise InputError(
            f"layer_signature={signature!r}; expected a path, such as 'transformer.h.0.attn'."
            " lm.layers.get_layer_names() lists them; for decoder block 3 write 'layers.3'."
        )
    try:
        return model.anatomy.component(signature).name
    except ComponentError:
        joined = _joined(model, signature)
        if joined is None:
            raise
        return model.anatomy.component(joined).name


def _joined(model: InterpretableModel, signature: str) -> str | None:
    lm = model.language_model
    block = _BLOCK.search(signature)
    if block is not None and int(block[1]) < len(lm.layers):
        inside = lm.layers[int(block[1])]
        rest = f"_{block[2]}" if block[2] else ""
        found = [path for path in lm.modules if path.startswith(inside)]
        found = [path for path in found if path[len(inside) :].replace(".", "_") == rest]
    else:
        tails = {path: "_".join(p for p in path.split(".") if p not in ROOTS) for path in lm.modules}
        found = [path for path, tail in tails.items() if tail and f"_{signature}".endswith(f"_{tail}")]
    return found[0] if len(found) == 1 else None

"""What modules are given and what they return: tensors, alone or in tuples and dictionaries.

A tensor that was seen must stay as it was although torch code writes in place (`h += …`), so what
is kept and what is handed on are copies. The tensor that stands for a module's output is the first.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch

from ...errors import NotALanguageModelError


def first_tensor(out: Any) -> torch.Tensor | None:
    """The tensor that stands for a module's output: itself, or the first element."""
    if isinstance(out, dict):  # transformers' outputs are dictionaries without the entries that are None
        out = next(iter(out.values()), None)
    elif isinstance(out, (tuple, list)):
        out = out[0] if out else None
    return out if isinstance(out, torch.Tensor) else None


def with_first(out: Any, value: torch.Tensor) -> Any:
    """The same structure with another first tensor."""
    if isinstance(out, torch.Tensor):
        return value
    if isinstance(out, dict):
        new = copy.copy(out)
        new[next(iter(out))] = value
        return new
    return _rebuilt(out, [value, *out[1:]])


def copied(out: Any) -> Any:
    """The same structure with copies of its tensors, which no in-place operation reaches."""
    if isinstance(out, torch.Tensor):
        return out.clone()
    if isinstance(out, dict):
        new = copy.copy(out)
        for key, value in out.items():
            if isinstance(value, torch.Tensor):
                new[key] = value.clone()
        return new
    if isinstance(out, (tuple, list)):
        return _rebuilt(out, [x.clone() if isinstance(x, torch.Tensor) else x for x in out])
    return out


def _rebuilt(out: Any, items: list[Any]) -> Any:
    return type(out)(*items) if hasattr(out, "_fields") else type(out)(items)


def versions(values: Iterable[Any]) -> list[tuple[torch.Tensor, int]]:
    """The tensors among `values`, each with the count of in-place operations on it so far."""
    tensors = [x for x in values if isinstance(x, torch.Tensor)]
    return [(x, x._version) for x in tensors if not x.is_inference()]


def written_to(before: Iterable[tuple[torch.Tensor, int]]) -> bool:
    """Whether one of these tensors was written in place since `versions` looked."""
    return any(x._version != version for x, version in before)


def logits_of(out: Any) -> torch.Tensor:
    """The logits in what a language model returned.

    Raises:
        NotALanguageModelError: It returned nothing that could be logits.
    """
    logits = getattr(out, "logits", None)
    if logits is None:
        logits = out["logits"] if isinstance(out, dict) and "logits" in out else first_tensor(out)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 3:
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(out).__name__
        raise NotALanguageModelError(
            f"The model returned {shape}; expected logits (batch, positions, vocabulary), alone, first in"
            " a tuple, or as `.logits`."
        )
    return logits

"""What modules are given and what they return: tensors, alone or in tuples and dictionaries.

A tensor that was seen must stay as it was although torch code writes in place (`h += …`), so what
is kept and what is handed on are copies. The tensor that stands for a module's output is the first.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable, MutableMapping
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


def copied(out: Any, copy_of: Callable[[torch.Tensor], torch.Tensor] = torch.clone) -> Any:
    """The same structure with copies of its tensors, which no in-place operation reaches."""
    if isinstance(out, torch.Tensor):
        return copy_of(out)
    if isinstance(out, dict):
        new = copy.copy(out)
        for key, value in out.items():
            if isinstance(value, torch.Tensor):
                new[key] = copy_of(value)
        return new
    if isinstance(out, (tuple, list)):
        return _rebuilt(out, [copy_of(x) if isinstance(x, torch.Tensor) else x for x in out])
    return out


def _rebuilt(out: Any, items: list[Any]) -> Any:
    return type(out)(*items) if hasattr(out, "_fields") else type(out)(items)


class Copies:
    """One copy of each tensor of a pass, for as long as nobody writes into it.

    A tensor is often the output of several modules (a head's and the whole model's logits).
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[torch.Tensor], int, torch.Tensor]] = {}

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """The copy of `x` as it is now."""
        if x.is_inference():  # nobody counts what is written into these
            return x.clone()
        original, version, known = self._known.get(id(x), (None, 0, x))
        if original is None or original() is not x or version != x._version:
            known = x.clone()
            self._known[id(x)] = (weakref.ref(x), x._version, known)
        return known


def states(values: Iterable[Any]) -> list[tuple[Any, Any]]:
    """Those of `values` that can be written into, each with what tells whether it was."""
    return [(x, state) for x in values if (state := _state(x)) is not None]


def written_to(before: Iterable[tuple[Any, Any]]) -> bool:
    """Whether one of these values was written into since `states` looked."""
    return any(_state(x) != state for x, state in before)


def _state(x: Any) -> Any:
    if isinstance(x, torch.Tensor):
        return None if x.is_inference() else x._version  # counts operations in place
    if isinstance(x, MutableMapping):  # gemma3n's blocks leave keys and values for later ones in one
        return [(key, id(value)) for key, value in x.items()]
    return [id(value) for value in x] if isinstance(x, list) else None


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

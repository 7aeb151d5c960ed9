"""`Unrolled`: the layers of one pass in the order in which they run; a looped model runs some of them several times.

A graph counts layers in this order. Where each layer runs once, its number is that of the layer.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..anatomy.anatomy import Anatomy
from ..core.frozen import EMBED, Key
from ..core.integers import as_integer
from ..errors import ComponentError
from .places import mlp_of


@dataclass(frozen=True, slots=True)
class Unrolled:
    """The layers of a pass.

    Attributes:
        keys: Of each: the layer of the model, and which of that layer's calls it is.
        model_type: Of the model, for errors.
    """

    keys: tuple[Key, ...]
    model_type: str

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def looped(self) -> bool:
        """Whether a layer runs more than once."""
        return any(call for _, call in self.keys)

    def of(self, layer: int) -> list[int]:
        """The numbers of a layer of the model, call by call."""
        return [number for number, key in enumerate(self.keys) if key[0] == layer]

    def number(self, key: Key) -> int:
        """The number of a layer's call."""
        return self.keys.index(key)

    def layer(self, given: Any) -> int:
        """A layer's number as an index, negative ones from the end.

        Raises:
            ComponentError: There is no such layer.
        """
        number, count = as_integer(given), len(self)
        if number is None or not -count <= number < count:
            of = "this model has" if not self.looped else "a pass of this looped model has"
            raise ComponentError(
                f"There is no layer {reprlib.repr(given)}: {of} {count}, numbered 0 to {count - 1} (or -{count} to -1"
                " from the end)."
            )
        return number % count

    def check(self, found: Iterable[Key]) -> None:
        """Raises ComponentError unless a pass called its layers in this order.

        Args:
            found: Its sources, in the order of their calls; layers without an MLP are none of them.
        """
        called = [key for key in found if key != EMBED]
        if called != [key for key in self.keys if key in called]:
            raise _no_loops(self.model_type)


def unrolled(anatomy: Anatomy) -> Unrolled:
    """The layers of a model's pass.

    Raises:
        ComponentError: Some layers run more than once, and not all of those side by side and equally often.
    """
    calls = [_calls(anatomy, layer) for layer in range(len(anatomy.model.layers))]
    name, times = anatomy.model.model_type, max(calls)
    core = [layer for layer, count in enumerate(calls) if count > 1]
    if {calls[layer] for layer in core} - {times} or core != list(range(*_ends(core))):
        raise _no_loops(name)
    start, end = _ends(core)
    keys = [(layer, 0) for layer in range(start)]
    keys += [(layer, call) for call in range(times) for layer in core]
    keys += [(layer, 0) for layer in range(end, len(calls))]
    return Unrolled(tuple(keys), name)


def _ends(core: list[int]) -> tuple[int, int]:
    return (core[0], core[-1] + 1) if core else (0, 0)


def _calls(anatomy: Anatomy, layer: int) -> int:
    """How often a layer runs; that of its MLP where the block itself is never called."""
    mlp = mlp_of(anatomy, layer)
    found = anatomy.calls(anatomy.model.layers[layer])
    return found or (anatomy.calls(mlp.sites[-1].module) if mlp is not None else 0) or 1


def _no_loops(model_type: str) -> ComponentError:
    return ComponentError(
        f"This {model_type} model runs some layers more than once for each token, and not one after the other in loops,"
        " so the layers of a pass have no order; there is no graph of such a model."
    )

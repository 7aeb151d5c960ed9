"""What a patching call asks: which components of which layers, split by what, measured how."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..anatomy.anatomy import Anatomy
from ..anatomy.names import ComponentPath
from ..core.integers import is_listable
from ..core.positions import Positions
from ..core.tokens import TokenBatch
from ..errors import ComponentError, InputError
from .pair import Pair

BY = ("layer", "position", "head")
_IN_A_LAYER = re.compile(r"(?:.*\.)?(?:layers|h|blocks)\.(-?\d+)\.(.+)")
_HEADS = ("q", "k", "v", "z", "pattern")


@dataclass(frozen=True, eq=False, slots=True)
class Question:
    """Checked arguments of a patching call."""

    components: tuple[str, ...]
    """Names below a layer."""
    layers: tuple[int, ...]
    by: str
    """"layer", "position" or "head"."""
    pair: Pair
    metric: Any
    """As it was given: a name of `DISTANCES`, a `LogitDifference`, or a function of logits."""

    @staticmethod
    def of(
        anatomy: Anatomy,
        clean: TokenBatch,
        corrupted: TokenBatch,
        component: str | Sequence[str] | None,
        layers: int | Iterable[int] | None,
        metric: Any,
        by: str,
        positions: Positions,
    ) -> Question:
        """Checks what can be checked before anything runs.

        Raises:
            InputError: An unknown `by`, no component, a path that names its layer, or texts that do not correspond.
            ComponentError: No such layer or component.
        """
        if not isinstance(by, str) or by not in BY:
            raise InputError(f"by={by!r:.60}: expected one of {', '.join(map(repr, BY))}.")
        if isinstance(component, str) and component == "attn_head":  # the existing mlxterp's name
            component, by = "attn.z", "head"
        if component is None:
            component = "attn.z" if by == "head" else "mlp"
        names = _names(component)
        if not names:
            raise InputError("component= is empty. Name at least one, such as 'mlp', 'attn' or 'resid_post'.")
        chosen = anatomy.chosen_layers(layers)
        for name in names:
            for layer in chosen:
                path = _path(anatomy, layer, name)
                if by == "head" and path.kind != "head":
                    raise InputError(
                        f"{name!r} has no heads. by='head' takes {', '.join(f'attn.{h}' for h in _HEADS)};"
                        " attn.z is what each head puts out before the output projection."
                    )
        return Question(names, chosen, by, Pair.of(clean, corrupted, positions, by == "position"), metric)


def _names(component: Any) -> tuple[str, ...]:
    """Names below a layer, each once.

    Raises:
        InputError: It is something else.
    """
    several = [component] if isinstance(component, str) else component
    if not is_listable(several):
        raise InputError(f"component is {component!r:.60}; expected names below a layer, such as 'mlp'.")
    found = list(several)
    for name in found:
        if not isinstance(name, str):
            raise InputError(f"component has {name!r:.60}; expected names below a layer, such as 'mlp'.")
    return tuple(dict.fromkeys(map(str, found)))


def _path(anatomy: Anatomy, layer: int, name: str) -> ComponentPath:
    """A component below a layer; InputError for a path that names its layer."""
    try:
        return anatomy.names.resolve(f"layers.{layer}.{name}")
    except ComponentError:
        found = _IN_A_LAYER.fullmatch(name)
        if found is None:
            raise
        raise InputError(
            f"{name!r} names its layer. Name the component below a layer, {found[2].replace('hook_', '')!r}, and choose"
            f" layers with layers=[{found[1]}]."
        ) from None

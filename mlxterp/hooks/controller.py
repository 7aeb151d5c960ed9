"""`Controller`: changes the activations of one component, input or output, on every pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..core.positions import Positions
from ..core.sites import Array, Where
from ..edits.compile import Hooked
from ..errors import InputError
from ..interventions import Intervention, apply_change, as_list, restrict
from .hook import Hook
from .hooked_model import Effect


class Controller(Hook):
    """Changes a component wherever the model runs: in calls, traces, `loss`, generation, searches and gradients.

    Give a function, or derive a class and override `modify`. Controllers of one component act one after the other,
    in the order in which they were added.

    Args:
        component: Path of a component; "….input" changes what enters a module.
        function: activation -> activation, as in `interventions=`: native, of the same shape. What
            `mlxterp.interventions` makes knows positions and heads itself.
        positions: Only these positions of each text: one, a slice or several; negative ones count from the text's
            own end. In generation they are absolute, and negative ones raise.

    Raises:
        InputError: There is neither a function nor a `modify`, or the function does not take one activation.

    Examples:
        >>> with model.add_hook(mlxterp.Controller("layers.0.mlp", lambda activation: activation * 0)):
        ...     model.generate("Lily lost her red", max_tokens=2)
        'to to'
    """

    def __init__(
        self,
        component: str,
        function: Callable[[Array], Array] | None = None,
        *,
        positions: Positions = None,
        **further: Any,
    ):
        super().__init__(component, **further)
        overridden = type(self).modify is not Controller.modify
        if (function is None) == (not overridden):
            raise InputError(
                f"{type(self).__name__} needs a function activation -> activation, or a class of its own that"
                " overrides `modify`; not both."
            )
        if function is not None:
            as_list(function, component)  # refuses what cannot be called with one activation
        self._function = function
        self._positions: Positions = positions

    def modify(self, activation: Array) -> Array:
        """The new activation, native and of the same shape.

        Args:
            activation: Native, (batch, positions, width), or (batch, heads, positions, …) of a per-head value; one
                pass, so a chunk of the prompt or a new token in generation. It may be written into.
        """
        assert self._function is not None
        return self._function(activation)

    def effects(self, component: str) -> list[Effect]:
        """See `Hook`."""
        change = self._function if isinstance(self._function, Intervention) else self.modify
        if self._positions is not None:
            change = restrict(change, self._positions, component)

        def changed(x: Array, where: Where) -> Array:
            return apply_change(change, x, where, component)

        return [Hooked(component, changed), *super().effects(component)]

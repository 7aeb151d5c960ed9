"""`AttachedHook`: a hook that acts on every pass of a model, as `InterpretableModel.add_hook` leaves it."""

from __future__ import annotations

from ..acting import Acts
from ..errors import InputError
from ..model_core import ModelCore
from ..sites import Array, Where
from ..standing import Handle
from ..tokens import TokenBatch
from .hook import Hook


class AttachedHook(Handle):
    """A handle; as `with model.add_hook(hook) as handle:` it detaches itself at the end of the block.

    Raises:
        InputError, ComponentError: See `InterpretableModel.add_hook`.
    """

    def __init__(self, model: ModelCore, hook: Hook):
        if not isinstance(hook, Hook):
            raise InputError(
                f"Expected a Detector or a Controller of mlxterp.hooks, got {type(hook).__name__}. A function on"
                " activations: Controller('layers.3.mlp', function)."
            )
        place = model._plain.component(hook.component)
        hook.check(place.name)
        place.edits(_same, place.call)  # refuses what cannot be reached while the model runs
        sites = place.sites
        model._plain.model.run(
            TokenBatch.from_rows([[0, 0]]), capture=sites, stop_after=sites
        )  # or is never called
        self._standing, self.hook = model._standing, hook
        self.component = place.name
        """Canonical path of the component."""

    def acts(self) -> list[Acts]:
        """What it does in the next call of the model."""
        return self.hook.acts(self.component) if self.hook.enabled else []

    def __repr__(self) -> str:
        return f"<{self.hook!r} {'attached' if self.attached else 'detached'}>"


def _same(x: Array, where: Where) -> Array:
    return x

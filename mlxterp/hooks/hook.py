"""`Hook`: what `model.add_hook` takes, and `AttachedHook`, the handle that it returns.

`Detector` observes, `Controller` changes; a class can derive from both.
"""

from __future__ import annotations

from ..core.sites import Array, Run, Where
from ..core.tokens import TokenBatch
from ..errors import InputError
from .attachments import Handle
from .hooked_model import Effect
from .session import ModelSession


class Hook:
    """Something that happens at one component on every pass of a model.

    Args:
        component: Path of a component, by any of its names: an output ("layers.3.mlp"), a module's input
            ("layers.3.mlp.input"), the residual stream, or a per-head value.

    Raises:
        InputError: `component` is no path.
    """

    def __init__(self, component: str):
        if not isinstance(component, str) or not component.strip():
            raise InputError(
                f"component is {component!r}; expected a path, such as 'layers.3.mlp'. model.components() lists them."
            )
        self.component = component
        """Where it acts, as it was given."""
        self.enabled = True
        """Whether it acts; may be set at any time, and counts from the next call of the model on."""

    def check(self, component: str) -> None:
        """Raises InputError where the hook cannot act at a component, given by its canonical name."""

    def effects(self, component: str) -> list[Effect]:
        """What it does in one call of the model, in order, at a component given by its canonical name."""
        return []

    def __repr__(self) -> str:
        state = "" if self.enabled else ", disabled"
        return f"<{type(self).__name__} at {self.component}{state}>"


class AttachedHook(Handle):
    """A handle; as `with model.add_hook(hook) as handle:` it detaches itself at the end of the block.

    Raises:
        InputError, ComponentError: See `InterpretableModel.add_hook`.
    """

    def __init__(self, model: ModelSession, hook: Hook):
        if not isinstance(hook, Hook):
            raise InputError(
                f"Expected a Detector or a Controller of mlxterp.hooks, got {type(hook).__name__}. A function on"
                " activations: Controller('layers.3.mlp', function)."
            )
        place = model.plain.component(hook.component)
        hook.check(place.name)
        place.edits(_same, place.call)  # refuses what cannot be reached while the model runs
        sites = place.sites
        model.plain.model.run(
            TokenBatch.from_rows([[0, 0]]), capture=sites, stop_after=sites
        )  # or is never called
        self._attachments, self.hook = model.attachments, hook
        self.component = place.name
        """Canonical path of the component."""

    def effects(self) -> list[Effect]:
        """What it does in the next call of the model."""
        return self.hook.effects(self.component) if self.hook.enabled else []

    def __repr__(self) -> str:
        return f"<{self.hook!r} {'attached' if self.attached else 'detached'}>"


def _same(x: Array, _where: Where, _run: Run) -> Array:
    return x

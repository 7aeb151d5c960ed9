"""How hooks are attached to an `InterpretableModel`, and its activations saved. Every method delegates."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from ..activations.save import ModelActivations
from ..errors import InputError
from ..hooks import AttachedHook, Hook
from ..hooks.session import ModelCore


class HookMethods(ModelCore):
    """Methods of `InterpretableModel`."""

    def add_hook(self, hook: Hook, *further: Any) -> AttachedHook:
        """Lets a `Detector` or a `Controller` act on every pass of this model, until `handle.detach()`.

        Hooks act in the order in which they were added, among attached SAEs and before `steer` blocks and
        `interventions=`; a hook that is added twice acts twice. `hook.enabled = False` pauses it. Where a hook
        raises, the call of the model ends with its exception and the model is as before.

        Raises:
            InputError: It is no hook, or cannot act at this component. A path and a function make one:
                `Controller(path, function)`.
            ComponentError: No such component, the model never calls it, or it can be read but not reached while the
                model runs.

        Examples:
            >>> detector = mlxterp.Detector("layers.1.mlp", keep=True)
            >>> with model.add_hook(detector):  # or handle = model.add_hook(detector), then handle.detach()
            ...     logits = model("Lily lost her red ball.")
            >>> detector.activations[0].shape
            (7, 192)
        """
        if further or isinstance(hook, str):
            path = hook if isinstance(hook, str) else "layers.3.mlp"
            raise InputError(
                "add_hook takes one hook of mlxterp.hooks, which holds its path and its function:"
                f" model.add_hook(Controller({path!r}, f)) changes an activation, Detector({path!r}, f) observes it."
            )
        self._refresh()
        handle = AttachedHook(self, hook)
        self._attachments.attach(handle)
        return handle

    def without_controllers(self) -> AbstractContextManager[None]:
        """Within `with model.without_controllers():` nothing attached changes what the model computes.

        Attached controllers and SAEs pause, in this thread; detectors and text tracking go on. `steer` blocks and
        `interventions=` act as ever. It is what an A/B comparison runs the other half in.
        """
        return self._attachments.watching_only()

    @property
    def activations(self) -> ModelActivations:
        """`model.activations.save(texts, layers=[…], store=…)` keeps activations on disk."""
        return ModelActivations(self)

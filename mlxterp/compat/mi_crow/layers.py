"""`lm.layers`: the model's layers by name, and hooks on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...errors import InputError
from ...hooks import AttachedHook, Controller, Detector, Hook
from ...hooks.attached_sae import AttachedSAE
from ...model.interpretable import InterpretableModel
from ...sae import SAE
from .signatures import component_of


class LanguageModelLayers:
    """Names and hooks; `lm.layers[3]` is decoder block 3 of the `InterpretableModel`. Made by `LanguageModel`."""

    def __init__(self, model: InterpretableModel):
        self._model = model
        self._handles: dict[str, AttachedHook | AttachedSAE] = {}

    def get_layer_names(self) -> list[str]:
        """Canonical paths of all modules; each can be a layer signature."""
        anatomy = self._model.anatomy
        return [anatomy.names.name_of(path) for path in self._model.language_model.modules if path]

    def print_layer_names(self) -> None:
        """Prints each module's path and class."""
        modules = self._model.language_model.modules
        for path, name in zip([p for p in modules if p], self.get_layer_names(), strict=True):
            print(f"{name}: {modules[path]}")

    def __len__(self) -> int:
        return self._model.n_layers

    def __getitem__(self, index: int) -> Any:
        return self._model.layers[index]

    def __iter__(self) -> Iterator[Any]:
        return (self._model.layers[i] for i in range(len(self)))

    def register_hook(self, layer_signature: str, hook: Hook | SAE, hook_type: Any = None) -> str:
        """Lets a `Detector`, a `Controller` or an SAE act at a layer; returns the id to take it away by.

        Args:
            hook: Its own component gives way to this layer.
            hook_type: "pre_forward" for what enters the layer, else what it puts out.

        Raises:
            InputError: It is no hook, or there is no such type.
            ComponentError: No such layer.
        """
        kind = str(getattr(hook_type, "value", hook_type or "forward"))
        if kind not in ("forward", "pre_forward"):
            raise InputError(f"hook_type={hook_type!r}; expected 'forward' or 'pre_forward'.")
        path = component_of(self._model, layer_signature)
        path = f"{path}.input" if kind == "pre_forward" else path
        if isinstance(hook, Hook):
            hook.component = path
            handle = self._model.add_hook(hook)
        elif isinstance(hook, SAE):
            handle = self._model.attach_sae(hook, path)
        else:
            raise InputError(f"Expected a Detector, a Controller or an SAE, got {type(hook).__name__}.")
        number = 1 + max((int(name.rpartition("_")[2]) for name in self._handles), default=0)
        self._handles[f"hook_{number}"] = handle
        return f"hook_{number}"

    def unregister_hook(self, hook_or_id: Hook | SAE | str) -> bool:
        """Takes a hook away, by its id or itself; whether there was one."""
        found = [name for name, handle in self._handles.items() if hook_or_id in (name, _thing(handle))]
        for name in found:
            self._handles.pop(name).detach()
        return bool(found)

    def get_hooks(self, layer_signature: str | None = None) -> list[Hook | SAE]:
        """Registered hooks, of one layer or of all, in order."""
        path = None if layer_signature is None else component_of(self._model, layer_signature)
        return [
            _thing(handle)
            for handle in self._handles.values()
            if path is None or handle.component in (path, f"{path}.input")
        ]

    def get_detectors(self) -> list[Hook | SAE]:
        """Registered hooks that observe."""
        return [hook for hook in self.get_hooks() if isinstance(hook, (Detector, SAE))]

    def get_controllers(self) -> list[Hook | SAE]:
        """Registered hooks that change."""
        return [hook for hook in self.get_hooks() if isinstance(hook, (Controller, SAE))]


def _thing(handle: AttachedHook | AttachedSAE) -> Hook | SAE:
    return handle.sae if isinstance(handle, AttachedSAE) else handle.hook

"""Activations of one input by name: `collect_activations` as the existing library means it, and its cache."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ...anatomy.names import ComponentNames
from ...core.sites import Array
from ...errors import ComponentError
from ...model import InterpretableModel


@dataclass(eq=False, slots=True)
class ActivationCache:
    """Activations by name, made by `collect_activations`.

    Attributes:
        activations: Name → native array.
        metadata: {"input_shape": shape of the logits}.
    """

    activations: dict[str, Array] = field(default_factory=dict)
    metadata: dict[str, Any] | None = None
    _names: ComponentNames | None = None

    def get(self, name: str) -> Array | None:
        """The activation of a name, or of any other name of the same component; None where it was not collected."""
        if name in self.activations or self._names is None or not self._names.knows(name):
            return self.activations.get(name)
        meant = self._names.resolve(name).name
        same = (value for key, value in self.activations.items() if self._names.resolve(key).name == meant)
        return next(same, None)

    def keys(self) -> list[str]:
        """The names."""
        return list(self.activations)

    def __getitem__(self, name: str) -> Array:
        found = self.get(name)
        if found is None:
            raise ComponentError(
                f"{name!r} was not collected. There are: {', '.join(self.activations) or 'none'}."
            )
        return found

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.activations)

    def __len__(self) -> int:
        return len(self.activations)

    def __repr__(self) -> str:
        return f"ActivationCache(cached={len(self.activations)} modules)"


def collect_activations(
    model: InterpretableModel,
    inputs: Any,
    layers: str | Iterable[str] | None = None,
    normalize_keys: bool = True,
) -> ActivationCache:
    """Activations of one input, by name. (`mlxterp.collect_activations` keeps those of many texts on disk.)

    Args:
        layers: Names of components, such as "layers.3" or "layers.3.self_attn"; None takes the outputs of all modules
            that put out one array.
        normalize_keys: Whether names begin with "layers."; else with the path in the wrapped model.

    Raises:
        ComponentError: There is no such component.
    """
    names = model.session.plain.names
    named = [layers] if isinstance(layers, str) else list(layers or ())
    wanted = named or _outputs(model)
    trace = model.trace(inputs, capture=wanted)
    found: dict[str, Array] = {}
    for name in wanted:
        value = trace.activations[name]
        path = names.resolve(name)
        key = _short(path.module) if normalize_keys else f"model.{path.module}"
        found[key if path.kind == "module" else path.name] = value
    return ActivationCache(found, {"input_shape": tuple(trace.output.shape)}, names)


def _outputs(model: InterpretableModel) -> list[str]:
    """Modules that put out one array."""
    lm = model.session.plain.model
    run = lm.run(model.session.batch([[0]]), everything=True)
    return [name for name in lm.modules if name and run.calls.get(name) == 1]


def _short(path: str) -> str:
    """A path without what comes before the layers."""
    parts = path.split(".")
    begin = next((i for i, part in enumerate(parts) if part in ("layers", "h", "blocks")), 0)
    return (
        ".".join(["layers", *parts[begin + 1 :]])
        if parts[begin] in ("h", "blocks")
        else ".".join(parts[begin:])
    )

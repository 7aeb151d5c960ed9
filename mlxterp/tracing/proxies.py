"""Paths written as attributes: `model.layers[3].self_attn.output`.

A `ComponentProxy` only collects the path. `.output` and `.input`, and canonical names such as
`.resid_post` or `.attn.pattern`, read the value in the trace that is open, and can be assigned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

from ..anatomy.anatomy import Anatomy
from ..anatomy.names import FURTHER, RESIDUAL
from ..core import checks
from ..core.integers import as_integer
from ..core.not_copied import NotCopied
from ..core.public_names import PublicNames
from ..core.sites import ATTENTION_PORTS
from ..errors import ComponentError
from .context import innermost_trace

_PORTS = ("output", "input")
_LEAVES = frozenset((*RESIDUAL, FURTHER, *ATTENTION_PORTS))
_CANONICAL = (
    *RESIDUAL,
    FURTHER,
    "attn",
    "mlp",
    *(f"attn.{port}" for port in ATTENTION_PORTS),
    *ATTENTION_PORTS,
)
"""Names that may stand below a layer, or below its attention."""


class ComponentProxy(NotCopied):
    """A place in the model, by path."""

    __slots__ = ("_anatomy", "_path")

    def __init__(self, anatomy: Anatomy, path: str):
        object.__setattr__(self, "_anatomy", anatomy)
        object.__setattr__(self, "_path", path)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        path = f"{self._path}.{name}"
        if name in _PORTS or self._is_value(name):
            return innermost_trace(self._anatomy).read(path)
        return ComponentProxy(self._anatomy, path)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _PORTS or self._is_value(name):
            innermost_trace(self._anatomy).assign(f"{self._path}.{name}", value)
            return
        self._anatomy.names.resolve(f"{self._path}.{name}")  # a misspelt name is told as such
        raise ComponentError(
            f"{self._path}.{name} is a module. Assign its value: {self._path}.{name}.output = …"
        )

    def __getitem__(self, index: int) -> ComponentProxy:
        number = as_integer(index)
        if number is None:
            raise ComponentError(f"{self._path} is a module; its value is {self._path}.output[…].")
        return ComponentProxy(self._anatomy, f"{self._path}.{number}")

    def __setitem__(self, index: Any, value: Any) -> None:
        raise ComponentError(f"{self._path} is a module; its value is {self._path}.output[…].")

    def __call__(self, *_arguments: Any, **_options: Any) -> Any:
        self._anatomy.names.resolve(self._path.rpartition(".")[0] or self._path)
        raise ComponentError(
            f"{self._path} cannot be called. A component's value has methods: …output.save(); what exists is"
            " listed by model.components()."
        )

    def call(self, number: int) -> ComponentCall:
        """One call of a module that the forward pass calls several times, 0-based."""
        return ComponentCall(self._anatomy, self._path, checks.integer(number, "number", 0))

    def _is_value(self, name: str) -> bool:
        """Whether this is a canonical name here, not a module that happens to be called so."""
        if name not in _LEAVES and not name.startswith("hook_"):
            return False
        try:
            return self._anatomy.names.resolve(f"{self._path}.{name}").kind != "module" or name.startswith(
                "hook_"
            )
        except ComponentError:
            return False

    def _modules(self) -> list[str]:
        """Names of the modules right below this one."""
        try:
            module = self._anatomy.names.resolve(self._path).module
        except ComponentError:
            return []
        inside = [m[len(module) + 1 :] for m in self._anatomy.model.modules if m.startswith(module + ".")]
        return sorted({m.partition(".")[0] for m in inside})

    def __dir__(self) -> list[str]:
        below = (name for name in _CANONICAL if self._anatomy.has(f"{self._path}.{name}"))
        return sorted({*self._modules(), *below, *_PORTS})

    def __repr__(self) -> str:
        try:
            path = self._anatomy.names.resolve(self._path)
        except ComponentError:
            return f"<{self._path}: no such component>"
        inside = ", ".join(self._modules())
        kind = self._anatomy.model.modules.get(path.module, path.kind)
        return f"<{path.name}: {kind}{' with ' if inside else ''}{inside}>"


class ComponentCall(NotCopied):
    """One of several calls of a module."""

    def __init__(self, anatomy: Anatomy, path: str, number: int):
        self._anatomy, self._path, self._number = anatomy, path, number

    def _name(self, port: str) -> str:
        return f"{self._path}.{port}#{self._number}"

    @property
    def output(self) -> Any:
        return innermost_trace(self._anatomy).read(self._name("output"))

    @output.setter
    def output(self, value: Any) -> None:
        innermost_trace(self._anatomy).assign(self._name("output"), value)

    @property
    def input(self) -> Any:
        return innermost_trace(self._anatomy).read(self._name("input"))

    @input.setter
    def input(self, value: Any) -> None:
        innermost_trace(self._anatomy).assign(self._name("input"), value)


class LayerList(NotCopied, PublicNames, Sequence[ComponentProxy]):
    """The decoder blocks, in order; negative numbers count from the end."""

    def __init__(self, anatomy: Anatomy):
        self._anatomy = anatomy

    def __len__(self) -> int:
        return len(self._anatomy.model.layers)

    @overload
    def __getitem__(self, index: int) -> ComponentProxy: ...
    @overload
    def __getitem__(self, index: slice) -> list[ComponentProxy]: ...
    def __getitem__(self, index: int | slice) -> ComponentProxy | list[ComponentProxy]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return ComponentProxy(self._anatomy, f"layers.{self._anatomy.names.layer(index)}")

    def __iter__(self) -> Iterator[ComponentProxy]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"<{len(self)} layers: {self[0]!r}, …>" if len(self) else "<no layers>"

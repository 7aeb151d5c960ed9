"""Hooks as TransformerLens adds them: functions of (activation, hook), in order, until they are reset."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...backends import backend_of
from ...backends.host.item_access import checked_items
from ...core.sites import Array
from ...errors import EditError, InputError

HookFunction = Callable[..., Any]
"""(activation, hook) -> the new activation, or None: what it did to the array in place is then the change."""


class HookPoint:
    """What a hook function is given beside the activation."""

    def __init__(self, name: str):
        self.name = name
        self.ctx: dict[Any, Any] = {}
        """For the function's own use; kept between passes, emptied by `clear_contexts`."""

    def layer(self) -> int:
        """The decoder block that it belongs to.

        Raises:
            InputError: It belongs to none.
        """
        parts = self.name.split(".")
        if parts[0] != "blocks":
            raise InputError(f"{self.name!r} belongs to no decoder block. Its name is hook.name.")
        return int(parts[1])

    def clear_context(self) -> None:
        """Empties `ctx`."""
        self.ctx = {}

    def __repr__(self) -> str:
        return f"HookPoint({self.name!r})"


@dataclass(frozen=True, eq=False, slots=True)
class _Hook:
    name: str
    function: HookFunction
    level: int | None
    permanent: bool


class Hooks:
    """The hooks of one model, in the order in which they act."""

    def __init__(self) -> None:
        self.level = 0
        """How many `hooks` blocks are open."""
        self._hooks: list[_Hook] = []
        self._points: dict[str, HookPoint] = {}

    def point(self, name: str) -> HookPoint:
        """The same one for the same name."""
        return self._points.setdefault(name, HookPoint(name))

    def add(
        self,
        name: str,
        function: HookFunction,
        level: int | None,
        permanent: bool = False,
        first: bool = False,
    ) -> None:
        """Lets a function act at a hook, before the others there with `first`."""
        if not callable(function):
            raise InputError(
                f"The hook for {name} is {type(function).__name__}; expected a function (activation, hook) that"
                " returns the new activation or None."
            )
        _check_takes_hook(function, name)
        self._hooks.insert(0 if first else len(self._hooks), _Hook(name, function, level, permanent))

    def remove(self, level: int | None = None, permanent: bool = False) -> None:
        """Ends hooks: of one level or of all, permanent ones only with `permanent`."""
        self._hooks = [
            hook
            for hook in self._hooks
            if (hook.permanent and not permanent) or (level is not None and hook.level != level)
        ]

    def forget(self, prefix: str) -> None:
        """Ends all hooks whose names begin so."""
        self._hooks = [hook for hook in self._hooks if not hook.name.startswith(prefix)]

    def clear_contexts(self) -> None:
        """Empties every hook's `ctx`."""
        for point in self._points.values():
            point.clear_context()

    @property
    def names(self) -> list[str]:
        """Hooks where a function acts, each once."""
        return list(dict.fromkeys(hook.name for hook in self._hooks))

    def fire(self, name: str, value: Array) -> Array:
        """The value after all functions of a hook.

        Raises:
            EditError: One returned something else than an array of the same shape and library.
        """
        for hook in [hook for hook in self._hooks if hook.name == name]:
            backend = backend_of(value)
            given = backend.alias(value)  # the function may write into it
            with checked_items(backend, f"an array in the function hooked to {name}"):
                out = hook.function(given, hook=self.point(name))
            out = given if out is None else out
            if not isinstance(out, backend.array_type) or tuple(out.shape) != tuple(value.shape):
                shape = tuple(getattr(out, "shape", ()))
                raise EditError(
                    f"The function hooked to {name} returned {type(out).__name__} of shape {shape}; it must return"
                    f" None, or a {backend.name} array of shape {tuple(value.shape)}."
                )
            value = out if out.dtype == value.dtype else backend.cast(out, value)
        return value


def _check_takes_hook(function: HookFunction, name: str) -> None:
    try:
        inspect.signature(function).bind(None, hook=None)
    except TypeError as error:
        raise InputError(
            f"The function for {name} cannot be called as function(activation, hook=…): {error}. Write it with a second"
            " argument called hook: lambda activation, hook: activation."
        ) from error
    except ValueError:  # a builtin without a signature
        return


def refuse_backward(bwd_hooks: Sequence[Any] = (), incl_bwd: bool = False, dir: str = "fwd") -> None:
    """Raises InputError where hooks of a backward pass are asked for."""
    if bwd_hooks or incl_bwd or dir != "fwd":
        raise InputError(
            "There is no backward pass to hook here. Gradients of any component come from"
            " model.interpretable.gradients(tokens, objective, at=[…])."
        )

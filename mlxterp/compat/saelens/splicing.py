"""`Splice`: an SAE in the place of a hook, as `HookedSAETransformer` attaches it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ...backends import backend_of
from ...core.sites import Array
from ...errors import SAEError
from ...model.interpretable import InterpretableModel
from ...sae.adapt import adapt
from .hooks import Hooks
from .names import HookTable, Place
from .sae import SAE

PARTS = ("hook_sae_input", "hook_sae_acts_post", "hook_sae_recons", "hook_sae_error", "hook_sae_output")
"""Hooks within a spliced SAE, in the order in which a pass reaches them; `hook_sae_error` with the error term only."""

Changes = Iterator[tuple[Place, Callable[[Array], Array]]]


class Splice:
    """One SAE of one model.

    Raises:
        SAEError: The SAE does not say where it was trained, or is not as wide as that component.
        ComponentError: This model has no such hook.
    """

    def __init__(self, model: InterpretableModel, table: HookTable, sae: SAE, use_error_term: bool):
        metadata = sae.cfg.metadata
        if not isinstance(metadata.hook_name, str):
            raise SAEError(
                "This SAE's files do not say where it was trained. Say so before attaching it:"
                " sae.cfg.metadata.hook_name = 'blocks.3.hook_resid_pre'."
            )
        self.source = table.find(metadata.hook_name)
        self.target = table.find(metadata.hook_name_out or metadata.hook_name)
        self.sae, self.use_error_term = sae, use_error_term
        plain = sae.sae.replace()
        plain.metadata.pop("prepend_bos", None)  # text has its BOS here
        if self.source.norm is not None:  # it gets what it was trained on: the norm's output before the gain
            plain.metadata.pop("hook", None)
        if "component_out" in plain.metadata:
            plain.metadata["component_out"] = self.target.component
        self._fitted = adapt(model.anatomy, plain, self.source.component)
        if plain.d_out != plain.d_model and self.source is self.target:
            raise SAEError(
                f"{sae.sae!r} does not give what it takes, and names no hook to write to (hook_name_out)."
            )
        self.names = [
            f"{self.target.name}.{part}" for part in PARTS if use_error_term or part != "hook_sae_error"
        ]

    def changes(self, hooks: Hooks, wanted: set[str], record: dict[str, Array]) -> Changes:
        """What acts on one pass."""
        if self.source.component == self.target.component:
            yield self.target, lambda x: self._run(_flat(x), x, hooks, wanted, record)
            return
        given: list[Array] = []

        def remember(x: Array) -> Array:
            given[:] = [_flat(x)]
            return x

        yield self.source, remember
        yield self.target, lambda x: self._run(given[0], x, hooks, wanted, record)

    def _run(
        self, source: Array, x: Array, hooks: Hooks, wanted: set[str], record: dict[str, Array]
    ) -> Array:
        def fire(part: str, value: Any) -> Any:
            name = f"{self.target.name}.{part}"
            value = hooks.fire(name, value)
            if name in wanted:
                record[name] = value
            return value

        seen = fire("hook_sae_input", source)
        encoded = self._fitted.encode(seen)
        acts = fire("hook_sae_acts_post", encoded)
        decoded = self._fitted.decode(acts, like=seen)
        out = fire("hook_sae_recons", decoded)
        if self.use_error_term:
            clean = decoded if acts is encoded and seen is source else self._clean(source)
            out = out + fire("hook_sae_error", _flat(x) - clean)
        out = fire("hook_sae_output", out)
        return backend_of(x).cast(out, x).reshape(tuple(x.shape))

    def _clean(self, source: Array) -> Array:
        """The reconstruction that nobody changed."""
        return self._fitted.decode(self._fitted.encode(source), like=source)


def _flat(x: Array) -> Array:
    """(batch, position, width): heads of a token stand side by side."""
    return x.reshape((*x.shape[:2], x.shape[2] * x.shape[3])) if x.ndim == 4 else x

"""What a name means in one model: turns a `ComponentPath` into a `Component` that can be read and edited.

Most names are one port of one module. Names of the residual stream follow the `BlockRule` of their
block, found once per model by one small forward pass (`residual`) and only when such a name is asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from ..backends.base import LanguageModel
from ..core.integers import as_integer
from ..core.rows import rows_of
from ..core.sites import Array, Change, Component, Run, Site, SiteEdit, at_site
from ..core.tokens import TokenBatch
from ..errors import ComponentError, InputError
from .names import FURTHER, RESIDUAL, ComponentNames, ComponentPath
from .residual import BlockRule, Branch
from .scan import Scan

_TOKENS = 7
"""Widths are measured on so many: models rarely have so many heads, from which positions could not be told apart."""


class Anatomy:
    """Components of one language model, by name."""

    def __init__(self, model: LanguageModel):
        self.model = model
        self.names = ComponentNames(model.modules, model.layers)
        self.origin: Anatomy = self
        """The one whose model runs as it is."""
        self._known: dict[str, Component] = {}
        self._widths: dict[tuple[str, int | None], int] = {}

    def run_by(self, model: LanguageModel) -> Anatomy:
        """The same components of the same model, run by another `LanguageModel` (with steering, say)."""
        view = copy.copy(self)
        view.model = model
        return view

    def component(self, name: str | Component) -> Component:
        """The component of that name.

        Raises:
            ComponentError: Unknown or ambiguous, or this architecture has no such value.
        """
        if isinstance(name, Component):
            return name
        path = self.names.resolve(name)
        if path.name not in self._known:
            self._known[path.name] = self._build(path)
        return self._known[path.name]

    def width(self, place: Component) -> int:
        """How many numbers a component puts out for each token, heads side by side; measured once.

        Raises:
            ComponentError: It has no single value for each token.
            NeverCalledError: A forward pass does not reach it.
        """
        if place.name.rpartition(".")[2] in RESIDUAL:
            return self.model.d_model
        key = place.name, place.call
        if key not in self._widths:
            model = self.origin.model
            batch = TokenBatch.from_rows([[0] * min(_TOKENS, model.max_positions or _TOKENS)])
            run = model.run(batch, place.sites, stop_after=place.sites)
            self._widths[key] = int(rows_of(place, run, batch.ids.shape).shape[1])
        return self._widths[key]

    def chosen_layers(self, layers: Any) -> tuple[int, ...]:
        """Layer numbers, each once, in the order given: one or several; None means all.

        Raises:
            ComponentError: There is no such layer.
            InputError: None is named.
        """
        count = len(self.model.layers)
        if layers is None:
            return tuple(range(count))
        if as_integer(layers) is not None:
            return (self.names.layer(layers),)
        if isinstance(layers, (str, bytes)) or not isinstance(layers, Iterable):
            raise ComponentError(
                f"layers={layers!r}: expected layer numbers, one or several, or None for all; this model has 0 to"
                f" {count - 1}."
            )
        found = tuple(dict.fromkeys(self.names.layer(number) for number in layers))
        if not found:
            raise InputError("layers= is empty. Name at least one layer, or leave it out for all.")
        return found

    def table(self) -> dict[str, str]:
        """Every canonical name with what it is; names this architecture has no value for are left out."""
        rows: dict[str, str] = {}
        for name in self.names.all_names():
            try:
                path = self.names.resolve(name)
                component = self.component(name)
            except ComponentError:
                continue
            if path.kind == "head" and not self._scan.passes(component.sites):
                continue
            if path.kind == "module" and not self._scan.calls(path.module):
                rows[path.name] = f"{self._describe(path)} (never called)"
            else:
                rows[path.name] = component.note or self._describe(path)
        return rows

    def has(self, name: str) -> bool:
        """Whether there is a component of that name, and the model computes it."""
        try:
            path, component = self.names.resolve(name), self.component(name)
        except ComponentError:
            return False
        if path.kind == "head":
            return self._scan.passes(component.sites)
        return path.kind != "module" or self._scan.calls(path.module) > 0

    def calls(self, module: str) -> int:
        """How often a pass calls a module, by its native path; counted in one pass over a few tokens."""
        return self._scan.calls(module)

    def answering(self) -> list[str]:
        """The names of `table` that have a value."""
        return [name for name, what in self.table().items() if not what.endswith("(never called)")]

    def _describe(self, path: ComponentPath) -> str:
        if path.kind == "module":
            return self.model.modules.get(path.module, "")
        if path.kind == "head":
            return "per head, (batch, heads, positions, …)"
        return {"logits": "the model's output", "final_norm": "what enters the head"}.get(
            path.leaf, "residual stream"
        )

    # -- building -----------------------------------------------------------------------------

    def _build(self, path: ComponentPath) -> Component:
        if path.kind == "module":
            stage = int(path.module in self.model.layers and path.leaf == "output")  # the same as resid_post
            return at_site(path.name, Site(path.module, path.leaf), stage=stage, call=path.call)
        if path.kind == "head":
            assert path.layer is not None
            return self.model.head_component(path.layer, path.leaf, path.name)
        if path.kind == "residual":
            return self._residual(path)
        if path.leaf == "logits":
            return at_site("logits", Site("", "output"))
        if path.leaf == "final_norm":
            module = self._scan.final_norm
            return at_site("final_norm", Site(module), note=f"output of {module}")
        embed = self._scan.embed
        if embed is None:
            first = Site(self.model.layers[0], self._scan.stream_port)
            return at_site("embed", first, note="input of the first block")
        return _scaled("embed", embed)

    def _residual(self, path: ComponentPath) -> Component:
        pre = Site(path.module, self._scan.stream_port)
        if path.leaf == "resid_pre":
            return at_site(path.name, pre, last_call_only=True)
        if path.leaf == "resid_post":
            return at_site(path.name, Site(path.module), stage=1, last_call_only=True)
        assert path.layer is not None
        rule = self._scan.rule(path.layer)
        return _Stream(path.name, path.module, pre, rule, self.model.model_type).build(path.leaf)

    @property
    def _scan(self) -> Scan:
        return self.origin._own_scan

    @cached_property
    def _own_scan(self) -> Scan:
        return Scan(self.model)


class _Stream:
    """Builds resid_mid, attn_out, mlp_out and further_out of one block by its rule."""

    def __init__(self, name: str, block: str, pre: Site, rule: BlockRule, model_type: str):
        self.name, self.rule, self.pre, self.post = name, rule, pre, Site(block)
        self.model_type = model_type
        self.block = block

    def build(self, leaf: str) -> Component:
        rule = self.rule
        if rule.kind == "none":
            raise ComponentError(
                f"{self.name}: the blocks of {self.model_type} do not add to one residual stream, so"
                f" there is no {leaf}. The block's own input and output, and its modules, can be used."
            )
        if leaf == "attn_out":
            return self._addition(rule.attn, self.pre, self._middle_site(), "resid_mid - resid_pre")
        if rule.kind == "single":
            raise ComponentError(
                f"{self.name}: this block of {self.model_type} has one sublayer; what it adds is attn_out."
            )
        if leaf == FURTHER:
            return self._further()
        if leaf == "mlp_out":
            return self._addition(rule.mlp, self._middle_site(), self.post, "resid_post - resid_mid")
        return self._middle()

    def _further(self) -> Component:
        """What the block does after the MLP's addition."""
        rule = self.rule
        if not rule.more:
            raise ComponentError(
                f"{self.name}: the blocks of {self.model_type} add nothing to the stream after mlp_out."
            )
        if rule.after is not None:
            how = f"resid_post - what enters {rule.after}"
            return self._addition(rule.further, Site(rule.after, "input"), self.post, how)
        if rule.further is not None:
            return _scaled(self.name, rule.further)
        assert rule.mlp is not None and rule.middle is not None
        middle, mlp, scale = Site(rule.middle, "input"), Site(rule.mlp.module), rule.mlp.scale

        def edits(change: Change, call: int | None) -> Sequence[SiteEdit]:
            def function(x: Array, run: Run, number: int) -> Array:
                added = x - (_value(run, middle, number) + _value(run, mlp, number) * scale)
                new = change(added, run.where, run)
                return x if new is added else x + (new - added)

            return [SiteEdit(self.post, function, call, 0, (middle, mlp))]

        note = "by subtraction: resid_post - resid_mid - mlp_out (the block scales the stream)"
        sites = (middle, mlp, self.post)
        return Component(
            self.name, sites, lambda v: v[2] - (v[0] + v[1] * scale), edits, note, last_call_only=True
        )

    def _middle_site(self) -> Site | None:
        return None if self.rule.middle is None else Site(self.rule.middle, "input")

    def _addition(self, branch: Branch | None, start: Site | None, end: Site | None, how: str) -> Component:
        if branch is not None:
            return _scaled(self.name, branch)
        assert start is not None and end is not None
        note = f"by subtraction: {how}"

        def edits(change: Change, call: int | None) -> Sequence[SiteEdit]:
            if end != self.post:
                raise ComponentError(
                    f"{self.name} is known only by subtraction ({how}) in {self.model_type}, so it can be"
                    " read but not edited. Edit the sublayer's modules or resid_post instead."
                )

            def function(x: Array, run: Run, number: int) -> Array:
                added = x - _value(run, start, number)
                new = change(added, run.where, run)
                return x if new is added else x + (new - added)

            return [SiteEdit(end, function, call, 0, (start,))]

        return Component(self.name, (start, end), lambda v: v[1] - v[0], edits, note, last_call_only=True)

    def _middle(self) -> Component:
        attn, pre, middle = self.rule.attn, self.pre, self._middle_site()
        if attn is None:
            assert middle is not None
            raise_on_edit = ComponentError(
                f"{self.name} can be read but not edited in {self.model_type}: no single module's output"
                " is what was added before it. Edit resid_pre or the sublayer's modules instead."
            )

            def no_edits(_change: Change, _call: int | None) -> Sequence[SiteEdit]:
                raise raise_on_edit

            return Component(self.name, (middle,), lambda v: v[0], no_edits, last_call_only=True)
        branch, scale = Site(attn.module), attn.scale

        def edits(change: Change, call: int | None) -> Sequence[SiteEdit]:
            def function(x: Array, run: Run, number: int) -> Array:
                start = _value(run, pre, number)
                old = start + x * scale
                new = change(old, run.where, run)
                return x if new is old else x + (new - old) / scale

            return [SiteEdit(branch, function, call, 1, (pre,))]

        if middle is not None:
            return Component(self.name, (middle,), lambda v: v[0], edits, last_call_only=True)
        note = "resid_pre + attn_out"
        return Component(
            self.name, (pre, branch), lambda v: v[0] + v[1] * scale, edits, note, last_call_only=True
        )


def _value(run: Run, site: Site, number: int) -> Array:
    values = run.values[site]
    return values[min(number, len(values) - 1)]


def _scaled(name: str, branch: Branch) -> Component:
    """A module's output times a scalar; an edit writes the new value divided by it."""
    site, scale = Site(branch.module), branch.scale
    if scale == 1.0:
        return at_site(name, site, last_call_only=True, note=f"output of {branch.module}")

    def edits(change: Change, call: int | None) -> Sequence[SiteEdit]:
        def function(x: Array, run: Run, _: int) -> Array:
            scaled = x * scale
            new = change(scaled, run.where, run)
            return x if new is scaled else new / scale

        return [SiteEdit(site, function, call)]

    note = f"{scale:.6g} × output of {branch.module}"
    return Component(name, (site,), lambda v: v[0] * scale, edits, note, last_call_only=True)

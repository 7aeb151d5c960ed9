"""What one pass of a PyTorch model sees and changes at the calls of its modules.

A `Tracer` is told of each call of a hooked module (see `swap`); it records values and applies edits. torch computes at
once, so a call that need not run is skipped and a pass that has seen enough ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ...core.sites import ATTENTION_PORTS, Run, Site, SiteEdit
from ...errors import EditError
from .modes import outside_inference
from .recording import Call, Record
from .tree import ModuleTree, Node
from .values import Copies, copied, first_tensor, states, with_first, written_to


class Stopped(BaseException):
    """A pass has seen all it was asked for. No Exception, so that no model catches it."""


class Tracer:
    """Records and edits one forward pass.

    Args:
        wanted: Sites to record.
        everything: Hook every module and keep a `Record` of all calls.
        previous: The record of an earlier pass; calls that ended before the first new edit
            (`dirty`) are not run again where nothing inside them is asked for.
        stops: How many more times each of these sites must be passed until the pass may end.
        given: Path -> what the module returns instead of running.
    """

    def __init__(
        self,
        tree: ModuleTree,
        wanted: Iterable[Site],
        edits: Sequence[SiteEdit],
        *,
        run: Run,
        everything: bool = False,
        previous: Record | None = None,
        dirty: float = float("inf"),
        stops: Mapping[Site, int] | None = None,
        given: Mapping[str, Any] | None = None,
    ):
        self.tree = tree
        self.run = run
        self.edits: dict[Site, list[SiteEdit]] = {}
        for edit in sorted(edits, key=lambda e: e.stage):
            self.edits.setdefault(edit.site, []).append(edit)
        self.wanted = set(wanted)
        self._stops = dict(stops or {})
        self._given = given or {}
        touched = self.wanted | set(self.edits) | set(self._stops) | {Site(p) for p in self._given}
        self._ports: dict[str, list[Site]] = {}
        for site in sorted(touched, key=str):
            self._ports.setdefault(site.module, []).append(site)
        self.attention = {s.module for s in touched if s.port in ATTENTION_PORTS}
        self.modules = tree.modules if everything else tree.modules_for(touched)
        self.record = Record(len(edits)) if everything else None
        self._previous = previous
        self._dirty = dirty
        self._bodies = tree.bodies_of(touched) if previous is not None else frozenset()
        self.stack: list[Node] = []
        self.reached: set[Site] = set()
        self.counts: dict[str, int] = {}
        self._attention_calls: dict[str, int] = {}
        self.scales: dict[str, float] = {}
        self._copies = Copies()

    # -- one call -----------------------------------------------------------------------------

    def call(self, module: nn.Module, original: Callable, args: tuple, kwargs: dict) -> Any:
        """What `module` returns for these arguments, seen and edited."""
        nodes = self.tree.nodes.get(id(module))
        if nodes is None:
            return original(module, *args, **kwargs)
        node = nodes[0] if len(nodes) == 1 else self._which(nodes)
        number = self.counts.get(node.path, 0)
        self.counts[node.path] = number + 1
        call = (node.path, number)
        for site in self._ports.get(node.path, ()):
            if site.port.startswith("input"):
                args, kwargs = self._input(site, number, args, kwargs)
        self.stack.append(node)
        try:
            if self.record is None:
                return self._output(call, self._returned(call, module, original, args, kwargs), False)
            return self._recorded(self.record, call, module, original, args, kwargs)
        finally:
            self.stack.pop()

    def _recorded(
        self, record: Record, call: Call, module: nn.Module, original: Callable, args: tuple, kwargs: dict
    ) -> Any:
        """As `_returned`, but noted down, and not run where the previous pass already knows."""
        began = record.begin(call)
        previous, known = self._previous, self._known(call)
        seen = call[0] in self._bodies  # something inside is asked for
        if previous is not None and known is not None and not seen and call not in previous.writes:
            for path in record.adopt(previous, call, began):
                self.counts[path] = self.counts.get(path, 0) + 1
        else:
            before = states((*args, *kwargs.values()))
            out = self._returned(call, module, original, args, kwargs)
            if written_to(before):
                record.writes.add(call)
            if known is None:
                out = self._output(call, out, False)
                record.end(call, began, copied(out, self._copies.of))
                return out
        # What was known stays the very same object in the record; the caller gets a copy.
        out = self._output(call, copied(known), True)
        record.end(call, began, known)
        return out

    def _returned(self, call: Call, module: nn.Module, original: Callable, args: tuple, kwargs: dict) -> Any:
        if call[0] in self._given:
            return self._given[call[0]]
        return original(module, *args, **kwargs)

    def _known(self, call: Call) -> Any:
        """What this call returned in the previous pass, if no new edit can have changed it."""
        previous = self._previous
        if previous is None or call not in previous.times:
            return None
        return previous.outputs[call] if previous.times[call][1] < self._dirty else None

    def _input(self, site: Site, number: int, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        index = int(site.port.partition(":")[2] or 0)
        places = [i for i, x in enumerate(args) if isinstance(x, torch.Tensor)]
        if index < len(places):
            i = places[index]
            return (*args[:i], self.pass_through(site, args[i], number), *args[i + 1 :]), kwargs
        names = [key for key, x in kwargs.items() if isinstance(x, torch.Tensor)]
        if index == 0 and names:
            key = "hidden_states" if "hidden_states" in names else names[0]
            return args, {**kwargs, key: self.pass_through(site, kwargs[key], number)}
        return args, kwargs

    def _output(self, call: Call, out: Any, edited_already: bool) -> Any:
        site = Site(call[0])
        ports = self._ports.get(call[0])
        first = first_tensor(out) if ports and site in ports else None
        if first is None:
            return out
        value = self.pass_through(site, first, call[1], edited_already)
        return out if value is first else with_first(out, value)

    def pass_through(
        self, site: Site, value: torch.Tensor, number: int, edited_already: bool = False
    ) -> torch.Tensor:
        """The value with this site's edits applied; recorded if wanted."""
        if torch.is_inference_mode_enabled():  # edits, and who reads values, keep tensors for other passes
            with outside_inference():
                return self._seen(site, value, number, edited_already)
        return self._seen(site, value, number, edited_already)

    def _seen(self, site: Site, value: torch.Tensor, number: int, edited_already: bool) -> torch.Tensor:
        self.reached.add(site)
        edits = [] if edited_already else self.edits.get(site, ())
        for edit in edits:
            if edit.call is None or edit.call == number:
                value = self._edited(edit, value, number)
        if site in self.wanted:
            self.run.values.setdefault(site, []).append(self._copies.of(value))
        if site in self._stops:
            self._stops[site] -= 1
            if max(self._stops.values()) <= 0:
                raise Stopped
        return value

    def _edited(self, edit: SiteEdit, value: torch.Tensor, number: int) -> torch.Tensor:
        """The edit works on a copy and the model gets a copy: either may write into its own."""
        new = edit.function(value.clone(), self.run, number)
        if not isinstance(new, torch.Tensor):
            raise EditError(
                f"The edit of {edit.site} returned {type(new).__name__}; expected a torch.Tensor of shape"
                f" {tuple(value.shape)}. A function that changes its argument must also return it."
            )
        return new.clone()

    def next_attention_call(self, block: str) -> int:
        """Numbers the attention calls of one decoder block."""
        number = self._attention_calls.get(block, 0)
        self._attention_calls[block] = number + 1
        return number

    def _which(self, nodes: list[Node]) -> Node:
        """Of the places a shared module has in the tree, the next one below the caller."""
        for caller in reversed(self.stack):
            prefix = caller.path + "." if caller.path else ""
            below = [node for node in nodes if node.path.startswith(prefix)]
            if below:
                return min(below, key=lambda node: self.counts.get(node.path, 0))
        return nodes[0]

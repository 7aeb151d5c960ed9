"""What one pass of an MLX model sees and changes at the calls of its modules.

A `Tracer` is told of each call of a hooked module (see `swap`); it records values, applies edits, and gives again what
an earlier pass already computed. MLX is lazy, so a hooked pass only builds a graph: nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ...core.sites import ATTENTION_PORTS, Run, Site, SiteEdit
from .recording import Recording
from .tree import ModuleTree, Node


class Tracer:
    """Records and edits one forward pass.

    Args:
        everything: Hook every module and record each output; else only what the sites need.
        earlier: The recording of an earlier pass; calls that ended there before the first new edit
            (`dirty`) return the objects they returned then.
    """

    def __init__(
        self,
        tree: ModuleTree,
        sites: Iterable[Site],
        edits: Sequence[SiteEdit],
        *,
        run: Run,
        model_type: str = "",
        everything: bool = False,
        earlier: Recording | None = None,
        dirty: float = float("inf"),
    ):
        self.tree = tree
        self.everything = everything
        self.run = run
        self.model_type = model_type
        self.edits: dict[Site, list[SiteEdit]] = {}
        for edit in sorted(edits, key=lambda e: e.stage):
            self.edits.setdefault(edit.site, []).append(edit)
        self.wanted = set(sites) | {s for edit in edits for s in edit.reads if s not in run.values}
        touched = self.wanted | set(self.edits)
        self.input_ports: dict[str, set[str]] = {}
        for site in touched:
            if site.port.startswith("input"):
                self.input_ports.setdefault(site.module, set()).add(site.port)
        self.attention = {s.module for s in touched if s.port in ATTENTION_PORTS}
        self.output_sites = {s.module for s in touched if s.port == "output"}
        self.modules = tree.modules if everything else tree.modules_for(touched)
        self._special = self.output_sites | set(self.input_ports)
        self.earlier = earlier
        self._dirty = dirty
        self._must_run = tree.ancestors_or_self(touched) if earlier is not None else frozenset()
        self.all_edits = tuple(edits)
        self.stack: list[Node] = []
        self.log: list[Any] = []  # node at entry, (node, output) at exit
        self.fresh = Recording()
        self.reached: set[Site] = set()
        self.counts: dict[str, int] = {}
        self._attention_calls: dict[str, int] = {}

    # -- one call -----------------------------------------------------------------------------

    def call(self, module: nn.Module, original: Callable, args: tuple, kwargs: dict) -> Any:
        """Stands in for one call of a hooked module."""
        nodes = self.tree.nodes.get(id(module))
        if nodes is None:
            return original(module, *args, **kwargs)
        node = nodes[0] if len(nodes) == 1 else self._which(nodes)
        self.stack.append(node)
        try:
            if self.earlier is not None:
                return self._repeat(self.earlier, node, module, original, args, kwargs)
            self.log.append(node)
            if node.path in self._special:
                number = self._next_number(node.path)
                args, kwargs = self._inputs(node.path, number, args, kwargs)
                out = self._output(node.path, original(module, *args, **kwargs), number)
            else:
                out = original(module, *args, **kwargs)
        finally:
            self.stack.pop()
        self.log.append((node, _keep(out)) if self.everything else None)
        return out

    def _repeat(
        self, earlier: Recording, node: Node, module: nn.Module, original: Callable, args: tuple, kwargs: dict
    ) -> Any:
        """A call in a pass that starts from an earlier one: not made again if no new edit reaches it."""
        path, number = node.path, self._next_number(node.path)
        done = earlier.finished((path, number), self._dirty)
        self.fresh.enter(path, number)
        if done is not None and path not in self._must_run and not _writable(args, kwargs):
            for inner, count in earlier.calls_within((path, number)).items():
                self.counts[inner] = self.counts.get(inner, 0) + count
            out = self._output(path, _keep(done), number, edited=True)
        else:
            args, kwargs = self._inputs(path, number, args, kwargs)
            out = original(module, *args, **kwargs)
            if done is not None:  # run again only to see inside; the value stays the same object
                out = self._output(path, _keep(done), number, edited=True)
            else:
                out = self._output(path, out, number)
        self.fresh.leave(path, number, _keep(out))
        return out

    def _next_number(self, path: str) -> int:
        number = self.counts.get(path, 0)
        self.counts[path] = number + 1
        return number

    def _inputs(self, path: str, number: int, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        for port in self.input_ports.get(path, ()):
            args, kwargs = self._input(Site(path, port), number, args, kwargs)
        return args, kwargs

    def _output(self, path: str, out: Any, number: int, edited: bool = False) -> Any:
        if path not in self.output_sites:
            return out
        first = first_array(out)
        if first is None:
            return out
        return _with_first(out, self.pass_through(Site(path), first, number, edited))

    def _input(self, site: Site, number: int, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        index = int(site.port.partition(":")[2] or 0)
        if index < len(args) and isinstance(args[index], mx.array):
            new = self.pass_through(site, args[index], number)
            return (*args[:index], new, *args[index + 1 :]), kwargs
        for key, value in kwargs.items():
            if isinstance(value, mx.array) and not args:
                return args, {**kwargs, key: self.pass_through(site, value, number)}
        return args, kwargs

    def pass_through(
        self, site: Site, value: mx.array, number: int, edited_already: bool = False
    ) -> mx.array:
        """The value with this site's edits applied; recorded if wanted."""
        self.reached.add(site)
        if not edited_already:
            for edit in self.edits.get(site, ()):
                if edit.call is None or edit.call == number:
                    value = edit.function(value, self.run, number)
        if site in self.wanted:
            self.run.values.setdefault(site, []).append(value[...])
        return value

    def next_attention_call(self, block: str) -> int:
        """Numbers the attention calls of one decoder block."""
        number = self._attention_calls.get(block, 0)
        self._attention_calls[block] = number + 1
        return number

    def _which(self, nodes: list[Node]) -> Node:
        """Of the places a shared module has in the tree, the one nearest below the caller."""
        for caller in reversed(self.stack):
            for node in nodes:
                if node.parent is caller or node.path.startswith(caller.path + "."):
                    return node
        return nodes[0]

    # -- afterwards ---------------------------------------------------------------------------

    @cached_property
    def recording(self) -> Recording:
        """What a fully recorded pass called when, and what came out."""
        if self.earlier is None:
            return Recording.from_log(self.log)
        return self.fresh.after(self.earlier, self._dirty)

    def calls(self) -> dict[str, int]:
        """How often each hooked module was called."""
        if self.earlier is not None:
            return self.recording.counts()
        counts: dict[str, int] = {}
        for entry in self.log:
            if isinstance(entry, Node):
                counts[entry.path] = counts.get(entry.path, 0) + 1
        return counts


def _keep(out: Any) -> Any:
    """What a module returned, safe from in-place operations of its caller (`h += …`)."""
    if isinstance(out, mx.array):
        return out[...]
    if isinstance(out, tuple) and not hasattr(out, "_fields"):
        return tuple(x[...] if isinstance(x, mx.array) else x for x in out)
    if type(out) is list:
        return [x[...] if isinstance(x, mx.array) else x for x in out]
    return out


def _writable(args: tuple, kwargs: dict) -> bool:
    """Whether a call is given something it could write into, such as a cache: then it is never skipped."""
    plain = (mx.array, str, int, float, type(None))
    values = [*args, *kwargs.values()]
    return not all(
        isinstance(v, plain) or (isinstance(v, tuple) and all(isinstance(x, plain) for x in v))
        for v in values
    )


def first_array(out: Any) -> mx.array | None:
    """The array that stands for a module's output: itself, or a tuple's first element."""
    if isinstance(out, mx.array):
        return out
    if isinstance(out, (tuple, list)) and out and isinstance(out[0], mx.array):
        return out[0]
    return None


def _with_first(out: Any, value: mx.array) -> Any:
    if isinstance(out, mx.array):
        return value
    if isinstance(out, list):
        return [value, *out[1:]]
    if hasattr(out, "_fields"):
        return type(out)(value, *out[1:])
    return (value, *out[1:])

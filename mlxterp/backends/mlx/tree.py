"""The modules of an MLX model, by path.

A module object can stand at several paths (mlx-lm shares activation functions), and lists and
containers without a `__call__` have paths but are never called. `ModuleTree` is built once per
model by `MLXLanguageModel` and read by the `Tracer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ...core.sites import ATTENTION_PORTS, Site

_COMPILED: type = type(mx.compile(lambda x: x))


@dataclass(eq=False, slots=True)
class Node:
    """One place in the tree."""

    path: str
    module: nn.Module
    parent: Node | None


class ModuleTree:
    """Paths, modules, and which of them a set of sites concerns."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.by_path: dict[str, Node] = {}
        self.nodes: dict[int, list[Node]] = {}
        self.has_compiled = False
        self._walk(model, "", None)
        self._ids, self._kinds = list(_module_ids(model)), self._dtypes()
        unique = {id(node.module): node.module for node in self.by_path.values()}
        self.every: list[nn.Module] = list(unique.values())
        """Each module once."""
        self.modules: list[nn.Module] = [m for m in self.every if callable(m)]

    def _walk(self, module: nn.Module, path: str, parent: Node | None) -> None:
        node = Node(path, module, parent)
        self.by_path[path] = node
        self.nodes.setdefault(id(module), []).append(node)
        self.has_compiled |= any(_compiles(value) for value in _attributes(module))
        for key, value in module.items():
            self._walk_value(value, f"{path}.{key}" if path else key, node)

    def _walk_value(self, value: Any, path: str, parent: Node) -> None:
        if isinstance(value, nn.Module):
            self._walk(value, path, parent)
        elif isinstance(value, (list, tuple)):
            for i, item in enumerate(value):
                self._walk_value(item, f"{path}.{i}", parent)
        elif isinstance(value, dict):
            for key, item in value.items():
                self._walk_value(item, f"{path}.{key}", parent)

    def holds(self) -> bool:
        """Whether the model still has these modules at these places, and weights of these dtypes."""
        return list(_module_ids(self.model)) == self._ids and self._dtypes() == self._kinds

    def _dtypes(self) -> set[str]:
        return {
            str(value.dtype)
            for node in self.by_path.values()
            for value in node.module.values()
            if isinstance(value, mx.array)
        }

    def children(self, path: str) -> list[str]:
        """Paths below `path`, at any depth."""
        prefix = path + "." if path else ""
        return [p for p in self.by_path if p.startswith(prefix) and p != path]

    def modules_for(self, sites: Iterable[Site]) -> list[nn.Module]:
        """The modules to hook so that each of `sites` is seen under its right path."""
        paths: set[str] = set()
        for site in sites:
            node = self.by_path[site.module]
            paths.add(site.module)
            if site.port in ATTENTION_PORTS:  # the owner of an attention call is found on the stack
                paths.update(self.children(site.module))
            while len(self.nodes[id(node.module)]) > 1 and node.parent is not None:
                node = node.parent
                paths.add(node.path)
        unique = {id(self.by_path[p].module): self.by_path[p].module for p in paths}
        return [m for m in unique.values() if callable(m)]

    def ancestors_or_self(self, sites: Iterable[Site]) -> frozenset[str]:
        """Paths of the modules whose bodies must run for `sites` to be passed."""
        paths: set[str] = {""}
        for site in sites:
            if site.port in ATTENTION_PORTS:
                inner = self.children(site.module)
                parents = {self.by_path[p].parent for p in inner}
                paths.update(node.path for node in parents if node is not None)
            node: Node | None = self.by_path[site.module]
            if site.port == "output" and node is not None:
                node = node.parent
            while node is not None:
                paths.add(node.path)
                node = node.parent
        return frozenset(paths)


def _attributes(module: nn.Module) -> Iterable[Any]:
    yield from vars(module).values()
    yield from module.values()
    for cls in type(module).__mro__:
        if cls in (nn.Module, dict, object):
            break
        yield from vars(cls).values()


def _compiles(value: Any) -> bool:
    """Whether an attribute is a compiled function, or a method that makes one when it runs."""
    code = getattr(value, "__code__", None)
    return isinstance(value, _COMPILED) or (code is not None and "compile" in code.co_names)


def _module_ids(value: Any) -> Iterator[int]:
    """Ids of all modules, in the order of the tree."""
    if isinstance(value, nn.Module):
        yield id(value)
    inner = value.values() if isinstance(value, dict) else value
    for item in inner:
        if isinstance(item, (dict, list, tuple)):
            yield from _module_ids(item)

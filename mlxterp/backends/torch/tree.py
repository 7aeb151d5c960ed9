"""The modules of a PyTorch model, by path.

A module object can stand at several paths (tied or shared layers), and containers such as
`ModuleList` have paths but are never called. `ModuleTree` is built once per model by
`TorchLanguageModel` and read by the `Tracer`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from ...core.sites import ATTENTION_PORTS, Site

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


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
        for path, module in model.named_modules(remove_duplicate=False):
            parent = self.by_path[path.rpartition(".")[0]] if path else None
            node = self.by_path[path] = Node(path, module, parent)
            self.nodes.setdefault(id(module), []).append(node)
        self._ids, self._kinds = self._module_ids(), self._places()
        self.every: list[nn.Module] = list({id(n.module): n.module for n in self.by_path.values()}.values())
        """Each module once."""
        self.modules: list[nn.Module] = self._callable(self.by_path)
        """Each module that can be called, once."""

    def holds(self) -> bool:
        """Whether the model still has these modules at these places, and weights of these dtypes on these devices."""
        return self._module_ids() == self._ids and self._places() == self._kinds

    def _places(self) -> set[tuple[torch.dtype, torch.device]]:
        return {(weight.dtype, weight.device) for weight in self.model.parameters()}

    def _module_ids(self) -> list[tuple[str, int]]:
        return [(path, id(m)) for path, m in self.model.named_modules(remove_duplicate=False)]

    def _callable(self, paths: Iterable[str]) -> list[nn.Module]:
        unique = {id(self.by_path[p].module): self.by_path[p].module for p in paths}
        return [m for m in unique.values() if not isinstance(m, _CONTAINERS)]

    def below(self, path: str) -> list[Node]:
        """Everything inside the module at `path`, at any depth."""
        prefix = path + "." if path else ""
        return [node for p, node in self.by_path.items() if p.startswith(prefix) and p != path]

    def modules_for(self, sites: Iterable[Site]) -> list[nn.Module]:
        """The modules to hook so that each of `sites` is seen under its right path."""
        paths: set[str] = set()
        for site in sites:
            node = self.by_path[site.module]
            paths.add(site.module)
            while len(self.nodes[id(node.module)]) > 1 and node.parent is not None:
                node = node.parent
                paths.add(node.path)
        return self._callable(paths)

    def bodies_of(self, sites: Iterable[Site]) -> frozenset[str]:
        """Paths of the modules whose bodies must run for `sites` to be passed."""
        paths: set[str] = {""}
        for site in sites:
            node: Node | None = self.by_path[site.module]
            if site.port in ATTENTION_PORTS:  # the call is in the body of some module inside
                parents = [inner.parent for inner in self.below(site.module)]
                paths.update(parent.path for parent in parents if parent is not None)
                paths.add(site.module)
            node = node.parent
            while node is not None:
                paths.add(node.path)
                node = node.parent
        return frozenset(paths)

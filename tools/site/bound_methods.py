"""For the documentation's site: `load_sae = saes.load_sae` in a class is a method, with the function's docstring.

An extension of griffe, which reads the package for mkdocstrings without running it.
"""

from __future__ import annotations

import copy
from typing import Any

import griffe


class BoundMethods(griffe.Extension):
    """Puts the function in the place of each attribute of a class that only names one of the package."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **_: Any) -> None:
        for cls in _classes_of(pkg):
            for name, member in list(cls.members.items()):
                function = _function_named(member, loader)
                if function is not None:
                    method = copy.copy(function)
                    method.name = name
                    cls.set_member(name, method)


def _classes_of(of: griffe.Module | griffe.Class) -> list[griffe.Class]:
    inner = [member for member in of.members.values() if not member.is_alias]
    classes = [member for member in inner if isinstance(member, griffe.Class)]
    deeper = [member for member in inner if isinstance(member, (griffe.Module, griffe.Class))]
    return [*classes, *(found for member in deeper for found in _classes_of(member))]


def _function_named(member: Any, loader: griffe.GriffeLoader) -> griffe.Function | None:
    if member.is_alias or not isinstance(member, griffe.Attribute):
        return None
    if not isinstance(member.value, (griffe.ExprName, griffe.ExprAttribute)):
        return None
    try:
        found: Any = loader.modules_collection[member.value.canonical_path]
    except KeyError:
        return None
    if isinstance(found, griffe.Module):  # a package that names a function as the file in which it stands
        found = found.members.get(found.name, found)
    if found.is_alias:
        found = found.final_target
    return found if isinstance(found, griffe.Function) else None

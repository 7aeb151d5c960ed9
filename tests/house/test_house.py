"""The house: packages stand in a strict order, no files import each other in a circle, and wings stay apart."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import mlxterp
from mlxterp.core import rooms

ROOT = Path(mlxterp.__file__).parent

ORDER = (
    "errors",
    "core",
    "variants weights",
    "data concepts viz",
    "backends",
    "anatomy interventions",
    "tracing",
    "activations",
    "sae",
    "training evaluation features lens",
    "index",
    "edits",
    "hooks",
    "steering patching attention neuronpedia",
    "geometry autointerp explorer circuits patchscopes",
    "model study",
    "demo visualization",
    "cli compat",
    "__main__",
)
"""From the ground up: what stands in a line may import what stands in earlier lines, and nothing beside it."""
FLOOR = {name: floor for floor, names in enumerate(ORDER) for name in names.split()}

UPWARDS: set[tuple[str, str]] = set()
"""Imports against the order that are still there. The list only shrinks."""
CIRCLES: set[str] = set()
"""Files that still import each other in a circle. The list only shrinks."""
BY_NAME = {"__init__.py", "backends/__init__.py", "core/rooms.py", "training/history.py"}
"""Files that import modules by a name they compute: the lazy names at the top, the wings, the door upwards, an
optional writer."""
ROOMS = FLOOR["geometry"]
"""The floor of the rooms: where the door upwards may lead, or above."""


def files() -> dict[str, Path]:
    return {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}


def imports_of(name: str, path: Path) -> Iterator[tuple[str, str]]:
    """(module, name or "") of every import anywhere in a file, those for types and those within functions too."""
    package = ("mlxterp", *Path(name).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join((*base, *(node.module.split(".") if node.module else ())))
            yield from ((stem, alias.name) for alias in node.names)


def graph() -> dict[str, set[str]]:
    """Every file → the files of the package that it imports."""
    known = files()
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        targets = found.setdefault(name, set())
        for module, thing in imports_of(name, path):
            if module.split(".")[0] == "mlxterp":
                targets.add(_file(known, f"{module}.{thing}") or _file(known, module) or "")
    return {
        name: targets - {"", "__init__.py", name} for name, targets in found.items() if name != "__init__.py"
    }


def _file(known: dict[str, Path], module: str) -> str | None:
    path = "/".join(module.split(".")[1:])
    return next((name for name in (f"{path}.py", f"{path}/__init__.py") if name in known), None)


def _room(name: str) -> str:
    return Path(name).with_suffix("").parts[0]


def test_an_import_goes_to_a_lower_package_only():
    rising = {
        (name, target)
        for name, targets in graph().items()
        for target in targets
        if _room(name) != _room(target) and FLOOR[_room(target)] >= FLOOR[_room(name)]
    }
    assert rising == UPWARDS


def test_no_files_import_each_other_in_a_circle():
    assert {name for circle in circles(graph()) for name in circle} == CIRCLES


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """Sets of files of which each can be reached from each other."""
    below = {name: _reached(edges, name) for name in edges}
    return [
        {name} | {other for other in below[name] if name in below[other]}
        for name in edges
        if name in below[name]
    ]


def _reached(edges: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = list(edges[start])
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += edges[name]
    return found


def test_nothing_else_resolves_modules_by_name():
    calling = {
        name
        for name, path in files().items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__")
    }
    assert calling == BY_NAME


def test_the_door_leads_to_the_floor_of_the_rooms_or_above():
    for verb, room in rooms.VERBS.items():
        module, _, name = room.target.partition(":")
        assert FLOOR[module.partition(".")[0]] >= ROOMS, f"{verb} leads to {room.target}"
        assert callable(getattr(importlib.import_module(f"mlxterp.{module}"), name, None)), verb


def test_a_verb_is_a_documented_method_of_one_line_with_the_signature_of_its_function():
    opened = {verb: found for path in files().items() for verb, found in verbs_in(*path)}
    assert set(opened) == set(rooms.VERBS)
    for verb, (module, kind, method) in opened.items():
        told = [statement for statement in method.body if not isinstance(statement, ast.Expr)]
        assert len(told) == 1 and isinstance(told[0], ast.Return) and ast.get_docstring(method), verb
        below = getattr(getattr(importlib.import_module(module), kind), method.name)
        above = rooms.function_of(verb, rooms.VERBS[verb])
        assert parameters(above)[1:] == parameters(below)[1:], verb


def verbs_in(name: str, path: Path) -> Iterator[tuple[str, tuple[str, str, ast.FunctionDef]]]:
    """Verbs that a file opens the door for: (module, class, method) of each."""
    module = ".".join(("mlxterp", *Path(name).with_suffix("").parts))
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for kind in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        for method in (node for node in kind.body if isinstance(node, ast.FunctionDef)):
            for call in ast.walk(method):
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "rooms.open":
                    yield ast.literal_eval(call.args[0]), (module, kind.name, method)


def parameters(function: object) -> list[tuple[str, object, object]]:
    found = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    return [(p.name, p.kind, p.default) for p in found]


def test_only_what_users_import_stands_at_the_top():
    modules = {path.stem for path in ROOT.glob("*.py")}
    assert modules == {"__init__", "__main__", "errors", "interventions", "variants", "weights"}


def test_a_wing_imports_its_own_library_only_and_nothing_else_imports_one():
    for name, path in files().items():
        modules = {module for module, _ in imports_of(name, path)}
        heavy = {module.split(".")[0] for module in modules} & {"mlx", "mlx_lm", "torch", "transformers"}
        parts = Path(name).parts
        wing = parts[1] if parts[0] == "backends" and len(parts) > 2 else ""
        allowed = {"mlx": {"mlx", "mlx_lm"}, "torch": {"torch", "transformers"}}.get(wing, set())
        assert heavy <= allowed, f"{name} imports {heavy}"
        other = {"mlx": "mlxterp.backends.torch", "torch": "mlxterp.backends.mlx"}.get(wing, "nothing")
        assert not any(module.startswith(other) for module in modules), name

"""The fast tests pass through every room of the package."""

from __future__ import annotations

import ast
from pathlib import Path

import mlxterp
from tests.fast import FILES, LONG

TESTS = Path(__file__).resolve().parent.parent
ROOMS = {path.parent.name for path in Path(mlxterp.__file__).parent.glob("*/__init__.py")}
ELSEWHERE = {"demo": "cli/test_cli.py", "visualization": "attention/test_pictures.py"}
"""Rooms whose tests lie in another's file."""


def test_every_room_has_fast_tests():
    tested = {file.split("/")[0] for file in FILES} | {
        room for room, file in ELSEWHERE.items() if file in FILES
    }
    assert ROOMS - tested == set()


def test_what_is_called_fast_or_long_is_there():
    found = {file: set(_tests(TESTS / file)) for file in FILES}
    assert all(found.values()), [file for file, names in found.items() if not names]
    assert set().union(*found.values()) >= LONG


def _tests(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return [function.name for function in functions if function.name.startswith("test_")]

"""What people and models say of features is written by one module, in one format."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import mlxterp

ROOT = Path(mlxterp.__file__).parent
WRITING = {
    "atomic_write",
    "atomic_folder",
    "write_text",
    "write_bytes",
    "write_atomically",
    "dump",
    "dumps",
    "open",
}
STORE = "concepts/store.py"


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(ROOT.rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func).split(".")[-1]


def test_of_all_that_names_features_only_the_store_writes_files():
    writers = {
        (name, called)
        for name, tree in trees()
        if name.startswith("concepts/")
        for _, called in calls(tree)
        if called in WRITING
    }
    assert {name for name, _ in writers} == {STORE}


def test_the_columns_of_names_are_known_to_the_store_alone():
    columns = {
        name
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value == "concept_name"
    }
    assert columns == {STORE}


def test_names_beside_an_sae_are_the_stores_text():
    written = [
        ast.unparse(node.value)
        for _, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and any(isinstance(t, ast.Subscript) and "NAMES_FILE" in ast.unparse(t.slice) for t in node.targets)
    ]
    assert written == ["store.as_json(sae.names)"]
    handed_on = [
        ast.unparse(node.value)
        for name, tree in trees()
        if name == "sae/sae.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and "store." in ast.unparse(node.value)
    ]
    assert handed_on == ["store.entries(sae.concepts.names, sae.concepts.explanations) if names else None"]
    named = {
        name for name, tree in trees() for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value == "names.json"
    }  # fmt: skip
    assert named == {
        "sae/formats/own.py",
        "index/folder.py",
        "explorer/name_routes.py",
    }  # an index's, and a download

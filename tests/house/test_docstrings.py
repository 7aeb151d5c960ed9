"""Docstrings: their examples run as they stand, in both wings, and `help` says what each field of a value means.

Examples go on from the names that the package's own docstring makes: model, sae, texts, index and ball.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
from collections.abc import Iterator
from copy import copy
from dataclasses import is_dataclass
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

import mlxterp
from tests.house.test_public_snapshot import MODULES

ROOT = Path(mlxterp.__file__).parent

FIRST_CALLS = (
    "load_demo", "InterpretableModel", "InterpretableModel.components", "InterpretableModel.tokenize",
    "InterpretableModel.to_str_tokens", "InterpretableModel.decode", "InterpretableModel.trace",
    "InterpretableModel.loss", "InterpretableModel.generate", "InterpretableModel.gradients",
    "InterpretableModel.logit_lens", "InterpretableModel.activation_patching",
    "InterpretableModel.attribution_patching", "InterpretableModel.load_sae", "InterpretableModel.train_sae",
    "InterpretableModel.get_top_features_for_text", "InterpretableModel.get_top_texts_for_feature",
    "InterpretableModel.visualize_feature_activations", "InterpretableModel.feature_logits",
    "InterpretableModel.build_index", "InterpretableModel.steer", "InterpretableModel.attach_sae",
    "InterpretableModel.add_hook", "SAE.encode", "SAE.encode_sparse", "SAE.decode", "SAE.save", "SAE.load",
    "SAE.check", "SAE.evaluate", "FeatureIndex.open", "FeatureIndex.top_texts", "FeatureIndex.examples",
    "FeatureIndex.stats", "FeatureIndex.search", "FeatureIndex.similar", "FeatureIndex.feature",
    "FeatureIndex.top_features", "Concepts.manipulate_concept", "Concepts.load_concepts", "FeatureRegistry",
    "Controller", "Detector", "SAETrainConfig", "collect_activations", "logit_difference", "pretrained_saes",
    "train_sae", "interventions.scale", "steering.add_feature", "steering.amplify", "steering.calibrate",
    "steering.clamp", "steering.difference_of_means",
)  # fmt: skip
"""What README and the guides call first."""

HELD = (
    "compat.arena.gather.Chosen", "compat.arena.gather.Gathered", "compat.mi_crow.inference.InferenceOutput",
    "compat.saelens.model.Output", "core.sites.Where", "edits.conditions.DirectionReadout",
    "edits.conditions.FeatureReadout", "edits.edits.DirectionEdit", "edits.edits.FeatureEdit",
    "lens.logit_lens.LensToken", "steering.calibration.Strength", "steering.trials.Written",
)  # fmt: skip
"""Values that public calls hand out, by names that are not public."""


def docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, str, int]]:
    """Every docstring with an example in a part of a file: whose it is, its text, and its line."""
    for part in ast.iter_child_nodes(node):
        if isinstance(part, ast.ClassDef | ast.FunctionDef):
            yield from docstrings(part, f"{name}.{part.name}")
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
        text = ast.get_docstring(node)
        if text is not None and ">>> " in text:
            yield name, text, node.body[0].lineno - 1


EXAMPLES = [
    found
    for path in sorted(ROOT.rglob("*.py"))
    for found in docstrings(ast.parse(path.read_text(encoding="utf-8")), path.relative_to(ROOT).as_posix())
    if path != ROOT / "__init__.py"  # makes the names that the others go on from
]


@cache
def names(backend: str) -> dict[str, Any]:
    """What examples go on from: the names that the package's docstring makes."""
    model, sae, stories = mlxterp.load_demo(backend)
    texts = [story for story in stories if len(model.tokenize(story)) <= 256][:40]
    index = model.build_index(sae, texts, verbose=False)
    return {
        "mlxterp": mlxterp, "model": model, "sae": sae, "stories": stories, "texts": texts, "index": index,
        "ball": index.search("ball")[0].feature_id,
    }  # fmt: skip


def run(name: str, text: str, line: int, known: dict[str, Any]) -> None:
    """Runs the examples of a docstring with these names at hand; what they make is added to them."""
    test = doctest.DocTestParser().get_doctest(text, known, name, name, line)
    told: list[str] = []
    doctest.DocTestRunner().run(test, out=told.append, clear_globs=False)
    known.update(test.globs)
    assert not told, "".join(told)


@pytest.mark.parametrize(("name", "text", "line"), [pytest.param(*found, id=found[0]) for found in EXAMPLES])
def test_the_examples_of_a_docstring_run(name, text, line, backend, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ready = names(backend)
    own = {"sae": ready["sae"].replace(), "index": copy(ready["index"])}  # whose names of features may change
    run(name, text, line, ready | own)
    assert not ready["model"].attached


def test_examples_go_on_from_the_names_that_the_package_makes():
    ready, made = names(mlxterp.get_backend().name), dict[str, Any]()
    run("mlxterp", inspect.getdoc(mlxterp) or "", 0, made)
    assert {name for name in made if not name.startswith("_")} == set(ready)
    assert (made["texts"], made["ball"]) == (ready["texts"], ready["ball"])


@pytest.mark.parametrize("call", FIRST_CALLS)
def test_the_calls_that_users_meet_first_show_an_example(call):
    assert "\nExamples:\n    >>> " in (inspect.getdoc(attrgetter(call)(mlxterp)) or "")


def public_values() -> set[type]:
    """Every dataclass and named tuple of a public module, with those that they derive from, and those of `HELD`."""
    modules = [mlxterp, *(importlib.import_module(f"mlxterp.{path}") for path in MODULES)]
    found = [getattr(module, name) for module in modules for name in getattr(module, "__all__", vars(module))]
    for path in HELD:
        module, _, name = path.rpartition(".")
        found.append(getattr(importlib.import_module(f"mlxterp.{module}"), name))
    bases = {base for thing in found if inspect.isclass(thing) for base in inspect.getmro(thing)}
    return {base for base in bases if base.__module__.startswith("mlxterp") and _has_fields(base)}


def _has_fields(value: type) -> bool:
    return is_dataclass(value) or hasattr(value, "_fields")


def test_help_says_what_each_field_of_a_public_value_means():
    for value in public_values():
        _, _, told = (inspect.getdoc(value) or "").partition("\nAttributes:\n")
        for name, kind in inspect.get_annotations(value).items():
            shown = re.search(rf"^    {name}: \S", told, re.MULTILINE)
            assert shown or name.startswith("_") or "ClassVar" in str(kind), f"{value.__name__}.{name}"


def test_modules_that_prose_names_are_there():
    """`package.module` in docstrings and comments; names that are values in prose too (`sae.check`) are passed over."""
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"index", "lens", "model", "sae"}
    named = re.compile(rf"`((?:{'|'.join(sorted(packages))})(?:\.\w+)+)(?:\([^`]*\))?`")
    for path in ROOT.rglob("*.py"):
        for name in named.findall(path.read_text(encoding="utf-8")):
            package, *rest = name.split(".")
            found = importlib.import_module(f"mlxterp.{package}")
            inner = ROOT.joinpath(package, *rest[:1])
            assert inner.with_suffix(".py").exists() or inner.is_dir() or hasattr(found, rest[0]), (
                f"{path.relative_to(ROOT)} names {name}"
            )

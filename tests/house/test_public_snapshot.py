"""The public calls are a promise: names, parameters, defaults and return types are those that were written down.

After a wanted addition: `python -m tests.house.test_public_snapshot` writes it again; look at the difference.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import mlxterp

SNAPSHOT = Path(__file__).parent / "public_names.json"
MODULES = (
    "attention", "autointerp", "backends", "circuits", "cli", "compat.arena", "compat.mi_crow",
    "compat.mi_crow.activations", "compat.mi_crow.datasets", "compat.mi_crow.hooks",
    "compat.mi_crow.language_model", "compat.mi_crow.mechanistic.sae", "compat.mi_crow.store", "compat.mlxterp",
    "compat.saelens", "concepts", "demo", "errors", "explorer", "geometry", "hooks", "index", "interventions", "lens",
    "model", "neuronpedia", "patching", "patchscopes", "sae", "sae.pretrained", "steering", "study", "training",
    "variants", "visualization", "viz", "weights",
)  # fmt: skip
"""Paths that the docs name, or that users of the existing systems import."""


def signature_of(thing: Any) -> str:
    """Names, kinds and defaults of the parameters, and the return type."""
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return "no signature"
    plain = [p.replace(annotation=p.empty) for p in found.parameters.values()]
    return re.sub(r" at 0x\w+", "", str(found.replace(parameters=plain)))


def described(thing: Any) -> Any:
    """What is promised of a class, function or value."""
    if not inspect.isclass(thing):
        return signature_of(thing) if callable(thing) else type(thing).__name__
    members = {"__init__": signature_of(thing)}
    for name in sorted(dir(thing)):
        if name.startswith("_"):
            continue
        member = inspect.getattr_static(thing, name)
        plain = member.__func__ if isinstance(member, (staticmethod, classmethod)) else member
        members[name] = signature_of(plain) if callable(plain) else "attribute"
    return members


def public_of(module: Any) -> dict[str, Any]:
    own = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and f"{getattr(value, '__module__', '')}.".startswith(f"{module.__name__}.")
    ]
    return {name: described(getattr(module, name)) for name in sorted(getattr(module, "__all__", own))}


def today() -> dict[str, dict[str, Any]]:
    found = {"mlxterp": public_of(mlxterp)}
    for path in MODULES:
        found[f"mlxterp.{path}"] = public_of(importlib.import_module(f"mlxterp.{path}"))
    return found


def test_every_promised_name_is_there_with_its_signature():
    promised, now = json.loads(SNAPSHOT.read_text()), json.loads(json.dumps(today()))
    broken = [
        f"{path}.{name}.{member}".removesuffix(".")
        for path, names in promised.items()
        for name, kept in names.items()
        for member, expected in (kept.items() if isinstance(kept, dict) else [("", kept)])
        if _at(now, path, name, member) != expected
    ]
    assert not broken


def _at(now: dict[str, Any], path: str, name: str, member: str) -> Any:
    found = now.get(path, {}).get(name)
    return found.get(member) if member and isinstance(found, dict) else found


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(today(), indent=1, sort_keys=True) + "\n")

"""What the package promises by name, and what its rooms may know of each other."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import mlxterp

ROOT = Path(mlxterp.__file__).parent

LEVEL = {
    "errors": 0,
    "core": 1,
    "blas": 1, "sites": 1, "tokens": 1, "components": 1, "residual": 1, "positions": 1, "sparse": 1,
    "corpus": 1, "variants": 1, "weights": 1, "dataset": 1, "contexts": 1,
    "linear_part": 1, "progress": 1, "whole": 1, "registry": 1, "strongest": 1, "concepts": 1,
    "store": 1, "local_store": 1,
    "backends": 2,
    "text": 3, "probe": 3, "array_methods": 3, "interventions": 3, "anatomy": 3, "edits": 3,
    "results": 3, "objectives": 3, "open_traces": 3, "trace": 3, "sae": 3, "training": 3,
    "features": 4, "index": 4, "lens": 4, "generation": 4, "gradients": 4, "proxies": 4, "viz": 4,
    "steering": 4, "acting": 4, "hooks": 4, "standing": 4, "model_core": 4, "attaching": 4,
    "model": 5, "model_saes": 5, "model_index": 5, "model_steering": 5, "model_hooks": 5, "demo": 5, "cli": 5,
    "__main__": 5,
    "plotting": 1, "stream_lens": 4, "patching": 4, "model_patching": 5,
    "compat": 6,
}  # fmt: skip
"""A room may import rooms of its own level or below; nobody below imports the front door (level 5)."""


def room(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports_of(path: Path) -> set[str]:
    """Absolute names of mlxterp's modules that a file imports, anywhere in it."""
    package = ("mlxterp", *path.relative_to(ROOT).with_suffix("").parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + (path.name == "__init__.py") * 0]
            stem = ".".join((*base, *(node.module.split(".") if node.module else ())))
            found |= {stem} if node.module else {f"{stem}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_rooms_import_only_what_lies_below_them():
    for path in ROOT.rglob("*.py"):
        if path == ROOT / "__init__.py":
            continue
        for name in imports_of(path):
            parts = name.split(".")
            if parts[0] != "mlxterp" or len(parts) < 2:
                continue
            assert LEVEL[parts[1]] <= LEVEL[room(path)], f"{path.name} imports {name}"


def test_a_wing_imports_its_own_library_only_and_nothing_else_imports_one():
    for path in ROOT.rglob("*.py"):
        heavy = {n.split(".")[0] for n in imports_of(path)} & {"mlx", "mlx_lm", "torch", "transformers"}
        parts = path.relative_to(ROOT).parts
        wing = parts[1] if parts[0] == "backends" and len(parts) > 2 else None
        allowed = {"mlx": {"mlx", "mlx_lm"}, "torch": {"torch", "transformers"}}.get(wing or "", set())
        assert heavy <= allowed, f"{path} imports {heavy}"
        other = {"mlx": ".torch", "torch": ".mlx"}.get(wing or "", "nothing")
        assert not any(f"backends{other}" in n for n in imports_of(path)), path


def test_every_public_name_is_there_and_documented():
    assert mlxterp.__all__ == sorted(mlxterp.__all__, key=lambda n: (not n.isupper(), n.islower(), n))
    for name in mlxterp.__all__:
        thing = getattr(mlxterp, name)
        assert inspect.getdoc(thing), name


def test_public_methods_are_documented():
    for cls in (
        mlxterp.InterpretableModel, mlxterp.Trace, mlxterp.SAE, mlxterp.SparseFeatures, mlxterp.ActivationStore,
        mlxterp.LocalStore, mlxterp.SAEEvaluation, mlxterp.TokenView, mlxterp.FeatureCard, mlxterp.FeatureReport,
    ):  # fmt: skip
        for name, member in vars(cls).items():
            if not name.startswith("_") and (callable(member) or isinstance(member, property)):
                assert inspect.getdoc(member), f"{cls.__name__}.{name}"


def test_importing_loads_neither_array_library():
    code = (
        "import mlxterp, sys; print([m for m in ('mlx.core', 'torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_imports_where_neither_library_is_installed():
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('mlx', 'mlx_lm', 'torch', 'transformers'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "import importlib.util\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda n, p=None: None if n in ('mlx', 'torch') else real(n, p)\n"
        "import mlxterp\n"
        "assert mlxterp.available_backends() == ()\n"
        "try:\n"
        "    mlxterp.get_backend()\n"
        "except mlxterp.BackendError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "mlxterp[cpu]" in done.stdout and "mlxterp[torch]" in done.stdout

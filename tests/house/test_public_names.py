"""What the package promises by name."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys

import mlxterp


def test_every_public_name_is_there_and_documented():
    assert mlxterp.__all__ == sorted(mlxterp.__all__, key=lambda n: (not n.isupper(), n.islower(), n))
    for name in mlxterp.__all__:
        thing = getattr(mlxterp, name)
        assert inspect.getdoc(thing), name


def test_type_checkers_see_the_names_that_python_finds():
    tree = ast.parse(inspect.getsource(mlxterp))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = [
        (node.module or alias.name, alias)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert sorted(alias.name for _, alias in seen) == sorted(mlxterp.__all__)
    for module, alias in seen:
        assert alias.asname == alias.name  # else it is private in a package with types
        home = importlib.import_module(f"mlxterp.{module}")
        assert getattr(mlxterp, alias.name) is getattr(home, alias.name, home), alias.name


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

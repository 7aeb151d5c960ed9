"""Chooses a wing: MLX where it is installed, else PyTorch. Nothing heavy is imported until asked for."""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import BackendError, InputError, NotALanguageModelError
from .base import Backend, LanguageModel
from .host.fork import check_process

_PACKAGES = {"mlx": "mlx", "torch": "torch"}
_EXTRAS = {
    "mlx": 'pip install mlxterp on a Mac, pip install "mlxterp[cpu]" or "mlxterp[cuda]" on Linux',
    "torch": 'pip install "mlxterp[torch]"',
}


def available_backends() -> tuple[str, ...]:
    """The wings whose array library is installed, preferred one first."""
    return tuple(n for n, package in _PACKAGES.items() if importlib.util.find_spec(package))


def get_backend(name: str | None = None) -> Backend:
    """The wing of that name; by default the first of `available_backends()`.

    Raises:
        InputError: There is no such backend.
        BackendError: Its library is not installed; the message says what to install.
    """
    if name is None:
        installed = available_backends()
        if not installed:
            raise BackendError(
                "Neither MLX nor PyTorch is installed. For MLX: "
                + _EXTRAS["mlx"]
                + ". For PyTorch: "
                + _EXTRAS["torch"]
                + "."
            )
        name = installed[0]
    if name not in _PACKAGES:
        raise InputError(f"No backend {name!r}. There are: {', '.join(_PACKAGES)}.")
    return _load(name)


def backend_of(array: Any) -> Backend:
    """The wing whose arrays `array` is one of."""
    package = type(array).__module__.partition(".")[0]
    if package in _PACKAGES:
        return _load(package)
    raise InputError(f"Expected an mlx or torch array, got {type(array).__module__}.{type(array).__name__}.")


def load_language_model(
    source: str | os.PathLike, tokenizer: Any = None, backend: str | None = None
) -> LanguageModel:
    """A model from a hub repo or folder: by mlx-lm where MLX is installed, else by transformers."""
    name = get_backend(backend).name
    check_process(name)
    loading = importlib.import_module(f".{name}.loading", __package__)
    return loading.load_language_model(source, tokenizer)


def wrap_language_model(model: Any, tokenizer: Any = None) -> LanguageModel:
    """A loaded model in the wing of its library.

    Raises:
        NotALanguageModelError: It is a module of neither library, or not a language model.
    """
    packages = {cls.__module__.partition(".")[0] for cls in type(model).__mro__}
    if "mlx" in packages:
        from .mlx.language_model import MLXLanguageModel

        return MLXLanguageModel(model, tokenizer)
    if "torch" in packages:
        from .torch.language_model import TorchLanguageModel

        return TorchLanguageModel(model, tokenizer)
    raise NotALanguageModelError(
        f"Expected a model of mlx-lm, a torch model, or a repo or folder name; got {type(model).__name__}."
    )


def read_torch_file(path: Path) -> dict[str, Any]:
    """What a `.pt` file holds: a dictionary of NumPy arrays, numbers and strings; nothing in it is executed.

    Raises:
        BackendError: PyTorch is not installed.
        SAEError: The file is damaged, or needs code to be run.
    """
    if not importlib.util.find_spec("torch"):
        raise BackendError(f"{path} is a PyTorch file, which needs PyTorch: {_EXTRAS['torch']}.")
    return importlib.import_module(".torch.files", __package__).read_file(path)


def one_block_twin(source: str | os.PathLike) -> LanguageModel | None:
    """A random model in torch of the kind and widths of one in a folder or the hub's cache, with one block of it.

    None where torch cannot open that model (MLX's own quantization), or transformers makes none of one block.
    """
    return importlib.import_module(".torch.loading", __package__).one_block_twin(source)


@cache
def _load(name: str) -> Backend:
    if not importlib.util.find_spec(_PACKAGES[name]):
        raise BackendError(f"The {name} backend needs {_PACKAGES[name]}: {_EXTRAS[name]}.")
    module = importlib.import_module(f".{name}.arrays", __package__)
    return module.BACKEND

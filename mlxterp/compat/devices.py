"""Which wing and device the name of a torch device means here, and a model opened there."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

from ..backends import available_backends, get_backend
from ..errors import BackendError, InputError, warn
from ..model.interpretable import InterpretableModel


def wing_for(device: Any) -> tuple[str, str | None]:
    """(backend, device of it) for "cpu", "cuda", "cuda:1", "mps", "mlx", None or a `torch.device`.

    A torch device that can be used is used; None and "mlx" take MLX where it is installed, else the best device of
    torch. Where there is no such device, the same is taken, with one warning.

    Raises:
        InputError: There is no device of that name anywhere.
        BackendError: Neither MLX nor PyTorch is installed.
    """
    name = None if device is None else str(device)
    if name is not None and not re.fullmatch(r"cpu|mps|mlx|cuda(:\d+)?", name):
        raise InputError(f"device={device!r}; expected 'cuda', 'cuda:<number>', 'mps', 'cpu', 'mlx' or None.")
    preferred = get_backend().name
    if name in (None, preferred):
        return preferred, None
    if _torch_has(str(name)):
        return "torch", name
    if name != "cpu":  # MLX's own device is what "cpu" asks for where PyTorch is not installed
        warn(f"There is no device {name!r} here, so {_words(preferred)} is used instead.")
    return preferred, None


def opened(source: str, tokenizer: Any, backend: str, device: str | None) -> InterpretableModel:
    """A model from a folder or repository, loaded straight to a device of torch where one is named."""
    if device is None or backend != "torch":
        return InterpretableModel(source, tokenizer, backend)
    from ..backends.torch.loading import load_language_model

    loaded = load_language_model(source, tokenizer, device)
    model = InterpretableModel(loaded.model, loaded.tokenizer)
    model.session.name = source
    return model


def _torch_has(name: str) -> bool:
    if "torch" not in available_backends() or not importlib.util.find_spec("transformers") or name == "mlx":
        return False
    from ..backends.torch.devices import find_device

    try:
        find_device(name)
    except BackendError:
        return False
    return True


def _words(backend: str) -> str:
    return {"mlx": "MLX", "torch": "PyTorch's best device"}[backend]

"""PyTorch's own files, opened without executing anything in them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

from ...errors import SAEError


def read_file(path: Path) -> dict[str, Any]:
    """A dictionary of tensors, numbers and strings; tensors come as NumPy arrays.

    Raises:
        SAEError: The file is damaged, holds something else, or would need code of its writer's to be run.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if (damaged := archive.testzip()) is not None:
                    raise ValueError(f"{damaged} does not match its checksum")
        found = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}, expected a dictionary of tensors")
        return _plain(found)
    except Exception as error:  # unpickling hostile bytes raises many kinds
        text = str(error)
        if "weights_only" in text or "Unsupported" in text or "WeightsUnpickler" in text:
            raise SAEError(
                f"{path} holds Python objects beside tensors, or is damaged. Loading such objects could run code of"
                " whoever wrote it: it was refused, and nothing was executed. If you trust it, convert it to"
                " safetensors where it was made."
            ) from error
        reason = text.splitlines()[0][:300] if text else type(error).__name__
        raise SAEError(
            f"{path} cannot be read: {reason}. It is incomplete or damaged; get the file again."
        ) from error


def _plain(found: Any, depth: int = 8) -> Any:
    if isinstance(found, torch.Tensor):
        return _array(found.detach())
    if isinstance(found, dict):
        if not depth:
            raise ValueError("its dictionaries are nested too deeply")
        return {str(name): _plain(value, depth - 1) for name, value in found.items()}
    return found if isinstance(found, (str, int, float, bool, type(None))) else type(found).__name__


def _array(tensor: torch.Tensor) -> Any:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise ValueError(f"it holds a tensor of a kind that is not read ({tensor.layout}, {tensor.dtype})")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(f"a tensor claims shape {tuple(tensor.shape)}, more than the file holds")
    return (tensor.float() if tensor.is_floating_point() else tensor).contiguous().numpy().copy()

"""PyTorch's own files, opened without executing anything in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...core.tensor_files import StoredArray, check_holes
from ...core.torch_zip import NeedsCodeError, is_torch_zip, open_torch_zip
from ...errors import SAEError


def read_file(path: Path) -> dict[str, Any]:
    """A dictionary of arrays, numbers, strings and dictionaries.

    Arrays come as `StoredArray`: read, or copied, when they are asked for.

    Raises:
        SAEError: The file is damaged, holds something else, or would need code of its writer's to be run.
    """
    try:
        check_holes(path)
        if is_torch_zip(path):
            return open_torch_zip(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}, expected a dictionary of tensors")
        return _plain(found)
    except Exception as error:  # unpickling hostile bytes raises many kinds
        text = str(error)
        words = ("weights_only", "Unsupported", "WeightsUnpickler")
        if isinstance(error, NeedsCodeError) or any(word in text for word in words):
            raise SAEError(
                f"{path} holds Python objects beside tensors, or is damaged. Loading such objects could run code of"
                " whoever wrote it: it was refused, and nothing was executed. If you trust it, convert it to"
                " safetensors where it was made."
            ) from error
        reason = text.splitlines()[0][:300] if text else type(error).__name__
        raise SAEError(
            f"{path} cannot be read: {reason}. It is incomplete or damaged; get the file again."
        ) from error


def _plain(found: Any, depth: int = 8, left: list[int] | None = None) -> Any:
    """Arrays for tensors; `left` says how many entries may still come."""
    left = [100_000] if left is None else left
    left[0] -= 1
    if left[0] < 0:
        raise ValueError("it describes more entries than any state dict")
    if isinstance(found, torch.Tensor):
        return _array(found.detach())
    if isinstance(found, dict):
        if not depth:
            raise ValueError("its dictionaries are nested too deeply")
        return {str(name): _plain(value, depth - 1, left) for name, value in found.items()}
    return found if isinstance(found, (str, int, float, bool, type(None))) else type(found).__name__


def _array(tensor: torch.Tensor) -> Any:
    """A view of the tensor's own numbers, so that tensors which share them do not multiply them."""
    if (
        tensor.layout != torch.strided
        or tensor.is_quantized
        or tensor.device.type != "cpu"
        or tensor.is_complex()
    ):
        raise ValueError(f"it holds a tensor of a kind that is not read ({tensor.layout}, {tensor.dtype})")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(f"a tensor claims shape {tuple(tensor.shape)}, more than the file holds")
    if tensor.dtype == torch.bfloat16:
        return StoredArray(tuple(tensor.shape), "bfloat16", lambda: tensor.float().numpy().copy())
    view = tensor.resolve_conj().resolve_neg().numpy()
    return StoredArray(tuple(view.shape), view.dtype.name, view.copy)

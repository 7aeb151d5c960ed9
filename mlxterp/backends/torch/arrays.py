"""Array operations in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ...core.numeric import plain
from ...weights import SAEWeights
from ..base import Backend, Optimizer
from ..host.fork import in_children
from . import backward as gradients
from . import decoding, encoding, pairs, training
from .devices import find_device


class TorchBackend:
    """`Backend` for `torch.Tensor`."""

    name = "torch"
    array_type = torch.Tensor

    def put(self, x: np.ndarray, like: torch.Tensor | None = None) -> torch.Tensor:
        tensor = torch.tensor(plain(x))  # a copy: NumPy's memory is not shared
        return tensor if like is None else self.cast(tensor, like)

    def get(self, x: torch.Tensor) -> np.ndarray:
        x = x.detach()
        if x.is_floating_point() and x.dtype not in (torch.float16, torch.float32, torch.float64):
            x = x.float()  # NumPy has no bfloat16 or float8
        return np.array(x.cpu().numpy())

    def cast(self, x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return x.to(dtype=like.dtype, device=like.device)

    def widen(self, x: torch.Tensor) -> torch.Tensor:
        return x.float() if x.is_floating_point() and x.element_size() < 4 else x

    def alias(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone()  # torch writes in place into shared memory, so only a copy is independent

    def constant(self, x: torch.Tensor) -> torch.Tensor:
        return x.detach()

    def compact(self, x: torch.Tensor) -> torch.Tensor:
        whole = x.untyped_storage().nbytes() == x.numel() * x.element_size()
        return x if whole and x.is_contiguous() else x.clone(memory_format=torch.contiguous_format)

    def concatenate(self, arrays: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.cat(list(arrays))

    def start(self, arrays: Sequence[torch.Tensor]) -> None:
        """Nothing is lazy: a GPU has begun, a CPU is done."""

    def evaluate(self, arrays: Sequence[torch.Tensor]) -> None:
        """Nothing to do: torch computes at once."""

    def is_floating(self, x: torch.Tensor) -> bool:
        return x.is_floating_point()

    def where(self, condition: np.ndarray, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.tensor(condition, device=x.device), x, y)

    def token_losses(self, logits: torch.Tensor, targets: np.ndarray) -> np.ndarray:
        wanted = torch.as_tensor(targets.astype(np.int64), device=logits.device)
        return torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="none").cpu().numpy()

    def clip(self, x: torch.Tensor, low: float | None, high: float | None) -> torch.Tensor:
        return x if low is None and high is None else torch.clamp(x, low, high)

    # -- sparse autoencoders ------------------------------------------------------------------

    def put_beside(self, x: np.ndarray, like: torch.Tensor) -> torch.Tensor:
        return torch.tensor(plain(x), device=like.device)

    def view(self, x: torch.Tensor) -> np.ndarray | None:
        return x.detach().numpy() if x.device.type == "cpu" else None

    def check_device(self, device: str | None) -> None:
        find_device(device)

    def device(self, x: torch.Tensor) -> str:
        return str(x.device)

    def lengths(self, x: torch.Tensor) -> np.ndarray:
        return self.get(torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32))

    def largest(self, x: torch.Tensor) -> float:
        return float(torch.finfo(x.dtype).max if x.is_floating_point() else torch.iinfo(x.dtype).max)

    def rounding(self, x: torch.Tensor) -> float:
        return float(torch.finfo(x.dtype).eps)

    def all_finite(self, x: torch.Tensor) -> bool:
        return bool(torch.isfinite(x).all())

    put_weights = staticmethod(encoding.put_weights)
    normalize = staticmethod(encoding.normalize)
    encode = staticmethod(encoding.encode)
    encode_sparse = staticmethod(encoding.encode_sparse)
    encode_dense = staticmethod(encoding.encode_dense)
    encode_features = staticmethod(encoding.encode_features)
    reconstruct = staticmethod(encoding.reconstruct)
    to_dense = staticmethod(decoding.to_dense)
    decode = staticmethod(decoding.decode)
    decode_sparse = staticmethod(decoding.decode_sparse)
    decode_dense = staticmethod(decoding.decode_dense)
    backward = staticmethod(gradients.backward)
    slopes = staticmethod(pairs.slopes)
    sum_by_feature = staticmethod(pairs.sum_by_feature)
    add_auxiliary = staticmethod(gradients.add_auxiliary)

    def optimizer(self, weights: SAEWeights, device: str | None = None) -> Optimizer:
        return training.TorchOptimizer(weights, device)

    group = staticmethod(training.group)


BACKEND: Backend = TorchBackend()
in_children(lambda: torch.set_num_threads(1))  # others would wait for threads that were not forked along

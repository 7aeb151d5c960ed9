"""Where an SAE's weights lie: in NumPy, and in each array library and device that has used them."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from ..backends import backend_of, get_backend
from ..backends.base import Backend
from ..backends.host.conversion import to_numpy
from ..core.sites import Array
from ..errors import SAEError
from ..weights import SAEWeights


class Placement:
    """Weights of one SAE, put once to every place that asks.

    Args:
        weights: Of NumPy arrays; copied as float32 unless they are that and read-only.
        backend: Library for NumPy input; None is the first that is installed.
        device: Of that library; None is what it prefers.
    """

    def __init__(self, weights: SAEWeights, backend: str | None, device: str | None):
        self.weights = weights.map(_own_float32)
        """NumPy, read-only; where NumPy can look at the native arrays, those."""
        self._backend, self.device = backend, device
        if device is not None:
            get_backend(backend).check_device(device)
        self._native: dict[tuple[str, str | None], SAEWeights] = {}

    @cached_property
    def reach(self) -> float:
        """No pre-activation is farther from 0 than this times the largest activation, biases aside."""
        W_enc = self.weights.W_enc
        return max(float(W_enc.max(initial=0.0)), -float(W_enc.min(initial=0.0))) * W_enc.shape[0]

    @property
    def backend(self) -> str:
        """Name of the library for NumPy input."""
        return self._backend or get_backend().name

    @property
    def asked_for(self) -> tuple[str | None, str | None]:
        """Backend and device as they were given."""
        return self._backend, self.device

    def home(self) -> tuple[Backend, SAEWeights]:
        """Backend and native weights for NumPy input."""
        return self._at(get_backend(self._backend), self.device)

    def of(self, x: Array) -> tuple[Backend, SAEWeights, Array]:
        """Backend and native weights where x lies, and x as a native array."""
        if isinstance(x, np.ndarray):
            if isinstance(x, np.ma.MaskedArray):
                x = to_numpy(x, "What an SAE is given", SAEError)
            if x.dtype.kind not in "fiub":
                raise SAEError(f"Expected an array of numbers, got {x.dtype} of shape {x.shape}.")
            backend, weights = self.home()
            with np.errstate(over="ignore"):  # what becomes infinite is refused by name
                narrow = np.asarray(x, dtype=np.float32)
            return backend, weights, backend.put(narrow, like=weights.b_dec)
        backend = backend_of(x)
        if "complex" in str(x.dtype):
            raise SAEError(f"Expected an array of numbers, got {x.dtype} of shape {tuple(x.shape)}.")
        return (*self._at(backend, backend.device(x)), backend.constant(x))

    def _at(self, backend: Backend, device: str | None) -> tuple[Backend, SAEWeights]:
        key = (backend.name, device)
        if key not in self._native:
            native = backend.put_weights(self.weights, device)
            exact = (backend.name, backend.device(native.b_dec))
            self._native[key] = self._native.setdefault(exact, native)
            self._share(backend, self._native[key])
        return backend, self._native[key]

    def _share(self, backend: Backend, native: SAEWeights) -> None:
        """Lets go of the NumPy copy where the native arrays can be looked at."""
        if all(backend.view(array) is not None for array in native.arrays().values()):
            self.weights = native.map(lambda x: _locked(backend.view(x)))


def _own_float32(x: np.ndarray) -> np.ndarray:
    if isinstance(x, np.ndarray) and x.dtype == np.float32 and _frozen(x):
        return x
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "fiub":
        x = to_numpy(x, "A weight", SAEError)
    with np.errstate(over="ignore"):  # what becomes infinite is refused by name
        return _locked(np.array(x, dtype=np.float32))


def _frozen(x: object) -> bool:
    """Whether nobody can write into the array, by whatever view of its memory."""
    while isinstance(x, np.ndarray):
        if x.flags.writeable:
            return False
        x = x.base
    return True


def _locked(x: np.ndarray | None) -> np.ndarray:
    assert x is not None
    x.flags.writeable = False
    return x

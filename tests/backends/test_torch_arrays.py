"""Array operations of the torch wing."""

from __future__ import annotations

import numpy as np

from .tiny_torch import BACKEND, torch


def test_arrays_cross_to_numpy_and_back():
    backend = BACKEND
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    native = backend.put(x)
    x[0, 0] = 9
    assert native[0, 0] == 0 and np.array_equal(backend.get(native), [[0, 1, 2], [3, 4, 5]])
    half = backend.put(x, like=torch.zeros(1, dtype=torch.bfloat16))
    assert half.dtype == torch.bfloat16 and backend.get(half).dtype == np.float32
    alias = backend.alias(native)
    alias += 1
    assert native[0, 0] == 0
    column = backend.compact(native[:, -1])
    assert column.untyped_storage().nbytes() == 8 and backend.compact(native) is native
    chosen = backend.where(np.array([[True], [False]]), native, -native)
    assert backend.get(chosen).tolist() == [[0, 1, 2], [-3, -4, -5]]
    assert backend.get(backend.clip(native, 1, None)).min() == 1
    assert backend.clip(native, None, None) is native
    assert backend.is_floating(native) and not backend.is_floating(torch.zeros(1, dtype=torch.int64))

"""Array operations of the torch wing."""

from __future__ import annotations

import numpy as np

from tests.backends.tiny_torch import BACKEND, torch


def test_arrays_cross_to_numpy_and_back():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    native = BACKEND.put(x)
    x[0, 0] = 9
    assert native[0, 0] == 0 and np.array_equal(BACKEND.get(native), [[0, 1, 2], [3, 4, 5]])
    half = BACKEND.put(x, like=torch.zeros(1, dtype=torch.bfloat16))
    assert half.dtype == torch.bfloat16 and BACKEND.get(half).dtype == np.float32
    alias = BACKEND.alias(native)
    alias += 1
    assert native[0, 0] == 0
    column = BACKEND.compact(native[:, -1])
    assert column.untyped_storage().nbytes() == 8 and BACKEND.compact(native) is native
    chosen = BACKEND.where(np.array([[True], [False]]), native, -native)
    assert BACKEND.get(chosen).tolist() == [[0, 1, 2], [-3, -4, -5]]
    assert BACKEND.get(BACKEND.clip(native, 1, None)).min() == 1
    assert BACKEND.clip(native, None, None) is native
    assert BACKEND.is_floating(native) and not BACKEND.is_floating(torch.zeros(1, dtype=torch.int64))

"""Numbers that an activation's dtype cannot hold: found where they enter."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core import checks
from ..core.sites import Array
from ..errors import InputError
from . import backend_of


def check_fits(values: Any, like: Array, who: str) -> None:
    """Refuses NumPy numbers that are not finite in the dtype of an activation.

    Raises:
        InputError: It says the largest of them, and what the dtype goes up to.
    """
    most = min(backend_of(like).largest(like), checks.LARGEST)
    largest = float(np.max(np.abs(np.asarray(values, dtype=np.float64)), initial=0.0))
    if not largest <= most:  # NaN too
        raise InputError(
            f"{who} holds a number of size {largest:.6g}; activations of {like.dtype} go up to {most:.6g}."
            " Give a smaller one, or run the model in a wider dtype."
        )

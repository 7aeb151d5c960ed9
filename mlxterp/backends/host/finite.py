"""Numbers that a dtype cannot hold: found where they enter, and in logits before they become text."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core import checks
from ...core.sites import Array
from ...errors import InputError, NotFiniteError
from .. import backend_of


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


def not_finite(what: str, where: str, edited: bool) -> NotFiniteError:
    """The error for logits (or a loss made of them) that are no numbers."""
    cause = (
        "An edit acts on this run: use a smaller strength, or look at where it acts."
        if edited
        else "No edit acts on this run: the weights are damaged, or their dtype is too narrow; try float32 or bfloat16."
    )
    return NotFiniteError(f"{what} {where} are NaN or infinite, so nothing follows from them. {cause}")

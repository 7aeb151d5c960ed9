"""Logits that are no numbers: found before they become text."""

from __future__ import annotations

from ...errors import NotFiniteError


def not_finite(what: str, where: str, edited: bool) -> NotFiniteError:
    """The error for logits (or a loss made of them) that are no numbers."""
    cause = (
        "An edit acts on this run: use a smaller strength, or look at where it acts."
        if edited
        else "No edit acts on this run: the weights are damaged, or their dtype is too narrow; try float32 or bfloat16."
    )
    return NotFiniteError(f"{what} {where} are NaN or infinite, so nothing follows from them. {cause}")

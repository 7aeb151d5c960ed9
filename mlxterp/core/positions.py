"""Which tokens a change applies to: positions and heads as users give them, as masks.

Positions are 0-based in the whole text, special tokens included; negative ones count from each
text's own end. In generation the end is open, so there they raise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ..errors import EditError, InputError
from .integers import as_integer
from .sites import Where

Positions = int | slice | Sequence[int] | Literal["all", "prompt", "prompt[1:]", "generated"] | None
"""A position, a slice, several positions, a part of a generation, or None for all."""
PARTS = ("prompt", "prompt[1:]", "generated")
"""Parts of a generation: what was given, the same without its first token (BOS, as a rule), what is written."""


def position_mask(positions: Positions, where: Where) -> np.ndarray | None:
    """Booleans (batch or 1, columns): which columns of this pass are meant; None means all.

    Args:
        positions: `PARTS` too; a text that is run whole is all prompt.

    Raises:
        InputError: A position outside a text, or counted from an end that is still open.
    """
    if positions is None or (isinstance(positions, str) and positions == "all"):
        return None
    if isinstance(positions, str):
        return _part_mask(positions, where)
    if where.lengths is None:
        return np.atleast_2d(_open_ended(positions, where.positions))
    rows = [_indices(positions, int(n), i) for i, n in enumerate(where.lengths)]
    return np.stack([np.isin(where.positions, row) for row in rows])


def check_open_ended(positions: Any) -> None:
    """Raises InputError where positions cannot be used in generation: they are counted from the end, or are none."""
    position_mask(positions, Where(np.arange(1), None, prompts=np.ones(1, dtype=np.int64)))


def first_position(positions: Any) -> int:
    """No token of a prompt before this one is meant, in generation."""
    if positions is None or isinstance(positions, str):
        return {"prompt[1:]": 1, "generated": _NEVER}.get(positions or "all", 0)
    if isinstance(positions, slice):
        return max(0, checked_slice(positions).start or 0)
    return max(0, int(integers(positions).min(initial=_NEVER)))


_NEVER = int(np.iinfo(np.int64).max)


def check_reached(positions: Any, tokens: int, where: str) -> None:
    """Raises InputError where a position lies beyond all tokens that a generation can have.

    Args:
        positions: As for `position_mask`; slices and parts end where the text ends.
        tokens: Of the prompt and of what may be written.
        where: Says what has that many ("The prompt and max_tokens=5 make").
    """
    if positions is None or isinstance(positions, (str, slice)):
        return
    wanted = integers(positions)
    if wanted.size and wanted.max() >= tokens:
        raise InputError(
            f"Position {wanted.max()} is never reached. {where} {tokens} tokens, 0 to {tokens - 1}."
        )


def _part_mask(positions: str, where: Where) -> np.ndarray | None:
    if positions not in PARTS:
        raise InputError(
            f"positions={positions!r}: expected 'all', 'prompt', 'prompt[1:]', 'generated', a slice or a list."
        )
    columns = np.atleast_2d(where.positions)
    if where.prompts is None:
        if positions == "prompt":
            return None
        return columns > 0 if positions == "prompt[1:]" else np.zeros((1, where.columns), dtype=bool)
    read = columns < where.prompts[:, None]
    if positions == "prompt[1:]":
        return read & (columns > 0)
    return read if positions == "prompt" else ~read


def _indices(positions: Any, length: int, text: int) -> np.ndarray:
    if isinstance(positions, slice):
        return np.arange(*checked_slice(positions).indices(length))
    wanted = integers(positions)
    bad = wanted[(wanted < -length) | (wanted >= length)]
    if bad.size:
        raise InputError(
            f"Position {int(bad[0])} is outside text {text}, which has {length} tokens"
            f" (0 to {length - 1}, or -{length} to -1 from its end)."
        )
    return wanted % length


def _open_ended(positions: Any, columns: np.ndarray) -> np.ndarray:
    if isinstance(positions, slice):
        positions = checked_slice(positions)
        start, stop, step = positions.start or 0, positions.stop, positions.step or 1
        if start < 0 or (stop is not None and stop < 0) or step < 1:
            raise InputError(_NO_END)
        inside = (columns >= start) & ((columns - start) % step == 0)
        return inside if stop is None else inside & (columns < stop)
    wanted = integers(positions)
    if (wanted < 0).any():
        raise InputError(_NO_END)
    return np.isin(columns, wanted)


_NO_END = (
    "Negative positions count from the end of a text, and in generation the end is still open."
    " Give positions from the start, or positions='prompt' or 'generated'."
)


def checked_slice(given: slice) -> slice:
    """A slice of positions or heads, of Python's own integers.

    Raises:
        InputError: It has other ends, or a step of 0.
    """
    parts = [None if part is None else as_integer(part) for part in (given.start, given.stop, given.step)]
    named = [part for part in (given.start, given.stop, given.step) if part is not None]
    if len(named) != sum(part is not None for part in parts) or parts[2] == 0:
        raise InputError(f"A slice of positions has integers, and no step of 0; got {given!r:.80}.")
    return slice(*parts)


def integers(positions: Any) -> np.ndarray:
    """int64, (n,): one position or head, or several.

    Raises:
        InputError: Something else.
    """
    try:
        array = np.atleast_1d(np.asarray(positions.detach() if hasattr(positions, "detach") else positions))
    except (TypeError, ValueError, RuntimeError):  # rows of unequal length, other libraries' own kinds
        array = np.empty(1)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InputError(f"Positions are integers, a list of them, or a slice; got {positions!r:.80}.")
    return array.astype(np.int64)


def position_axis(shape: Sequence[int], where: Where) -> int:
    """Which axis of a value runs over the positions of a pass.

    Raises:
        EditError: No axis has that many columns, or two have.
    """
    columns = where.columns
    candidates = (2,) if where.heads_first else {2: (0,), 3: (1,)}.get(len(shape), (1, 2))
    fitting = [axis for axis in candidates if axis < len(shape) and shape[axis] == columns]
    if len(fitting) != 1:
        why = "no axis" if not fitting else "more than one axis"
        raise EditError(
            f"A value of shape {tuple(shape)} has {why} for the {columns} positions of this pass, so"
            " positions= cannot be used here."
        )
    return fitting[0]


def full_mask(
    shape: Sequence[int], positions: Positions, heads: Positions, where: Where
) -> np.ndarray | None:
    """Booleans that broadcast to `shape`: the positions and heads meant; None means all of it."""
    mask: np.ndarray | None = None
    chosen = position_mask(positions, where)
    if chosen is not None:
        axis = position_axis(shape, where)
        form = [1] * len(shape)
        form[axis] = chosen.shape[1]
        if axis > 0:
            form[0] = chosen.shape[0]
        mask = chosen.reshape(form) if axis > 0 else chosen[0].reshape(form)
    if heads is not None:
        column = _head_mask(shape, heads, where)
        mask = column if mask is None else mask & column
    return mask


def _head_mask(shape: Sequence[int], heads: Any, where: Where) -> np.ndarray:
    if not where.heads_first:
        raise EditError(
            f"heads= needs a per-head value (batch, heads, positions, …), got shape {tuple(shape)}."
            " Use attn.q, attn.k, attn.v, attn.z or attn.pattern of the layer."
        )
    count = shape[1]
    wanted = np.arange(*checked_slice(heads).indices(count)) if isinstance(heads, slice) else integers(heads)
    if ((wanted < -count) | (wanted >= count)).any():
        raise InputError(f"heads={heads!r}: there are {count} heads, numbered 0 to {count - 1}.")
    mask = np.zeros(count, dtype=bool)
    mask[wanted % count] = True
    return mask.reshape(1, -1, 1, 1)

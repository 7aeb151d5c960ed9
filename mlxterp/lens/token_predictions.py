"""What a vector of the stream would predict: the likeliest tokens of single states, by the model's own head."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..backends.host.conversion import to_numpy
from ..core import checks
from ..core.numeric import largest
from ..core.sites import Array, Run, Where
from ..core.tokens import TokenBatch
from ..errors import InputError
from ..tracing.passes import unembed


def token_predictions(
    anatomy: Anatomy, hidden_state: Any, top_k: int, return_scores: bool, norm: bool, head: Any
) -> Any:
    """See `InterpretableModel.get_token_predictions`.

    Args:
        head: A module of the model's library that makes logits of states; None takes the model's own.
    """
    model, top_k = anatomy.model, checks.count(top_k, "top_k")
    return_scores, norm = checks.flag(return_scores, "return_scores"), checks.flag(norm, "norm")
    x = to_numpy(hidden_state, "hidden_state")
    if x.ndim not in (1, 2) or x.shape[-1] != model.d_model or not len(x):
        raise InputError(
            f"hidden_state is ({model.d_model},) or (batch, {model.d_model}), got shape {x.shape}. Of a trace:"
            " hidden[0, -1], or hidden[:, -1]."
        )
    rows = np.atleast_2d(x).astype(np.float32)
    logits = _logits(anatomy, rows, norm, head)
    if not np.isfinite(logits).all():
        raise InputError("hidden_state gives logits that are NaN or infinite, so nothing is predicted.")
    found = []
    for row in logits:
        ids = largest(row, min(top_k, len(row)))
        found.append([(int(i), float(row[i])) for i in ids] if return_scores else [int(i) for i in ids])
    return found[0] if x.ndim == 1 else found


def _logits(anatomy: Anatomy, rows: np.ndarray, norm: bool, head: Any) -> np.ndarray:
    """float32, (rows, vocabulary)."""
    model = anatomy.model
    if head is not None:
        native: Any = head(model.backend.put(rows))
        return model.backend.get(native).astype(np.float32)
    logits = unembed(model, rows) if norm else _without_norm(anatomy, rows)
    return model.backend.get(logits).astype(np.float32)


def _without_norm(anatomy: Anatomy, rows: np.ndarray) -> Array:
    """Logits of rows that take the place of the final norm's output."""
    model = anatomy.model
    batch = TokenBatch.from_rows([[0]] * len(rows))

    def change(x: Array, _where: Where, _run: Run) -> Array:
        return model.backend.put(rows[:, None], x)

    edits = anatomy.component("final_norm").edits(change, None)
    logits: Any = model.run(batch, edits=edits).logits
    return logits[:, 0]

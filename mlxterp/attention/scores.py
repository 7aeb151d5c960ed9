"""Numbers that tell what a head reads, from its pattern alone: A[i, j] is how much token i attends to token j.

Each function takes a pattern (queries, keys), or any stack of them (…, queries, keys), and gives one number for each.
Scores on repeated tokens follow Olsson et al. (2022), "In-context Learning and Induction Heads".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backends.host.conversion import to_numpy
from ..core import checks
from ..errors import InputError

_LEAST = 0.01
"""Weights below it count as none in `repeated_token_score`."""


def induction_score(attention_pattern: Any, seq_len: int) -> Any:
    """Mean of A[i, i − seq_len + 1] from the second repetition on: attention to what followed the same token before.

    Args:
        attention_pattern: (queries, keys), or (…, queries, keys), of tokens that repeat every `seq_len`.
        seq_len: Length of what is repeated.

    Returns:
        float, or float64 (…); 0 where nothing is repeated.

    Examples:
        >>> import numpy as np
        >>> from mlxterp.attention import induction_score
        >>> induction_score(np.eye(6, k=-2), 3)  # every token reads the one two before it
        1.0
    """
    length = checks.count(seq_len, "seq_len")
    return _diagonal(attention_pattern, length - 1, first=length)


def duplicate_token_score(attention_pattern: Any, seq_len: int) -> Any:
    """Mean of A[i, i − seq_len] from the second repetition on: attention to the same token before.

    Args:
        attention_pattern, seq_len: As in `induction_score`.
    """
    length = checks.count(seq_len, "seq_len")
    return _diagonal(attention_pattern, length, first=length)


def previous_token_score(attention_pattern: Any) -> Any:
    """Mean of A[i, i − 1]: attention to the token before; 0 for a single token.

    Examples:
        >>> import numpy as np
        >>> from mlxterp.attention import previous_token_score
        >>> previous_token_score(np.eye(6, k=-1))
        1.0
    """
    return _diagonal(attention_pattern, 1)


def current_token_score(attention_pattern: Any) -> Any:
    """Mean of A[i, i]: attention of tokens to themselves."""
    return _diagonal(attention_pattern, 0)


def first_token_score(attention_pattern: Any) -> Any:
    """Mean of A[i, 0]. Most heads of most models rest on the first token, so it tells little of a head by itself."""
    return _plain(_patterns(attention_pattern)[..., 0].mean(axis=-1, dtype=np.float64))


def pattern_entropy(attention_pattern: Any) -> Any:
    """Mean entropy of a row, in nats: 0 where each token reads one token."""
    rows = _patterns(attention_pattern).astype(np.float64)
    logs = np.log(rows, where=rows > 0, out=np.zeros_like(rows))
    return _plain(-(rows * logs).sum(axis=-1).mean(axis=-1))


def mean_distance(attention_pattern: Any) -> Any:
    """Mean of i − j in tokens, weighted by A[i, j]."""
    rows = _patterns(attention_pattern).astype(np.float64)
    apart = np.abs(np.arange(rows.shape[-2])[:, None] - np.arange(rows.shape[-1]))
    total = rows.sum(axis=(-2, -1))
    return _plain((rows * apart).sum(axis=(-2, -1)) / np.where(total > 0, total, 1))


def repeated_token_score(attention_pattern: Any, tokens: Any) -> Any:
    """Attention to what followed earlier occurrences of the same token, on any text: HeadVis's induction score.

    Mean over the tokens that occurred before of Σ A[i, k + 1], k their earlier occurrences; weights below 0.01 count as
    none. NaN where no token is repeated.

    Args:
        attention_pattern: (queries, keys), or (…, queries, keys).
        tokens: Their token ids.
    """
    rows = _patterns(attention_pattern)
    ids = checks.whole_numbers(tokens, "tokens", "token ids, one for each key")
    if ids.shape != rows.shape[-1:]:
        raise InputError(
            f"tokens has shape {ids.shape} for a pattern of {rows.shape[-1]} keys; give one token id for each."
        )
    same = np.tril(ids[:, None] == ids[None], -1)
    followed = np.zeros_like(same)
    followed[:, 1:] = same[:, :-1]  # k + 1 for each earlier occurrence k
    which = same.any(axis=1)
    if not which.any():
        return _plain(np.full(rows.shape[:-2], np.nan))
    kept = np.where(rows >= _LEAST, rows, 0.0).astype(np.float64)
    return _plain((kept * followed)[..., which, :].sum(axis=-1).mean(axis=-1))


def copying_score(ov_circuit: Any, unembedding: Any = None) -> float:
    """Mean of the diagonal of a circuit over its mean absolute value: how much what is read is written again.

    Args:
        ov_circuit: (d_model, d_model): W_V @ W_O of one head, rows in, columns out.
        unembedding: (d_model, vocabulary); with it the circuit is that of tokens, unembeddingᵀ · OV · unembedding, of
            which only the diagonal and sums are ever held.

    Raises:
        InputError: Shapes that do not fit.
    """
    ov = _matrix(ov_circuit, "ov_circuit")
    if ov.shape[0] != ov.shape[1]:
        raise InputError(f"ov_circuit is (d_model, d_model), got shape {ov.shape}.")
    if unembedding is None:
        diagonal, size = np.diag(ov), np.abs(ov).mean()
        return float(diagonal.mean() / size) if size > 0 else 0.0
    words = _matrix(unembedding, "unembedding")
    if words.shape[0] != ov.shape[0]:
        raise InputError(f"unembedding is (d_model, vocabulary) with d_model {len(ov)}, got {words.shape}.")
    moved, total, on_diagonal = words.T @ ov, 0.0, 0.0
    rows = max(1, (1 << 22) // words.shape[1])
    for start in range(0, len(moved), rows):
        part = moved[start : start + rows] @ words
        total += float(np.abs(part).sum())
        on_diagonal += float(part[np.arange(len(part)), start + np.arange(len(part))].sum())
    n = words.shape[1]
    return (on_diagonal / n) / (total / n**2) if total > 0 else 0.0


def _diagonal(given: Any, back: int, first: int | None = None) -> Any:
    """Mean of A[i, i − back] over i from `first` (by default `back`) on; 0 where there is none."""
    rows = _patterns(given)
    start = back if first is None else max(first, back)
    i = np.arange(min(start, rows.shape[-2]), rows.shape[-2])
    i = i[i < rows.shape[-1] + back] if len(i) else i
    if not len(i):
        return _plain(np.zeros(rows.shape[:-2]))
    return _plain(rows[..., i, i - back].mean(axis=-1, dtype=np.float64))


def _patterns(given: Any) -> np.ndarray:
    """(…, queries, keys)."""
    array = to_numpy(given, "attention_pattern")
    if array.ndim < 2 or 0 in array.shape or array.dtype.kind not in "fiu":
        raise InputError(
            f"attention_pattern is (queries, keys) or (…, queries, keys) of numbers, got shape {array.shape}."
        )
    return array


def _matrix(given: Any, name: str) -> np.ndarray:
    """float64."""
    array = to_numpy(given, name)
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise InputError(f"{name} is a matrix of numbers, got shape {array.shape}.")
    return array.astype(np.float64)


def _plain(found: Any) -> Any:
    """A Python float for one pattern, an array for several."""
    return float(found) if np.ndim(found) == 0 else found

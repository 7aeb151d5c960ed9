"""The control of an SAE's explained variance: an SAE of the same shape and L0 that has learnt nothing.

`check` judges by it. A trained SAE leaves far less unexplained than random directions do, on layers that are
hard as on easy ones, while explained variance by itself depends on the layer and on L0. NumPy only.
"""

from __future__ import annotations

import numpy as np

_WIDEST = 16_384
"""More random directions change little and cost as much as the SAE."""
_ROWS = 256
_RIDGE = 1e-3


def untrained_variance(x: np.ndarray, y: np.ndarray | None, d_hidden: int, l0: float, seed: int = 0) -> float:
    """Explained variance of an SAE as it is before the first step, at its best scale.

    Its directions are random and of norm 1, and encoder and decoder share them. Around the mean of x, each token
    keeps the `l0` directions (rounded, at least 1) that it has most of. What they add up to is scaled by one factor,
    by least squares, and the mean is added. Without that factor dense codes would overshoot, and the control would
    be too easy to beat. For a transcoder the best linear map from x to y follows, which is fitted on the first half
    of the tokens and judged on the second.

    Args:
        x: Activations (n, d_model) that vary.
        y: What a transcoder predicts, (n, d_out); None for an SAE.
        d_hidden: Number of directions; of more than 16,384 so many are taken.
        l0: Active features of a token, on average.
    """
    x = x.astype(np.float64)
    rebuilt = _rebuilt(x - x.mean(axis=0), d_hidden, max(1, round(l0)), seed)
    if y is None:
        return _explained(x, x, rebuilt, rebuilt)
    half = max(1, len(x) // 2)
    y = y.astype(np.float64)
    centred, wanted = x[:half] - x[:half].mean(axis=0), y[:half] - y[:half].mean(axis=0)
    gram = centred.T @ centred
    ridge = (_RIDGE * np.trace(gram) / len(gram) + 1e-12) * np.eye(len(gram))
    rebuilt = rebuilt @ np.linalg.solve(gram + ridge, centred.T @ wanted)
    return _explained(y[:half], y[half:], rebuilt[:half], rebuilt[half:])


def _rebuilt(x: np.ndarray, d_hidden: int, l0: int, seed: int) -> np.ndarray:
    """What each token's strongest directions add up to, float64 (n, d_model), for x around its mean."""
    width = min(d_hidden, _WIDEST)
    directions = np.random.default_rng(seed).standard_normal((width, x.shape[1]), dtype=np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    found = np.empty_like(x)
    for i in range(0, len(x), _ROWS):
        features = np.maximum(x[i : i + _ROWS].astype(np.float32) @ directions.T, 0)
        if l0 < width:
            least = np.partition(features, width - l0, axis=1)[:, width - l0, None]
            features[features < least] = 0
        found[i : i + _ROWS] = features @ directions
    return found


def _explained(seen: np.ndarray, judged: np.ndarray, of_seen: np.ndarray, of_judged: np.ndarray) -> float:
    """Explained variance of `judged`, with the mean of `seen` and the scale that suits `seen` best."""
    mean = seen.mean(axis=0)
    square = float((of_seen**2).sum())
    scale = float((of_seen * (seen - mean)).sum()) / square if square else 0.0
    total = float(((judged - judged.mean(axis=0)) ** 2).sum())
    return 1 - float(((judged - mean - scale * of_judged) ** 2).sum()) / total if total else 0.0

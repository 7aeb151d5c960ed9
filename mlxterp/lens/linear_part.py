"""The linear map inside a function of vectors that is linear but for a norm before it and a cap after it.

A model's final norm and head are such a function, and so is what lies between a component and the
residual stream. Its linear part is found from what the function gives, so no architecture needs to be
known. NumPy only; `feature_logits` uses it for the head, `writing` for the way into the stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

Function = Callable[[np.ndarray], np.ndarray]
"""float32 (n, width) -> (n, out), each row by itself."""

_SIZE = 64.0
"""RMS of what a norm is given: its epsilon is nothing beside it, and float16 can still hold it."""
_DIRECTIONS, _STRONG = 32, 16


@dataclass(frozen=True, slots=True)
class Shape:
    """What stands around the linear map."""

    normed: bool
    """Whether the input is divided by its root mean square."""
    centred: bool
    """Whether its mean is subtracted first (LayerNorm)."""
    cap: float | None
    """c of c·tanh(x / c) after the map; None without a cap, or where it changes nothing that can be seen."""
    error: float
    """How far from additive the linear part is, as a share; rounding only, where the function is as described."""


@dataclass(frozen=True, eq=False, slots=True)
class LinearPart:
    """The linear map L of a function f(x) = cap(L norm(x) + bias).

    Called with rows (n, width), it gives L x of a norm that divides by nothing: for a LayerNorm the gain
    times x less its mean, for an RMSNorm the gain times x, and then what follows. Biases are left out.
    """

    function: Function
    shape: Shape
    bias: np.ndarray
    """float64, (out,)."""

    @staticmethod
    def of(function: Function, width: int, shape: Shape | None = None) -> LinearPart:
        """Finds it; with `shape` from an earlier call on the same model, in eight rows."""
        probe = probes(width, 4)
        shape = shape or find_shape(function, width)
        capless = _without_cap(function, shape.cap)
        bias = (capless(probe) + capless(-probe)).mean(axis=0) / 2
        return LinearPart(function, shape, bias)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        rows = rows.astype(np.float64)
        moved = rows - rows.mean(axis=1, keepdims=True) if self.shape.centred else rows
        size = _rms(moved)
        empty = size <= 1e-7 * _rms(rows)  # nothing but a mean: rounding is no direction
        unit = _SIZE * moved / np.where(empty, 1, size)
        out = _without_cap(self.function, self.shape.cap)(np.where(empty, 0, unit)) - self.bias
        return np.where(empty, 0, out * size / (1 if self.shape.normed else _SIZE))


def find_shape(function: Function, width: int) -> Shape:
    """What stands around the linear map of a function, from about eighty of its rows."""
    x = probes(width, 2)
    base = _odd(function, x)
    normed = _apart(_odd(function, 2 * x), base) < 0.1
    centred = normed and _apart(_odd(function, x + 3 * _SIZE), base) < 0.1
    cap = _find_cap(lambda rows: _odd(function, rows), width) if normed else None
    part = LinearPart.of(function, width, Shape(normed, centred, cap, 0.0))
    error = _apart(part(x.sum(axis=0, keepdims=True)), part(x).sum(axis=0, keepdims=True))
    return Shape(normed, centred, cap, error)


def _find_cap(odd: Function, width: int) -> float | None:
    """The cap, from how far sums of directions are from additive.

    Small values hardly feel a cap, so directions are made that some outputs depend on strongly: what
    random directions give tells roughly which those are.
    """
    random = probes(width, _DIRECTIONS + _STRONG)
    tried, other = random[:_DIRECTIONS], random[_DIRECTIONS:]
    found = odd(tried)
    columns = np.unique(np.abs(found).argmax(axis=1))[:_STRONG]
    strong = _sized(found[:, columns].T @ tried)
    other = other[: len(columns)]
    other = _sized(other - strong * (other * strong).sum(axis=1, keepdims=True) / (_SIZE**2 * width))
    pick = lambda rows: odd(rows)[np.arange(len(columns)), columns]  # noqa: E731
    a, b = pick(strong), pick(other)
    opposed = np.where(a * b > 0, -1.0, 1.0)  # the pair's sum is then smaller than its larger part
    both = pick((strong + other * opposed[:, None]) / np.sqrt(2))
    sign, b = np.sign(a), b * opposed
    excess = sign * (np.sqrt(2) * both - a - b) / np.abs(a)
    if len(columns) < 4 or excess.min() <= 0 or excess.mean() < 1e-4:
        return None
    low, high = np.log(np.abs(np.concatenate([a, both])).max() * (1 + 1e-6)), np.log(1e4 * np.abs(a).max())
    for _ in range(60):  # too small a cap takes away too much: the excess changes its sign
        c = np.exp(middle := (low + high) / 2)
        left = np.sqrt(2) * np.arctanh(both / c) - np.arctanh(a / c) - np.arctanh(b / c)
        low, high = (middle, high) if np.median(sign * left) < 0 else (low, middle)
    return float(np.exp((low + high) / 2))


def _without_cap(function: Function, cap: float | None) -> Function:
    def uncapped(rows: np.ndarray) -> np.ndarray:
        out = function(rows.astype(np.float32)).astype(np.float64)
        return out if cap is None else cap * np.arctanh(np.clip(out / cap, -1 + 1e-4, 1 - 1e-4))

    return uncapped


def _odd(function: Function, rows: np.ndarray) -> np.ndarray:
    """Half of f(x) - f(-x): what biases add is the same in both."""
    rows = rows.astype(np.float32)
    return (function(rows).astype(np.float64) - function(-rows)) / 2


@lru_cache(maxsize=8)
def probes(width: int, n: int) -> np.ndarray:
    """Seeded random rows (n, width) with mean 0; read-only, the last few are kept."""
    rows = np.random.default_rng(0).normal(size=(n, width))
    rows = _sized(rows - rows.mean(axis=1, keepdims=True))
    rows.flags.writeable = False
    return rows


def _sized(rows: np.ndarray) -> np.ndarray:
    return _SIZE * rows / _rms(rows)


def _rms(rows: np.ndarray) -> np.ndarray:
    return np.sqrt((rows**2).mean(axis=1, keepdims=True))


def _apart(found: np.ndarray, expected: np.ndarray) -> float:
    """Distance as a share of what was expected; 0 where both are 0."""
    size = float(np.linalg.norm(expected))
    distance = float(np.linalg.norm(found - expected))
    return distance / size if size else float(distance > 0)

"""What a number is held against: random stand-ins for directions, intervals, and a value shown with its control.

Most figures of feature geometry look alike on random input, so none is given without one of these beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..errors import InputError
from . import checks

Kind = Literal["isotropic", "covariance", "shuffled"]
KINDS: tuple[Kind, ...] = ("isotropic", "covariance", "shuffled")
DRAWS = 20
"""Of a control, where nothing else is asked for."""
MOST_DRAWS = 100_000
"""Of a control, each of which costs a fit or a pass."""
_RESAMPLES = 1000
_GROUPS = 200


def random_like(W: Any, kind: Kind = "covariance", seed: int = 0) -> np.ndarray:
    """Random rows that stand for those of W: as many, as long, and with as much of its structure as `kind` says.

    Args:
        W: (n, width): directions, such as an SAE's decoder rows.
        kind: "isotropic" draws directions evenly; "covariance" Gaussian rows with the mean and covariance of W, the
            control that a finding must beat; "shuffled" permutes each column of W by itself. Each row then has the
            length of the row of W that it stands for.
        seed: Of the draw, in [0, 2**64).

    Returns:
        float32, (n, width).

    Raises:
        InputError: W is not finite or no matrix, or there is no such kind.

    Examples:
        >>> import numpy as np
        >>> from mlxterp.geometry import random_like
        >>> W = np.array([[3.0, 4.0], [0.0, 2.0]])
        >>> np.linalg.norm(random_like(W, "isotropic"), axis=1).round(3).tolist()
        [5.0, 2.0]
    """
    rows, draw = matrix(W, "W").astype(np.float64), np.random.default_rng(checks.seed(seed))
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"kind={kind!r:.60}; there are: {', '.join(KINDS)}.")
    if kind == "shuffled":
        new = draw.permuted(rows, axis=0)
    else:
        new = draw.normal(size=rows.shape)
        if kind == "covariance":
            mean = rows.mean(axis=0)
            values, vectors = np.linalg.eigh(np.cov(rows.T, bias=True).reshape(rows.shape[1], -1))
            new = mean + (new * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    lengths, own = (np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, new))
    return (new * (lengths / np.where(own > 0, own, 1))).astype(np.float32)


def draw_seed(seed: int, draw: int) -> int:
    """The seed of a control's draw, so that runs with neighbouring seeds share no draw. Draw 0 has the seed itself."""
    return seed if draw == 0 else int(np.random.SeedSequence([seed, draw]).generate_state(1, np.uint64)[0])


def matrix(given: Any, name: str) -> np.ndarray:
    """A finite matrix of real numbers with at least one row.

    Raises:
        InputError: It is something else.
    """
    try:
        array = np.asarray(list(given) if isinstance(given, Iterator) else given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} cannot be read as a matrix (rows, width): {error}") from error
    if array.ndim != 2 or not array.size or array.dtype.kind not in "fiu":
        got = type(given).__name__ if array.dtype.kind == "O" else f"shape {array.shape}, {array.dtype}"
        raise InputError(f"{name} is a matrix (rows, width) of numbers, got {got}.")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if bad.size:
        raise InputError(
            f"Row {int(bad[0])} of {name} is not finite ({bad.size} such rows). Leave those out."
        )
    return array


def bootstrap(
    units: np.ndarray,
    statistic: Callable[[np.ndarray], float] = lambda rows: float(np.mean(rows)),
    *,
    seed: int = 0,
    n: int = _RESAMPLES,
) -> tuple[float, float]:
    """A 95 % interval of a statistic, by drawing its units (features, texts, words) again with replacement.

    Args:
        units: (units, …): what is resampled, along the first axis.
        statistic: Of such an array.

    Returns:
        Low and high end; both NaN for no units.
    """
    if not len(units):
        return float("nan"), float("nan")
    draw = np.random.default_rng(seed)
    found = [statistic(units[draw.integers(0, len(units), len(units))]) for _ in range(n)]
    low, high = np.nanquantile(found, [0.025, 0.975])
    return float(low), float(high)


def group_means(units: np.ndarray, size: int, *, seed: int = 0) -> np.ndarray:
    """What a mean over `size` units would be by chance: means of 200 groups of a control's units.

    Args:
        units: (units,): a control's, such as whether each random direction passes a test.
        size: Units that the value is a mean of. A group has no more units than there are.

    Returns:
        float64, (200,).
    """
    draw = np.random.default_rng([seed, size])
    return draw.choice(units, (_GROUPS, min(size, len(units)))).mean(axis=1, dtype=np.float64)


@dataclass(frozen=True, eq=False, slots=True)
class Controlled:
    """A value beside what the same measurement gives on a control.

    Attributes:
        value: What was measured.
        interval: Its 95 % interval; None where none was computed.
        control: float64, (draws,): the same on each draw of the control; empty where it was left out.
        kind: What the control is, in words.
        seed: Of the first draw.
    """

    value: float
    interval: tuple[float, float] | None
    control: np.ndarray
    kind: str
    seed: int

    @property
    def control_mean(self) -> float:
        """Mean over the draws; NaN without a control."""
        return float(np.mean(self.control)) if len(self.control) else float("nan")

    @property
    def control_interval(self) -> tuple[float, float]:
        """From the 2.5th to the 97.5th percentile of the draws; NaN without a control."""
        if not len(self.control):
            return float("nan"), float("nan")
        low, high = np.quantile(self.control, [0.025, 0.975])
        return float(low), float(high)

    @property
    def p(self) -> float:
        """Share of draws at least as large, the value itself counted among them; NaN without a control."""
        n = len(self.control)
        return (1 + int((self.control >= self.value).sum())) / (n + 1) if n else float("nan")

    @property
    def stands_out(self) -> bool | None:
        """Whether the value is above all but 2.5 % of the draws: else it is no finding. None without a control."""
        return self.value > self.control_interval[1] if len(self.control) else None

    def __str__(self) -> str:
        shown = f"{self.value:.3f}" + ("" if self.interval is None else f" {_range(self.interval)}")
        if not len(self.control):
            return f"{shown} (no control: it was left out)"
        return (
            f"{shown}; control {self.control_mean:.3f} {_range(self.control_interval)}"
            f" ({len(self.control)} draws, {self.kind}, seed {self.seed})"
        )


def _range(interval: tuple[float, float]) -> str:
    return f"[{interval[0]:.3f}, {interval[1]:.3f}]"

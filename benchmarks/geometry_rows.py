"""Rows of `geometry.py`'s table: a figure over several seeds beside its control, and whether it stands out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy.stats import t as student

from mlxterp.geometry import Controlled

DIGITS = 4


class Row(dict):
    """A figure as it is written to the results; printed, one line of the table."""

    def __str__(self) -> str:
        parts = [f"{self['value']:g}"]
        if self.get("over seeds") is not None:
            parts.append("[{:g}, {:g}]".format(*self["over seeds"]))
        if self.get("control") is not None:
            parts.append("control {:g} [{:g}, {:g}]".format(self["control"], *self["control 95 %"]))
        if "stands out" in self:
            parts.append(self["stands out"])
        if self.get("failures"):
            parts.append(f"{self['failures']} failed")
        return ", ".join(parts)


def measured(found: Iterable[Controlled | None], **more: Any) -> Row:
    """One figure of several seeds, None for a seed that failed.

    "over seeds" is the 95 % interval of the mean over seeds (Student's t), "bootstrap" the interval of each seed over
    its units, "control 95 %" spans the draws of all seeds. The figure stands out where it is above 97.5 % of the
    control's draws in every seed; else the row says "none" and in how many seeds it did.
    """
    figures = list(found)
    known = [one for one in figures if one is not None and np.isfinite(one.value)]
    failures = len(figures) - len(known)
    if not known:
        return Row(value=float("nan"), failures=failures, **more)
    values = [one.value for one in known]
    row = Row(
        value=rounded(float(np.mean(values))), seeds=[rounded(v) for v in values],
        **{"over seeds": over_seeds(values)},
        bootstrap=[None if one.interval is None else [rounded(end) for end in one.interval] for one in known],
    )  # fmt: skip
    if all(len(one.control) for one in known):
        draws = np.concatenate([one.control for one in known])
        n = sum(bool(one.stands_out) for one in known)
        row["control"] = rounded(draws.mean())
        row["control 95 %"] = [rounded(end) for end in np.quantile(draws, [0.025, 0.975])]
        row["control is"] = f"{known[0].kind}, {len(known[0].control)} draws for each seed"
        row["stands out"] = "stands out" if n == len(figures) else f"none (in {n} of {len(figures)})"
    return Row(row | {"failures": failures} | more)


def plain(values: Sequence[float | None], **more: Any) -> Row:
    """A figure of several seeds that has no control of its own."""
    known = [float(v) for v in values if v is not None and np.isfinite(v)]
    return Row(
        value=rounded(float(np.mean(known))) if known else float("nan"), seeds=[rounded(v) for v in known],
        **{"over seeds": over_seeds(known)}, failures=len(values) - len(known), **more,
    )  # fmt: skip


def over_seeds(values: Sequence[float]) -> list[float] | None:
    """95 % interval of the mean; None for fewer than two values, or for equal ones."""
    if len(values) < 2 or np.ptp(values) == 0:
        return None
    half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return [rounded(np.mean(values) - half), rounded(np.mean(values) + half)]


def rounded(value: float) -> float:
    """Four significant digits."""
    return float(f"{float(value):.{DIGITS}g}")

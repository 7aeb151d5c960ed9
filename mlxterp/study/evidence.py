"""`Evidence`: one line of evidence: what was found, what it is held against, and whether it is more than that."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..core.controls import Controlled
from ..viz.escaping import escaped
from ..viz.lines import LinesView, Table

LEFT_OUT = "no control: it was left out"


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Evidence(LinesView):
    """One line of evidence about a feature. `print` and notebooks show it.

    Attributes:
        title: What was asked.
        findings: Sentences.
        control: What they are held against, and what that gives.
        stands_out: Whether the finding is more than the control shows; None where there is none to compare with.
        tables: Of the details.
        data: The figures, as JSON takes them.
    """

    title: str
    findings: tuple[str, ...]
    control: str
    stands_out: bool | None = None
    tables: tuple[Table, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """In words; "" where there is nothing to compare with."""
        if self.stands_out is None:
            return ""
        return "it stands out" if self.stands_out else "no finding: the control shows as much"

    def body(self) -> str:
        """HTML of everything but the title."""
        told = "".join(f"<p>{escaped(line)}</p>" for line in self._lines[1:])
        return told + "".join(table.html() for table in self.tables)

    @property
    def _lines(self) -> Sequence[str]:
        verdict = f" ({self.verdict})" if self.verdict else ""
        return [self.title, *self.findings, f"Control: {self.control}{verdict}"]

    @property
    def _tables(self) -> Sequence[Table]:
        return self.tables

    def __repr__(self) -> str:
        return f"<Evidence: {self.title}: {self.verdict or self.control}>"


def plain(value: Any) -> Any:
    """A value as JSON takes it: numbers that are not finite are None, arrays are lists."""
    if isinstance(value, Controlled):
        return {
            "value": plain(value.value), "interval": plain(value.interval), "control_mean": plain(value.control_mean),
            "control_interval": plain(value.control_interval), "draws": len(value.control), "control": value.kind,
            "seed": value.seed, "stands_out": value.stands_out,
        }  # fmt: skip
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

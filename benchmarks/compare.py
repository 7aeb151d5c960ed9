"""Which figures of a benchmark got worse by more than their noise.

    python benchmarks/compare.py OLD NEW [--noise 0.1]

OLD and NEW are files of `benchmarks/results/`, or folders of such files. A figure's noise is half the width of its
interval, where it has one; else `--noise`, a share of the old figure. Whether more is better is read from the figure's
name (`BETTER`); figures whose names do not say so are counted, not judged. Exit status 1 where something got worse.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BETTER = (
    (-1, r"memory|MiB|microseconds|overhead|beyond|× .*time\b|time ×|\btime\b|, s\b|seconds"),
    (-1, r"share of a (whole pass|step)"),
    (+1, r"speed|as fast as|tokens/s|x (one by one|mlx_lm|transformers|plain|without sharing)"),
    (+1, r"× naive|bandwidth|: × |recall"),
    (-1, r"× zero_out|dead"),
)  # fmt: skip
"""+1 where more is better, -1 where less is, and the names it holds for; the first that fits decides."""


@dataclass(frozen=True)
class Change:
    """A figure that is in both results."""

    name: str
    old: float
    new: float
    noise: float
    better: int

    @property
    def worse(self) -> bool:
        """Whether it got worse by more than its noise; never where its name does not say what is better."""
        return self.better * (self.new - self.old) < -self.noise


def figures(path: Path) -> dict[str, tuple[float, float | None]]:
    """{file and row: (figure, half the width of its interval)} of a results file or a folder of them."""
    paths = sorted(path.glob("*.json")) if path.is_dir() else [path]
    found: dict[str, tuple[float, float | None]] = {}
    for file in paths:
        content = json.loads(file.read_text(encoding="utf-8"))
        for row, value in content.get("rows", {}).items():
            for name, figure in _numbers(row, value):
                found[f"{content['benchmark']}: {name}"] = figure
    return found


def _numbers(row: str, value: Any) -> Iterator[tuple[str, tuple[float, float | None]]]:
    """The figures of a row: a number, a number with an interval, or a number for each name."""
    if isinstance(value, bool):
        return
    if isinstance(value, (int, float)):
        yield row, (float(value), None)
    elif isinstance(value, dict) and isinstance(value.get("value"), (int, float)):
        interval = value.get("interval") or value.get("over seeds")
        yield row, (float(value["value"]), (interval[1] - interval[0]) / 2 if interval else None)
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from _numbers(f"{row}, {name}", one)


def direction(name: str) -> int:
    """+1 where more is better, -1 where less is, 0 where the name does not say."""
    return next((sign for sign, pattern in BETTER if re.search(pattern, name)), 0)


def changes(old: Path, new: Path, noise: float) -> list[Change]:
    """Every figure that is in both."""
    before, after = figures(old), figures(new)
    found = []
    for name in before.keys() & after.keys():
        (was, half), (now, other) = before[name], after[name]
        own = max(half or 0.0, other or 0.0) or noise * abs(was)
        found.append(Change(name, was, now, own, direction(name)))
    return sorted(found, key=lambda one: one.name)


def main() -> int:
    """Names what got worse."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument(
        "--noise", type=float, default=0.1, help="share of a figure without an interval (default: 0.1)"
    )
    options = parser.parse_args()
    found = changes(options.old, options.new, options.noise)
    if not found:
        sys.stdout.write("No figure is in both results.\n")
        return 2
    worse = [one for one in found if one.worse]
    for one in worse:
        sys.stdout.write(f"worse: {one.name}: {one.old:.4g} → {one.new:.4g} (noise {one.noise:.2g})\n")
    unknown = sum(one.better == 0 for one in found)
    sys.stdout.write(
        f"{len(found) - unknown} figures judged, {len(worse)} got worse by more than their noise; {unknown} have names"
        " that do not say whether more is better.\n"
    )
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())

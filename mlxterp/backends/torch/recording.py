"""When each module of a pass was called and what it returned.

A `Tracer` writes a `Record` where everything is asked for, `Run.memory` holds it, and the tracer of
an edited pass reads it: calls that ended before the first new edit need not be run again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Any

from ...core.sites import ATTENTION_PORTS, Site

Call = tuple[str, int]
"""(path of a module, number of its call)"""


class Record:
    """Calls of one pass on one clock, which ticks at each begin and each end of a call."""

    def __init__(self, edits: int):
        self.edits = edits
        """How many edits the pass had."""
        self.times: dict[Call, tuple[int, float]] = {}
        """When each call began and ended; infinity where the pass stopped before its end."""
        self.outputs: dict[Call, Any] = {}
        """What each call returned, edits included."""
        self.writes: set[Call] = set()
        """Calls that wrote into their arguments: skipping one would lose its effect."""
        self.clock = 0
        self._begun: list[tuple[int, Call]] = []

    def begin(self, call: Call) -> int:
        """Notes that `call` begins; returns the time."""
        self.clock += 1
        self._begun.append((self.clock, call))
        self.times[call] = (self.clock, float("inf"))
        return self.clock

    def end(self, call: Call, began: int, out: Any) -> None:
        """Notes that `call`, which began at `began`, returned `out`."""
        self.clock += 1
        self.times[call] = (began, self.clock)
        self.outputs[call] = out

    def inside(self, call: Call) -> Iterator[Call]:
        """The calls that were made while `call` ran, in order of their beginning."""
        began, ended = self.times[call]
        for i in range(bisect_left(self._begun, (began + 1,)), len(self._begun)):
            time, inner = self._begun[i]
            if time > ended:
                return
            yield inner

    def adopt(self, other: Record, call: Call, began: int) -> Iterator[str]:
        """Takes over what was called inside `call`, which ended in `other`, as if it had run here.

        Yields the path of each call taken over.
        """
        shift = began - other.times[call][0]
        for inner in other.inside(call):
            start, end = other.times[inner]
            self._begun.append((start + shift, inner))
            self.times[inner] = (start + shift, end + shift)
            self.outputs[inner] = other.outputs[inner]
            if inner in other.writes:
                self.writes.add(inner)
            yield inner[0]
        self.clock = int(other.times[call][1]) + shift - 1

    def time_of(self, site: Site, call: int | None = None, *, end: bool = False) -> float:
        """When a site is passed; an attention call lies somewhere within its block.

        With `end`, the latest moment it can be. A call that was never made is at infinity.
        """
        if site.port in ATTENTION_PORTS:  # numbered by attention calls, not by calls of the block
            spans = [times for (path, _), times in self.times.items() if path == site.module]
            if not spans:
                return float("inf")
            return max(t[1] for t in spans) if end else min(t[0] for t in spans)
        times = self.times.get((site.module, call or 0))
        if times is None:
            return float("inf")
        return times[1] if site.port == "output" else times[0]

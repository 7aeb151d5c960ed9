"""What a forward pass called, when, and what came out: where an edited pass can start from.

Times are places on one clock. In a pass that starts from an earlier one, calls that were not made
again keep their times, and everything after the first new edit comes later than all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...core.sites import ATTENTION_PORTS, Site
from .tree import Node

Key = tuple[str, int]
"""Module path and number of the call."""


class Recording:
    """Calls of one pass: when each began and ended, and what it returned."""

    def __init__(self) -> None:
        self.times: dict[Key, tuple[int, int]] = {}
        self.outputs: dict[Key, Any] = {}
        self._began: dict[Key, int] = {}
        self._clock = 0

    @staticmethod
    def from_log(log: Sequence[Any]) -> Recording:
        """From a tracer's log: a node at entry, (node, output) or None at exit."""
        recording = Recording()
        counts: dict[str, int] = {}
        running: list[Key] = []
        for entry in log:
            if isinstance(entry, Node):
                number = counts.get(entry.path, 0)
                counts[entry.path] = number + 1
                running.append((entry.path, number))
                recording.enter(*running[-1])
            else:
                recording.leave(*running.pop(), None if entry is None else entry[1])
        return recording

    def enter(self, path: str, number: int) -> None:
        """A call begins."""
        self._began[path, number] = self._clock
        self._clock += 1

    def leave(self, path: str, number: int, out: Any) -> None:
        """It ends, having returned `out`."""
        self.times[path, number] = (self._began[path, number], self._clock)
        self.outputs[path, number] = out
        self._clock += 1

    def after(self, earlier: Recording, dirty: float) -> Recording:
        """This pass together with what it did not call again."""
        whole, shift = Recording(), earlier._clock
        for key, times in earlier.times.items():
            if times[1] < dirty:
                whole.times[key], whole.outputs[key] = times, earlier.outputs[key]
        for key, (began, ended) in self.times.items():
            if key in whole.times:
                continue
            old = earlier.times.get(key)
            whole.times[key] = (old[0] if old and old[0] < dirty else began + shift, ended + shift)
            whole.outputs[key] = self.outputs[key]
        whole._clock = self._clock + shift
        return whole

    def finished(self, key: Key, dirty: float) -> Any:
        """What this call returned, if it ended before `dirty`."""
        times = self.times.get(key)
        return None if times is None or times[1] >= dirty else self.outputs[key]

    def calls_within(self, key: Key) -> dict[str, int]:
        """How often each module was called between this call's beginning and end."""
        began, ended = self.times[key]
        counts: dict[str, int] = {}
        for (path, _), times in self.times.items():
            if began < times[0] and times[1] < ended:
                counts[path] = counts.get(path, 0) + 1
        return counts

    def counts(self) -> dict[str, int]:
        """How often each module was called."""
        counts: dict[str, int] = {}
        for path, _ in self.times:
            counts[path] = counts.get(path, 0) + 1
        return counts

    def time_of(self, site: Site, call: int | None = None, *, end: bool = False) -> float:
        """When a site is passed; an attention call lies somewhere within its block.

        With `end`, the latest moment it can be. A call that was never made is at infinity.
        """
        times = self.times.get((site.module, call or 0))
        if times is None:
            return float("inf")
        if site.port in ATTENTION_PORTS:
            return max(t[1] for key, t in self.times.items() if key[0] == site.module) if end else times[0]
        return times[1] if site.port == "output" else times[0]

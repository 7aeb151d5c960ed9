"""`ModelThread`: the one thread that runs the model, for everybody who asks the server.

A generation lives in it from its first token to its end: MLX raises where a stream is begun in one thread and goes
on in another. Short jobs (the logits of a feature, the features of a text) are done between the tokens of a generation.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")
_Job = tuple["Future[Any]", Callable[[], Any]]

MOST = 4
"""Generations that run or wait."""


class BusyError(Exception):
    """As many generations run and wait as may."""


class ModelThread:
    """Runs short jobs and generations, one at a time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._short: deque[_Job] = deque()
        self._long: deque[_Job] = deque()
        self._running = 0
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="mlxterp-model", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether a generation runs."""
        return bool(self._running)

    @property
    def waiting(self) -> int:
        """Generations that wait."""
        return len(self._long)

    @property
    def full(self) -> bool:
        """Whether no further generation may wait."""
        return self._running + len(self._long) >= MOST

    @property
    def stopped(self) -> bool:
        """Whether everything is to end."""
        return self._stopped

    def soon(self, job: Callable[[], T]) -> Future[T]:
        """Does a short job, between the tokens of what is generated."""
        return self._put(self._short, job)

    def generate(self, job: Callable[[], T]) -> Future[T]:
        """Runs a generation after those before it. It calls `between` after each token.

        Raises:
            BusyError: Too many wait.
        """
        with self._changed:
            if self.full:
                raise BusyError
            return self._put(self._long, job)

    def ahead(self, job: Future[Any]) -> int:
        """Generations before one that waits."""
        with self._changed:
            waiting = [future for future, _ in self._long]
            return self._running + waiting.index(job) if job in waiting else 0

    def between(self) -> None:
        """Does the short jobs that wait. For a generation, in this thread."""
        while True:
            with self._changed:
                if not self._short:
                    return
                job = self._short.popleft()
            _do(job)

    def stop(self) -> None:
        """Ends the thread; what waits is cancelled, and a generation sees `stopped` after its token."""
        with self._changed:
            self._stopped = True
            for future, _ in (*self._short, *self._long):
                future.cancel()
            self._short.clear()
            self._long.clear()
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _put(self, jobs: deque[_Job], job: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        with self._changed:
            if self._stopped:
                future.cancel()
            else:
                jobs.append((future, job))
                self._changed.notify_all()
        return future

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._short or self._long)
                if self._stopped:
                    return
                long = not self._short
                job = (self._long if long else self._short).popleft()
                self._running = int(long)
            _do(job)
            self._running = 0


def _do(job: _Job) -> None:
    future, function = job
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)

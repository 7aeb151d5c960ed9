"""The one thread of the model, and the one table of all features, without a model and without an index."""

from __future__ import annotations

import json
import struct
import threading
from concurrent.futures import CancelledError

import numpy as np
import pytest

from mlxterp.explorer.columns import packed
from mlxterp.explorer.model_thread import MOST, BusyError, ModelThread


@pytest.fixture
def model():
    """A thread that ends with the test."""
    made = ModelThread()
    yield made
    made.stop()


def test_everything_runs_in_one_thread_in_order(model: ModelThread):
    done: list[int] = []

    def job(number: int) -> int:
        done.append(number)
        return threading.get_ident()

    jobs = [model.soon(lambda n=n: job(n)) for n in range(5)]
    assert len({one.result(10) for one in jobs}) == 1
    assert done == [0, 1, 2, 3, 4]


def test_short_jobs_are_done_between_the_tokens_of_a_generation(model: ModelThread):
    begun, asked, told = threading.Event(), threading.Event(), []

    def generation() -> None:
        told.append("token")
        begun.set()
        asked.wait(10)
        model.between()
        told.append("token")

    running = model.generate(generation)
    begun.wait(10)
    short = model.soon(lambda: told.append("short"))
    asked.set()
    for job in (running, short):
        job.result(10)
    assert told == ["token", "short", "token"]


def test_only_so_many_generations_wait(model: ModelThread):
    go = threading.Event()
    jobs = [model.generate(lambda: go.wait(10)) for _ in range(MOST)]
    with pytest.raises(BusyError):
        model.generate(lambda: None)
    while model.waiting == MOST:
        pass  # until the first has begun
    assert [model.ahead(job) for job in jobs] == list(range(MOST)) and model.full and model.busy
    assert jobs[-1].cancel()
    go.set()
    assert all(job.result(10) for job in jobs[:-1])


def test_what_a_job_raises_reaches_who_asked_and_the_thread_lives_on(model: ModelThread):
    def fails() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        model.soon(fails).result(10)
    assert model.soon(lambda: 5).result(10) == 5


def test_stopping_cancels_what_waits_and_takes_nothing_more():
    model, begun = ModelThread(), threading.Event()

    def generation() -> str:
        begun.set()
        while not model.stopped:
            pass
        return "ended"

    running, waiting = model.generate(generation), model.generate(lambda: None)
    begun.wait(10)
    model.stop()
    assert running.result(10) == "ended"
    for job in (waiting, model.soon(lambda: None), model.generate(lambda: None)):
        with pytest.raises(CancelledError):
            job.result(10)


def test_a_table_is_aligned_and_tells_where_each_column_lies():
    columns = {
        "spark": np.arange(6, dtype=np.uint8).reshape(3, 2), "mean": np.array([0.5, np.nan, -1], np.float32),
        "odd": np.arange(3, dtype=np.uint8), "top": np.arange(-3, 3, dtype=np.int32).reshape(3, 2),
    }  # fmt: skip
    data = packed(columns, {"d": 3, "pieces": {"5": "é\u202e"}})
    (size,) = struct.unpack_from("<I", data)
    assert size % 4 == 0 and data[4 : 4 + size].isascii()
    said = json.loads(data[4 : 4 + size])
    assert said["d"] == 3 and said["pieces"] == {"5": "é\u202e"}
    for name, (kind, shape, offset) in said["columns"].items():
        assert offset % 4 == 0
        found = np.frombuffer(data, f"<{kind}", int(np.prod(shape)), 4 + size + offset).reshape(shape)
        assert np.array_equal(found, columns[name], equal_nan=kind == "f4")

"""Seconds of an index's build by stage, taken by wrapping what the build calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from unittest import mock

from mlxterp.activations import forward
from mlxterp.index import building
from mlxterp.index import encode as counting

STAGES = (
    "tokenizing",
    "the model",
    "the encoder",
    "ordering and transposing",
    "writing",
    "the summary",
    "the rest",
)


class Stages:
    """While it is open, `seconds` of processor time grow by stage; a lazy library computes at once."""

    def __init__(self, model: Any):
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._inner = 0.0
        self._model = model
        self._patches = [
            mock.patch.object(type(model), "tokenize", self._timed("tokenizing", type(model).tokenize)),
            mock.patch.object(counting, "run_batch", self._timed("the model", self._computed)),
            mock.patch.object(
                counting, "encode_activations", self._timed("the encoder", counting.encode_activations)
            ),
            mock.patch.object(
                building, "encode_shards", self._timed("ordering and transposing", building.encode_shards)
            ),
            mock.patch.object(building, "write_shard", self._timed("writing", building.write_shard)),
            mock.patch.object(building, "finish", self._timed("the summary", building.finish)),
        ]

    def __enter__(self) -> Stages:
        for patch in self._patches:
            patch.start()
        self._began = time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds["the rest"] = time.process_time() - self._began - sum(self.seconds.values())
        for patch in self._patches:
            patch.stop()

    def _timed(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, whose time counts for the stage but for what stages within it took."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            within, self._inner = self._inner, 0.0
            start = time.process_time()
            try:
                return call(*args, **kwargs)
            finally:
                taken = time.process_time() - start
                self.seconds[stage] += taken - self._inner
                self._inner = within + taken

        return timed

    def _computed(self, *args: Any) -> list[Any]:
        parts = forward.run_batch(*args)
        for part in parts:
            self._model.backend.get(part.values)
        return parts

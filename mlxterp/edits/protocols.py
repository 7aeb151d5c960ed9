"""What steps read of the edits that they carry out: see `edits`, where each is a value with a constructor."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from .checks import SteeringPositions
from .conditions import Condition


class Change(Protocol):
    """What any edit says."""

    @property
    def positions(self) -> SteeringPositions: ...
    @property
    def when(self) -> Condition | None: ...
    @property
    def preserve_norm(self) -> bool: ...
    @property
    def pushes(self) -> np.ndarray | None: ...  # float64, (width,): the most that it adds, if known
    @property
    def is_nothing(self) -> bool: ...


class FeatureChange(Change, Protocol):
    """A change of one feature."""

    @property
    def feature(self) -> int: ...
    @property
    def kind(self) -> str: ...  # "amplify", "clamp", "at_least", "add", "add_norm"
    @property
    def number(self) -> float: ...
    @property
    def reads_feature(self) -> bool: ...


class DirectionChange(Change, Protocol):
    """A change along a vector."""

    @property
    def vector(self) -> np.ndarray: ...  # float32, (width,)
    @property
    def unit(self) -> np.ndarray: ...  # the same at length 1
    @property
    def kind(self) -> str: ...  # "add", "add_norm", "project_out", "threshold_add", "swap"
    @property
    def number(self) -> float: ...
    @property
    def threshold(self) -> float | None: ...
    @property
    def other_unit(self) -> np.ndarray: ...  # of "swap"
    @property
    def cap(self) -> float | None: ...  # of "swap"

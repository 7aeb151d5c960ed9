"""`Scores` as a file: one JSON object, sealed by the digest of all that it says but "cost", which holds the times."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from ..concepts import store
from ..core.controls import Controlled
from ..core.digests import check_seal, sealed
from ..core.files import strict_json
from ..core.places import path_of
from ..errors import InputError
from .feature_score import Detail, FeatureScore

_FORMAT, _VERSION = "mlxterp-scores", 1
_COST = "cost"
_PLAIN = ("as_wrong", "auroc", "precision", "recall", "weighted", "f1")
_ARRAYS = ("draws", "control")
_BY_TENTH = ("recall_by_tenth", "by_tenth")


def write(path: str | os.PathLike, scores: Mapping[str, Any]) -> Path:
    """See `Scores.save`.

    Args:
        scores: The fields of a `Scores`.
    """
    said = {
        "format": _FORMAT, "version": _VERSION, "judge": scores["judge"], "writer": scores["writer"],
        "seed": scores["seed"],
        "features": [_feature(one) for one in scores["found"]],
        "controls": {
            task: {name: _controlled(one) for name, one in several.items()}
            for task, several in scores["controls"].items()
        },
        "without": dict(scores["without"]), "provenance": dict(scores["provenance"]),
    }  # fmt: skip
    return store.write(path, store.as_json({**sealed(_numbers(said)), _COST: dict(scores["cost"])}))


def read(path: str | os.PathLike) -> dict[str, Any]:
    """The fields of the `Scores` in a file; see `Scores.load`."""
    file = path_of(path)
    try:
        found = strict_json(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or found.get("format") != _FORMAT:
            raise ValueError("it holds no scores of mlxterp's")
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from error
    if found.get("version") != _VERSION:
        raise InputError(
            f"{file} is of version {found.get('version')!r}; this mlxterp reads {_VERSION}. Install a newer one."
        )
    cost = found.pop(_COST, {})
    try:
        if not check_seal(found):
            raise ValueError("it has no digest")
        return _scores(found, cost)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> InputError:
    return InputError(f"{file} cannot be read as scores: {error}. Scores.save writes such a file.")


def _scores(found: Mapping[str, Any], cost: Any) -> dict[str, Any]:
    return {
        "found": tuple(_feature_of(one) for one in found["features"]),
        "judge": str(found["judge"]),
        "writer": str(found["writer"]),
        "seed": int(found["seed"]),
        "controls": {
            task: {name: _control_of(one) for name, one in several.items()}
            for task, several in found["controls"].items()
        },
        "without": dict(found["without"]),
        "provenance": dict(found["provenance"]),
        "cost": dict(cost),
    }


def _feature(one: FeatureScore) -> dict[str, Any]:
    told = one.explanation
    return {
        "feature_id": told.feature_id,
        "explanation": store.entries({}, {told.feature_id: [told]})[str(told.feature_id)][0],
        "reason": one.reason, "firings": one.firings,
        "details": {task: _detail(detail) for task, detail in one.details.items()},
    }  # fmt: skip


def _feature_of(found: Mapping[str, Any]) -> FeatureScore:
    told = store.explanation_of(int(found["feature_id"]), found["explanation"])
    details = {task: _detail_of(one) for task, one in found["details"].items()}
    if missing := sorted({*details} - {*told.scores}):
        raise ValueError(f"feature {told.feature_id} has details of {missing[0]!r} and no such score")
    return FeatureScore(told, details, str(found["reason"]), int(found["firings"]))


def _detail(one: Detail) -> dict[str, Any]:
    return {field.name: getattr(one, field.name) for field in fields(Detail)}


def _detail_of(found: Mapping[str, Any]) -> Detail:
    given = dict(found)
    for name in _PLAIN:
        given[name] = _number(given[name])
    for name in _BY_TENTH:
        given[name] = {int(tenth): _number(value) for tenth, value in given[name].items()}
    given["by_kind"] = {str(kind): _number(value) for kind, value in given["by_kind"].items()}
    for name in _ARRAYS:
        given[name] = np.array([_number(value) for value in given[name]])
    given["false_positives"] = tuple(map(str, given["false_positives"]))
    return Detail(**given)


def _controlled(one: Controlled) -> dict[str, Any]:
    return {field.name: getattr(one, field.name) for field in fields(Controlled)}


def _control_of(found: Mapping[str, Any]) -> Controlled:
    interval = found["interval"]
    ends = None if interval is None else (_number(interval[0]), _number(interval[1]))
    control = np.array([_number(value) for value in found["control"]])
    return Controlled(_number(found["value"]), ends, control, str(found["kind"]), int(found["seed"]))


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _numbers(value: Any) -> Any:
    """The same as JSON has it: NaN is null."""
    if isinstance(value, Mapping):
        return {str(key): _numbers(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_numbers(one) for one in (value.tolist() if isinstance(value, np.ndarray) else value)]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

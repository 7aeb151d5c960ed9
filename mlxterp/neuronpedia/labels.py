"""Explanations of a source's features, as Neuronpedia exports them: a registry, or a table."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ..concepts.explanations import PERSON
from ..concepts.registry import FeatureRegistry
from ..core import checks
from ..core.frames import data_frame
from ..core.integers import as_integer
from ..errors import warn
from .server import BASE_URL, Server, checked_name, unicode

_TOP = 2**31
_SHOWN = 3


@dataclass(frozen=True, eq=False, slots=True)
class Exported:
    """The rows of an export that can be used, the first of each feature, by feature."""

    rows: dict[int, dict[str, Any]]
    width: int

    @property
    def missing(self) -> int:
        """Features without a description."""
        return self.width - sum(bool(row["description"]) for row in self.rows.values())


def exported(
    model_id: Any, source_id: Any, d_hidden: Any, base_url: Any, cache: Any, timeout: Any
) -> Exported:
    """What a server exports; see `labels`."""
    model = checked_name(model_id, "model_id", "gpt2-small")
    source = checked_name(source_id, "source_id", "8-res_fs768-jb")
    width = checks.count_or_none(d_hidden, "d_hidden")
    server = Server.of(base_url, cache, timeout)
    path = f"/api/explanation/export?modelId={quote(model)}&saeId={quote(source)}"
    rows = server.asked(path, (model, source), _rows)
    return _sorted_out(rows, width, f"{model}/{source}")


def _rows(found: Any) -> list[Any]:
    if isinstance(found, list):
        return found
    said = found.get("message", found.get("error", "")) if isinstance(found, dict) else ""
    raise TypeError(f"it sent no list of explanations, but {type(found).__name__} {str(said)[:100]!r}")


def labels(
    model_id: str,
    source_id: str,
    *,
    d_hidden: int | None = None,
    base_url: str = BASE_URL,
    cache: str | os.PathLike | bool | None = None,
    timeout: float = 30,
) -> FeatureRegistry:
    """Explanations of a source's features, as names of a registry: `index.labels = neuronpedia.labels(…)`.

    Of several explanations of a feature the first counts. What was brought once is answered from the cache, without a
    network.

    Args:
        model_id: As Neuronpedia calls the model: "gpt2-small".
        source_id: As it calls the SAE: "8-res_fs768-jb". `mlxterp.pretrained_saes` gives both, as `neuronpedia_id`.
        d_hidden: Features of the SAE; what is said of others is left out, with a warning.
        base_url: Address of the server.
        cache: The folder that keeps explanations; None is the user's own (~/.cache/mlxterp/neuronpedia), False keeps
            none.
        timeout: Seconds without any answer after which the server counts as gone.

    Raises:
        NetworkError: The server cannot be reached, breaks off, or sends something else.
        InputError: It has no such model or source; or a name or number that cannot be.
    """
    found = exported(model_id, source_id, d_hidden, base_url, cache, timeout)
    entries = {
        feature: {"name": row["description"], "notes": _notes(row), "source": _source(row)}
        for feature, row in found.rows.items()
        if row["description"]
    }
    if not entries:
        warn(f"There are no explanations of {model_id}/{source_id} at {base_url}.")
    return FeatureRegistry(entries)


def labels_frame(
    model_id: str,
    source_id: str,
    *,
    d_hidden: int | None = None,
    base_url: str = BASE_URL,
    cache: str | os.PathLike | bool | None = None,
    timeout: float = 30,
) -> Any:
    """The same as a DataFrame with a row for each feature, in their order: description ("" where there is none), type
    and model of the explanation.

    Args:
        d_hidden: Number of rows; None is one more than the highest feature that is explained.
        model_id, source_id, base_url, cache, timeout: As in `labels`.

    Raises:
        BackendError: pandas is not installed.
        NetworkError, InputError: As in `labels`.
    """
    found = exported(model_id, source_id, d_hidden, base_url, cache, timeout)
    if found.missing:
        warn(f"{found.missing} of {found.width} features of {model_id}/{source_id} have no description.")
    rows = [found.rows.get(feature, {}) for feature in range(found.width)]
    columns = {"description": "description", "type": "typeName", "model": "explanationModelName"}
    made = {name: [_text(row.get(key)) for row in rows] for name, key in columns.items()}
    return data_frame(made, "feature_id")


def _sorted_out(found: list[Any], width: int | None, source: str) -> Exported:
    top, rows = _TOP if width is None else width, dict[int, dict[str, Any]]()
    unreadable: list[Any] = []
    outside: list[int] = []
    for row in found:
        number = _index(row.get("index")) if isinstance(row, dict) else None
        said = row.get("description") if isinstance(row, dict) else None
        if number is None or not isinstance(said, (str, type(None))):
            unreadable.append(row.get("index") if isinstance(row, dict) and number is None else row)
        elif not 0 <= number < top:
            outside.append(number)
        elif number not in rows or not rows[number]["description"]:
            rows[number] = {**row, "index": number, "description": unicode(said or "").strip()}
    if unreadable or outside:
        told = [f"{len(unreadable)} that cannot be read ({_some(unreadable)})"] * bool(unreadable)
        told += [f"{len(outside)} of features outside [0, {top}) ({_some(outside)})"] * bool(outside)
        warn(f"Of {len(found)} explanations of {source} some are left out: {' and '.join(told)}.")
    rows = dict(sorted(rows.items()))
    return Exported(rows, width if width is not None else max(rows, default=-1) + 1)


def _index(given: Any) -> int | None:
    """A feature's number, which Neuronpedia writes as a string."""
    if isinstance(given, str):
        return int(given) if re.fullmatch(r"-?[0-9]{1,18}", given) else None
    return as_integer(given)


def _some(values: list[Any]) -> str:
    shown = ", ".join(repr(value)[:40] for value in values[:_SHOWN])
    return shown + (", …" if len(values) > _SHOWN else "")


def _text(given: Any) -> str:
    return given if isinstance(given, str) else ""


def _source(row: dict[str, Any]) -> str:
    """Who explained it: a person, a model by its name, or somebody whom Neuronpedia does not name."""
    if _text(row.get("typeName")) == "human":
        return PERSON
    return _text(row.get("explanationModelName")).strip() or "Neuronpedia"


def _notes(row: dict[str, Any]) -> str:
    parts = ("Neuronpedia", _text(row.get("typeName")), _text(row.get("explanationModelName")))
    return ", ".join(part for part in parts if part)

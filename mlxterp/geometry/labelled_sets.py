"""Labelled texts, or activations, that probes are fitted to and tested on: two classes, two parts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..anatomy.session import Model
from ..backends.host.conversion import to_numpy
from ..core import checks
from ..core.controls import matrix
from ..core.integers import is_listable
from ..core.places import expanded
from ..core.texts import is_missing
from ..errors import BackendError, InputError
from .concept_examples import read

TEXTS = ("prompt", "text", "texts", "sentence")
LABELS = ("target", "label", "labels")
_LEAST = 10
_MOST_FITTED = 1024
_TESTED = 100


@dataclass(frozen=True, eq=False, slots=True)
class LabelledSet:
    """Activations with labels, in the part that is fitted and the part that is tested.

    Attributes:
        name: Of the set.
        x, y: float32 (n, width) and bool (n,): fitted.
        x_test, y_test: The same of the part that is tested.
        classes: Names of the two classes; the second is the positive one.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: tuple[str, str]


def named_sets(given: Any) -> dict[str, Any]:
    """Sets by their names: a mapping as it is, a folder's or a file's tables, one set alone.

    Raises:
        InputError: Nothing is there, or it is of no kind that is known.
    """
    if isinstance(given, (str, os.PathLike)):
        path = expanded(given)
        paths = sorted(p for p in path.iterdir() if _is_table(p)) if path.is_dir() else [path]
        if not paths:
            raise InputError(
                f"{path} holds no tables: expected files *.csv, *.csv.zst, *.csv.gz or *.parquet."
            )
        return {p.name.partition(".")[0]: p for p in paths}
    if isinstance(given, Mapping) and not _column(given, TEXTS):
        if not given:
            raise InputError("datasets is empty; expected {name: (texts, labels)}.")
        return {str(name): one for name, one in given.items()}
    return {"texts": given}


def labelled_set(
    name: str, given: Any, model: Model | None, component: str | None, width: int, position: int, seed: int,
    batch_tokens: int,
) -> LabelledSet:  # fmt: skip
    """One set of `named_sets`, read and split.

    Raises:
        InputError: Labels of another number of classes than two, fewer than ten rows, texts without a model,
            activations of another width, or a class that has too few rows to be in both parts.
    """
    if isinstance(given, (str, os.PathLike)):
        given = _table(expanded(given))
    parts = [_distinct(name, x, _labels(name, y)) for x, y in _parts(name, given)]
    if len(parts) == 2 and all(isinstance(x, list) and isinstance(x[0], str) for x, _ in parts):
        both = {*parts[0][0]} & {*parts[1][0]}
        if both:
            raise InputError(f"{name}: {min(both)!r:.80} is fitted and tested ({len(both)} such texts).")
    sides = [(rows(x, name, model, component, width, position, batch_tokens), y) for x, y in parts]
    classes = _classes(name, np.concatenate([y for _, y in sides]))
    truth = [y == classes[1] for _, y in sides]
    names = (str(classes[0]), str(classes[1]))
    if len(sides) == 2:
        found = LabelledSet(name, sides[0][0], truth[0], sides[1][0], truth[1], names)
    else:
        test = _tested(name, truth[0], seed)
        order = np.random.default_rng([seed, 1]).permutation(np.flatnonzero(~test))[:_MOST_FITTED]
        x, y = sides[0][0], truth[0]
        found = LabelledSet(name, x[order], y[order], x[test], y[test], names)
    for y, part in ((found.y, "fitted"), (found.y_test, "tested")):
        if y.all() or not y.any():
            raise InputError(f"{name}: the part that is {part} has one class only; give more rows of both.")
    return found


def rows(
    given: Any,
    name: str,
    model: Model | None,
    component: str | None,
    width: int,
    position: int,
    batch_tokens: int,
) -> np.ndarray:
    """float32 (n, width): activations as they are, or those of each text's token at a position.

    Raises:
        InputError: See `labelled_set`.
    """
    if isinstance(given, list) and isinstance(given[0], str):
        if model is None or component is None:
            raise InputError(f"{name} holds texts, which a model must read: sae.probe(datasets, model).")
        return read(model, component, given, 0, position, batch_tokens).activations
    found = matrix(to_numpy(given, name), name)
    if found.shape[1] != width:
        raise InputError(f"{name} holds activations {found.shape[1]} wide; the SAE reads {width}.")
    return found.astype(np.float32, copy=False)


def _labels(name: str, given: Any) -> np.ndarray:
    """(n,): labels as they are, in NumPy.

    Raises:
        InputError: They are no list of labels, or one is missing.
    """
    array = checks.array_of(given)
    if array is None or not array.ndim:
        raise InputError(f"{name}: labels are {type(given).__name__}; expected a list or an array of them.")
    found = array.reshape(-1)
    missing = [i for i, label in enumerate(found.tolist()) if is_missing(label)]
    if missing:
        raise InputError(
            f"{name}: label {missing[0]} is missing ({len(missing)} such rows). Leave them out: dropna()."
        )
    if found.dtype.kind == "O" and len({type(label) for label in found.tolist()}) > 1:
        raise InputError(f"{name}: its labels are of several types; give all as numbers, or all as strings.")
    return found


def _distinct(name: str, given: Any, labels: np.ndarray) -> tuple[Any, np.ndarray]:
    """Texts as a list, each once, with their labels; activations as they are.

    Raises:
        InputError: Another number of labels, or one text with two of them.
    """
    if not is_listable(given):
        raise InputError(f"{name} is of {type(given).__name__}; expected texts, or activations (n, width).")
    if not hasattr(given, "dtype") or given.dtype == np.dtype(object):
        given = list(given)
    if len(given) != len(labels) or not len(given):
        raise InputError(f"{name}: {len(labels)} labels for {len(given)} texts or rows.")
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        return given, labels
    first: dict[str, Any] = {}
    for text, label in zip(given, labels.tolist(), strict=True):
        if first.setdefault(text, label) != label:
            raise InputError(
                f"{name}: {text!r:.80} stands there with the labels {first[text]!r} and {label!r}."
            )
    return list(first), np.asarray(list(first.values()))


def _parts(name: str, given: Any) -> list[tuple[Any, Any]]:
    """(texts or rows, labels), once or twice: fitted and tested."""
    columns = getattr(given, "columns", None)
    if isinstance(given, Mapping) or columns is not None:
        texts, labels = _column(given, TEXTS), _column(given, LABELS)
        if not texts or not labels:
            has = ", ".join(str(column) for column in list(given if columns is None else columns)[:8])
            raise InputError(
                f"{name} has the columns {has}; expected one of {', '.join(TEXTS)} and one of {', '.join(LABELS)}."
            )
        return [(list(given[texts]), given[labels])]
    if isinstance(given, Sequence) and not isinstance(given, str) and len(given) in (2, 4):
        pairs = list(given)
        return [(pairs[i], pairs[i + 1]) for i in range(0, len(pairs), 2)]
    raise InputError(
        f"{name} is {type(given).__name__}; expected (texts, labels), (texts, labels, texts to test, their labels), a"
        " table with a column of texts and one of labels, or the path of such a table."
    )


def _column(given: Any, names: Sequence[str]) -> str:
    has = list(getattr(given, "columns", given))
    return next((name for name in names if name in has), "")


def _classes(name: str, labels: np.ndarray) -> np.ndarray:
    classes = np.unique(labels)
    if len(classes) != 2:
        shown = ", ".join(repr(one) for one in classes[:8].tolist())
        raise InputError(
            f"{name} has {len(classes)} classes ({shown}); expected two. Ask of one against all others:"
            " labels == one."
        )
    if len(labels) < _LEAST:
        raise InputError(
            f"{name} has {len(labels)} rows; at least {_LEAST} are needed to fit and test probes."
        )
    return classes


def _tested(name: str, labels: np.ndarray, seed: int) -> np.ndarray:
    """bool (n,): three tenths of each class, at least 100 in all where there are 300, and what is beyond 1,024 rows."""
    rng, test = np.random.default_rng([seed, 0]), np.zeros(len(labels), bool)
    share = max(0.3, min(_TESTED / len(labels), 0.5), 1 - _MOST_FITTED / len(labels))
    for of in (True, False):
        own = np.flatnonzero(labels == of)
        n = min(max(1, round(share * len(own))), len(own) - 1)
        if n < 1:
            raise InputError(f"{name}: one class has {len(own)} rows; at least two are needed.")
        test[rng.permutation(own)[:n]] = True
    return test


def _is_table(path: Path) -> bool:
    return path.is_file() and path.name.endswith((".csv", ".csv.zst", ".csv.gz", ".parquet"))


def _table(path: Path) -> Any:
    """A DataFrame.

    Raises:
        InputError: The file is missing or no table.
        BackendError: pandas, or what it needs for this kind of file, is not installed.
    """
    if not path.is_file():
        raise InputError(f"There is no table {path}.")
    try:
        import pandas

        return pandas.read_parquet(path) if path.suffix == ".parquet" else pandas.read_csv(path)
    except ImportError as error:
        raise BackendError(f"{path.name} needs another library: {error}") from error
    except Exception as error:
        raise InputError(f"{path} cannot be read as a table: {error}") from error

"""`FeatureTable`: every feature of an index in one table, to be sorted and cut, as columns and as a DataFrame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..core import checks
from ..core.feature_ids import Feature, feature_id
from ..core.frames import data_frame
from ..errors import InputError
from ..viz.lines import LinesView, Table

_SHOWN = 20
_ORDERED = ("feature_id", "label", "count", "density", "mean", "maximum", "n_texts", "decoder_norm")
"""Columns to sort by."""


@dataclass(frozen=True, eq=False)
class FeatureTable(LinesView):
    """Figures of many features, a row each; `FeatureIndex.table` makes it.

    Attributes:
        feature_id: int64, (n,): ids.
        label: Their names, as `index.label` gives them; None where there is none.
        count: int64, (n,): tokens on which a feature is active.
        mean: float32, (n,): mean activation where it is active; 0 where it never is.
        maximum: float32, (n,): activation of largest magnitude.
        n_texts: int64, (n,): texts in which it is active.
        top_tokens: int32, (n, 5): ids of the tokens it fires on most often, the commonest first; -1 beyond.
        top_token_counts: int64, (n, 5): how often.
        spark: uint8, (n, 12): how its firings are spread over twelfths of `maximum`: 255 for the fullest twelfth, and
            for the others 255 times the root of their share of that, rounded up.
        best_text: int32, (n,): the text of the token where it is strongest, as `index.strongest_tokens`; -1 without.
        best_position: int32, (n,): the position of that token.
        decoder_norm: float64, (n,): norms of the decoder rows; None for an index that was opened without its SAE.
        pieces: The text of each token id in `top_tokens`.
        n_tokens: Number of tokens that were counted.
        d_hidden: Number of features of the SAE.

    Examples:
        >>> table = index.table()
        >>> commonest = table.sort("density")
        >>> int(commonest.feature_id[0]), round(float(commonest.density[0]), 2)
        (1586, 0.28)
        >>> often = table.take(table.n_texts >= 10)
        >>> len(often) < len(table), table.find(ball).tokens[0]
        (True, (' toys', ' ball'))
    """

    feature_id: np.ndarray
    label: tuple[str | None, ...]
    count: np.ndarray
    mean: np.ndarray
    maximum: np.ndarray
    n_texts: np.ndarray
    top_tokens: np.ndarray
    top_token_counts: np.ndarray
    spark: np.ndarray
    best_text: np.ndarray
    best_position: np.ndarray
    decoder_norm: np.ndarray | None
    pieces: dict[int, str]
    n_tokens: int
    d_hidden: int

    def __len__(self) -> int:
        return len(self.feature_id)

    @property
    def density(self) -> np.ndarray:
        """float64, (n,): share of the tokens where a feature is active."""
        return self.count / self.n_tokens

    @cached_property
    def tokens(self) -> tuple[tuple[str, ...], ...]:
        """The tokens of `top_tokens` as text, at most five for each feature."""
        return tuple(
            tuple(self.pieces[token] for token in row if token >= 0) for row in self.top_tokens.tolist()
        )

    def sort(self, by: str, descending: bool = True) -> FeatureTable:
        """The same rows in another order; among equals the lower feature id first.

        Args:
            by: "feature_id", "label", "count", "density", "mean", "maximum", "n_texts" or "decoder_norm". By label,
                features without one come last.
            descending: The largest first; a table by id or label is as a rule wanted the other way.

        Raises:
            InputError: There is no such column.
        """
        by = checks.choice(by, "by", _ORDERED)
        descending = checks.flag(descending, "descending")
        if by == "label":
            return self._by_label(descending)
        column = getattr(self, by)
        if column is None:
            raise InputError("There are no decoder norms: open the index with its model and SAE.")
        order = np.lexsort((self.feature_id, -column if descending else column))
        return self.take(order)

    def take(self, rows: Any) -> FeatureTable:
        """Some rows, in the order given.

        Args:
            rows: A mask of booleans (n,), or numbers of rows in [0, n).

        Raises:
            InputError: A row is not there, or the mask has another length.
        """
        rows = np.asarray(rows) if len(rows) else np.zeros(0, dtype=np.int64)
        mask, numbers = rows.dtype == bool, np.issubdtype(rows.dtype, np.integer)
        if rows.ndim != 1 or not (mask or numbers) or (mask and len(rows) != len(self)):
            raise InputError(
                f"Expected a mask of {len(self)} booleans or numbers of rows, got {rows.dtype} of shape {rows.shape}."
            )
        rows = np.flatnonzero(rows) if mask else rows.astype(np.int64)
        if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise InputError(f"There are {len(self)} rows, numbered from 0; asked was {int(rows.max())}.")
        columns = {
            field.name: value[rows]
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), np.ndarray)
        }
        return replace(self, **columns, label=tuple(self.label[row] for row in rows.tolist()))

    def find(self, features: Feature | Sequence[Feature]) -> FeatureTable:
        """The rows of one feature or several, in the order given.

        Raises:
            UnknownFeatureError: One is no feature of the SAE.
            InputError: One is not in this table.
        """
        several = features if isinstance(features, (list, tuple, np.ndarray)) else [features]
        asked = [feature_id(one, self.d_hidden, whose="this index") for one in several]
        order = np.argsort(self.feature_id, kind="stable")
        places = np.searchsorted(self.feature_id, asked, sorter=order)
        rows = order[np.minimum(places, max(len(order) - 1, 0))] if len(order) else np.zeros(0, np.int64)
        missing = [one for one, row in zip(asked, rows, strict=False) if self.feature_id[row] != one]
        if missing or len(rows) != len(asked):
            raise InputError(f"Feature {(missing or asked)[0]} is not in this table of {len(self)} features.")
        return self.take(rows)

    def to_pandas(self) -> Any:
        """A DataFrame with a row for each feature, indexed by feature_id.

        Raises:
            BackendError: pandas is not installed.
        """
        columns: dict[str, Any] = {
            "count": self.count, "density": self.density, "mean": self.mean, "maximum": self.maximum,
            "label": list(self.label), "n_texts": self.n_texts, "top_tokens": list(self.tokens),
            "best_text": self.best_text, "best_position": self.best_position,
        }  # fmt: skip
        if self.decoder_norm is not None:
            columns["decoder_norm"] = self.decoder_norm
        frame = data_frame(columns)
        frame.index = self.feature_id
        return frame.rename_axis("feature_id")

    def _by_label(self, descending: bool) -> FeatureTable:
        named = [row for row in np.argsort(self.feature_id, kind="stable").tolist() if self.label[row]]
        named.sort(key=lambda row: str(self.label[row]), reverse=descending)  # stable either way
        rest = set(range(len(self))).difference(named)
        return self.take([*named, *sorted(rest, key=lambda row: int(self.feature_id[row]))])

    def __repr__(self) -> str:
        return f"FeatureTable({len(self)} of {self.d_hidden} features, {self.n_tokens} tokens)"

    @property
    def _lines(self) -> Sequence[str]:
        shown = f"The first {_SHOWN} of them" if len(self) > _SHOWN else "All of them"
        alive = int(np.count_nonzero(self.count))
        return (
            f"{len(self)} of {self.d_hidden} features, {alive} of them active on {self.n_tokens} tokens",
            f"{shown}; .sort(by), .take(rows) and .to_pandas() give the others.",
        )

    @property
    def _tables(self) -> Sequence[Table]:
        rows = [self._row(row) for row in range(min(len(self), _SHOWN))]
        return (Table(("feature", "label", "density", "texts", "mean", "maximum", "fires on"), rows),)

    def _row(self, row: int) -> Sequence[str]:
        return (
            str(int(self.feature_id[row])), self.label[row] or "", f"{self.density[row]:.3%}",
            str(int(self.n_texts[row])), f"{self.mean[row]:.3g}", f"{self.maximum[row]:.3g}",
            " ".join(map(repr, self.tokens[row])),
        )  # fmt: skip

"""The edits of several texts that run in one pass, each text changed as if it were alone.

Texts that share the very same edits are given to them together, where those change each token by itself; other
functions (of users, or SAEs that choose among all tokens) are given one text at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from ...core.continuations import Continuation
from ...core.sites import Array, Run, Site, SiteEdit
from ...errors import EditError
from ..base import Backend


def comes_apart(shape: tuple[int, ...], n: int, columns: int) -> bool:
    """Whether a value of a pass over n texts of equally many columns has texts' or tokens' own rows."""
    return (len(shape) > 2 and shape[0] == n) or (len(shape) == 2 and shape[0] == n * columns)


class RowEdits:
    """The edits of the passes over some of several texts."""

    def __init__(self, rows: Sequence[Continuation], backend: Backend):
        self._rows, self._backend = rows, backend
        self._known: tuple[list[int], list[SiteEdit]] = ([], [])

    def of(self, texts: list[int]) -> list[SiteEdit]:
        """Edits of a pass over these texts."""
        if self._known[0] != texts:
            self._known = (list(texts), _joined([self._rows[i].edits for i in texts], self._backend))
        return self._known[1]


def _joined(rows: Sequence[Sequence[SiteEdit]], backend: Backend) -> list[SiteEdit]:
    """Edits of one pass over all texts, from the edits of each."""
    if len(rows) == 1:
        return list(rows[0])
    by_site: dict[Site, list[list[SiteEdit]]] = {}
    for number, edits in enumerate(rows):
        for edit in sorted(edits, key=lambda edit: edit.stage):
            by_site.setdefault(edit.site, [[] for _ in rows])[number].append(edit)
    return [_site_edit(site, edits, backend) for site, edits in by_site.items()]


def _site_edit(site: Site, rows: Sequence[Sequence[SiteEdit]], backend: Backend) -> SiteEdit:
    """One edit that gives each text to its own edits of this site, in order."""
    n = len(rows)
    spans: list[tuple[int, int]] = []
    for _, group in groupby(range(n), key=lambda i: tuple(map(id, rows[i]))):
        numbers = list(group)
        if all(edit.by_token for edit in rows[numbers[0]]):
            spans.append((numbers[0], numbers[-1] + 1))
        else:
            spans += [(number, number + 1) for number in numbers]

    def function(value: Array, run: Run, number: int) -> Array:
        parts: list[Array] = []
        changed = False
        table = Apart(value, n, run.where.columns, site)
        for first, end in spans if table.by_text else [(i, i + 1) for i in range(n)]:
            old = table.of(first, end)
            new = old
            if rows[first]:
                own = Run(
                    None,
                    _Values(run.values, n, run.where.columns, first, end),
                    run.calls,
                    run.where.of(first, end),
                )
                for edit in rows[first]:
                    if edit.call is None or edit.call == number:
                        new = edit.function(new, own, number)
            changed = changed or new is not old
            parts.append(new)
        if not changed:
            return value
        whole = parts[0] if len(parts) == 1 else backend.concatenate(parts)
        return whole.reshape(tuple(value.shape))

    reads = tuple(dict.fromkeys(read for edits in rows for edit in edits for read in edit.reads))
    return SiteEdit(site, function, reads=reads)


class Apart:
    """A value of a pass over n texts of equally many columns, taken apart by text.

    Raises:
        EditError: It has neither an axis of texts nor one row for each token.
    """

    def __init__(self, value: Array, n: int, columns: int, site: Site):
        self._value, self._n, self._columns = value, n, columns
        shape = tuple(value.shape)
        self.by_text = len(shape) > 2 and shape[0] == n
        """Whether the first axis is that of texts, so that some can be given together."""
        if not comes_apart(shape, n, columns):
            raise EditError(
                f"{site} has shape {shape} for {n} texts of {columns} tokens: no rows of one text."
            )

    def of(self, first: int, end: int) -> Array:
        """The value of texts first…end, as it would be if they ran alone."""
        if self.by_text:
            return self._value if end - first == self._n else self._value[first:end]
        return self._value[first * self._columns : end * self._columns]


class _Values(dict[Site, list[Any]]):
    """A run's values, those of some texts only."""

    def __init__(self, values: dict[Site, list[Array]], n: int, columns: int, first: int, end: int):
        super().__init__()
        self._whole, self._n, self._columns, self._span = values, n, columns, (first, end)

    def __missing__(self, site: Site) -> list[Any]:
        found = [Apart(value, self._n, self._columns, site).of(*self._span) for value in self._whole[site]]
        self[site] = found
        return found

    def get(self, site: Site, default: Any = None) -> Any:
        try:
            return self[site]
        except KeyError:
            return default

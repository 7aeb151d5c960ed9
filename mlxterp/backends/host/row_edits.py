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
    spans = _spans(rows)
    added = {
        (first, end): _Added([edits[0] for edits in rows[first:end]], backend)
        for first, end in spans
        if _only_adds(rows[first])
    }

    def function(value: Array, run: Run, number: int) -> Array:
        parts: list[Array] = []
        changed = False
        table = Apart(value, n, run.where.columns, site)
        for first, end in spans if table.by_text else [(i, i + 1) for i in range(n)]:
            old = table.of(first, end)
            new = old
            if (first, end) in added and old.ndim == 3:
                new = old + added[first, end].like(old)
            elif rows[first]:
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


def _spans(rows: Sequence[Sequence[SiteEdit]]) -> list[tuple[int, int]]:
    """Texts first…end that are given together, with their edits."""

    def kind(i: int) -> Any:
        return "adds" if _only_adds(rows[i]) else tuple(map(id, rows[i]))

    spans: list[tuple[int, int]] = []
    for _, group in groupby(range(len(rows)), key=kind):
        numbers = list(group)
        if all(edit.by_token for edit in rows[numbers[0]]):
            spans.append((numbers[0], numbers[-1] + 1))
        else:
            spans += [(number, number + 1) for number in numbers]
    return spans


def _only_adds(edits: Sequence[SiteEdit]) -> bool:
    """Whether the edits of one text only add a vector to each of its tokens."""
    return len(edits) == 1 and edits[0].adds is not None and edits[0].call is None and edits[0].by_token


class _Added:
    """The vectors that edits add, each to its own text, put together once for each dtype."""

    def __init__(self, edits: Sequence[SiteEdit], backend: Backend):
        self._edits = edits if any(edit is not edits[0] for edit in edits) else edits[:1]
        self._backend = backend
        self._known: dict[str, Array] = {}

    def like(self, x: Array) -> Array:
        """(texts, 1, width), or (1, 1, width) where all texts share one edit."""
        key = f"{x.dtype} {self._backend.device(x)}"
        if key not in self._known:
            vectors = [edit.adds(x)[None, None] for edit in self._edits if edit.adds is not None]
            self._known[key] = self._backend.concatenate(vectors)
        return self._known[key]


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

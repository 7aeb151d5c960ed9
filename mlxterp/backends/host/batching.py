"""How several texts are continued together: the same for both wings, which bring the passes and the caches.

Prompts are read side by side without padding: all texts up to the end of the shortest, then the others on, and so
forth. Then their caches are merged, so that each step is one pass over one token of every text, each at its own
position. So no edit and no hook ever meets a padded token. Where none acts, a wing that can reads all prompts in one
go, padded on the left. `capacity` tries once which texts a model's caches can hold together, and whether padding
changes anything.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ...core.continuations import Continuation, Piece
from ...core.quiet import quiet
from ...core.sites import Where
from ..base import Backend
from .finite import not_finite
from .text_stream import Detokenizer

NO_TOKEN = -1
"""Instead of a token that cannot be chosen."""


@dataclass(eq=False, slots=True)
class Batch:
    """Texts that run together."""

    rows: list[int]
    """Which of all texts they are."""
    places: np.ndarray
    """int64, (texts,): how many tokens of each its cache holds."""
    cache: Any

    def where(self, columns: int, prompts: np.ndarray) -> Where:
        """What a pass over the next tokens covers."""
        ahead = np.arange(columns)
        same = (self.places == self.places[0]).all()
        positions = self.places[0] + ahead if same else self.places[:, None] + ahead
        return Where(positions, None, prompts=prompts[self.rows], texts=np.array(self.rows))


Group = tuple[Batch, Any]
"""A batch and its logits (texts, vocabulary) after the last token read; None where those were not computed."""


class Passes(Protocol):
    """What a wing does for the loop below."""

    backend: Backend
    ahead: bool
    """Whether the next pass is begun before the last one's tokens are looked at."""
    whole_prompts: bool
    """Whether a prompt must be read in one pass, from its first token."""
    reads_last: bool
    """Whether a prompt's last token is read with the others; else in a pass of its own, as alone in this wing."""

    def fresh(self, rows: list[int]) -> Batch:
        """The texts, with nothing read."""
        ...

    def padded(self, rows: list[int], padding: np.ndarray) -> Batch | None:
        """The texts, with nothing read; their first columns are padding, so many of each. None where it pads none."""
        ...

    def read(self, batch: Batch, ids: np.ndarray) -> Any:
        """Reads ids (texts, columns) of prompts; the logits (texts, vocabulary) after them, where `reads_last`."""
        ...

    def logits(self, batch: Batch, tokens: Any) -> Any:
        """Reads one token (texts,) of each text; the logits (texts, vocabulary) after it."""
        ...

    def kept(self, batch: Batch, index: Sequence[int]) -> Batch:
        """Some of the texts, by their number in the batch. A merged batch is used no more afterwards."""
        ...

    def kind(self, batch: Batch) -> Any:
        """What two batches must share to be merged; hashable."""
        ...

    def merged(self, batches: Sequence[Batch]) -> Batch | None:
        """Batches of one kind and of different lengths as one; None where this model's caches cannot."""
        ...

    def sampled(self, batch: Batch, logits: Any) -> Any:
        """The next token (texts,) of each; `NO_TOKEN` where its logits are no numbers."""
        ...

    def put(self, tokens: Sequence[int]) -> Any: ...
    def get(self, tokens: Any) -> list[int]: ...
    def take(self, tokens: Any, index: Sequence[int]) -> Any: ...
    def bytes_of(self, batch: Batch) -> int:
        """What its cache holds."""
        ...


@dataclass(frozen=True, slots=True)
class Reading:
    """How prompts are read.

    Attributes:
        chunk: At most so many tokens in one pass.
        as_alone: Whether each must be read in the passes that it would be read in alone.
        padded: Whether prompts on which no edit acts may be padded.
    """

    chunk: int
    as_alone: bool = False
    padded: bool = False


def stream_rows(
    passes: Passes,
    rows: Sequence[Continuation],
    waves: Sequence[Sequence[int]],
    new_text: Callable[[], Detokenizer],
    ends: set[int],
    reading: Reading,
) -> Generator[Piece, None, None]:
    """See `LanguageModel.stream_rows`.

    Args:
        waves: Which texts run together, one wave after the other.
        new_text: Makes what turns one text's tokens into text.
        ends: Tokens that end a text.
    """
    texts = [new_text() for _ in rows]
    for wave in waves:
        for batch, logits in merged_groups(passes, prefilled(passes, rows, wave, reading)):
            order = sorted(range(len(batch.rows)), key=lambda k: tuple(map(id, rows[batch.rows[k]].edits)))
            if order != sorted(order):  # texts that share edits stand side by side
                batch = passes.kept(batch, order)
                logits = None if logits is None else passes.take(logits, order)
            if logits is None:
                logits = passes.logits(batch, passes.put([rows[i].prompt[-1] for i in batch.rows]))
            yield from _continued(passes, rows, batch, passes.sampled(batch, logits), texts, ends)


# -- reading prompts -------------------------------------------------------------------------------


def prefilled(
    passes: Passes, rows: Sequence[Continuation], wave: Sequence[int], reading: Reading
) -> list[Group]:
    """The texts with their prompts read (but for the last token, unless `reads_last`), those of equal length together.

    Edits that look at more than one token at a time are shown each prompt in the passes it would be read in alone.
    """
    left, chunk = 0 if passes.reads_last else 1, reading.chunk
    order = sorted(wave, key=lambda i: len(rows[i].prompt))
    by_length: dict[int, list[int]] = {}
    for i in order:
        by_length.setdefault(len(rows[i].prompt) - left, []).append(i)
    by_token = all(edit.by_token for i in wave for edit in rows[i].edits)
    if reading.as_alone or passes.whole_prompts or not by_token:
        return [_read_apart(passes, rows, some, length, chunk) for length, some in by_length.items()]
    if reading.padded and len(by_length) > 1 and not any(rows[i].edits for i in wave):
        whole = _read_padded(passes, rows, order, chunk)
        if whole is not None:
            return [whole]
    return _read_side_by_side(passes, rows, order, list(by_length), chunk)


def _read_padded(passes: Passes, rows: Sequence[Continuation], order: list[int], chunk: int) -> Group | None:
    """All texts to their ends, padded on the left; None where the wing pads none."""
    prompts = [rows[i].prompt for i in order]
    longest = max(map(len, prompts))
    padding = np.array([longest - len(prompt) for prompt in prompts], dtype=np.int64)
    batch, logits, step = passes.padded(order, padding), None, max(1, chunk // len(order))
    if batch is None:
        return None
    ids = np.zeros((len(order), longest), dtype=np.int64)
    for row, prompt, begin in zip(ids, prompts, padding, strict=True):
        row[begin:] = prompt
    for start in range(0, longest, step):
        logits = passes.read(batch, ids[:, start : start + step])
    return batch, logits


def _read_apart(
    passes: Passes, rows: Sequence[Continuation], some: list[int], length: int, chunk: int
) -> Group:
    """Texts of one length, from their beginning, in the passes of one alone."""
    batch, logits = passes.fresh(some), None
    step = max(length, 1) if passes.whole_prompts else chunk
    for start in range(0, length, step):
        logits = passes.read(batch, _columns(rows, batch, start, min(start + step, length)))
    return batch, logits


def _read_side_by_side(
    passes: Passes, rows: Sequence[Continuation], order: list[int], lengths: Sequence[int], chunk: int
) -> list[Group]:
    """All texts, the shortest first; each length leaves the others where it ends."""
    found: list[Group] = []
    batch, logits, done = passes.fresh(order), None, 0
    for length in lengths:
        step = max(1, chunk // len(batch.rows))
        for start in range(done, length, step):
            logits = passes.read(batch, _columns(rows, batch, start, min(start + step, length)))
        done = length
        if length == lengths[-1]:
            break
        ready = sum(len(rows[i].prompt) == len(rows[batch.rows[0]].prompt) for i in batch.rows)
        first = None if logits is None else passes.take(logits, range(ready))
        found.append((passes.kept(batch, range(ready)), first))
        batch = passes.kept(batch, range(ready, len(batch.rows)))
    return [*found, (batch, logits)]


def _columns(rows: Sequence[Continuation], batch: Batch, start: int, end: int) -> np.ndarray:
    return np.array([rows[i].prompt[start:end] for i in batch.rows], dtype=np.int64)


def merged_groups(passes: Passes, groups: Sequence[Group]) -> list[Group]:
    """Groups of different lengths as one, where caches can be merged."""
    by_kind: dict[Any, list[Group]] = {}
    for batch, logits in groups:
        by_kind.setdefault(passes.kind(batch), []).append((batch, logits))
    found: list[Group] = []
    for several in by_kind.values():
        merged = passes.merged([batch for batch, _ in several]) if len(several) > 1 else None
        if merged is None:
            found += several
        else:
            known = [logits for _, logits in several]
            found.append((merged, None if known[0] is None else passes.backend.concatenate(known)))
    return found


# -- one answer of many texts ----------------------------------------------------------------------


def last_logits(
    passes: Passes, rows: Sequence[Continuation], chunk: int, most: int
) -> Iterator[tuple[list[int], Any]]:
    """Which texts, and their logits (texts, vocabulary) after the last token of each, block by block.

    What all texts begin with is read once, and its cache copied. Texts of equal length run together, so nothing is
    padded.

    Args:
        chunk: At most so many tokens in one pass over what is shared.
        most: Texts of a block.
    """
    shared = 0 if passes.whole_prompts else _shared([row.prompt for row in rows])
    head = passes.fresh([0])
    for start in range(0, shared, chunk):
        passes.read(head, _columns(rows, head, start, min(start + chunk, shared)))
    by_length: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        by_length.setdefault(len(row.prompt), []).append(i)
    for length, several in by_length.items():
        for first in range(0, len(several), most):
            block = several[first : first + most]
            batch = passes.fresh(block)
            if shared:
                copied = passes.kept(head, [0] * len(block))
                batch = Batch(block, copied.places, copied.cache)
            if shared < length - 1:
                passes.read(batch, _columns(rows, batch, shared, length - 1))
            yield block, passes.logits(batch, passes.put([rows[i].prompt[-1] for i in block]))


def chosen_logits(
    passes: Passes, rows: Sequence[Continuation], tokens: Sequence[int], most: int, chunk: int = 2048
) -> np.ndarray:
    """float32, (texts, tokens): see `LanguageModel.last_logits`."""
    found = np.empty((len(rows), len(tokens)), dtype=np.float32)
    for block, logits in last_logits(passes, rows, chunk, most):
        found[block] = passes.backend.get(logits)[:, list(tokens)]
    return found


def _shared(texts: Sequence[Sequence[int]]) -> int:
    """How many tokens all texts begin with, the last token of the shortest left out."""
    most = min(map(len, texts)) - 1
    return (
        next((k for k in range(most) if len({text[k] for text in texts}) > 1), most) if len(texts) > 1 else 0
    )


# -- one token after the other ---------------------------------------------------------------------


def _continued(
    passes: Passes,
    rows: Sequence[Continuation],
    batch: Batch,
    tokens: Any,
    texts: Sequence[Detokenizer],
    ends: set[int],
) -> Iterator[Piece]:
    """Steps until every text of the batch has ended.

    Args:
        tokens: The first of each.
    """
    number = 0
    while True:
        told, sampled = batch.rows, tokens
        batch, tokens = _only(passes, batch, tokens, [number + 1 < rows[i].max_tokens for i in told])
        following = _next(passes, batch, tokens) if passes.ahead and batch.rows else None
        over: set[int] = set()
        for piece in _pieces(rows, told, passes.get(sampled), texts, ends, number):
            yield piece
            i = piece.row
            if not piece.ended and not (rows[i].wanted and number + 1 < rows[i].max_tokens):
                yield _end(i, texts[i])
                over.add(i)
            elif piece.ended:
                over.add(i)
        alive = [i not in over for i in batch.rows]
        if not any(alive):
            return
        batch, tokens = _only(passes, batch, tokens if following is None else following, alive)
        if following is None:
            tokens = _next(passes, batch, tokens)
        number += 1


def _only(passes: Passes, batch: Batch, tokens: Any, which: Sequence[bool]) -> tuple[Batch, Any]:
    """Those texts of a batch, and their tokens."""
    index = [k for k, chosen in enumerate(which) if chosen]
    if len(index) == len(which):
        return batch, tokens
    if not index:
        return Batch([], batch.places[:0], None), tokens
    return passes.kept(batch, index), passes.take(tokens, index)


def _next(passes: Passes, batch: Batch, tokens: Any) -> Any:
    return passes.sampled(batch, passes.logits(batch, tokens))


def _pieces(
    rows: Sequence[Continuation],
    told: Sequence[int],
    tokens: Sequence[int],
    texts: Sequence[Detokenizer],
    ends: set[int],
    number: int,
) -> list[Piece]:
    """What the next token of each text gives."""
    found = []
    with quiet:  # once for all, as it costs more than one token's text
        for i, token in zip(told, tokens, strict=True):
            if token == NO_TOKEN:
                where = f"for token {number} of the continuation (position {len(rows[i].prompt) + number})"
                failure = not_finite("The logits", where, bool(rows[i].edits))
                found.append(Piece(i, ended=True, failure=failure))
            elif token in ends:
                found.append(_end(i, texts[i]))
            else:
                found.append(Piece(i, token, texts[i].add(token)))
    return found


def _end(i: int, text: Detokenizer) -> Piece:
    return Piece(i, text=text.finish(), ended=True)

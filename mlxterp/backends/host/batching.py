"""How several texts are continued together: the same for both wings, which bring the passes and the caches.

Prompts are read (`prefill`), and then each step is one pass over one token of every text, each at its own position.
`capacity` tries once which texts a model's caches can hold together, and how their prompts may be read.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np

from ...core.continuations import Continuation, Piece
from ...core.quiet import quiet
from .finite import not_finite
from .prefill import columns, copies, merged_groups, prefilled, read_beginning, shared_beginning
from .row_passes import NO_TOKEN, Batch, Passes, Reading
from .text_stream import Detokenizer


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
    shared = 0 if passes.whole_prompts else shared_beginning([row.prompt for row in rows])
    head = read_beginning(passes, rows, 0, shared, chunk)
    by_length: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        by_length.setdefault(len(row.prompt), []).append(i)
    for length, several in by_length.items():
        for first in range(0, len(several), most):
            block = several[first : first + most]
            batch = copies(passes, head, block) if shared else passes.fresh(block)
            if shared < length - 1:
                passes.read(batch, columns(rows, batch, shared, length - 1))
            yield block, passes.logits(batch, passes.put([rows[i].prompt[-1] for i in block]))


def chosen_logits(
    passes: Passes, rows: Sequence[Continuation], tokens: Sequence[int], most: int, chunk: int = 2048
) -> np.ndarray:
    """float32, (texts, tokens): see `LanguageModel.last_logits`."""
    found = np.empty((len(rows), len(tokens)), dtype=np.float32)
    for block, logits in last_logits(passes, rows, chunk, most):
        found[block] = passes.backend.get(logits)[:, list(tokens)]
    return found


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

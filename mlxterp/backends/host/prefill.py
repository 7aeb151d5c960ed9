"""How the prompts of several texts are read, before they are continued together (`batching`).

What all of them begin with is read once, where edits do the same to it in every text, and its cache copied. The rest
is read in one go with padding where a wing can and a trial shows that it changes nothing (`capacity`); else side by
side without: all texts up to the end of the shortest, then the others on, and so forth, and then the caches are
merged. So each later step is one pass over one token of every text, each at its own position. Edits that look at
several tokens meet no padding and no shared beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...core.continuations import Continuation
from .row_passes import Batch, Group, Passes, Reading


def prefilled(
    passes: Passes, rows: Sequence[Continuation], wave: Sequence[int], reading: Reading
) -> list[Group]:
    """The texts with their prompts read (but for the last token, unless `reads_last`), those of equal length together.

    Edits that look at more than one token at a time are shown each prompt in the passes it would be read in alone.
    Others may meet padding, which no text's own tokens ever look at.
    """
    left, chunk = 0 if passes.reads_last else 1, reading.chunk
    order = sorted(wave, key=lambda i: len(rows[i].prompt))
    by_length: dict[int, list[int]] = {}
    for i in order:
        by_length.setdefault(len(rows[i].prompt) - left, []).append(i)
    by_token = all(edit.by_token for i in wave for edit in rows[i].edits)
    if reading.as_alone or passes.whole_prompts or not by_token:
        return [_read_apart(passes, rows, some, length, chunk) for length, some in by_length.items()]
    batch = _begun(passes, rows, order, reading, len(by_length)) or passes.fresh(order)
    if reading.padded and len(by_length) > 1:
        done = int(batch.places[0])
        whole = passes.padded(
            batch, [rows[i].prompt[done : len(rows[i].prompt) - left] for i in order], chunk
        )
        if whole is not None:
            return [whole]
    return _read_side_by_side(passes, rows, batch, list(by_length), chunk)


def _read_apart(
    passes: Passes, rows: Sequence[Continuation], some: list[int], length: int, chunk: int
) -> Group:
    """Texts of one length, from their beginning, in the passes of one alone."""
    batch, logits = passes.fresh(some), None
    step = max(length, 1) if passes.whole_prompts else chunk
    for start in range(0, length, step):
        logits = passes.read(batch, columns(rows, batch, start, min(start + step, length)))
    return batch, logits


def _begun(
    passes: Passes, rows: Sequence[Continuation], order: list[int], reading: Reading, lengths: int
) -> Batch | None:
    """The texts with what they all begin with read, once; None where that does not pay or edits tell them apart.

    Args:
        lengths: How many lengths the prompts have: without padding each is one more pass.
    """
    n = shared_beginning([rows[i].prompt for i in order])
    edits = {i: list(map(id, rows[i].edits)) for i in order}
    sites = {i: {edit.site for edit in rows[i].edits} for i in order}
    reader = max(order, key=lambda i: len(sites[i]))  # its passes show whether the model reaches all sites
    if any(edits[i] != edits[reader] for i in order):
        n = min(n, *(edit.first for i in order for edit in rows[i].edits))
    saved = n * (len(order) - 1)
    if not reading.shared or not n or saved < reading.shared * lengths:
        return None
    if any(not sites[i] <= sites[reader] for i in order):
        return None
    return copies(passes, read_beginning(passes, rows, reader, n, reading.chunk), order)


def read_beginning(passes: Passes, rows: Sequence[Continuation], row: int, n: int, chunk: int) -> Batch:
    """A text of which only its first n tokens are read."""
    head = passes.fresh([row])
    for start in range(0, n, chunk):
        passes.read(head, columns(rows, head, start, min(start + chunk, n)))
    return head


def copies(passes: Passes, head: Batch, rows: list[int]) -> Batch:
    """Texts that begin as the one of `head`, with that much read."""
    copied = passes.kept(head, [0] * len(rows))
    return Batch(rows, copied.places, copied.cache)


def shared_beginning(texts: Sequence[Sequence[int]]) -> int:
    """How many tokens all texts begin with, the last token of the shortest left out."""
    if len(texts) < 2:
        return 0
    most = min(map(len, texts)) - 1
    return next((k for k in range(most) if len({text[k] for text in texts}) > 1), most)


def _read_side_by_side(
    passes: Passes, rows: Sequence[Continuation], batch: Batch, lengths: Sequence[int], chunk: int
) -> list[Group]:
    """All texts from where they are, the shortest first; each length leaves the others where it ends."""
    found: list[Group] = []
    logits, done = None, int(batch.places[0])
    for length in lengths:
        step = max(1, chunk // len(batch.rows))
        for start in range(done, length, step):
            logits = passes.read(batch, columns(rows, batch, start, min(start + step, length)))
        done = length
        if length == lengths[-1]:
            break
        ready = sum(len(rows[i].prompt) == len(rows[batch.rows[0]].prompt) for i in batch.rows)
        first = None if logits is None else passes.take(logits, range(ready))
        found.append((passes.kept(batch, range(ready)), first))
        batch = passes.kept(batch, range(ready, len(batch.rows)))
    return [*found, (batch, logits)]


def columns(rows: Sequence[Continuation], batch: Batch, start: int, end: int) -> np.ndarray:
    """int64, (texts, columns): these tokens of each prompt."""
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

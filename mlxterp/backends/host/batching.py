"""How several texts are continued together: the same for both wings, which bring the passes and the caches.

Prompts are read side by side without padding: all texts up to the end of the shortest, then the others on, and so
forth. Then their caches are merged, so that each step is one pass over one token of every text, each at its own
position. So an edit, a hook or a recurrence never meets a padded token. Whether the caches of a model bear that is
tried once (`holds`); where they do not, only prompts of equal length run together, or each alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from ...core.continuations import Continuation, Piece
from ...core.quiet import quiet
from ...core.sites import Site, Where
from ...core.tokens import TokenBatch
from ...errors import warn
from ..base import Backend, LanguageModel
from .finite import not_finite
from .row_edits import comes_apart
from .text_stream import Detokenizer

NONE = -1
"""Instead of a token that cannot be chosen."""
Holding = Literal["any", "equal", "one"]
"""Which texts a model's caches can hold together: any, those of equal length, or one."""
_MOST = 128
"""Texts at most, whatever the memory: more gain nothing."""


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
        return Where(positions, None, prompts=prompts[self.rows])


class Passes(Protocol):
    """What a wing does for the loop below."""

    backend: Backend
    ahead: bool
    """Whether the next pass is begun before the last one's tokens are looked at."""
    whole_prompts: bool
    """Whether a prompt must be read in one pass, from its first token."""
    reads_last: bool
    """Whether a prompt's last token is read with the others; else in a pass of its own, as alone in this wing."""
    prompts: np.ndarray
    """int64, (all texts,): tokens of each prompt."""

    @property
    def tolerance(self) -> float:
        """Largest difference of logits that is rounding, as a share of the largest one; known after a pass."""
        ...

    def fresh(self, rows: list[int]) -> Batch:
        """The texts, with nothing read."""
        ...

    def read(self, batch: Batch, ids: np.ndarray) -> Any:
        """Reads ids (texts, columns) of prompts; the logits (texts, vocabulary) after them, where `reads_last`."""
        ...

    def logits(self, batch: Batch, tokens: Any) -> Any:
        """Reads one token (texts,) of each text; the logits (texts, vocabulary) after it."""
        ...

    def kept(self, batch: Batch, index: Sequence[int]) -> Batch:
        """Some of the texts, by their number in the batch; the batch itself is used no more."""
        ...

    def kind(self, batch: Batch) -> Any:
        """What two batches must share to be merged; hashable."""
        ...

    def merged(self, batches: Sequence[Batch]) -> Batch | None:
        """Batches of one kind and of different lengths as one; None where this model's caches cannot."""
        ...

    def sampled(self, batch: Batch, logits: Any) -> Any:
        """The next token (texts,) of each; `NONE` where its logits are no numbers."""
        ...

    def put(self, tokens: Sequence[int]) -> Any: ...
    def get(self, tokens: Any) -> list[int]: ...
    def take(self, tokens: Any, index: Sequence[int]) -> Any: ...
    def bytes_of(self, batch: Batch) -> int:
        """What its cache holds."""
        ...


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a model's caches can hold together.

    Attributes:
        holding: Which texts.
        row_bytes: What a text takes beside its tokens, logits above all.
        token_bytes: What each of its tokens takes.
    """

    holding: Holding
    row_bytes: int
    token_bytes: int

    def tokens(self, free: int) -> int:
        """How many tokens may be held at a time: a quarter of the free bytes."""
        return int(free // 4 // max(self.token_bytes, 1))

    def rows(self, free: int) -> int:
        """How many texts may run at a time."""
        return int(max(1, min(_MOST, free // 8 // self.row_bytes)))


def stream_rows(
    passes: Passes,
    rows: Sequence[Continuation],
    capacity: Capacity,
    new_text: Callable[[], Detokenizer],
    ends: set[int],
    *,
    prefill_step_size: int,
    batch_tokens: int | None,
    free: int,
) -> Iterator[Piece]:
    """See `LanguageModel.stream_rows`.

    Args:
        capacity: What the model's caches can hold.
        free: Bytes that are free where it runs.
    """
    texts = [new_text() for _ in rows]
    for wave in waves_of(rows, capacity, batch_tokens, free):
        for batch, tokens in _begun(passes, rows, wave, prefill_step_size):
            yield from _continued(passes, rows, batch, tokens, texts, ends)


def _begun(
    passes: Passes, rows: Sequence[Continuation], wave: Sequence[int], chunk: int
) -> Iterator[tuple[Batch, Any]]:
    """The texts with their prompts read, as one batch where caches merge, and the first token of each."""
    groups = prefilled(passes, rows, wave, chunk)
    for batch, logits in joined(passes, groups):
        if logits is None:
            logits = passes.logits(batch, passes.put([rows[i].prompt[-1] for i in batch.rows]))
        yield batch, passes.sampled(batch, logits)


def joined(passes: Passes, groups: Sequence[tuple[Batch, Any]]) -> list[tuple[Batch, Any]]:
    """Batches and their logits, merged where they can be."""
    by_kind: dict[Any, list[tuple[Batch, Any]]] = {}
    for batch, logits in groups:
        by_kind.setdefault(passes.kind(batch), []).append((batch, logits))
    found = []
    for several in by_kind.values():
        merged = passes.merged([batch for batch, _ in several]) if len(several) > 1 else None
        if merged is None:
            found += several
        else:
            known = [logits for _, logits in several]
            found.append((merged, None if known[0] is None else passes.backend.concatenate(known)))
    return found


def waves_of(
    rows: Sequence[Continuation], capacity: Capacity, batch_tokens: int | None, free: int
) -> list[list[int]]:
    """Which texts run together, one wave after the other: those of nearly equal length, as many as may be held."""
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i].prompt), i))
    equal = capacity.holding == "equal" or any(_sees_keys(row) for row in rows)
    most = 1 if capacity.holding == "one" else capacity.rows(free)
    tokens = capacity.tokens(free) if batch_tokens is None else batch_tokens
    waves: list[list[int]] = []
    held = 0
    for i in order:
        row, wave = rows[i], waves[-1] if waves else []
        fits = wave and held + row.most <= tokens and len(wave) < most
        if not fits or (equal and len(rows[wave[-1]].prompt) != len(row.prompt)):
            waves.append([])
            held = 0
        waves[-1].append(i)
        held += row.most
    return waves


def runs_alone(model: LanguageModel, rows: Sequence[Continuation], known: dict[Site, bool]) -> bool:
    """Whether some edit meets a value that has no rows of one text alone, so that texts must run one by one; says so.

    Args:
        known: Which sites come apart by text; what is not known is tried.
    """
    sites = dict.fromkeys(site for row in rows for edit in row.edits for site in (edit.site, *edit.reads))
    new = [site for site in sites if site not in known]
    if new:
        values = model.run(TokenBatch.from_rows([[0, 0], [0, 0]]), new).values
        known.update(
            (site, all(comes_apart(value, 2, 2) for value in values.get(site) or ())) for site in new
        )
    mixed = [str(site) for site in sites if not known[site]]
    if mixed:
        warn(f"Prompts are continued one by one: the value of {mixed[0]} has no rows of one text alone.")
    return bool(mixed)


def _sees_keys(row: Continuation) -> bool:
    """Whether an edit meets the keys of all tokens so far; merged caches pad those."""
    return any(edit.site.port in ("k", "v", "pattern") for edit in row.edits)


def prefilled(
    passes: Passes, rows: Sequence[Continuation], wave: Sequence[int], chunk: int
) -> list[tuple[Batch, Any]]:
    """The texts with their prompts read (but for the last token, unless `reads_last`), those of equal length together.

    Beside each batch its logits, where the last token was read. Edits that look at more than one token at a time are
    shown each prompt in the passes that it would be read in alone.
    """
    left = 0 if passes.reads_last else 1
    shared = not passes.whole_prompts and all(edit.by_token for i in wave for edit in rows[i].edits)
    found: list[tuple[Batch, Any]] = []
    batch = passes.fresh(sorted(wave, key=lambda i: len(rows[i].prompt)))
    done, logits = 0, None
    while True:
        shortest = len(rows[batch.rows[0]].prompt) - left
        ready = sum(len(rows[i].prompt) - left == shortest for i in batch.rows)
        rest = list(range(ready, len(batch.rows)))
        if rest and not shared:
            later = [batch.rows[k] for k in rest]
            batch = passes.fresh(batch.rows[:ready])
        while done < shortest:
            end = shortest if passes.whole_prompts else min(done + chunk, shortest)
            logits = passes.read(
                batch, np.array([rows[i].prompt[done:end] for i in batch.rows], dtype=np.int64)
            )
            done = end
        if not rest:
            return [*found, (batch, logits)]
        if shared:
            first = None if logits is None else passes.take(logits, range(ready))
            found.append((passes.kept(batch, range(ready)), first))
            batch = passes.kept(batch, rest)
        else:
            found.append((batch, logits))
            batch, done, logits = passes.fresh(later), 0, None


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
        told, values_of = list(batch.rows), tokens
        further = [k for k, i in enumerate(batch.rows) if number + 1 < rows[i].max_tokens]
        if 0 < len(further) < len(batch.rows):
            tokens = passes.take(tokens, further)
            batch = passes.kept(batch, further)
        following = _next(passes, batch, tokens) if passes.ahead and further else None
        over: set[int] = set()
        values = passes.get(values_of)
        with quiet:  # once, as it is dearer than a token's text
            pieces = [
                _piece(i, rows[i], texts[i], value, number, ends)
                for i, value in zip(told, values, strict=True)
            ]
        for i, piece in zip(told, pieces, strict=True):
            yield piece
            if piece.ended:
                over.add(i)
            elif not rows[i].wanted or number + 1 == rows[i].max_tokens:
                yield _end(i, texts[i])
                over.add(i)
        alive = [k for k, i in enumerate(batch.rows) if i not in over]
        if not alive:
            return
        given = tokens if following is None else following
        if len(alive) < len(batch.rows):
            given = passes.take(given, alive)
            batch = passes.kept(batch, alive)
        tokens = given if following is not None else _next(passes, batch, given)
        number += 1


def _next(passes: Passes, batch: Batch, tokens: Any) -> Any:
    return passes.sampled(batch, passes.logits(batch, tokens))


def _piece(i: int, row: Continuation, text: Detokenizer, token: int, number: int, ends: set[int]) -> Piece:
    """What the next token of a text gives."""
    if token == NONE:
        where = f"for token {number} of the continuation (position {len(row.prompt) + number})"
        return Piece(i, ended=True, failure=not_finite("The logits", where, bool(row.edits)))
    return _end(i, text) if token in ends else Piece(i, token, text.add(token))


def _end(i: int, text: Detokenizer) -> Piece:
    return Piece(i, text=text.finish(), ended=True)


# -- what a model's caches can hold ---------------------------------------------------------------

_LENGTHS = (0, 7, 4)
"""How many tokens are read of the prompts that are tried, before the last steps."""
_STEPS = 2
_ROW_BYTES = 16
"""For each entry of the vocabulary: logits, their softmax and what sampling makes of them."""


def measured(make: Callable[[Sequence[Continuation]], Passes], vocabulary: int, model_type: str) -> Capacity:
    """Tries which texts run together as they run alone, and what they take. Says so where not all do.

    Args:
        make: The passes over some texts.
    """
    least = 1 if make([Continuation([0], 1)]).reads_last else 0
    rows = [_text(max(n, least), vocabulary, seed) for seed, n in enumerate((*_LENGTHS, _LENGTHS[-1]))]
    alone = []
    for row in rows:
        batch, found = _forced(make([row]), [row])
        alone.append(found[0])
    passes = make([rows[-1]])
    batch, _ = _forced(passes, [rows[-1]])
    kinds: list[tuple[Holding, list[int]]] = [("any", [0, 1, 2]), ("equal", [2, 3])]
    holding: Holding = next((kind for kind, wave in kinds if _agrees(make, rows, wave, alone)), "one")
    if holding != "any":
        how = "only those of equal length together" if holding == "equal" else "one by one"
        warn(
            f"Several prompts are continued {how}: the cache of this {model_type} model cannot hold others. The texts"
            " are the same, and take longer."
        )
    tokens = _LENGTHS[-1] + _STEPS
    return Capacity(holding, _ROW_BYTES * vocabulary, max(1, passes.bytes_of(batch) // tokens))


def _text(length: int, vocabulary: int, seed: int) -> Continuation:
    ids = np.random.default_rng(seed).integers(0, vocabulary, length + _STEPS)
    return Continuation(ids.tolist(), 1)


def _agrees(
    make: Callable[[Sequence[Continuation]], Passes],
    rows: Sequence[Continuation],
    wave: Sequence[int],
    alone: Sequence[np.ndarray],
) -> bool:
    some = [rows[i] for i in wave]
    try:
        passes = make(some)
        _, found = _forced(passes, some)
    except Exception:  # a model that was not made for it fails in any way
        return False
    pairs = [(found[k], alone[i]) for k, i in enumerate(wave)]
    return all(np.abs(a - b).max() <= passes.tolerance * np.abs(b).max() for a, b in pairs)


def _forced(passes: Passes, rows: Sequence[Continuation]) -> tuple[Batch, dict[int, np.ndarray]]:
    """Logits (steps, vocabulary) of each text's last tokens, which are given."""
    begun = [Continuation(row.prompt[: (0 if passes.reads_last else 1) - _STEPS], 1) for row in rows]
    groups = prefilled(passes, begun, range(len(rows)), 2048)
    batches = [batch for batch, _ in joined(passes, groups)]
    if len({passes.kind(batch) for batch in batches}) < len(batches):
        raise ValueError("These caches cannot be merged.")
    found: dict[int, np.ndarray] = {}
    for batch in batches:
        steps: list[np.ndarray] = []
        for step in range(-_STEPS, 0):
            given = passes.put([rows[i].prompt[step] for i in batch.rows])
            steps.append(passes.backend.get(passes.logits(batch, given)))
        found.update(zip(batch.rows, np.stack(steps, axis=1), strict=True))
    return batches[0], found


def tolerance_of(rounding: float) -> float:
    """Largest difference of logits that is rounding, as a share of the largest one."""
    return min(1000 * rounding, 0.1)

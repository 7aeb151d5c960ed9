"""Which texts a model's caches can hold together, tried once, and how many by the memory that they take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ...core.continuations import Continuation
from ...core.sites import Site
from ...core.tokens import TokenBatch
from ...errors import warn
from ..base import LanguageModel
from .batching import Passes, merged_groups, prefilled
from .row_edits import comes_apart

Holding = Literal["any", "equal", "one"]
"""Which texts caches can hold together: any, those of equal length, or one."""
_MOST = 128
"""Texts at most, whatever the memory: more gain nothing."""
_LENGTHS = (0, 7, 4, 4)
"""How many tokens are read of the prompts that are tried, before the last steps."""
_STEPS = 4
_ROW_BYTES = 16
"""For each entry of the vocabulary: logits, their softmax and what sampling makes of them."""
_PROBE = (3, 5)
"""Texts and tokens of the pass that shows which values have rows of their own for each text."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a model's caches can hold together.

    Attributes:
        holding: Which texts.
        row_bytes: What a text takes beside its tokens: logits, and the state of a recurrence.
        token_bytes: What each of its tokens takes.
    """

    holding: Holding
    row_bytes: int
    token_bytes: int

    def waves(self, rows: Sequence[Continuation], batch_tokens: int | None, free: int) -> list[list[int]]:
        """Which texts run together, one wave after the other: those of nearly equal length, as many as may be held.

        Args:
            batch_tokens: Tokens that may be held at a time; None takes what fits into a quarter of the free bytes.
            free: Bytes that are free where the model runs.
        """
        order = sorted(range(len(rows)), key=lambda i: (len(rows[i].prompt), i))
        equal = self.holding == "equal" or any(_sees_keys(row) for row in rows)
        most = 1 if self.holding == "one" else _MOST
        waves: list[list[int]] = []
        held_tokens = held_bytes = 0
        for i in order:
            row, wave = rows[i], waves[-1] if waves else []
            tokens, size = row.whole, self.row_bytes + row.whole * self.token_bytes
            fits = bool(wave) and len(wave) < most
            fits = fits and (batch_tokens is None or held_tokens + tokens <= batch_tokens)
            fits = fits and (batch_tokens is not None or held_bytes + size <= free // 4)
            if not fits or (equal and len(rows[wave[-1]].prompt) != len(row.prompt)):
                waves.append([])
                held_tokens = held_bytes = 0
            waves[-1].append(i)
            held_tokens, held_bytes = held_tokens + tokens, held_bytes + size
        return waves


def _sees_keys(row: Continuation) -> bool:
    """Whether an edit meets the keys of all tokens so far; merged caches pad those."""
    sites = [site for edit in row.edits for site in (edit.site, *edit.reads)]
    return any(site.port in ("k", "v", "pattern") for site in sites)


class Capacities:
    """What one model's caches can hold, found out when first asked.

    Args:
        passes: Makes the passes that continue some texts.
        by_slot: Whether attention goes by the slots of the cache and not by positions, so that padding shifts it; a
            few tokens do not show that.
    """

    def __init__(
        self,
        model: LanguageModel,
        passes: Callable[[Sequence[Continuation]], Passes],
        by_slot: Callable[[], bool] = lambda: False,
    ):
        self._model, self._passes, self._by_slot = model, passes, by_slot
        self._known: Capacity | None = None
        self._by_text: dict[Site, bool] = {}
        """Whether a site's values have rows of their own for each text."""

    def of(self, rows: Sequence[Continuation]) -> Capacity:
        """For these texts and their edits. Warns once where not all texts can run together."""
        if len(rows) == 1:
            return Capacity("one", 0, 0)
        if self._known is None:
            self._known = measured(self._passes, self._model.vocab_size)
            if self._by_slot() and self._known.holding == "any":
                self._known = replace(self._known, holding="equal")
            if self._known.holding != "any":
                how = (
                    "only those of equal length together" if self._known.holding == "equal" else "one by one"
                )
                warn(
                    f"Several prompts are continued {how}: the cache of this {self._model.model_type} model cannot hold"
                    " others. The texts are the same, and take longer."
                )
        return replace(self._known, holding="one") if self._run_alone(rows) else self._known

    def _run_alone(self, rows: Sequence[Continuation]) -> bool:
        """Whether some edit meets a value that has no rows of one text alone. Warns where it is first met."""
        sites = dict.fromkeys(site for row in rows for edit in row.edits for site in (edit.site, *edit.reads))
        new = [site for site in sites if site not in self._by_text]
        if new:
            texts, tokens = _PROBE
            values = self._model.run(TokenBatch.from_rows([[0] * tokens] * texts), new).values
            for site in new:
                found = values.get(site) or ()
                self._by_text[site] = all(comes_apart(value, texts, tokens) for value in found)
        mixed = [site for site in sites if not self._by_text[site]]
        if any(site in new for site in mixed):
            warn(f"Prompts are continued one by one: the value of {mixed[0]} has no rows of one text alone.")
        return bool(mixed)


@dataclass(frozen=True, slots=True)
class _Tried:
    """What came of some texts whose last tokens were given."""

    logits: dict[int, np.ndarray]
    """(steps, vocabulary) of each text."""
    bytes: int
    """What the caches hold."""
    rounding: float
    """Of one logit, relative."""


def measured(make: Callable[[Sequence[Continuation]], Passes], vocabulary: int) -> Capacity:
    """Tries which texts run together as they run alone, and what they take.

    Texts alone, read in one pass and in several, say how far logits differ by rounding.
    """
    rows = [_text(n, vocabulary, seed) for seed, n in enumerate(_LENGTHS)]
    alone = [_tried(make, [row]) for row in rows]
    rounding = max(
        _difference(_tried(make, [rows[i]], chunk=2).logits[0], alone[i].logits[0]) for i in (1, 2)
    )
    tolerance = min(max(10 * rounding, 4 * alone[0].rounding, 1e-5), 1000 * alone[0].rounding, 0.1)
    kinds: tuple[tuple[Holding, list[int]], ...] = (("any", [0, 1, 2]), ("equal", [2, 3]))
    holding: Holding = "one"
    for kind, wave in kinds:
        if _agrees(make, [rows[i] for i in wave], [alone[i].logits[0] for i in wave], tolerance):
            holding = kind
            break
    token_bytes = max(1, (alone[1].bytes - alone[2].bytes) // (_LENGTHS[1] - _LENGTHS[2]))
    state = max(0, alone[2].bytes - (_LENGTHS[2] + _STEPS) * token_bytes)
    return Capacity(holding, _ROW_BYTES * vocabulary + state, token_bytes)


def _text(length: int, vocabulary: int, seed: int) -> Continuation:
    ids = np.random.default_rng(seed).integers(0, vocabulary, max(length, 1) + _STEPS)
    return Continuation(ids.tolist() if length else ids[1:].tolist(), 1)


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference of logits (steps, vocabulary), as a share of the largest logit."""
    return float(np.abs(one - other[: len(one)]).max() / max(float(np.abs(other).max()), 1e-30))


def _agrees(
    make: Callable[[Sequence[Continuation]], Passes],
    rows: Sequence[Continuation],
    alone: Sequence[np.ndarray],
    tolerance: float,
) -> bool:
    try:
        found = _tried(make, rows).logits
    except Exception:  # a model that was not made for it fails in any way
        return False
    return all(_difference(found[i], alone[i]) <= tolerance for i in range(len(rows)))


def _tried(
    make: Callable[[Sequence[Continuation]], Passes], rows: Sequence[Continuation], chunk: int = 2048
) -> _Tried:
    """Logits of each text's last tokens, which are given.

    After the first step the texts change places, and of three the shortest leaves.
    """
    passes = make(rows)
    left = _STEPS - (0 if passes.reads_last else 1)
    begun = [Continuation(row.prompt[: len(row.prompt) - left], 1) for row in rows]
    batches = [batch for batch, _ in merged_groups(passes, prefilled(passes, begun, range(len(rows)), chunk))]
    if len({passes.kind(batch) for batch in batches}) < len(batches):
        raise ValueError("These caches cannot be merged.")
    found: dict[int, list[np.ndarray]] = {}
    size, rounding = 0, 0.0
    for batch in batches:
        for step in range(_STEPS):
            given = passes.put([rows[i].prompt[len(rows[i].prompt) - _STEPS + step] for i in batch.rows])
            logits = passes.logits(batch, given)
            for i, one in zip(batch.rows, passes.backend.get(logits), strict=True):
                found.setdefault(i, []).append(one)
            rounding = passes.backend.rounding(logits)
            n = len(batch.rows)
            if step == 0 and n > 1:
                batch = passes.kept(batch, [k for k in reversed(range(n)) if n != 3 or k])
        size += passes.bytes_of(batch)
    return _Tried({i: np.stack(several) for i, several in found.items()}, size, rounding)

"""Which texts a model's caches can hold together, tried once, and how many by the memory that they take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ...core.continuations import Continuation
from ...core.sites import ATTENTION_PORTS, Site
from ...core.tokens import TokenBatch
from ...errors import warn
from ..base import LanguageModel
from .prefill import merged_groups, prefilled
from .row_edits import comes_apart
from .row_passes import Passes, Reading

Holding = Literal["any", "equal", "one"]
"""Which texts caches can hold together: any, those of equal length, or one."""
_MOST = 128
"""Texts at most, whatever the memory: more gain nothing."""
_LENGTHS = (0, 7, 4, 4)
"""How many tokens are read of the prompts that are tried, before the last steps."""
_STEPS = 4
_SHARED = 32
"""A pass takes as long as so many tokens more in one that runs anyway, roughly."""
_WHOLE = Reading(2048)
"""All that are tried in one pass."""
_ROW_BYTES = 16
"""For each entry of the vocabulary: logits, their softmax and what sampling makes of them."""
_PROBE = (3, 41)
"""Texts and tokens of the pass that shows what values look like: so many that mixtures of experts sort theirs."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a model's caches can hold together.

    Attributes:
        holding: Which texts.
        row_bytes: What a text takes beside its tokens: logits, and the state of a recurrence.
        token_bytes: What each of its tokens takes.
        as_alone, padded: How prompts are read; see `Reading`.
        shares: Whether what prompts begin with can be read once, and its cache copied.
    """

    holding: Holding
    row_bytes: int
    token_bytes: int
    as_alone: bool = False
    padded: bool = False
    shares: bool = False

    def reading(self, chunk: int) -> Reading:
        """How prompts are read, at most `chunk` tokens in one pass."""
        return Reading(chunk, self.as_alone, self.padded, _SHARED if self.shares else 0)

    def waves(self, rows: Sequence[Continuation], batch_tokens: int | None, free: int) -> list[list[int]]:
        """Which texts run together, one wave after the other: those of nearly equal length, as many as may be held.

        Args:
            batch_tokens: Tokens that may be held at a time; None takes what fits into a quarter of the free bytes.
            free: Bytes that are free where the model runs.
        """
        order = sorted(range(len(rows)), key=lambda i: (len(rows[i].prompt), i))
        equal = self.holding == "equal"
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
        self._shapes: dict[Site, list[tuple[int, ...]]] = {}
        """Of the values at a site, in a pass over `_PROBE`."""
        self._told: set[Site] = set()

    def of(self, rows: Sequence[Continuation]) -> Capacity:
        """For these texts and their edits. Warns once where not all texts can run together."""
        if len(rows) == 1:
            return Capacity("one", 0, 0)
        if self._known is None:
            self._known = self._found_out()
        sites = dict.fromkeys(site for row in rows for edit in row.edits for site in (edit.site, *edit.reads))
        if not sites:
            return self._known
        texts, tokens = self._look_at(list(sites))
        mixed = [site for site in sites if not all(comes_apart(x, texts, tokens) for x in self._shapes[site])]
        if mixed:
            if not self._told.issuperset(mixed):
                warn(
                    f"Prompts are continued one by one: the value of {mixed[0]} has no rows of one text alone."
                )
            self._told.update(mixed)
            return replace(self._known, holding="one")
        # Merged caches pad the keys of all tokens so far, which such a value has as its last axis.
        keys = any(
            site.port in ("k", "v", "pattern")
            or any(len(x) == 4 and x[-1] == tokens for x in self._shapes[site])
            for site in sites
        )
        apart = any(
            site.port not in ATTENTION_PORTS and len(x) > 3 for site in sites for x in self._shapes[site]
        )
        holding = "equal" if keys and self._known.holding == "any" else self._known.holding
        return replace(self._known, holding=holding, as_alone=apart)

    def _found_out(self) -> Capacity:
        model = self._model
        if model.learned_positions and (model.max_positions or 0) < max(_LENGTHS) + _STEPS:
            return Capacity("one", _ROW_BYTES * model.vocab_size, 1)  # too short to try anything
        found = measured(self._passes, model.vocab_size)
        if found.holding == "any" and self._by_slot():
            found = replace(found, holding="equal", padded=False)
        if found.holding != "any":
            how = "only those of equal length together" if found.holding == "equal" else "one by one"
            warn(
                f"Several prompts are continued {how}: the cache of this {self._model.model_type} model cannot hold"
                " others. The texts are the same, and take longer."
            )
        return found

    def _look_at(self, sites: Sequence[Site]) -> tuple[int, int]:
        """Notes the shapes of sites that are new; how many texts and tokens those passes have."""
        texts, tokens = _PROBE
        if self._model.learned_positions:
            tokens = min(tokens, self._model.max_positions or tokens)
        new = [site for site in sites if site not in self._shapes]
        if new:
            values = self._model.run(TokenBatch.from_rows([[0] * tokens] * texts), new).values
            self._shapes.update((site, [tuple(x.shape) for x in values.get(site) or ()]) for site in new)
        return texts, tokens


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
        _difference(_tried(make, [rows[i]], Reading(2)).logits[0], alone[i].logits[0]) for i in (1, 2)
    )
    tolerance = min(max(10 * rounding, 4 * alone[0].rounding, 1e-5), 1000 * alone[0].rounding, 0.1)
    kinds: tuple[tuple[Holding, list[int]], ...] = (("any", [0, 1, 2]), ("equal", [2, 3]))
    holding: Holding = "one"
    for kind, wave in kinds:
        if _agrees(make, [rows[i] for i in wave], [alone[i].logits[0] for i in wave], tolerance):
            holding = kind
            break
    twin = Continuation([*rows[1].prompt[:6], *rows[3].prompt[-5:]], 1)
    shares = holding != "one" and _agrees(
        make, [rows[1], twin], [alone[1].logits[0], _tried(make, [twin]).logits[0]], tolerance,
        Reading(_WHOLE.chunk, shared=1),
    )  # fmt: skip
    padded = holding == "any" and all(
        _agrees(make, rows[:3], [one.logits[0] for one in alone[:3]], tolerance, Reading(chunk, padded=True))
        for chunk in (_WHOLE.chunk, 6)
    )
    token_bytes = max(1, (alone[1].bytes - alone[2].bytes) // (_LENGTHS[1] - _LENGTHS[2]))
    state = max(0, alone[2].bytes - (_LENGTHS[2] + _STEPS) * token_bytes)
    return Capacity(holding, _ROW_BYTES * vocabulary + state, token_bytes, padded=padded, shares=shares)


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
    reading: Reading = _WHOLE,
) -> bool:
    try:
        found = _tried(make, rows, reading).logits
    except Exception:  # a model that was not made for it fails in any way
        return False
    return all(_difference(found[i], alone[i]) <= tolerance for i in range(len(rows)))


def _tried(
    make: Callable[[Sequence[Continuation]], Passes],
    rows: Sequence[Continuation],
    reading: Reading = _WHOLE,
) -> _Tried:
    """Logits of each text's last tokens, which are given.

    After the first step the texts change places, and of three the shortest leaves.
    """
    passes = make(rows)
    left = _STEPS - (0 if passes.reads_last else 1)
    begun = [Continuation(row.prompt[: len(row.prompt) - left], 1) for row in rows]
    groups = prefilled(passes, begun, range(len(rows)), reading)
    batches = [batch for batch, _ in merged_groups(passes, groups)]
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

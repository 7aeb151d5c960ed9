"""Windows of latents from an `ActivationsStore`, in one pass: where they are strongest, and where they are not active.

Beyond the section's code: a context or a window that comes again counts once; windows of one context serve explaining
or scoring, never both; random windows are looked up, and another is drawn in place of one that is active.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...backends import backend_of
from ...core.progress import hidden
from ...errors import InputError
from ..saelens import SAE, ActivationsStore, HookedSAETransformer
from .config import AutoInterpConfig
from .windows import largest_places, windows_at

_SPARE = 16
"""Candidates that are kept for each window that is wanted."""
_TRIES = 64
"""Random places that are kept for each window that is wanted."""


@dataclass(frozen=True, eq=False, slots=True)
class Chosen:
    """Windows of one latent: tokens and activations, each (windows, 2 × buffer + 1).

    Attributes:
        latent: The latent.
        maximum: Its largest activation on all tokens that were looked at.
        generation: Where it is active, to explain from, the strongest first.
        scoring: Where it is active, then random windows where it is not, to score on, of other contexts.
        drawn: Random windows that were drawn.
        active: Of those: it was active in, so that others were drawn in their place.
        reason: Why there are too few windows, to explain or to score; "" where there are enough.
    """

    latent: int
    maximum: float
    generation: tuple[tuple[np.ndarray, np.ndarray], ...] = ()
    scoring: tuple[tuple[np.ndarray, np.ndarray], ...] = ()
    drawn: int = 0
    active: int = 0
    reason: str = ""


@dataclass(frozen=True, eq=False, slots=True)
class Gathered:
    """What one pass gave.

    Attributes:
        chosen: By latent.
        contexts: Contexts that were looked at.
        tokens: Tokens of them.
        ended: Whether the data set ended before `total_tokens`.
    """

    chosen: Mapping[int, Chosen]
    contexts: int
    tokens: int
    ended: bool

    def __str__(self) -> str:
        drawn = sum(one.drawn for one in self.chosen.values())
        active = sum(one.active for one in self.chosen.values())
        lines = [f"{self.tokens:,} tokens of {self.contexts:,} contexts"]
        if self.ended:
            lines[0] += " (all that the data set has)"
        lines.append(
            f"{drawn} random windows drawn; the latent was active in {active} of them, and others were taken"
        )
        left_out = [f"latent {one.latent}: {one.reason}" for one in self.chosen.values() if one.reason]
        return "\n".join([*lines, *left_out])


def gather(
    cfg: AutoInterpConfig,
    model: HookedSAETransformer,
    sae: SAE,
    store: ActivationsStore,
    verbose: bool = True,
) -> Gathered:
    """Runs the model over the store's contexts and chooses the windows.

    Raises:
        InputError: `total_tokens` is less than a context, a context has no room for a window, or the data set is empty.
        SAEError: The SAE does not say where it was trained.
    """
    from tqdm.auto import tqdm

    length = store.context_size
    if cfg.total_tokens < length:
        raise InputError(f"total_tokens={cfg.total_tokens} is less than one context of {length}.")
    if length < 2 * cfg.buffer + 1:
        raise InputError(f"Contexts of {length} tokens have no room for windows of {2 * cfg.buffer + 1}.")
    pools = [_Pool(latent, cfg) for latent in cfg.latents]
    most, seen = cfg.total_tokens // length, 0
    with tqdm(total=most, desc="gather", unit="context", disable=hidden(verbose), delay=1.0) as bar:
        for tokens, native in _batches(store, most):
            acts, keys = _activations(model, sae, native, cfg.latents), list(map(_key, tokens))
            for i, pool in enumerate(pools):
                pool.take(tokens, acts[..., i], keys)
            seen += len(tokens)
            bar.update(len(tokens))
    return Gathered({pool.latent: pool.chosen() for pool in pools}, seen, seen * length, seen < most)


def _batches(store: ActivationsStore, most: int) -> Iterator[tuple[np.ndarray, Any]]:
    """Token ids of contexts, (batch, context), each context once; as NumPy and native."""
    seen: set[bytes] = set()
    ends, rows = 0, []
    like: Any = None
    while ends < 2 and len(seen) < most:  # a store may stand in the middle: the rest, then one whole round
        try:
            like = store.get_batch_tokens(1, raise_at_epoch_end=True)
        except StopIteration:
            ends += 1
            continue
        row = backend_of(like).get(like)[0]
        if (key := row.tobytes()) in seen:
            continue
        seen.add(key)
        rows.append(row)
        if len(rows) == store.store_batch_size_prompts or len(seen) == most:
            yield _batch(rows, like)
            rows = []
    if rows:
        yield _batch(rows, like)


def _batch(rows: list[np.ndarray], like: Any) -> tuple[np.ndarray, Any]:
    tokens = np.stack(rows)
    return tokens, backend_of(like).put_beside(tokens, like)


def _activations(model: HookedSAETransformer, sae: SAE, tokens: Any, latents: list[int]) -> np.ndarray:
    """float32, (batch, positions, latents)."""
    facts = sae.cfg.metadata
    name = f"{facts.hook_name_out or facts.hook_name}.hook_sae_acts_post"
    layer = sae.cfg.hook_layer
    _, cache = model.run_with_cache_with_saes(
        tokens, saes=[sae], stop_at_layer=None if layer is None else layer + 1, names_filter=[name]
    )
    acts = cache[name]
    return backend_of(acts).get(acts)[..., latents].astype(np.float32)


def _key(row: np.ndarray) -> int:
    """A number that a context has wherever the store stands."""
    return int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=7).digest(), "little")


@dataclass(eq=False, slots=True)
class _Pool:
    """The windows of one latent that may be chosen, while contexts come in."""

    latent: int
    cfg: AutoInterpConfig
    maximum: float = 0.0
    strongest: list[tuple[float, int, np.ndarray, np.ndarray]] = field(default_factory=list)
    """(activation, the context's key, tokens, activations) of places where it is active, the strongest first."""
    random: list[tuple[float, int, np.ndarray, bool]] = field(default_factory=list)
    """(random number, the context's key, tokens, whether it is active there) of any places, the smallest first."""

    def take(self, tokens: np.ndarray, acts: np.ndarray, keys: list[int]) -> None:
        """Takes contexts (batch, positions), each with its key, into account."""
        cfg = self.cfg
        self.maximum = max(self.maximum, float(acts.max()))
        places = largest_places(acts, _SPARE * cfg.n_top_ex, cfg.buffer, cfg.no_overlap)
        values = acts[places[:, 0], places[:, 1]]
        places, values = places[values > 0], values[values > 0]
        shown, strengths = windows_at(tokens, places, cfg.buffer), windows_at(acts, places, cfg.buffer)
        self.strongest += [
            (float(value), keys[row], own, strength)
            for value, (row, _), own, strength in zip(values, places, shown, strengths, strict=True)
        ]
        self.strongest = sorted(self.strongest, key=lambda one: (-one[0], one[1]))[: _SPARE * cfg.n_top_ex]
        self._take_random(tokens, acts, keys)

    def _take_random(self, tokens: np.ndarray, acts: np.ndarray, keys: list[int]) -> None:
        wanted, buffer = _TRIES * self.cfg.n_random_ex_for_scoring, self.cfg.buffer
        span = tokens.shape[1] - 2 * buffer
        draws = [np.random.default_rng([self.cfg.seed, self.latent, key]) for key in keys]
        numbers = np.concatenate([draw.random(span) for draw in draws])
        best = np.argsort(numbers, kind="stable")[:wanted]
        places = np.stack([best // span, best % span + buffer], axis=1)
        shown, strengths = windows_at(tokens, places, buffer), windows_at(acts, places, buffer)
        self.random += [
            (float(numbers[k]), keys[row], own, bool(strength.any()))
            for k, (row, _), own, strength in zip(best, places, shown, strengths, strict=True)
        ]
        self.random = sorted(self.random, key=lambda one: one[0])[:wanted]

    def chosen(self) -> Chosen:
        """The windows, or why there are too few."""
        cfg = self.cfg
        if not self.strongest:
            return Chosen(self.latent, self.maximum, reason="it is never active on these tokens")
        explaining, scoring, contexts = self._split()
        have = len(explaining), len(scoring)
        wanted = cfg.n_top_ex_for_generation, cfg.n_top_ex_for_scoring if cfg.scoring else 0
        if have[0] < wanted[0] or have[1] < wanted[1]:
            return Chosen(
                self.latent, self.maximum,
                reason=f"it is active in {have[0]} windows to explain from and {have[1]} of other contexts to score on;"
                f" {wanted[0]} and {wanted[1]} are wanted",
            )  # fmt: skip
        inactive, drawn, active = self._inactive(contexts)
        if cfg.scoring and len(inactive) < cfg.n_random_ex_for_scoring:
            return Chosen(
                self.latent, self.maximum, tuple(explaining), drawn=drawn, active=active,
                reason=f"of {drawn} random windows it is active in {active}; {cfg.n_random_ex_for_scoring} where it is"
                " not are wanted",
            )  # fmt: skip
        both = [*scoring, *((own, np.zeros(own.shape, np.float32)) for own in inactive)]
        order = np.random.default_rng([cfg.seed, self.latent]).permutation(len(both))
        return Chosen(
            self.latent, self.maximum, tuple(explaining), tuple(both[i] for i in order), drawn, active
        )

    def _split(self) -> tuple[list[Any], list[Any], set[int]]:
        """Windows to explain from, and to score on, and the contexts of the former.

        From the strongest on, each context goes to one side by chance, as likely as that side wants windows. Windows of
        the same words count once.
        """
        cfg, draw = self.cfg, np.random.default_rng([self.cfg.seed, self.latent])
        wanted = {True: cfg.n_top_ex_for_generation, False: cfg.n_top_ex_for_scoring}
        sides: dict[int, bool] = {}
        found: dict[bool, list[Any]] = {True: [], False: []}
        used: set[int] = set()
        seen: set[bytes] = set()
        for _, context, own, strengths in self.strongest:
            if (words := own.tobytes()) in seen:
                continue
            explains = sides.get(context)
            if explains is None:
                explains = bool(draw.random() * cfg.n_top_ex < cfg.n_top_ex_for_generation)
                explains ^= len(found[explains]) >= wanted[explains]
            if len(found[explains]) < wanted[explains]:
                sides[context] = explains
                seen.add(words)
                found[explains].append((own, strengths))
                used |= {context} if explains else set()
        return found[True], found[False], used

    def _inactive(self, taken: set[int]) -> tuple[list[np.ndarray], int, int]:
        """Random windows where it is not active, of none of these contexts; how many were drawn, and active."""
        found: list[np.ndarray] = []
        drawn = active = 0
        for _, context, own, fires in self.random:
            if len(found) == self.cfg.n_random_ex_for_scoring:
                break
            if context in taken:
                continue
            drawn, active = drawn + 1, active + fires
            if not fires:
                found.append(own)
        return found, drawn, active

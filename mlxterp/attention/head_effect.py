"""`head_effect`: what a model loses without some heads, beside what it loses without random ones of the same layers.

A head is taken out by its mean: what it puts out is replaced by what it puts out on average over other sequences of the
same kind. Zeros would change more than the head's part (Wang et al. 2022; Nanda 2022).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..anatomy.session import Model, session_of
from ..backends.base import LanguageModel
from ..backends.host.finite import not_finite
from ..core import checks
from ..core.controls import MOST_DRAWS, Controlled, bootstrap
from ..core.frames import data_frame
from ..core.integers import is_listable
from ..core.options import names_options
from ..core.sites import Array, Run, SiteEdit, Where
from ..core.tokens import TokenBatch, held
from ..errors import InputError
from ..hooks.session import ModelSession
from ..viz.lines import LinesView, Table
from .head_types import head_pairs
from .random_tokens import DRAWS, RepeatedTokens, batch_of, captured
from .reader import head_counts, layers_with_attention

_LOGITS = 1 << 26
"""Logits held at once."""
Heads = Sequence[tuple[int, int]]


@names_options
def head_effect(
    model: Model,
    heads: Any,
    task: Any = "induction",
    *,
    n_random_tokens: int = 50,
    draws: int = DRAWS,
    controls: int = DRAWS,
    seed: int = 0,
) -> HeadEffect:
    """Loss with heads ablated by their mean, minus the loss of the model as it is; beside random heads.

    Args:
        model: An `InterpretableModel`, with what acts on it.
        heads: Pairs (layer, head), or what `detect_induction_heads` and `HeadScores.top` give.
        task: "induction" is the loss on the second repetition of random tokens (from its second token on: the first
            cannot be known); texts, at least two, are the loss on them, each text a draw.
        n_random_tokens: Tokens of what is repeated.
        draws: Sequences of random tokens, at least 20.
        controls: Sets of random heads, at least 20: as many of each layer, none of them among `heads`.
        seed: Of the sequences and of the random heads.

    Raises:
        InputError: No such head, a layer without other heads, or too few texts or tokens.
        ComponentError: A layer has no attention.
        NotFiniteError: A loss is NaN or infinite.

    Examples:
        >>> from mlxterp import attention
        >>> found = attention.head_effect(model, [(1, 3)], texts[:3])
        >>> found.effect.value > found.effect.control_mean  # the previous-token head matters more than others do
        True
    """
    session = session_of(model, ModelSession)
    session.refresh()
    anatomy, seed = session.anatomy, checks.seed(seed)
    chosen = _named(anatomy, head_pairs(heads))
    counts = head_counts(anatomy, sorted({layer for layer, _ in chosen}))
    for layer, head in chosen:
        if head >= counts[layer]:
            raise InputError(f"heads= names L{layer}H{head}; layer {layer} has {counts[layer]} heads.")
    random = _random_heads(chosen, counts, checks.count(controls, "controls", DRAWS, MOST_DRAWS), seed)
    loss, reference, name = _task(session, task, n_random_tokens, draws, seed)
    means = _means(anatomy, reference, sorted(counts))
    plain = loss(())
    ablated = loss(_edits(anatomy, chosen, means))
    each = {
        own: loss(_edits(anatomy, own, means)) for own in dict.fromkeys(random)
    }  # few heads: some sets come twice
    others = np.stack([each[own] for own in random])
    effects, control = ablated - plain, others - plain
    above = effects - control.mean(axis=0)
    return HeadEffect(
        heads=tuple(chosen), random_heads=tuple(random), task=name,
        loss=float(plain.mean()), ablated=float(ablated.mean()), by_draw=effects,
        effect=Controlled(
            float(effects.mean()), bootstrap(effects, seed=seed), control.mean(axis=1),
            "random heads of the same layers", seed,
        ),
        above=float(above.mean()), above_interval=bootstrap(above, seed=seed),
    )  # fmt: skip


@dataclass(frozen=True, eq=False, slots=True, repr=False, kw_only=True)
class HeadEffect(LinesView):
    """What a model loses without some heads; made by `head_effect`. Losses are in nats for each predicted token.

    Attributes:
        heads: (layer, head) of those that were ablated.
        random_heads: The sets of random heads that they are held against.
        task: What the loss is of, in words.
        loss: Of the model as it is, mean over draws.
        ablated: Without the heads.
        by_draw: float64, (draws,): what is lost on each draw.
        effect: Its mean with a 95 % interval over draws; the control has the mean of each set of random heads.
        above: Mean over draws of the effect minus the random sets' mean effect on the same draw.
        above_interval: Its 95 % interval, bootstrap over draws: above 0 where the heads matter more than others do.
    """

    heads: tuple[tuple[int, int], ...]
    random_heads: tuple[tuple[tuple[int, int], ...], ...]
    task: str
    loss: float
    ablated: float
    by_draw: np.ndarray
    effect: Controlled
    above: float
    above_interval: tuple[float, float]

    def to_pandas(self) -> Any:
        """A data frame with a row for each draw: what is lost on it.

        Raises:
            BackendError: pandas is not installed.
        """
        return data_frame({"draw": np.arange(len(self.by_draw)), "effect": self.by_draw})

    def __repr__(self) -> str:
        return f"<HeadEffect of {len(self.heads)} heads: {self.effect.value:+.3f} nats>"

    def _title(self) -> str:
        return "Effect of heads"

    @property
    def _lines(self) -> list[str]:
        names = ", ".join(f"L{layer}H{head}" for layer, head in self.heads)
        low, high = self.above_interval
        verdict = "more than random heads" if low > 0 else "no more than random heads, as far as this tells"
        return [
            f"Without {names}: {self.loss:.3f} → {self.ablated:.3f} nats ({self.task}, {len(self.by_draw)} draws)",
            f"effect {self.effect}",
            f"above random heads of the same layers by {self.above:+.3f} [{low:+.3f}, {high:+.3f}]: {verdict}",
        ]

    @property
    def _tables(self) -> list[Table]:
        names = [", ".join(f"L{layer}H{head}" for layer, head in own) for own in self.random_heads]
        rows = [(name, f"{x:+.3f}") for name, x in zip(names, self.effect.control, strict=True)]
        return [Table(("random heads", "effect"), rows)]


def _named(anatomy: Anatomy, heads: Heads) -> list[tuple[int, int]]:
    """Layers that exist, and heads that are not negative."""
    layers, _ = layers_with_attention(anatomy, [layer for layer, _ in heads])
    known = {given: anatomy.names.layer(given) for given, _ in heads}
    assert set(known.values()) == set(layers)
    bad = [head for _, head in heads if head < 0]
    if bad:
        raise InputError(f"heads= names head {bad[0]}; heads are numbered from 0.")
    return list(dict.fromkeys((known[layer], head) for layer, head in heads))


def _random_heads(
    heads: Heads, counts: dict[int, int], sets: int, seed: int
) -> list[tuple[tuple[int, int], ...]]:
    """Sets of as many heads of each layer, without those given."""
    wanted = Counter(layer for layer, _ in heads)
    others = {layer: [h for h in range(counts[layer]) if (layer, h) not in set(heads)] for layer in wanted}
    for layer, n in wanted.items():
        if len(others[layer]) < n:
            raise InputError(
                f"{n} of the {counts[layer]} heads of layer {layer} are to be ablated, which leaves"
                f" {len(others[layer])} others for the control. Name fewer heads of it."
            )
    found = []
    for i in range(sets):
        random = np.random.default_rng([seed, 21, i])
        drawn = [
            (layer, random.choice(others[layer], n, replace=False)) for layer, n in sorted(wanted.items())
        ]
        found.append(tuple((layer, int(head)) for layer, some in drawn for head in sorted(some.tolist())))
    return found


def _task(
    session: ModelSession, task: Any, n_random_tokens: int, draws: int, seed: int
) -> tuple[Callable[[Sequence[SiteEdit]], np.ndarray], list[TokenBatch], str]:
    """The loss of each draw as a function of edits, batches to take means of, and the task in words."""
    model = session.language_model
    if isinstance(task, str):
        checks.choice(task, "task", ("induction",))
        tokens = RepeatedTokens.drawn(session, n_random_tokens, 2, draws, seed)
        other = RepeatedTokens.drawn(session, n_random_tokens, 2, draws, seed + 1 if seed + 1 < 2**64 else 0)
        first = tokens.prefix + tokens.period + 1
        starts = np.full(len(tokens.rows), first)
        name = f"second repetition of {tokens.period} random tokens"
        return _loss(model, batch_of(tokens.rows), starts), [batch_of(other.rows)], name
    if not is_listable(task):
        raise InputError(f"task is {type(task).__name__}; expected 'induction', or texts.")
    batch = session.batch(held(task))
    if len(batch.lengths) < 2 or batch.lengths.min() < 2:
        raise InputError(
            "task= needs at least two texts, each of at least two tokens: the interval is over texts."
        )
    return _loss(model, batch, np.ones(len(batch.lengths), dtype=np.int64)), [batch], "given texts"


def _loss(
    model: LanguageModel, batch: TokenBatch, starts: np.ndarray
) -> Callable[[Sequence[SiteEdit]], np.ndarray]:
    """float64, (rows,): mean -log p of each row's tokens from `starts` on, in a pass with these edits."""

    def found(edits: Sequence[SiteEdit]) -> np.ndarray:
        means: list[float] = []
        step = max(1, _LOGITS // (batch.ids.shape[1] * model.vocab_size))
        for start in range(0, len(batch.lengths), step):
            part = TokenBatch(batch.ids[start : start + step], batch.lengths[start : start + step])
            logits: Any = model.run(part, edits=edits).logits
            places = [(i, int(starts[start + i]), n) for i, n in enumerate(part.lengths.tolist())]
            rows = model.backend.concatenate([logits[i, first - 1 : n - 1] for i, first, n in places])
            targets = np.concatenate([part.ids[i, first:n] for i, first, n in places])
            losses = model.backend.token_losses(rows, targets)
            ends = np.cumsum([n - first for _, first, n in places])[:-1]
            means += [float(own.mean(dtype=np.float64)) for own in np.split(losses, ends)]
        if not np.isfinite(means).all():
            raise not_finite("The logits", "of a draw", bool(edits or model.described))
        return np.array(means)

    return found


def _means(anatomy: Anatomy, batches: Sequence[TokenBatch], layers: Sequence[int]) -> dict[int, np.ndarray]:
    """Layer → float32 (heads, width): what each head puts out on average."""
    components = [anatomy.component(f"layers.{n}.attn.z") for n in layers]
    sums: dict[int, Any] = dict.fromkeys(layers, 0.0)
    count = 0
    for batch in batches:
        real = np.arange(batch.ids.shape[1]) < batch.lengths[:, None]
        for layer, z in zip(layers, captured(anatomy.model, batch.ids, components), strict=True):
            values = anatomy.model.backend.get(z).astype(np.float64)
            sums[layer] = sums[layer] + np.einsum("thpd,tp->hd", values, real)
        count += int(real.sum())
    return {layer: (total / count).astype(np.float32) for layer, total in sums.items()}


def _edits(anatomy: Anatomy, heads: Heads, means: dict[int, np.ndarray]) -> list[SiteEdit]:
    """Edits that put the mean in place of what these heads put out."""
    backend, edits = anatomy.model.backend, []
    for layer in sorted({layer for layer, _ in heads}):
        own = [head for at, head in heads if at == layer]
        mask = np.isin(np.arange(len(means[layer])), own)[None, :, None, None]
        mean = means[layer][None, :, None]

        def change(
            x: Array, _where: Where, _run: Run, mask: np.ndarray = mask, mean: np.ndarray = mean
        ) -> Array:
            return backend.where(mask, backend.put(mean, x), x)

        edits += anatomy.component(f"layers.{layer}.attn.z").edits(change, None)
    return edits

"""Jacobians of one pass: how the last residual stream answers to the stream after each layer, averaged over a text.

One backward pass carries several output dimensions, each a one-hot cotangent, back to all layers at once.
`jacobian_fit` averages over texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..core.sites import Array, Component, Run, SiteEdit, unique_sites
from ..core.tokens import TokenBatch
from ..errors import ComponentError, GradientError, InputError


@dataclass(frozen=True, slots=True)
class Way:
    """From where to where Jacobians are taken."""

    layers: tuple[int, ...]
    """Source layers, ascending; all below `target`."""
    target: int
    """The layer whose output is differentiated."""
    skip: int
    """First positions that do not count: attention sinks stand there."""
    rows: int
    """Output dimensions of one backward pass."""


def prompt_jacobians(anatomy: Anatomy, ids: Sequence[int], way: Way) -> np.ndarray:
    """float32, (layers, d_model, d_model): `J[l, i] = mean_p Σ_p' ∂h_target[p', i] / ∂h_l[p]`.

    p and p' run over the positions from `skip` to the last but one.

    Raises:
        InputError: The text has no such position.
        ComponentError: The model has more than one residual stream.
        GradientError: A gradient is not finite.
    """
    first, end = way.skip, len(ids) - 1
    if end <= first:
        raise InputError(f"A prompt needs more than {way.skip + 1} tokens, got {len(ids)}.")
    model, backend = anatomy.model, anatomy.model.backend
    sources = [anatomy.component(f"layers.{n}.resid_post") for n in way.layers]
    goal = anatomy.component(f"layers.{way.target}.resid_post")
    seen = model.run(TokenBatch.from_rows([ids]), unique_sites(sources), stop_after=unique_sites(sources))
    values = [_stream(model.model_type, model.d_model, len(ids), source, seen) for source in sources]
    backend.evaluate(values[:1])
    rows, d = min(way.rows, model.d_model), model.d_model
    deltas = [backend.put(np.zeros((1, len(ids), d), np.float32), like=value) for value in values]

    def edits(given: Sequence[Array]) -> list[SiteEdit]:
        start = values[0]  # what is below the first source need not run again
        found = list(sources[0].edits(lambda _x, _where, _run: start + given[0], _last(sources[0], seen)))
        for source, delta in zip(sources[1:], given[1:], strict=True):
            found += source.edits(_plus(delta), _last(source, seen))
        return found

    def cotangents() -> Iterator[np.ndarray]:
        for dimension in range(0, d, rows):
            one = np.zeros((rows, len(ids), d), np.float32)
            for row in range(min(rows, d - dimension)):
                one[row, first:end, dimension + row] = 1.0
            yield one

    found = np.empty((len(sources), d, d), np.float32)
    batch = TokenBatch.from_rows([ids])
    passes = model.pullbacks(batch, goal.sites, lambda run: _value(goal, run), edits, deltas, cotangents())
    for number, gradients in enumerate(passes):
        sums = [backend.widen(gradient)[:, first:end].sum(1) for gradient in gradients]
        backend.evaluate(sums)
        start = number * rows
        for layer, total in enumerate(sums):
            found[layer, start : start + rows] = backend.get(total)[: d - start]
    found /= end - first
    if not np.isfinite(found).all():
        raise GradientError(
            "A gradient of the residual stream is not finite, so there is no Jacobian. Take later layers, or float32"
            " weights (bfloat16 rather than float16)."
        )
    return found


def unembedding_row(anatomy: Anatomy, token: int) -> np.ndarray:
    """float32, (d_model,): what the head multiplies the final norm's output by for a token's logit.

    Where the logits are capped it is that row times a number.
    """
    model, backend = anatomy.model, anatomy.model.backend
    batch, norm = TokenBatch.from_rows([[0]]), anatomy.component("final_norm")
    like = _value(norm, model.run(batch, norm.sites))
    wanted = np.zeros((1, 1, model.vocab_size), np.float32)
    wanted[0, 0, token] = 1.0
    deltas = [backend.put(np.zeros(tuple(like.shape), np.float32), like=like)]
    [[row]] = model.pullbacks(
        batch, (), lambda run: run.logits, lambda given: norm.edits(_plus(given[0]), None), deltas, [wanted]
    )
    found = backend.get(backend.widen(row)).reshape(-1).astype(np.float32)
    if not np.isfinite(found).all() or not found.any():
        raise GradientError(f"The head of this {model.model_type} model gives token {token} no direction.")
    return found


def _stream(model_type: str, d_model: int, tokens: int, source: Component, run: Run) -> Array:
    value = _value(source, run)
    if tuple(value.shape) != (1, tokens, d_model):
        raise ComponentError(
            f"{source.name} of this {model_type} model has shape {tuple(value.shape)}, not (1, positions, {d_model}):"
            " it is not one residual stream, so it has no Jacobian lens."
        )
    return value


def _value(component: Component, run: Run) -> Array:
    """The component's value; of a block that runs several times, the last."""
    value = component.read(run)
    return value[-1] if isinstance(value, list) else value


def _last(component: Component, run: Run) -> int | None:
    """The number of the last call, where there are several."""
    calls = max(len(run.values[site]) for site in component.sites)
    return calls - 1 if calls > 1 else None


def _plus(delta: Array):
    return lambda x, _where, _run: x + delta

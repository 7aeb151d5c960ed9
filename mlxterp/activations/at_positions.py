"""Activations of prompts at some positions, in memory: `get_activations` and `batch_get_activations`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..anatomy.session import Model, session_of
from ..backends.base import Backend
from ..core import checks
from ..core.integers import as_integer
from ..core.options import names_options
from ..core.positions import integers
from ..core.sites import Array, unique_sites
from ..core.tokens import TokenBatch, held, several, to_batch
from ..errors import ComponentError, InputError
from ..tracing.passes import check_length


@names_options
def get_activations(
    model: Model,
    prompts: Any,
    layers: int | Iterable[int] | None = None,
    positions: int | Iterable[int] = -1,
    *,
    component: str = "resid_post",
) -> dict[str, Array]:
    """What layers put out for prompts at some positions: {"layer_3": native (prompts, d_model), …}.

    Args:
        model: An `InterpretableModel`, with what acts on it.
        prompts: A text or several, or token ids.
        layers: Layer numbers; None takes all.
        positions: One, or several, which gives (prompts, positions, d_model). Negative ones count from each prompt's
            own end: -1 is its last token, however long the others are.
        component: Name below a layer.

    Raises:
        InputError: A position outside a prompt.
        ComponentError: No such layer or component, or it has no single value for each token.

    Examples:
        >>> found = mlxterp.get_activations(model, ["Lily lost her ball.", "Tom was sad"], layers=[1, 3])
        >>> {name: tuple(x.shape) for name, x in found.items()}
        {'layer_1': (2, 192), 'layer_3': (2, 192)}
    """
    session = session_of(model)
    session.refresh()
    anatomy, lm = session.anatomy, session.language_model
    batch = to_batch(held(prompts), session.tokenize, lm.vocab_size)
    check_length(lm, int(batch.lengths.max()))
    chosen = anatomy.chosen_layers(layers)
    single = as_integer(positions) is not None
    at = _places(positions, batch)
    components = [anatomy.component(f"layers.{n}.{component}") for n in chosen]
    sites = unique_sites(components)
    run = lm.run(batch, sites, stop_after=sites)
    found = {}
    for layer, part in zip(chosen, components, strict=True):
        value = part.read(run)
        if isinstance(value, list) or tuple(value.shape[:2]) != batch.ids.shape or len(value.shape) != 3:
            raise ComponentError(f"{part.name} has no single value (prompts, positions, width) in a pass.")
        rows = _taken(lm.backend, value, at)
        found[f"layer_{layer}"] = rows[:, 0] if single else rows
    lm.backend.evaluate(list(found.values()))
    return {name: lm.backend.compact(x) for name, x in found.items()}


@names_options
def batch_get_activations(
    model: Model,
    prompts: Any,
    layers: int | Iterable[int] | None = None,
    positions: int | Iterable[int] = -1,
    batch_size: int = 8,
    *,
    component: str = "resid_post",
) -> dict[str, Array]:
    """As `get_activations`, so many prompts at a time.

    Args:
        batch_size: Prompts that run together.

    Raises:
        InputError, ComponentError: As `get_activations` says.
    """
    size = checks.count(batch_size, "batch_size")
    rows = several(held(prompts))
    if rows is None:
        rows = [prompts]
    session = session_of(model)
    parts = [
        get_activations(model, rows[i : i + size], layers, positions, component=component)
        for i in range(0, len(rows), size)
    ]
    backend = session.language_model.backend
    return {name: backend.concatenate([part[name] for part in parts]) for name in parts[0]}


def _places(positions: Any, batch: TokenBatch) -> np.ndarray:
    """int64, (prompts, positions)."""
    given = (
        list(positions)
        if isinstance(positions, Iterable) and not isinstance(positions, np.ndarray)
        else positions
    )
    if positions is None or isinstance(positions, (str, slice)):
        raise InputError(
            f"positions={positions!r}: expected positions of each prompt, one or several, such as [0, -1]."
        )
    wanted = integers(given)
    if not wanted.size:
        raise InputError("positions= is empty. Name at least one, such as -1.")
    lengths = batch.lengths[:, None]
    outside = (wanted < -lengths) | (wanted >= lengths)
    if outside.any():
        text, which = (int(i[0]) for i in np.nonzero(outside))
        raise InputError(
            f"Position {int(wanted[which])} is outside prompt {text}, which has {int(batch.lengths[text])} tokens."
        )
    return wanted % lengths


def _taken(backend: Backend, value: Array, at: np.ndarray) -> Array:
    rows = backend.put_beside(np.arange(len(at), dtype=np.int32)[:, None], value)
    return value[rows, backend.put_beside(at.astype(np.int32), value)]

"""The one primitive: vectors put in the place of some tokens' activations, in the prompt only.

`written` lets the model go on from prompts that were changed so, all together; `predicted` is what it would say next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..backends import backend_of
from ..backends.fits import check_fits
from ..core.numeric import entropies
from ..core.sites import Array, Component, Run, Where, unique_sites
from ..core.tokens import TokenBatch
from ..errors import ComponentError
from ..hooks.session import ModelSession
from ..interventions import Intervention, replace_with
from ..steering.trials import in_blocks
from ..tracing.continued import Continued, continued, ids_of_prompts
from ..tracing.generation import Request

Mode = Literal["replace", "add"]
Change = Callable[[Array], Array]


@dataclass(frozen=True, eq=False, slots=True)
class Row:
    """One prompt, and what stands in the place of its placeholders.

    Attributes:
        ids: Token ids of the prompt.
        positions: Where the placeholders stand.
        vectors: float32, (placeholders, d_model), or (1, d_model) for all; None leaves the prompt as it is.
    """

    ids: list[int]
    positions: tuple[int, ...]
    vectors: np.ndarray | None


def stream_of(anatomy: Anatomy, layer: Any) -> Component:
    """The residual stream before a layer, where vectors are put.

    Raises:
        ComponentError: There is no such layer, or it is not one stream of d_model numbers for each token.
    """
    number = anatomy.names.layer(layer)
    component, width = anatomy.component(f"layers.{number}.resid_pre"), anatomy.model.d_model
    run = anatomy.model.run(TokenBatch.from_rows([[0]]), component.sites, stop_after=component.sites)
    value = component.read(run)
    if isinstance(value, list) or tuple(value.shape) != (1, 1, width):
        raise ComponentError(
            f"{component.name} of this {anatomy.model.model_type} model is not one residual stream (1, positions,"
            f" {width}), so no vector can stand in its place."
        )
    return component


def layer_of(component: Component) -> int:
    """The layer whose residual stream a component is."""
    return int(component.name.split(".")[1])


def changes_of(row: Row, mode: Mode = "replace") -> list[Change]:
    """What makes a row's change, as interventions at its layer's stream."""
    if row.vectors is None:
        return []
    places = [row.positions] if len(row.vectors) == 1 else [(position,) for position in row.positions]
    make = _replacing if mode == "replace" else _adding
    return [make(vector, list(place)) for vector, place in zip(row.vectors, places, strict=True)]


def _replacing(vector: np.ndarray, positions: list[int]) -> Change:
    return replace_with(vector, positions=positions)


def _adding(vector: np.ndarray, positions: list[int]) -> Change:
    """Adds the direction, as long as the token's own activation."""
    unit = (vector / np.linalg.norm(vector.astype(np.float64))).astype(np.float32)

    def added(x: Array, _where: Where) -> Array:
        backend = backend_of(x)
        wide = backend.widen(x)
        length = ((wide * wide).sum(-1) ** 0.5)[..., None]
        return backend.cast(wide + length * backend.put(unit, wide), x)

    return Intervention(added, positions, None, "add_as_long", by_token=True)


def written(
    session: ModelSession, component: str, rows: Sequence[Row], settings: Request, *, mode: Mode = "replace",
    batch_tokens: int | None = None, verbose: bool = False,
) -> list[Continued]:  # fmt: skip
    """How the model goes on from each row, all of them together. What is generated is never replaced.

    Args:
        settings: Of each row.

    Raises:
        InputError: A prompt is too long.
    """
    requests = [replace(settings, interventions={component: changes_of(row, mode)}) for row in rows]
    prompts = [row.ids for row in rows]
    anatomy = session.running_rows([None] * len(rows), [[]] * len(rows))
    ids = ids_of_prompts(anatomy, prompts, requests)
    return continued(anatomy, ids, requests, batch_tokens=batch_tokens, verbose=verbose)


@dataclass(frozen=True, eq=False, slots=True)
class Predicted:
    """What comes after the prompt of each row.

    Attributes:
        entropy: float64, (rows,): of the next token, nats; NaN where the logits are no numbers.
        stream: float32, (rows, d_model): the residual stream at the last token, where it was asked for.
    """

    entropy: np.ndarray
    stream: np.ndarray


def predicted(anatomy: Anatomy, component: Component, rows: Sequence[Row], seen: Component) -> Predicted:
    """What comes after each row's prompt, and a component at its last token; rows of equal length run together."""
    model = anatomy.model
    entropy = np.empty(len(rows))
    stream = np.empty((len(rows), model.d_model), dtype=np.float32)
    for some in in_blocks([len(row.ids) for row in rows], model.vocab_size):
        for block in _of_one_length(rows, some):
            batch = TokenBatch.from_rows([rows[i].ids for i in block])
            edits = component.edits(placing([rows[i] for i in block]), component.call)
            run = model.run(batch, unique_sites([seen]), edits)
            assert run.logits is not None
            value = seen.read(run)
            value = value[-1] if isinstance(value, list) else value
            entropy[block] = entropies(model.backend.get(run.logits[:, -1]))
            stream[block] = model.backend.get(value[:, -1])
    return Predicted(entropy, stream)


def _of_one_length(rows: Sequence[Row], some: Sequence[int]) -> list[list[int]]:
    by_length: dict[int, list[int]] = {}
    for i in some:
        by_length.setdefault(len(rows[i].ids), []).append(i)
    return list(by_length.values())


def placing(rows: Sequence[Row]) -> Callable[[Array, Where, Run], Array]:
    """A change that puts each row's vectors into its own text of a batch; the texts are equally long."""
    length, known = len(rows[0].ids), [row for row in rows if row.vectors is not None]
    if not known:
        return lambda x, _where, _run: x
    first = known[0].vectors
    assert first is not None
    values = np.zeros((len(rows), length, first.shape[1]), dtype=np.float32)
    mask = np.zeros((len(rows), length, 1), dtype=bool)
    for i, row in enumerate(rows):
        if row.vectors is not None:
            values[i, list(row.positions)] = row.vectors
            mask[i, list(row.positions)] = True

    def change(x: Array, _where: Where, _run: Run) -> Array:
        check_fits(values, x, "A vector")
        backend = backend_of(x)
        return backend.where(mask, backend.put(values, x), x)

    return change

"""From where an SAE writes to the residual stream: its decoder rows as directions of the stream.

Most SAEs write into the stream itself or into what is added to it. One at `attn.z` goes through the
output projection, one at an MLP's hidden layer through the down projection, and where a norm follows a
sublayer its gain counts too. That is found by running the model on single tokens. `lens` uses it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..core.rows import rows_of
from ..core.sites import Array, Component, Run, Where
from ..core.tokens import TokenBatch
from ..errors import ComponentError, InputError, SAEError
from ..sae import SAE
from ..sae.adapt import resolve
from .linear_part import Function, LinearPart

_ROWS = 256
_SUBLAYERS = ("attn_out", "mlp_out")
_TOLERANCE = 0.05
"""How far from linear the way to the stream may look: rounding of 16 bits is a tenth of this."""


def written_component(anatomy: Anatomy, sae: SAE, component: str | None) -> Component:
    """Where an SAE's reconstruction belongs: `component`, or what its metadata says.

    Raises:
        InputError: Neither names one.
        ComponentError: This model has no such component.
    """
    said = sae.metadata.get("component_out") or (None if sae.is_transcoder else sae.component)
    name = said if component is None else component
    if not isinstance(name, str):
        raise InputError(
            "This SAE does not say where it writes. Name the component that it reconstructs: component='…'."
        )
    return resolve(anatomy, sae, name)


def stream_directions(anatomy: Anatomy, place: Component, rows: np.ndarray) -> np.ndarray:
    """What changes of a component, rows (n, width), add to the residual stream, float64 (n, d_model).

    Only the direct way counts: the component's own sublayer and no later one. A norm after the sublayer
    is taken at a root mean square of 1.

    Raises:
        SAEError: `rows` is not as wide as the component, or no linear map leads from it to the stream.
    """
    model = anatomy.model
    path = anatomy.names.resolve(place.name)
    block_output = path.kind == "module" and path.module in model.layers and path.leaf == "output"
    if block_output or place.name == "embed" or path.leaf in ("resid_pre", "resid_mid", "resid_post"):
        return _checked(rows, model.d_model, place)
    if path.leaf in _SUBLAYERS and path.kind == "residual":
        return _checked(rows, model.d_model, place)
    if path.layer is None or path.leaf in ("q", "k", "v", "pattern"):
        raise SAEError(_no_way(place))
    rows = rows.astype(np.float64)
    for target in _way(anatomy, place, path.layer):
        rows = _through(anatomy, place, target, rows)
        place = target
    return rows


def _way(anatomy: Anatomy, place: Component, layer: int) -> Iterator[Component]:
    """The outputs to go through: the sublayer's module, where `place` lies inside it, and what it adds."""
    path = anatomy.names.resolve(place.name)
    for role, leaf in zip(("attn", "mlp"), _SUBLAYERS, strict=True):
        try:
            module = anatomy.names.resolve(f"layers.{layer}.{role}").module
            added = anatomy.component(f"layers.{layer}.{leaf}")
        except ComponentError:
            continue
        inside = path.kind == "head" if role == "attn" else False
        if path.kind == "module" and (path.module == module and path.leaf == "output"):
            yield added
            return
        if inside or path.module.startswith(module + "."):
            yield anatomy.component(f"layers.{layer}.{role}")
            yield added
            return
        if place.sites == added.sites:
            yield added
            return
    raise SAEError(_no_way(place))


def _through(anatomy: Anatomy, place: Component, target: Component, rows: np.ndarray) -> np.ndarray:
    """What changes of `place` change at `target`, (n, width of target)."""
    if place.sites == target.sites:  # the same value, times a number
        return np.asarray(target.compute([_checked(rows, anatomy.model.d_model, place)] * len(place.sites)))
    parts = [
        LinearPart.of(_replacing(anatomy, place, target, ids), rows.shape[1]) for ids in ((1, 3), (2, 0))
    ]
    sample = np.random.default_rng(0).normal(size=(2, rows.shape[1]))
    here, there = (part(sample) for part in parts)
    size, apart = np.linalg.norm(here), np.linalg.norm(here - there)
    if parts[0].shape.error > _TOLERANCE or apart > _TOLERANCE * size or size == 0:
        raise SAEError(_no_way(place))
    chunks = [parts[0](rows[i : i + _ROWS]) for i in range(0, len(rows), _ROWS)]
    return np.concatenate(chunks)


def _replacing(anatomy: Anatomy, place: Component, target: Component, ids: tuple[int, ...]) -> Function:
    """`target` at a text's last token as a function of `place` there, a row for each text of `ids`."""
    model = anatomy.model
    backend = model.backend

    def function(rows: np.ndarray) -> np.ndarray:
        batch = TokenBatch.from_rows([[i % model.vocab_size for i in ids]] * len(rows))

        def change(old: Array, where: Where, _run: Run) -> Array:
            value = np.array(backend.get(old), dtype=np.float32)
            by_token = value.swapaxes(1, 2) if where.heads_first else value
            if value.ndim not in (3, 4) or by_token[:, -1].size != rows.size:
                raise SAEError(_width(place, by_token[0, -1].size, rows.shape[1]))
            by_token[:, -1] = rows.reshape(by_token[:, -1].shape)
            return backend.put(value, like=old)

        edits = place.edits(change, place.call)
        run = model.run(batch, target.sites, edits, stop_after=target.sites)
        found = backend.get(rows_of(target, run, batch.ids.shape))
        return found.reshape(*batch.ids.shape, -1)[:, -1].astype(np.float32)

    return function


def _checked(rows: np.ndarray, width: int, place: Component) -> np.ndarray:
    if rows.shape[1] != width:
        raise SAEError(_width(place, width, rows.shape[1]))
    return rows.astype(np.float64)


def _width(place: Component, expected: int, found: int) -> str:
    return (
        f"{place.name} is {expected} wide, and this SAE's decoder rows are {found}. Name the component that it"
        " reconstructs: component='…'."
    )


def _no_way(place: Component) -> str:
    return (
        f"What {place.name} carries does not reach the residual stream by a linear map, so a decoder row there has"
        " no fixed direction of the stream. Use an SAE of the residual stream, of attn_out or mlp_out, of attn.z or"
        " of the MLP's hidden layer (the down projection's input); or steer with this feature and compare logits."
    )

"""What `feature_intervention` is asked for: which features, where, and to which values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from ..core import checks
from ..core.feature_ids import feature_id
from ..core.integers import scalar
from ..core.positions import Positions, check_reached, position_mask
from ..core.sites import Where
from ..edits.checks import check_positions
from ..edits.edits import FeatureEdit
from ..errors import ComponentError, InputError
from ..sae import SAE
from ..steering import clamp
from ..variants import JumpReLU, ReLU
from ..weights import SAEWeights
from .cross_layer import CrossLayerPart
from .nodes import Node
from .transcoders import Placed
from .unrolled import Unrolled


@dataclass(frozen=True, eq=False, slots=True)
class Asked:
    """A feature that is set to a value.

    Attributes:
        layer, feature: Which.
        positions: Where, as an edit takes them.
        value: In the transcoder's own scale.
        on_prompt: int64, (n,): the positions of the prompt among them.
        on_new: The positions after the prompt, as an edit takes them; None where there are none.
        edits: How many edits it takes: one for each layer that the feature writes to.
    """

    layer: int
    feature: int
    positions: Any
    value: float
    on_prompt: np.ndarray
    on_new: Any
    edits: int


def asked_of(
    given: Any, order: Unrolled, placed: Mapping[int, Placed], tokens: int, written: int
) -> list[Asked]:
    """The interventions, by layer.

    Args:
        tokens: Of the prompt.
        written: Tokens that may be written after it.

    Raises:
        InputError: See `feature_intervention`.
        UnknownFeatureError: A feature that the transcoder does not have.
    """
    found = [_one(*entry, order, placed, tokens, written) for entry in _entries(given)]
    if not found:
        raise InputError("interventions= is empty. Name at least one: {(layer, position, feature): value}.")
    _check_twice(found)
    return sorted(found, key=lambda one: one.layer)


def _entries(given: Any) -> Iterator[tuple[Any, Any, Any, Any]]:
    """(layer, position, feature, value) of each."""
    if isinstance(given, (str, Node)) or not isinstance(given, Iterable):
        raise InputError(
            f"interventions= is {type(given).__name__}; expected {{(layer, position, feature): value}}, or a list of"
            " (layer, position, feature, value)."
        )
    for entry in given.items() if isinstance(given, Mapping) else given:
        parts = tuple(entry) if isinstance(entry, (tuple, list)) else (entry,)
        if len(parts) == 2:  # a place, and a value
            place, value = parts
            if isinstance(place, Node):
                if place.feature_id is None:
                    raise InputError(f"{place} is no feature, so it cannot be set to a value.")
                place = (place.layer, place.position, place.feature_id)
            parts = (*place, value) if isinstance(place, tuple) else ()
        if len(parts) != 4:
            raise InputError(
                f"An intervention is {entry!r}; expected (layer, position, feature) and a value."
            )
        yield parts


def _one(
    layer: Any, position: Any, feature: Any, value: Any, order: Unrolled, placed: Mapping[int, Placed],
    tokens: int, written: int,
) -> Asked:  # fmt: skip
    number = order.layer(layer)
    if number not in placed:
        held = ", ".join(map(str, placed))
        raise InputError(f"An intervention is in layer {number}; the transcoders are of layers {held}.")
    one = placed[number]
    which = feature_id(feature, one.d_hidden, whose=f"the transcoder of layer {number}")
    target = checks.number(scalar(value), f"The value of feature {which} of layer {number}")
    where, on_prompt = _positions(position, tokens, written)
    return Asked(number, which, where, target, on_prompt, _on_new(where, tokens), len(one.writes))


def _positions(given: Any, tokens: int, written: int) -> tuple[Any, np.ndarray]:
    """As an edit takes them, counted from the start; and those of the prompt."""
    if given is None:
        raise InputError("An intervention names no position. 'all' is every token.")
    found: Any = check_positions(given)
    if isinstance(found, slice):
        ends = [_from_start(part, tokens) for part in (found.start, found.stop)]
        start, stop = (None if end is None else max(end, 0) for end in ends)
        found = slice(start, stop, found.step)
    elif not isinstance(found, str):
        found = _numbers(found, given, tokens, written)
    chosen = _on_prompt(found, tokens)
    if not len(chosen) and not written:
        later = isinstance(found, str) and found == "generated"
        raise InputError(
            f"Position {given!r} is none of the prompt's {tokens} tokens."
            + (" It acts on what is written: pass max_tokens=." if later else "")
        )
    return found, chosen


def _on_prompt(positions: Any, tokens: int) -> np.ndarray:
    """int64, (n,): those of the prompt."""
    if not isinstance(positions, (slice, str)):
        return np.unique([one for one in np.atleast_1d(positions).tolist() if one < tokens]).astype(np.int64)
    mask = position_mask(cast(Positions, positions), Where.whole(tokens, np.array([tokens])))
    return np.arange(tokens) if mask is None else np.flatnonzero(mask[0])


def _on_new(positions: Any, tokens: int) -> Any:
    """Those after the prompt, as an edit takes them; None for none."""
    if isinstance(positions, str):
        return "generated" if positions in ("all", "generated") else None
    if isinstance(positions, slice):
        start, step = positions.start or 0, positions.step or 1
        start += max(0, -(-(tokens - start) // step)) * step
        later = positions.stop is None or positions.stop > start
        return slice(start, positions.stop, positions.step) if later else None
    found = tuple(one for one in np.atleast_1d(positions).tolist() if one >= tokens)
    return found or None


def _numbers(positions: Any, given: Any, tokens: int, written: int) -> Any:
    """A position or several, counted from the start."""
    several = [_from_start(one, tokens) for one in np.atleast_1d(positions).tolist()]
    if min(several, default=0) < 0:
        raise InputError(f"Position {given!r} lies before the prompt, which has {tokens} tokens.")
    check_reached(
        several, tokens + written, "The prompt and max_tokens= make" if written else "The prompt has"
    )
    return tuple(several) if isinstance(positions, tuple) else several[0]


def _from_start(position: Any, tokens: int) -> Any:
    """A position that is counted from the prompt's end, from its start; None stays."""
    return position + tokens if position is not None and position < 0 else position


def _check_twice(asked: Sequence[Asked]) -> None:
    known: dict[tuple[int, int, int], float] = {}
    for one in asked:
        for position in one.on_prompt.tolist():
            key = one.layer, position, one.feature
            if known.setdefault(key, one.value) != one.value:
                raise InputError(
                    f"Feature {one.feature} of layer {one.layer} is set to {known[key]:g} and to {one.value:g} at"
                    f" position {position}. Keep one of them."
                )


# -- as edits -------------------------------------------------------------------------------------


def edits_of(placed: Mapping[int, Placed], asked: Sequence[Asked]) -> list[FeatureEdit]:
    """Edits of `mlxterp.steering`, those of each intervention side by side."""
    of_layer = {
        layer: sorted({one.feature for one in asked if one.layer == layer})
        for layer in {one.layer for one in asked}
    }
    writers = {
        (layer, target): _writer(placed, layer, target, of_layer[layer])
        for layer in of_layer
        for target in placed[layer].writes
    }
    found = []
    for one in asked:
        for target in placed[one.layer].writes:
            sae, ids = writers[one.layer, target]
            feature = one.feature if ids is None else ids.index(one.feature)
            found.append(clamp(sae, feature, one.value, at=_at(placed[target]), positions=one.positions))
    return found


def _at(one: Placed) -> str:
    """Where an edit changes what a transcoder predicts.

    Raises:
        ComponentError: No name says that in one loop alone.
    """
    if one.at is None:
        raise ComponentError(
            f"Layer {one.layer} of a pass of this looped model is one call of {one.reads.name} and"
            f" {one.predicts.name}, of which an edit cannot change one call alone. Take transcoders that read and"
            " predict inputs and outputs of modules."
        )
    return one.at


def _writer(
    placed: Mapping[int, Placed], layer: int, target: int, features: list[int]
) -> tuple[SAE, list[int] | None]:
    """What writes from one layer to another as an SAE; and the ids of its features, None where they are its own.

    Of a cross-layer transcoder it holds just the features that are set.
    """
    one = placed[layer]
    if not isinstance(one, CrossLayerPart):
        return one.sae, None
    held, ids = one.clt.layers[layer], np.array(features)
    weights = SAEWeights(
        held.W_enc.take(ids).T, held.b_enc[ids], held.W_dec.take(ids, target - layer), np.zeros(held.d_out),
        subtract_b_dec=False, extra={} if held.threshold is None else {"threshold": held.threshold[ids]},
    )  # fmt: skip
    named = {"component": one.reads.name, "component_out": placed[target].predicts.name, "features": features}
    return SAE(weights, ReLU() if held.threshold is None else JumpReLU(), named), features

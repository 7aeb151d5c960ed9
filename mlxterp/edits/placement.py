"""Where edits act: whether they fit there, belong there, and go together.

`checked` takes the edits that a user gives for one model; attached SAEs ask `check_width` and `warn_of_place`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from ..activations.exclusions import prose
from ..activations.forward import collect
from ..anatomy.anatomy import Anatomy
from ..core.sites import Component
from ..errors import ComponentError, EditError, SAEError, warn
from ..sae import SAE
from ..sae.adapt import resolve, trained_elsewhere
from .checks import SteeringPositions
from .compile import component_of, same_sae
from .conditions import Condition, DirectionReadout, FeatureReadout
from .edits import DirectionEdit, Edit, FeatureEdit
from .steps import source_of


def placed(edits: Sequence[Edit], at: str | None, positions: SteeringPositions) -> list[Edit]:
    """The edits, with a component and positions for those that name none of their own."""
    found = []
    for edit in edits:
        edit = edit.restricted(positions)
        found.append(edit.at(at) if at is not None and edit.component is None else edit)
    return found


def checked(anatomy: Anatomy, edits: Sequence[Edit]) -> list[Edit]:
    """The edits at components of this model, by their canonical names.

    An SAE that is used elsewhere than it was trained gives a warning, with how much of the activation it misses.

    Raises:
        InputError, ComponentError, SAEError, EditError: See `InterpretableModel.steer`.
    """
    found = []
    for edit in edits:
        place = _resolved(anatomy, edit)
        width = len(edit.vector) if isinstance(edit, DirectionEdit) else None
        if isinstance(edit, FeatureEdit):
            width = edit.sae.d_out
        if width is not None:
            check_width(anatomy, place, width, edit.sae if isinstance(edit, FeatureEdit) else None)
        if edit.when is not None:
            edit = replace(edit, when=_read_at(anatomy, edit.when, place))
        found.append(edit.at(_name(place)))
    check_conflicts(found)
    told: list[tuple[SAE, str]] = []
    for edit in found:
        if isinstance(edit, FeatureEdit):
            key = (edit.sae, str(edit.component))
            if not any(sae is edit.sae and name == key[1] for sae, name in told):
                told.append(key)
                warn_of_place(anatomy, *key)
    return found


def check_width(anatomy: Anatomy, place: Component, width: int, sae: SAE | None = None) -> None:
    """Raises `SAEError` unless the component is so wide."""
    if (found := anatomy.width(place)) != width:
        what = f"{sae!r}" if sae is not None else "the vector"
        model = sae.metadata.get("model") if sae is not None else None
        said = f" ({model})" if isinstance(model, str) and model else ""
        raise SAEError(
            f"{place.name} puts out {found} numbers for each token, and {what} has {width}. Choose another component"
            f" (at=…, or layer_signature=… of attach_sae), or the model that it was trained on{said}."
        )


def warn_of_place(anatomy: Anatomy, sae: SAE, component: str) -> None:
    """Warns where an SAE acts at another component than it was trained on, with its FVU there."""
    if source_of(sae) is not None:
        _warn_of_target(anatomy, sae, component)
        return
    trained = trained_elsewhere(anatomy, sae, component)
    if trained is None:
        return
    warn(
        f"This SAE was trained on {trained} and acts on {component}, where it leaves"
        f" {fraction_unexplained(anatomy, sae, component):.0%} of the variance unexplained (FVU, on some prose). Its"
        " features mean something there only if the two carry the same activations."
    )


def _warn_of_target(anatomy: Anatomy, sae: SAE, component: str) -> None:
    written = sae.metadata.get("component_out")
    if (
        isinstance(written, str)
        and anatomy.component(component).place != resolve(anatomy, sae, written).place
    ):
        warn(
            f"This transcoder was trained to write to {written} and acts on {component}; it reads {sae.component} as"
            " before. Its features mean something there only if the two carry the same activations."
        )


def fraction_unexplained(anatomy: Anatomy, sae: SAE, component: str) -> float:
    """FVU on some prose: squared error of the reconstruction over the variance of the activations."""
    model = anatomy.model
    found = collect(model, prose(model), anatomy.component(component))
    parts = [model.backend.get(part.values) for part in found]
    x = np.concatenate(parts).astype(np.float64)
    error = x - sae.reconstruct(x.astype(np.float32)).reshape(x.shape)
    return float((error**2).sum() / max(((x - x.mean(axis=0)) ** 2).sum(), 1e-30))


def _resolved(anatomy: Anatomy, edit: Edit) -> Component:
    name = component_of(edit)
    if isinstance(edit, FeatureEdit) and edit.component is None:
        try:
            return anatomy.component(name)
        except ComponentError:
            return resolve(anatomy, edit.sae, name)  # what its library calls the hook
    return anatomy.component(name)


def _read_at(anatomy: Anatomy, when: Condition, place: Component) -> Condition:
    """A condition with the canonical name of the component that it reads; `place` is the edited one."""
    readout = when.readout
    sae = readout.sae if isinstance(readout, FeatureReadout) else None
    name, source = readout.component, place
    if name is not None:
        own = sae is not None and name == sae.component  # which may be what its library calls the hook
        source = resolve(anatomy, sae, name) if sae is not None and own else anatomy.component(name)
        readout = replace(readout, component=_name(source))
    width = len(readout.unit) if isinstance(readout, DirectionReadout) else sae.d_model if sae else 0
    check_width(anatomy, source, width, sae)
    return replace(when, readout=readout)


def _name(place: Component) -> str:
    return place.name if place.call is None or "#" in place.name else f"{place.name}#{place.call}"


def check_conflicts(edits: Sequence[Edit]) -> None:
    """Raises `EditError` where a later edit would overwrite an earlier one.

    Ablating and then amplifying is no conflict (it is ablating), nor are edits with a condition.
    """
    setting = [edit for edit in edits if isinstance(edit, FeatureEdit) and _value(edit) is not None]
    for one, other in combinations(setting, 2):
        if (
            one.feature == other.feature
            and one.component == other.component
            and _value(one) != _value(other)
            and one.when is None
            and other.when is None
            and _overlap(one.positions, other.positions)
            and same_sae(one.sae, other.sae)
        ):
            raise EditError(
                f"Two edits conflict: {one!r} sets feature {one.feature} to {_value(one):g}, and {other!r} to"
                f" {_value(other):g} on the same tokens. Keep one of them, or give them different positions=."
            )


def _value(edit: FeatureEdit) -> float | None:
    """What the feature is set to; None where it depends on its activation."""
    if edit.kind == "clamp":
        return edit.number
    return 0.0 if edit.kind == "amplify" and edit.number == 0 else None


def _overlap(one: Any, other: Any) -> bool:
    """Whether two sets of positions may share one."""
    words = [positions for positions in (one, other) if isinstance(positions, str)]
    if one is None or other is None or "all" in words:
        return True
    if words:
        return len(words) == 1 or words.count("generated") != 1
    if not (isinstance(one, slice) or isinstance(other, slice)):
        return bool(set(np.atleast_1d(one).tolist()) & set(np.atleast_1d(other).tolist()))
    return _slices_overlap(one, other)


def _slices_overlap(one: Any, other: Any) -> bool:
    """Whether two sets of positions share one; where one is counted from the end, they may."""
    parts = [
        (p.start or 0, p.stop, p.step or 1) if isinstance(p, slice) else np.atleast_1d(p).tolist()
        for p in (one, other)
    ]
    if [] in parts:
        return False
    if any(number is not None and number < 0 for part in parts for number in part):
        return True
    # Two slices that meet do so before their starts plus their steps' product.
    slices = [part for part in parts if isinstance(part, tuple)]
    end = max(start for start, _, _ in slices) + math.prod(step for _, _, step in slices)
    end = max([end, *(max(part) + 1 for part in parts if isinstance(part, list))])
    first, second = (
        set(range(part[0], end if part[1] is None else min(part[1], end), part[2]))
        if isinstance(part, tuple)
        else set(part)
        for part in parts
    )
    return bool(first & second)

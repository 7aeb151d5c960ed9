"""What `interventions={path: function}` asks for, as edits at sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..anatomy.anatomy import Anatomy
from ..core.positions import first_position
from ..core.sites import Array, Change, Component, SiteEdit
from ..errors import InputError
from ..interventions import Intervention, apply_change, as_list, positions_of

Interventions = Mapping[str, Callable[[Array], Array] | Sequence[Callable[[Array], Array]]]


def declared_edits(anatomy: Anatomy, interventions: Interventions | None) -> list[SiteEdit]:
    """Edits at sites from `interventions={path: function or [functions]}`.

    Raises:
        ComponentError: An unknown or ambiguous path, or a component that cannot be edited.
        InputError: Something that is not a function, or an edit of `mlxterp.steering` that names another component.
    """
    edits: list[SiteEdit] = []
    for name, changes in as_interventions(interventions).items():
        component = anatomy.component(name)
        for change in changes:
            _check_place(anatomy, change, component)
            alone = isinstance(change, Intervention) and change.by_token
            made = component.edits(_change(change, component.name), component.call)
            first = first_position(positions_of(change))
            edits += [replace(edit, by_token=alone, first=first) for edit in made]
    return edits


def as_interventions(given: Any) -> dict[str, Sequence[Callable[[Array], Array]]]:
    """What `interventions=` holds, each path with its list of functions; nothing for None.

    Raises:
        InputError: It is no mapping of paths to functions or lists of them.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(
            f"interventions= is a dict of path → function or list of functions, got {type(given).__name__}."
        )
    return {name: as_list(changes, str(name)) for name, changes in given.items()}


def _check_place(anatomy: Anatomy, change: Any, component: Component) -> None:
    told = getattr(change, "component", None) if isinstance(change, Intervention) else None
    if isinstance(told, str) and anatomy.component(told).sites != component.sites:
        raise InputError(
            f"{change!r} names {told}, and is given for {component.name}. Leave one of them out, or use"
            " model.steer(edit), where each edit acts at its own component."
        )


def _change(change: Callable[[Array], Array], name: str) -> Change:
    return lambda x, where, _run: apply_change(change, x, where, name)

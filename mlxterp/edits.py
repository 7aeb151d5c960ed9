"""What `interventions={path: function}` asks for, as edits at sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from .anatomy import Anatomy
from .errors import InputError
from .interventions import apply_change, as_list
from .sites import Array, SiteEdit, Where

Interventions = Mapping[str, Callable[[Array], Array] | Sequence[Callable[[Array], Array]]]


def declared_edits(anatomy: Anatomy, interventions: Interventions | None) -> list[SiteEdit]:
    """Edits at sites from `interventions={path: function or [functions]}`.

    Raises:
        ComponentError: An unknown or ambiguous path, or a component that cannot be edited.
        InputError: Something that is not a function.
    """
    edits: list[SiteEdit] = []
    if interventions is not None and not isinstance(interventions, Mapping):
        raise InputError(
            f"interventions= is a dict of path → function or list of functions, got"
            f" {type(interventions).__name__}."
        )
    for name, changes in (interventions or {}).items():
        component = anatomy.component(name)
        for change in as_list(changes, name):
            edits += component.edits(_change(change, component.name), component.call)
    return edits


def _change(change: Callable[[Array], Array], name: str) -> Callable[[Array, Where], Array]:
    return lambda x, where: apply_change(change, x, where, name)

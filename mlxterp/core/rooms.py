"""The one door upwards: verbs on lower values that belong to a room above them.

A class has the verb as a documented method with its real signature, whose body is one line:

    def check(self, model, texts, component=None, **options):
        \"\"\"How well it fits a component …\"\"\"
        return rooms.open("sae.check", self, model, texts, component=component, **options)

The table says which function that is. It takes the same arguments, the value first. Nothing else in the package goes
up, and nothing else finds modules by name; `tests/house/test_house.py` reads the table and compares the signatures.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from ..errors import BackendError, InputError


class Room(NamedTuple):
    """Where a verb is done."""

    target: str
    """"package.module:function", below `mlxterp`."""
    extra: str = ""
    """The extra of mlxterp that brings the libraries which the room needs; "" where it needs none."""


VERBS: dict[str, Room] = {
    "clt.evaluate": Room("model.rooms:evaluate_cross_layer"),
    "collection.both_on": Room("geometry.families:both_on"),
    "collection.build_indexes": Room("model.rooms:build_indexes"),
    "collection.firing_on": Room("geometry.families:firing_on"),
    "collection.search": Room("geometry.families:search"),
    "index.explain": Room("autointerp.explaining:explain"),
    "index.score": Room("autointerp.scoring:score"),
    "index.coactivation_graph": Room("geometry.coactivation:coactivation_graph"),
    "index.push_to_hub": Room("model.hub_upload:push_index"),
    "index.serve": Room("explorer.explorer:serve", "serve"),
    "index.to_neuronpedia": Room("explorer.neuronpedia:to_neuronpedia"),
    "index.to_site": Room("explorer.site:to_site"),
    "index.study": Room("study.study:study"),
    "sae.check": Room("model.rooms:check_sae"),
    "sae.evaluate": Room("model.rooms:evaluate_sae"),
    "sae.push_to_hub": Room("model.hub_upload:push_sae"),
    "sae.is_compatible": Room("model.rooms:is_compatible"),
    "sae.probe": Room("geometry.sparse_probing:sparse_probe"),
}
"""Class and verb → the function. A line stands here when its function exists."""


def open(verb: str, *given: Any, **named: Any) -> Any:
    """Calls the verb's function.

    Args:
        verb: A key of `VERBS`.
        given, named: Of the method, the value itself first.

    Raises:
        InputError: There is no such verb.
        BackendError: A library that the room needs is not installed; the message names the extra.
    """
    if verb not in VERBS:
        raise InputError(f"No room does {verb!r}. There are: {', '.join(sorted(VERBS))}.")
    return function_of(verb, VERBS[verb])(*given, **named)


def function_of(verb: str, room: Room) -> Callable[..., Any]:
    """The function behind a verb; its room is imported here.

    Raises:
        BackendError: As `open` says.
    """
    module, _, name = room.target.partition(":")
    try:
        return getattr(import_module(f"mlxterp.{module}"), name)
    except ModuleNotFoundError as error:
        if not room.extra or (error.name or "mlxterp").partition(".")[0] == "mlxterp":
            raise
        raise BackendError(
            f'{verb} needs {error.name}, which is not installed: pip install "mlxterp[{room.extra}]"'
        ) from error

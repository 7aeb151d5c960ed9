"""Changes of a model's passes, put in order: what `model.steer`, attached SAEs and hooks ask for, as `SiteEdit`s.

Changes of one component act in the order given; edits of one SAE there join the first of them, so that they act
on one encoding of the activation that this first one met.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..anatomy.anatomy import Anatomy
from ..core.positions import check_open_ended, first_position
from ..core.sites import Array, Component, Run, SiteEdit, Where
from ..errors import EditError, InputError
from ..sae import SAE
from .edits import DirectionEdit, Edit, FeatureEdit
from .rows import Moment
from .steps import DirectionStep, FeatureStep, Step, source_of


@dataclass(frozen=True, eq=False, slots=True)
class Replacement:
    """An SAE's reconstruction in the place of the activation; to gradients it is a constant."""

    sae: SAE
    component: str

    def __repr__(self) -> str:
        return f"<the reconstruction of {self.sae!r} at {self.component}>"


@dataclass(frozen=True, eq=False, slots=True)
class Hooked:
    """A function that sees, and may change, the activation of a component."""

    component: str
    function: Callable[[Array, Where], Array]


Change = Edit | Replacement | Hooked


def site_edits(anatomy: Anatomy, changes: Sequence[Change], generating: bool = False) -> list[SiteEdit]:
    """The changes as edits of one pass.

    Args:
        generating: Whether the pass is one of generation; else whole texts are run.

    Raises:
        ComponentError: A component that the model does not have, or that cannot be edited.
        InputError: An edit that names no component, or negative positions in generation.
    """
    places: dict[Any, _Place] = {}
    for change in changes:
        placed = _if_acting(change, generating)
        if placed is None:
            continue
        component = anatomy.component(component_of(placed))
        place = places.setdefault(component.place, _Place(component))
        place.add(placed, anatomy)
    return [edit for place in places.values() for edit in place.site_edits()]


def component_of(change: Change) -> str:
    """The path that a change acts at.

    Raises:
        InputError: Nothing says.
    """
    if change.component is not None:
        return change.component
    if isinstance(change, FeatureEdit):
        sae = change.sae
        out = sae.metadata.get("component_out") if sae.is_transcoder else sae.component
        if isinstance(out, str):
            return out
        raise InputError(
            "This SAE does not say which component it writes to, so the edit needs one: at='layers.3.resid_post'."
        )
    raise InputError(f"{change} names no component: give at='layers.3.resid_post'.")


def same_sae(one: SAE, other: SAE) -> bool:
    """Whether both give equal features."""
    return one is other or (one.W_dec.shape == other.W_dec.shape and one.fingerprint == other.fingerprint)


def _if_acting(change: Change, generating: bool) -> Change | None:
    """The change; None where it never acts."""
    if not isinstance(change, Edit):
        return change
    positions = change.positions
    if generating:
        check_open_ended(positions)
        return change
    if isinstance(positions, str):
        whole = slice(1, None) if positions == "prompt[1:]" else None
        return None if positions == "generated" else replace(change, positions=whole)
    return change


@dataclass(eq=False, slots=True)
class _Place:
    """One component and what happens there."""

    component: Component
    groups: list[Any] = field(default_factory=list)
    """Hooked changes, edits along directions, and `_Group`s, in order."""
    reads: list[Component] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    """Of each change, the first position where it may act in generation."""

    def add(self, change: Change, anatomy: Anatomy) -> None:
        self.first.append(first_position(change.positions) if isinstance(change, Edit) else 0)
        if isinstance(change, Edit):
            change = self._read_by(change, anatomy)
        if isinstance(change, (FeatureEdit, Replacement)):
            group = next(
                (g for g in self.groups if isinstance(g, _Group) and same_sae(g.sae, change.sae)), None
            )
            if group is None:
                group = _Group(change.sae, self._source(change.sae, anatomy))
                self.groups.append(group)
            group.add(change)
        else:
            self.groups.append(change)

    def _source(self, sae: SAE, anatomy: Anatomy) -> str | None:
        name = source_of(sae)
        return None if name is None else self._other(name, anatomy)

    def _read_by(self, edit: Edit, anatomy: Anatomy) -> Edit:
        """The edit with its condition's component by canonical name; None for this one."""
        if edit.when is None or edit.when.readout.component is None:
            return edit
        readout = edit.when.readout
        name = self._other(str(readout.component), anatomy)
        return replace(edit, when=replace(edit.when, readout=replace(readout, component=name)))

    def _other(self, name: str, anatomy: Anatomy) -> str | None:
        component = anatomy.component(name)
        if component.place == self.component.place:
            return None
        if component.name not in [known.name for known in self.reads]:
            self.reads.append(component)
        return component.name

    def site_edits(self) -> list[SiteEdit]:
        steps = [step for group in self.groups if (step := _step(group)) is not None]
        if not steps:
            return []
        name, reads = self.component.name, {component.name: component for component in self.reads}

        def change(x: Array, where: Where, run: Run) -> Array:
            moment = Moment(name, where, lambda asked: _value(reads[asked], run, name))
            for step in steps:
                x = step(x, moment)
            return x

        edits = self.component.edits(change, self.component.call)
        sites = [site for component in self.reads for site in component.sites]
        alone = all(step.by_token for step in steps)
        first, adds = min(self.first), self._adds(steps)
        return [
            replace(edit, reads=(*edit.reads, *sites), by_token=alone, first=first, adds=adds)
            for edit in edits
        ]

    def _adds(self, steps: Sequence[Step]) -> Callable[[Array], Array] | None:
        """Gives the vector that is added to every token of the one site, where nothing else is done; else None."""
        name, adds = self.component.name, steps[0].adds
        if len(steps) > 1 or adds is None or not self.component.plain:
            return None
        return lambda x: adds(x, name)


@dataclass(eq=False, slots=True)
class _Group:
    """What one SAE does at one component."""

    sae: SAE
    source: str | None
    edits: list[FeatureEdit] = field(default_factory=list)
    replace: bool = False

    def add(self, change: FeatureEdit | Replacement) -> None:
        if isinstance(change, Replacement):
            self.replace = True
        else:
            self.edits.append(change)


class HookedStep:
    """A function of the activation, which may look at all tokens of a pass at once."""

    by_token = False
    adds = None

    def __init__(self, function: Callable[[Array, Where], Array]):
        self._function = function

    def __call__(self, x: Array, moment: Moment) -> Array:
        return self._function(x, moment.where)


def _step(group: Any) -> Step | None:
    """What acts; None for what changes nothing."""
    if isinstance(group, Hooked):
        return HookedStep(group.function)
    if isinstance(group, DirectionEdit):
        return None if group.is_nothing else DirectionStep(group)
    if all(edit.is_nothing for edit in group.edits) and not group.replace:
        return None
    return FeatureStep(group.sae, group.edits, group.source, group.replace)


def _value(component: Component, run: Run, reader: str) -> Array:
    try:
        value = component.read(run)
    except LookupError as error:
        raise EditError(
            f"The edit of {reader} reads {component.name}, which the model has not computed by then. Read an earlier"
            " component, or the edited one itself."
        ) from error
    if isinstance(value, list):
        raise EditError(
            f"{component.name} is called {len(value)} times in one pass, so no one value can be read."
        )
    return value

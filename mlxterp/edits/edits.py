"""`Edit`: one change that steers a model; a plain value, made by `features` and `directions`.

An edit holds no native array; a step (`steps`) carries it out. `model.steer` and `model.generate(steer=…)` apply
several together, in order; as an `Intervention` an edit also works alone in `interventions={path: edit}`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ..core import checks
from ..core.sites import Array, Where
from ..errors import InputError
from ..interventions import Intervention
from ..sae import SAE
from .checks import SteeringPositions, check_component, check_float32, check_positions
from .conditions import Condition
from .rows import Moment
from .steps import DirectionStep, FeatureStep, Step, source_of


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Edit(Intervention):
    """A change of the activation at one component.

    Attributes:
        component: Path; None leaves it to the SAE's own, or to where the edit is used.
        positions: Where it acts; None and "all" mean every token, BOS included.
        when: Acts only on tokens where this holds.
        preserve_norm: Whether the activation of each token where it acts keeps its length.
    """

    component: str | None = None
    positions: SteeringPositions = None
    when: Condition | None = None
    preserve_norm: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", check_positions(self.positions))
        object.__setattr__(self, "component", check_component(self.component))
        object.__setattr__(self, "preserve_norm", checks.flag(self.preserve_norm, "preserve_norm"))

    @property
    def by_token(self) -> bool:
        """See `Intervention`."""
        return self.step().by_token

    def apply(self, activation: Array, where: Where) -> Array:
        """The edit alone, on an activation whose columns are the tokens that `where` tells."""
        return self.step()(activation, Moment(self.component or "the activation", where))

    def step(self) -> Step:
        """The step that carries it out, without other edits."""
        raise _not_made()

    def at(self, component: str) -> Edit:
        """The same edit at another component."""
        return replace(self, component=component)

    def restricted(self, positions: SteeringPositions) -> Edit:
        """The same edit at these positions, unless it names its own."""
        return self if self.positions is not None else replace(self, positions=positions)

    @property
    def does(self) -> str:
        """What it does, in words."""
        raise _not_made()

    @property
    def pushes(self) -> np.ndarray | None:
        """float64, (width,): the most that it adds, where activations have no part in that."""
        return None

    @property
    def is_nothing(self) -> bool:
        """Whether it changes nothing, whatever the activation."""
        return False

    def __repr__(self) -> str:
        parts = [self.does]
        parts += [f"at {self.component}"] if self.component else []
        parts += [f"positions={self.positions}"] if self.positions is not None else []
        parts += [f"when {self.when}"] if self.when is not None else []
        return f"<{', '.join(parts)}>"


def _not_made() -> AttributeError:
    return AttributeError("Edits are made by the functions of mlxterp.steering.")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class FeatureEdit(Edit):
    """A change of one feature of an SAE: `h + (new - old activation) × W_dec[feature]`, the error kept.

    Attributes:
        sae: The SAE whose feature changes.
        feature: The feature, in [0, sae.d_hidden).
        kind: What becomes of the feature's activation.
        number: A factor; an activation; or, for "add_norm", a multiple of each token's length.
    """

    sae: SAE
    feature: int
    kind: Literal["amplify", "clamp", "at_least", "add", "add_norm"]
    number: float

    def __post_init__(self) -> None:
        Edit.__post_init__(self)
        if not self.kind.endswith("norm"):
            checks.number(self.number, f"The {self.kind} of feature {self.feature}")
            check_float32(self.pushes, repr(self))

    def step(self) -> FeatureStep:
        """The step that carries it out, without other edits."""
        return FeatureStep(self.sae, [self], source_of(self.sae))

    @property
    def pushes(self) -> np.ndarray | None:
        """float64, (d_out,): the most that it adds, where activations have no part in that."""
        if self.kind in ("add", "clamp", "at_least"):
            return self.sae.W_dec[self.feature].astype(np.float64) * self.number
        return None

    @property
    def does(self) -> str:
        verb = {"add_norm": "add, in lengths of the activation,", "at_least": "clamp to at least"}
        return f"{verb.get(self.kind, self.kind)} {self.number:g} of feature {self.feature}"

    @property
    def is_nothing(self) -> bool:
        return self.number == {"amplify": 1.0, "add": 0.0, "add_norm": 0.0}.get(self.kind)

    @property
    def reads_feature(self) -> bool:
        """Whether the feature's activation must be known."""
        return not self.kind.startswith("add")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class DirectionEdit(Edit):
    """A change along a vector: added, projected out, or added where the activation has too little of it.

    Attributes:
        vector: float32, (width,): the vector.
        kind: What is done along the vector.
        number: A strength; for "project_out" the share that stays; for "swap" the share that is moved.
        threshold: For "threshold_add": h·v/‖v‖ below which it acts.
        other: float32, (width,): for "swap", the vector that it is moved to.
        cap: For "swap": the longest change, in lengths of the activation.
    """

    vector: np.ndarray
    kind: Literal["add", "add_norm", "project_out", "threshold_add", "swap"]
    number: float
    threshold: float | None = None
    other: np.ndarray | None = None
    cap: float | None = None

    def __post_init__(self) -> None:
        Edit.__post_init__(self)
        check_float32(self.pushes, repr(self))

    def step(self) -> DirectionStep:
        """The step that carries it out, without other edits."""
        return DirectionStep(self)

    @property
    def pushes(self) -> np.ndarray | None:
        """float64, (width,): what it adds, where activations have no part in that."""
        return self.vector.astype(np.float64) * self.number if self.kind in ("add", "threshold_add") else None

    @property
    def does(self) -> str:
        vector = _said(self.vector)
        return {
            "add": f"add {self.number:g} × {vector}",
            "add_norm": f"add {self.number:g} × the activation's length along {vector}",
            "project_out": f"project {vector} out to {self.number:g} of it",
            "threshold_add": f"add {self.number:g} × {vector} where there is less of it than {self.threshold}",
            "swap": f"move {self.number:g} of {vector} to {_said(self.other)}",
        }[self.kind]

    @property
    def is_nothing(self) -> bool:
        return self.number == (1.0 if self.kind == "project_out" else 0.0)

    @property
    def unit(self) -> np.ndarray:
        """float32, (width,): the vector at length 1."""
        return _unit(self.vector)

    @property
    def other_unit(self) -> np.ndarray:
        """float32, (width,): `other` at length 1."""
        assert self.other is not None
        return _unit(self.other)


def _unit(vector: np.ndarray) -> np.ndarray:
    return (vector / np.linalg.norm(vector.astype(np.float64))).astype(np.float32)


def _said(vector: np.ndarray | None) -> str:
    """A vector by a digest of its numbers."""
    return "none" if vector is None else f"direction {hashlib.sha256(vector.tobytes()).hexdigest()[:8]}"


def flattened(edits: Any) -> list[Edit]:
    """Edits given one by one, in lists, or both.

    Raises:
        InputError: Something else is among them.
    """
    found: list[Edit] = []
    for edit in edits:
        if isinstance(edit, Edit):
            found.append(edit)
        elif isinstance(edit, (list, tuple)):
            found += flattened(edit)
        else:
            raise InputError(
                f"Expected edits of mlxterp.steering, such as amplify(sae, 5, 2.0), got {type(edit).__name__}."
                " Functions on activations go into interventions={path: function}."
            )
    return found

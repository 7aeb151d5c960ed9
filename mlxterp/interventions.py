"""Changes to activations, ready to use in `trace`, `generate` and `gradients`.

    model.trace(text, interventions={"layers.3.mlp": zero_out(positions=-1)})

An intervention is any function `activation -> activation`. Those made here also know positions and
heads, so they mean the same in a padded batch, in a chunk of a long prompt and in a single new token.
They work on the arrays of either backend, and can be called on an array by hand.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .backends import backend_of
from .backends.fits import check_fits
from .backends.host.conversion import is_native, to_native, to_numpy
from .backends.host.item_access import checked_items
from .core import checks
from .core.integers import scalar
from .core.options import names_options
from .core.positions import Positions, checked_slice, full_mask, position_axis
from .core.sites import Array, Where
from .errors import EditError, InputError

__all__ = [
    "Intervention",
    "InterventionComposer",
    "add_vector",
    "clamp",
    "compose",
    "noise",
    "replace_with",
    "scale",
    "zero_out",
]


class Intervention:
    """A change to an activation, at some positions and heads.

    Args:
        function: (activation, where) -> activation, of the same shape.
        positions: A position, a slice or several positions; negative ones count from each text's
            own end. None means all.
        heads: Likewise, for per-head values (batch, heads, positions, …).
        by_token: Whether it changes each token by itself: texts may be given one by one or together, and there may be
            padding among them (at positions that no text has), which nothing looks at.
    """

    def __init__(
        self,
        function: Callable[[Array, Where], Array],
        positions: Positions = None,
        heads: Positions = None,
        name: str = "intervention",
        by_token: bool = False,
    ):
        self._by_token = by_token
        self._function = function
        for given in (positions, heads):
            if isinstance(given, slice):
                checked_slice(given)
        self._positions: Positions = positions
        self._heads: Positions = heads
        self._name = name

    def __repr__(self) -> str:
        places = [f"positions={self._positions}"] if self._positions is not None else []
        places += [f"heads={self._heads}"] if self._heads is not None else []
        return f"<{self._name}{' at ' if places else ''}{', '.join(places)}>"

    @property
    def by_token(self) -> bool:
        """Whether it changes each token by itself."""
        return self._by_token

    def __call__(self, activation: Array) -> Array:
        """The change on its own: positions are those of the array, which holds whole texts."""
        axis = {2: 0, 4: 2}.get(activation.ndim, 1)
        count = activation.shape[axis]
        batch = activation.shape[0] if axis else 1
        heads_first = activation.ndim == 4
        return self.apply(activation, Where(np.arange(count), np.full(batch, count), heads_first))

    def apply(self, activation: Array, where: Where) -> Array:
        """The change during a pass whose columns are the tokens that `where` tells."""
        mask = full_mask(activation.shape, self._positions, self._heads, where)
        if mask is not None and not mask.any():
            return activation
        changed = self._changed(activation, where)
        if mask is None or mask.all():
            return changed
        check_shape(changed, activation, self._name)
        return backend_of(activation).where(mask, changed, activation)

    def _changed(self, activation: Array, where: Where) -> Array:
        with checked_items(backend_of(activation), f"an array in {self._name}"):
            return self._function(activation, where)


class _Ready(Intervention):
    """One that is made here, whose function need not be watched."""

    def _changed(self, activation: Array, where: Where) -> Array:
        return self._function(activation, where)


def positions_of(change: Any) -> Positions:
    """The positions that an intervention names; None for those that name none, and for plain functions."""
    named = getattr(change, "_positions", None) if isinstance(change, Intervention) else None
    return getattr(change, "positions", None) if isinstance(change, Intervention) and named is None else named


def apply_change(change: Callable[[Array], Array], activation: Array, where: Where, name: str) -> Array:
    """Runs an intervention or a plain function, and checks what it returns.

    Raises:
        EditError: It returned something else than an array of the activation's shape and library.
    """
    backend = backend_of(activation)
    safe = backend.alias(activation)  # the function may write into it
    if isinstance(change, Intervention):
        changed = change.apply(safe, where)
    else:
        with checked_items(backend, f"an array in the intervention at {name}"):
            changed = change(safe)
    if not isinstance(changed, backend.array_type):
        raise EditError(
            f"The intervention at {name} returned {type(changed).__name__}; it must return the new"
            f" activation, a {backend.name} array of shape {tuple(activation.shape)}."
        )
    check_shape(changed, activation, f"The intervention at {name}")
    return changed if changed.dtype == activation.dtype else backend.cast(changed, activation)


def check_shape(changed: Array, activation: Array, who: str) -> None:
    """Raises `EditError` unless both have the same shape."""
    if tuple(changed.shape) != tuple(activation.shape):
        raise EditError(
            f"{who} gave shape {tuple(changed.shape)}, the activation has {tuple(activation.shape)}."
        )


def restrict(change: Callable[[Array], Array], positions: Positions, name: str) -> Intervention:
    """The same change, only at some positions of a text, or (in generation) at the "prompt" or what is "generated"."""
    alone = isinstance(change, Intervention) and change.by_token
    return _Ready(lambda x, where: apply_change(change, x, where, name), positions, None, name, alone)


# -- ready ones -------------------------------------------------------------------------------


@names_options
def zero_out(positions: Positions = None, heads: Positions = None) -> Intervention:
    """Sets the activation to zero.

    Examples:
        >>> from mlxterp import interventions
        >>> with model.trace("Lily lost her red", {"layers.3.attn.z": interventions.zero_out(heads=[0, 1])}) as t:
        ...     z = model.layers[3].attn.z  # (batch, heads, positions, width)
        >>> float(abs(z[:, :2]).sum()), tuple(z.shape)
        (0.0, (1, 6, 5, 32))
    """

    def function(x: Array, _where: Where) -> Array:
        backend = backend_of(x)
        return backend.where(np.array(False), x, backend.put(np.zeros((), np.float32), x))

    return _Ready(function, positions, heads, "zero_out", by_token=True)


@names_options
def scale(factor: Any, positions: Positions = None, heads: Positions = None) -> Intervention:
    """Multiplies the activation by `factor`: a number, or an array that broadcasts to it.

    Examples:
        >>> from mlxterp import interventions
        >>> model.generate("Lily lost her red", max_tokens=2, interventions={"layers.0.mlp": interventions.scale(0.0)})
        'to to'
    """
    if factor is None:
        raise InputError("scale(None): expected a number, or an array that broadcasts to the activation.")
    factor, known = _limit(factor, "factor"), set[str]()
    if not isinstance(factor, float):
        return _Ready(
            lambda x, _where: x * _fitting(factor, x, "scale", known),
            positions,
            heads,
            "scale",
            _same_for_all(factor),
        )

    def function(x: Array, _where: Where) -> Array:
        check_fits(factor, x, f"scale({factor:g})")
        return x * factor

    return _Ready(function, positions, heads, f"scale({factor:g})", by_token=True)


@names_options
def add_vector(vector: Any, positions: Positions = None, heads: Positions = None) -> Intervention:
    """Adds `vector`, which broadcasts to the activation (usually (d_model,))."""
    known: set[str] = set()
    return _Ready(
        lambda x, _where: x + _fitting(vector, x, "add_vector", known),
        positions,
        heads,
        "add_vector",
        _same_for_all(vector),
    )


@names_options
def replace_with(
    value: Any, positions: Positions = None, heads: Positions = None, align: str | None = None
) -> Intervention:
    """Puts `value`, which broadcasts to the activation, in its place.

    Args:
        align: "end" lays a value of fewer positions, (n, width) or (batch, n, width), at each text's end, "start" at
            its beginning; the other tokens stay. None broadcasts.

    Examples:
        >>> from mlxterp import interventions
        >>> short = model.trace("her red").activations["layers.1"][:, 1:]  # two tokens, without the beginning
        >>> put = {"layers.1": interventions.replace_with(short, align="end")}
        >>> tuple(model.trace("Lily lost her red", put).output.shape)
        (1, 5, 4096)
    """
    if align is not None:
        return Intervention(aligned(value, align), positions, heads, f"replace_with at the {align}")
    known: set[str] = set()

    def function(x: Array, _where: Where) -> Array:
        return backend_of(x).where(np.array(False), x, _fitting(value, x, "replace_with", known))

    return _Ready(function, positions, heads, "replace_with", _same_for_all(value))


@names_options
def clamp(
    low: Any = None,
    high: Any = None,
    positions: Positions = None,
    heads: Positions = None,
) -> Intervention:
    """Limits each value to [low, high], numbers or arrays that broadcast to it; None leaves that side open."""
    if low is None and high is None:
        raise InputError("clamp needs a lower or an upper limit.")
    low, high = _limit(low, "low"), _limit(high, "high")
    if low is not None and high is not None and np.any(to_numpy(low) > to_numpy(high)):
        raise InputError(f"clamp({low}, {high}): the lower limit is above the upper one.")

    def function(x: Array, _where: Where) -> Array:
        backend, plain = backend_of(x), (int, float, type(None))
        if isinstance(low, plain) and isinstance(high, plain):
            check_fits([limit for limit in (low, high) if limit is not None], x, "clamp")
            return backend.clip(x, low, high)
        limits = [
            None if one is None else backend.get(_fitting(one, x, "clamp", set())) for one in (low, high)
        ]
        old = backend.get(x)
        for limit, is_out in zip(limits, (np.less, np.greater), strict=True):
            if limit is not None:
                x = backend.where(
                    is_out(old, limit), backend.put(np.broadcast_to(limit, old.shape).copy(), x), x
                )
        return x

    return _Ready(function, positions, heads, "clamp", all(map(_same_for_all, (low, high))))


@names_options
def noise(
    std: float = 0.1, seed: int = 0, positions: Positions = None, heads: Positions = None
) -> Intervention:
    """Adds Gaussian noise of standard deviation `std`.

    The noise at a position depends on `seed` and the position alone, so it is the same in both
    backends, in every row of a batch, and whether a text is run whole or token by token.
    """
    std = checks.finite(scalar(std), "noise: std (a standard deviation is not negative)", 0.0, checks.LARGEST)
    seed = checks.seed(seed, "noise: seed")

    def function(x: Array, where: Where) -> Array:
        axis = position_axis(x.shape, where)
        rest = [n for i, n in enumerate(x.shape) if i != axis and i != 0]
        if axis == 0:
            rest = list(x.shape[1:])
        draws = [np.random.Generator(np.random.Philox(key=[seed, int(p)])) for p in where.positions]
        values = np.stack([g.standard_normal(rest, dtype=np.float32) for g in draws])
        values = np.moveaxis(values, 0, max(axis - 1, 0)) * np.float32(std)
        check_fits(values, x, f"noise({std:g})")
        return x + backend_of(x).put(values if axis == 0 else values[None], x)

    return _Ready(function, positions, heads, f"noise({std}, seed={seed})")


@names_options
def compose(
    *changes: Callable[[Array], Array], positions: Positions = None, heads: Positions = None
) -> Intervention:
    """Several interventions or functions, one after the other."""

    def function(x: Array, where: Where) -> Array:
        for change in changes:
            x = apply_change(change, x, where, "compose")
        return x

    alone = all(isinstance(change, Intervention) and change.by_token for change in changes)
    return _Ready(function, positions, heads, "compose", alone)


class InterventionComposer:
    """Several interventions one after the other, as the existing library composes them: `compose` does the same.

    Examples:
        >>> from mlxterp.interventions import InterventionComposer, clamp, scale
        >>> change = InterventionComposer().add(scale(0.5)).add(clamp(-1.0, 1.0)).build()
        >>> tuple(model.trace("Lily lost", {"layers.1.mlp": change}).output.shape)
        (1, 3, 4096)
    """

    def __init__(self) -> None:
        self._changes: list[Callable[[Array], Array]] = []

    def add(self, fn: Callable[[Array], Array]) -> InterventionComposer:
        """Adds an intervention, or a function of an activation, after the others; returns the composer."""
        self._changes += as_list(fn, "InterventionComposer.add")
        return self

    def build(self) -> Intervention:
        """One intervention of all that was added.

        Raises:
            InputError: Nothing was added.
        """
        if not self._changes:
            raise InputError(
                "This composer has no interventions yet: InterventionComposer().add(scale(0.5)).build()."
            )
        return compose(*self._changes)


def aligned(value: Any, align: str) -> Callable[[Array, Where], Array]:
    """A change that lays a value of fewer positions at the end, or the start, of each text.

    Raises:
        InputError: Another word, or a value of other axes.
    """
    align = checks.choice(align, "align", ("start", "end"))
    rows = to_numpy(value, "What replace_with is given")
    if rows.ndim not in (2, 3):
        raise InputError(
            f"align={align!r} takes a value (n, width) or (batch, n, width), got shape {rows.shape}."
        )
    rows = rows if rows.ndim == 3 else rows[None]

    def function(x: Array, where: Where) -> Array:
        if where.heads_first or len(x.shape) != 3 or where.columns != x.shape[1]:
            raise EditError(
                f"replace_with(align={align!r}) needs (batch, positions, width), got {tuple(x.shape)}."
            )
        if where.lengths is None:
            raise InputError(
                "align= counts in whole texts; in generation the end is open. Give positions= instead."
            )
        n = rows.shape[1]
        if rows.shape[2] != x.shape[2] or len(rows) not in (1, x.shape[0]) or n > where.lengths.min():
            raise EditError(
                f"replace_with(align={align!r}): shape {rows.shape} does not fit texts of {where.lengths.tolist()}"
                f" tokens and width {x.shape[2]}."
            )
        backend = backend_of(x)
        whole = np.zeros((*x.shape,), dtype=np.float32)
        mask = np.zeros((*x.shape[:2], 1), dtype=bool)
        for i, length in enumerate(where.lengths.tolist()):
            first = length - n if align == "end" else 0
            whole[i, first : first + n] = rows[i % len(rows)]
            mask[i, first : first + n] = True
        return backend.where(mask, backend.put(whole, x), x)

    return function


def _same_for_all(value: Any) -> bool:
    """Whether it is a number or one vector, and so the same for every text and token."""
    if hasattr(value, "shape"):
        return len(value.shape) < 2
    if not isinstance(value, (list, tuple)):
        return True
    return not any(isinstance(entry, (list, tuple)) or len(getattr(entry, "shape", ())) for entry in value)


def _limit(given: Any, what: str) -> Any:
    """A number, or what can be made an array; None stays.

    Raises:
        InputError: It is neither.
    """
    given = scalar(given)
    if given is None or is_native(given):
        return given
    array = to_numpy(given, what)
    return checks.number(float(array), what) if array.ndim == 0 else array


def as_list(changes: Any, name: str) -> Sequence[Callable[[Array], Array]]:
    """One function or a list of them, checked to be callable."""
    several = list(changes) if isinstance(changes, (list, tuple)) else [changes]
    for change in several:
        if not callable(change):
            raise InputError(
                f"The intervention at {name!r} is {type(change).__name__}; expected a function"
                " activation -> activation, or a list of them. See mlxterp.interventions."
            )
        _check_takes_one(change, name)
    return several


def _check_takes_one(change: Callable[..., Any], name: str) -> None:
    try:
        inspect.signature(change).bind(None)
    except TypeError as error:
        raise InputError(
            f"The intervention at {name!r} cannot be called with one activation: {error}. It is a function"
            " activation -> activation."
        ) from error
    except ValueError:  # a builtin without a signature
        return


def _fitting(value: Any, x: Array, who: str, known: set[str]) -> Array:
    """A value given by the user, as an array of x's library, dtype and device that broadcasts to x.

    Args:
        known: Dtypes that were found to hold the value.
    """
    if str(x.dtype) not in known:
        check_fits(to_numpy(value, f"What {who} is given", EditError), x, who)
        known.add(str(x.dtype))
    array = to_native(value, x, f"What {who} is given", EditError)
    try:
        fits = np.broadcast_shapes(tuple(array.shape), tuple(x.shape)) == tuple(x.shape)
    except ValueError:
        fits = False
    if not fits:
        raise EditError(
            f"{who}: shape {tuple(array.shape)} does not broadcast to the activation's {tuple(x.shape)}."
        )
    return array

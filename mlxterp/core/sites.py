"""Places in a forward pass where a value can be seen and changed.

A `Site` is what a backend knows: a module and one of its ports. A `Component` is what a user knows:
a named value, read from one or more sites and written back through one of them (`attn_out` of a
model that scales its branches by 0.5 is half of a module's output, and writing it doubles the new
value). Backends run `SiteEdit`s and return a `Run`; everything above them speaks of components.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from ..errors import ComponentError

Array = Any
"""A native array of either library."""

ATTENTION_PORTS = ("q", "k", "v", "z", "pattern")
"""Per-head values of an attention call: (batch, heads, positions, …)."""


@dataclass(frozen=True, slots=True)
class Site:
    """One port of one module, by the module's own path in the model's tree."""

    module: str
    """Native path, as the array library names it; "" is the model itself."""
    port: str = "output"
    """"output", "input" (first argument), "input:1" (second), or one of `ATTENTION_PORTS`, where
    `module` is the decoder block that holds the attention call."""

    def __str__(self) -> str:
        return f"{self.module or 'model'}.{self.port}"


@dataclass(frozen=True, eq=False, slots=True)
class Where:
    """Which tokens of the texts the values of a forward pass belong to.

    Attributes:
        positions: int64, (positions,): absolute position of each column (a chunk of a prompt starts later). Texts
            that are generated together may stand at different places: then int64, (batch, positions).
        lengths: int64, (batch,): tokens of each whole text; None in generation, where the end is open.
        heads_first: Whether values are per head, (batch, heads, positions, …), instead of (batch, positions, …).
        prompts: int64, (batch,): tokens of each text's prompt, in generation; else None.
        texts: int64, (batch,): which prompt each text continues, where several are generated together; else None.
    """

    positions: np.ndarray
    lengths: np.ndarray | None
    heads_first: bool = False
    prompts: np.ndarray | None = None
    texts: np.ndarray | None = None

    @classmethod
    def whole(cls, length: int, lengths: np.ndarray) -> Where:
        """All positions of texts that were padded to `length`."""
        return cls(_first_positions(length), lengths)

    @property
    def columns(self) -> int:
        """How many positions of each text the pass covers."""
        return self.positions.shape[-1]

    def of(self, first: int, end: int) -> Where:
        """The same for texts first…end of a generation; a single one has positions (positions,), as when alone."""
        positions = self.positions
        if positions.ndim == 2:
            positions = positions[first] if end - first == 1 else positions[first:end]
        prompts, texts = (None if x is None else x[first:end] for x in (self.prompts, self.texts))
        return replace(self, positions=positions, prompts=prompts, texts=texts)


@lru_cache(maxsize=64)
def _first_positions(length: int) -> np.ndarray:
    positions = np.arange(length)
    positions.flags.writeable = False
    return positions


@dataclass(eq=False, slots=True)
class Run:
    """What a forward pass left behind."""

    logits: Array | None
    """(batch, positions, vocabulary); None where the run stopped early."""
    values: dict[Site, list[Array]]
    """Values at each captured site, one for each call, edits included."""
    calls: dict[str, int]
    """How often each hooked module was called."""
    where: Where
    memory: Any = None
    """The backend's own record of the pass, from which an edited pass can be started midway."""


EditFunction = Callable[[Array, "Run", int], Array]
"""(value, the run so far, the number of this call) -> new value"""


Change = Callable[[Array, Where, Run], Array]
"""(value of a component, its tokens, the run so far) -> new value. One that gives back its very argument changes
nothing: a value that is only watched stays bit-identical."""


@dataclass(frozen=True, eq=False, slots=True)
class SiteEdit:
    """A change to the value at one site."""

    site: Site
    function: EditFunction
    call: int | None = None
    """Only at this call of the module (0-based); None at every call."""
    stage: int = 0
    """Edits of one site run by stage, then in the order given."""
    reads: tuple[Site, ...] = ()
    """Sites whose values of the same pass `function` looks up; the backend captures them."""
    by_token: bool = False
    """Whether each token is changed by itself, so that texts which share the edit can be given together."""
    first: int = 0
    """No token of a prompt before this position is changed."""
    adds: Callable[[Array], Array] | None = None
    """Where the edit only adds one vector to every token: gives the vector (width,), in the dtype and on the device of
    a value (batch, positions, width), or raises as `function` does."""


@dataclass(frozen=True, eq=False, slots=True)
class Component:
    """A named value of the forward pass."""

    name: str
    """Canonical name, such as "layers.3.attn_out"."""
    sites: tuple[Site, ...]
    """Where it is read from."""
    compute: Callable[[Sequence[Array]], Array]
    """The value, from one value of each site."""
    edits: Callable[[Change, int | None], Sequence[SiteEdit]]
    """Turns a change of the value (and a call number or None) into changes at sites."""
    note: str = ""
    """How it was found, where that is not plain from the name."""
    call: int | None = None
    """Only this call of the module; None means all of them."""
    last_call_only: bool = field(default=False)
    """A looped model passes here several times; a read answers for the last."""
    plain: bool = False
    """Whether it is simply what passes through its one site."""

    @property
    def place(self) -> tuple[Any, ...]:
        """Equal for two components whose values, and whose edits, are the same."""
        return (self.sites if self.plain else self.name, self.call)

    def read(self, run: Run) -> Array | list[Array]:
        """The value in `run`; a list where the module was called more than once.

        Raises:
            LookupError: A site was never reached.
            ComponentError: There was no such call.
        """
        columns = [run.values.get(site, []) for site in self.sites]
        count = min(len(column) for column in columns)
        if count == 0:
            raise LookupError(f"{self.name} was not reached")
        if self.call is not None:
            if self.call >= count:
                raise ComponentError(f"{self.name}: there were {count} calls, none numbered {self.call}")
            return self.compute([column[self.call] for column in columns])
        if self.last_call_only or count == 1:
            return self.compute([column[-1] for column in columns])
        return [self.compute(row) for row in zip(*columns, strict=False)]


def at_site(
    name: str,
    site: Site,
    *,
    stage: int = 0,
    call: int | None = None,
    note: str = "",
    last_call_only: bool = False,
) -> Component:
    """A component that is simply what passes through one site."""

    def edits(change: Change, number: int | None) -> list[SiteEdit]:
        return [SiteEdit(site, lambda x, run, _: change(x, run.where, run), number, stage)]

    return Component(name, (site,), lambda values: values[0], edits, note, call, last_call_only, plain=True)


def head_at_site(name: str, site: Site) -> Component:
    """A per-head value of an attention call.

    With a cache, k and v of the call are those of all tokens so far, so their positions are too.
    """

    def edits(change: Change, number: int | None) -> list[SiteEdit]:
        def function(x: Array, run: Run, _: int) -> Array:
            positions = run.where.positions
            if site.port in ("k", "v") and x.shape[2] != run.where.columns:
                if positions.ndim > 1 or x.shape[2] != positions[-1] + 1:  # merged caches do not come here
                    raise ComponentError(
                        f"{name}: this layer's cache keeps {x.shape[2]} keys of {positions.max() + 1} tokens,"
                        " so their positions are not known here. Edit the projection's module instead."
                    )
                positions = np.arange(x.shape[2])
            return change(x, replace(run.where, positions=positions, heads_first=True), run)

        return [SiteEdit(site, function, number)]

    return Component(name, (site,), lambda values: values[0], edits)


def unique_sites(components: Iterable[Component]) -> tuple[Site, ...]:
    """All sites that `components` are read from, each once, in order."""
    return tuple(dict.fromkeys(site for component in components for site in component.sites))

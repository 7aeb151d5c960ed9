"""`Trace`: see and change components inside a `with` block.

    with model.trace("The capital of France is") as t:
        model.layers[5].mlp.output[:, -1] += v      # values are real arrays, now
        late = model.layers[9].resid_post.save()    # reflects the edit above
    t.output, t.activations["layers.3.attn.pattern"], t.saved_values

The model runs when the block is entered. An assignment is recorded, and the next read (or the end)
runs the model again with all edits so far; calls that the new edit cannot reach are not run again,
so arrays read before stay what they are and nothing is computed twice. What was read or saved is
kept, everything else is dropped before it is ever evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import Token
from dataclasses import replace
from typing import Any

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..core.not_copied import NotCopied
from ..core.public_names import PublicNames
from ..core.sites import Array, Component, Run, Site, SiteEdit, unique_sites
from ..core.tokens import TokenBatch
from ..errors import ComponentError, EditError, TraceError, warn
from .arrays import array_methods
from .context import OPEN, OpenTraces
from .declared import Interventions, declared_edits
from .ledger import Ledger
from .results import Activations, SavedValues


class Trace(NotCopied, PublicNames):
    """One batch of texts run through a model, made by `model.trace`.

    Without `capture` every component can be read inside the block and, by running again with the same
    inputs and edits, after it. With `capture` only those are there.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        batch: TokenBatch,
        interventions: Interventions | None = None,
        capture: Sequence[str] | str | None = None,
        stop_after: str | None = None,
    ):
        self.anatomy = anatomy
        self._model = anatomy.model
        self._backend = anatomy.model.backend
        self._batch = batch
        self._declared = declared_edits(anatomy, interventions)
        """Edits that it began with; traces inside of it have them too."""
        names = [capture] if isinstance(capture, str) else capture
        self._capture = None if names is None else [anatomy.component(name) for name in names]
        self._stop = () if stop_after is None else anatomy.component(stop_after).sites
        self._ledger = Ledger(self._backend, batch)
        """What it handed out, and its edits so far."""
        self._asked: list[Site] = []
        """Sites beyond module outputs that were asked for."""
        self._run: Run | None = None
        self._edits_run = 0
        """How many edits the last run had."""
        self._read: dict[str, Component] = {}
        self._kept: dict[str, Any] = {}
        self._saved: dict[str, Any] = {}
        self._logits: Array | None = None
        self._done = False
        self._token: Token | None = None

    # -- the block ----------------------------------------------------------------------------

    def __enter__(self) -> Trace:
        if self._done or self._token is not None:
            raise TraceError("A trace runs once. Call model.trace(…) again for another.")
        outer = [t for t in OPEN.get() if t.anatomy.origin is self.anatomy.origin]
        self._ledger.edits = [edit for t in outer for edit in t._declared] + list(self._declared)
        self._run_model()
        self._methods = array_methods(self._backend, OpenTraces())
        self._methods.__enter__()
        self._token = OPEN.set((*OPEN.get(), self))
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        assert self._token is not None
        OPEN.reset(self._token)
        self._methods.__exit__(None, None, None)
        try:
            if kind is None:
                self._conclude()
        finally:
            self._run = None
            self._ledger.clear()
            self._done = True

    def _run_model(self) -> None:
        """Runs with all edits so far, from the earliest new one."""
        edits, stop = self._ledger.edits, self._stop
        if self._capture is not None:
            sites = unique_sites(self._capture)
            self._run = self._model.run(self._batch, sites, edits, stop_after=stop)
        else:
            self._run = self._model.run(
                self._batch, self._asked, edits, everything=True, reuse=self._run, stop_after=stop
            )
        self._edits_run = len(edits)

    def _current(self) -> Run:
        if self._edits_run != len(self._ledger.edits):
            self._run_model()
        assert self._run is not None
        return self._run

    def _conclude(self) -> None:
        run = self._current()
        kept = self._read if self._capture is None else {c.name: c for c in self._capture}
        for name, component in kept.items():
            self._kept[name] = self._each(self._value(component), self._backend.compact)
        self._logits = run.logits
        self._warn_of_unseen_changes()
        self._ledger.clear()
        run.memory, run.values, self._run = None, {}, None  # before anything is evaluated
        del run, kept
        arrays = [a for v in (*self._kept.values(), *self._saved.values()) for a in _flat(v)]
        self._backend.evaluate([*arrays, *([] if self._logits is None else [self._logits])])

    def _warn_of_unseen_changes(self) -> None:
        for component in self._ledger.unseen():
            warn(
                f"{component.name} was changed in place by a method that a trace does not notice,"
                " which is no edit. Use *=, +=, item assignment, or assign the result."
            )

    def _results(self) -> None:
        if self._token is None:  # never used as a block
            with self:
                pass
        elif not self._done:
            raise TraceError("Results are there after the block; inside it, read model.layers[…] directly.")

    # -- inside the block ---------------------------------------------------------------------

    def read(self, name: str | Component) -> Any:
        """The component's value with the edits made so far; a list where it is called several times."""
        component = self.anatomy.component(name)
        value = self._value(component)
        self._read[component.name] = component
        if isinstance(value, list):
            calls = [replace(component, name=f"{component.name}#{i}", call=i) for i in range(len(value))]
            return [self._ledger.hand_out(x, call) for x, call in zip(value, calls, strict=True)]
        return self._ledger.hand_out(value, component)

    def _value(self, component: Component) -> Any:
        if self._capture is not None and component.name not in {c.name for c in self._capture}:
            raise TraceError(
                f"{component.name} is not in this trace's capture={[c.name for c in self._capture]}. Add it"
                " there, or leave capture out to reach everything."
            )
        run = self._current()
        if self._capture is None and (beyond := self._not_asked(component)):
            run = self._ask(beyond)
        missing = self._missing_sites(component, run)
        if missing:
            raise self._why(component, missing[0], run)
        return component.read(run)

    def _not_asked(self, component: Component) -> list[Site]:
        """Sites that no run was asked for yet; outputs of modules need not be."""
        return [site for site in component.sites if site.port != "output" and site not in self._asked]

    def _ask(self, sites: Sequence[Site]) -> Run:
        """The run with these sites too, from now on."""
        before = self._asked
        self._asked = [*before, *sites]
        try:
            self._run_model()
        except ComponentError:
            self._asked = before
            raise
        return self._current()

    @staticmethod
    def _missing_sites(component: Component, run: Run) -> list[Site]:
        return [site for site in component.sites if not run.values.get(site)]

    def _why(self, component: Component, site: Site, run: Run) -> ComponentError:
        """Why a run passed a site by."""
        if self._stop:
            return ComponentError(
                f"{component.name} was not reached before the trace stopped (stop_after=…)."
            )
        return self._model.not_reached(site, run.calls)

    @staticmethod
    def _each(value: Any, function: Callable[[Array], Array]) -> Any:
        return [function(x) for x in value] if isinstance(value, list) else function(value)

    def assign(self, name: str | Component, value: Any) -> None:
        """Puts `value` in place of the component's: a number, lists of numbers, or an array of any library.

        Raises:
            EditError: Another shape, or not floating-point numbers.
        """
        component = self.anatomy.component(name)
        current = self._value(component)
        if isinstance(current, list):
            raise EditError(
                f"{component.name} is called {len(current)} times in one pass; name the call, such as"
                f" '{component.name}#0', or use interventions= to change all of them."
            )
        self._ledger.assign(component, value, current)

    def take(self, edits: Sequence[SiteEdit]) -> None:
        """Lets further edits act on this trace, from now on and to its end, as if they had been assigned here."""
        self._ledger.edits += edits

    def save(self, value: Any, name: str | None = None) -> Any:
        """Keeps an array after the block, in `saved_values`; returns it."""
        if name is None:
            given = self._ledger.find(value)
            whole = given is not None and given.parent is None
            name = given.component.name if given and whole else f"value_{len(self._saved)}"
        self._saved[name] = self._each(value, self._backend.compact)
        return self._saved[name]

    # -- after the block ----------------------------------------------------------------------

    @property
    def output(self) -> Array:
        """Logits (batch, positions, vocabulary), batch 1 for one text.

        Raises:
            TraceError: The run stopped before there were any.
        """
        self._results()
        if self._logits is None:
            raise TraceError("This trace stopped early (stop_after=…), or failed, so it has no logits.")
        return self._logits

    @property
    def activations(self) -> Activations:
        """Values by path: kept ones at once, others by running again with the same inputs and edits."""
        self._results()
        captured = None if self._capture is None else [c.name for c in self._capture]
        return Activations(self.anatomy, self._again, captured, list(self._kept))

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a component, within the block or after it; `default` where there is no such component.

        `get_activation` is another name of it.
        """
        if not self.anatomy.names.knows(name):
            return self._saved.get(name, default)
        return self.read(name) if self._token is not None and not self._done else self.activations[name]

    get_activation = get

    @property
    def saved_values(self) -> dict[str, Any]:
        """What `.save()` was called on, by component name (or the name given)."""
        self._results()
        return SavedValues(self.anatomy, self._saved)

    @property
    def tokens(self) -> np.ndarray:
        """int32, (batch, longest): the token ids that were run; padding beyond `lengths`."""
        return self._batch.ids

    @property
    def lengths(self) -> np.ndarray:
        """int64, (batch,): tokens of each text."""
        return self._batch.lengths

    @property
    def last(self) -> Array:
        """Native integers (batch,): the index of each text's last token, for indexing native arrays."""
        return self._backend.put(self._batch.last.astype(np.int32))

    @property
    def last_logits(self) -> Array:
        """Logits (batch, vocabulary) at each text's last token: what comes next."""
        return self.output[self._backend.put(np.arange(len(self.lengths), dtype=np.int32)), self.last]

    def _again(self, components: Sequence[Component]) -> list[Any]:
        """Values of components; those that were not kept come from another pass."""
        missing = [component for component in components if component.name not in self._kept]
        found: dict[str, Any] = {}
        if missing and self._capture is not None:
            self._value(missing[0])  # raises
        if missing:
            sites = unique_sites(missing)
            run = self._model.run(self._batch, sites, self._ledger.edits, stop_after=sites)
            found = {component.name: component.read(run) for component in missing}
            self._backend.evaluate([array for value in found.values() for array in _flat(value)])
        return [found[c.name] if c.name in found else self._kept[c.name] for c in components]

    def __repr__(self) -> str:
        state = "done" if self._done else "open" if self._token else "not run yet"
        return f"<Trace of {len(self.lengths)} text(s), {int(self.lengths.sum())} tokens, {state}>"


def _flat(value: Any) -> list[Array]:
    return list(value) if isinstance(value, list) else [value]

"""The frozen pass of an MLX model: recorded once, replayed with other sources, differentiated (see `core.frozen`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

from ...core.frozen import EMBED, LOGITS, NO_BLOCK, FrozenPlaces, Key, ReadAt, Reading, SourceVectors
from ...core.sites import Change, Run, Site, SiteEdit, Where, unique_sites
from ...core.tokens import TokenBatch
from ..frozen import PromptPass, calls_of, check_cached, streams_first
from ..host.columns import ColumnPlan
from .attention import PATCHES, own_scale
from .batching import cast_like
from .freeze import Constants, FrozenTracer, Wrapped, constant_parts, patches_for
from .modes import settled
from .swap import eager, hooked, unobserved


class MLXFrozenPass:
    """See `FrozenPass`."""

    _plan: ColumnPlan

    def __init__(
        self, model: Wrapped, ids: Sequence[int], places: FrozenPlaces,
        not_reached: Callable[[Site, Mapping[str, int]], Exception],
    ):  # fmt: skip
        self._model, self._ids, self._places = model, list(ids), places
        self._not_reached = not_reached
        self._parts = constant_parts(model.tree) if places.hold == "all" else []
        self._patches = patches_for(places.hold)  # looking for them takes as long as a small pass
        self._constants = Constants()
        self._sources: dict[Key, mx.array] = {}
        self._skips = {key: mx.array(skip) for key, skip in places.skips.items()}
        self._columns: tuple[Any, list[mx.array]] = (None, [])
        self._streams_first = False
        self.heads: dict[Key, int] = {}
        self.scales: dict[int, float] = {}
        inputs, logits = self._run(None, 1)
        mx.eval(self._sources, list(inputs.values()), logits, self._constants.items)
        self.sources = {key: np.array(value)[0] for key, value in self._sources.items()}
        self.base = _reading(inputs, logits)

    @property
    def held(self) -> int:
        """See `FrozenPass`."""
        return len(self._constants.items)

    def read(
        self, changes: Mapping[Key, np.ndarray], *, origin: bool = False, edits: Sequence[SiteEdit] = ()
    ) -> Reading:
        """See `FrozenPass`."""
        rows = next((len(change) for change in changes.values()), 1)
        inputs, logits = self._run(self._changed(changes, origin), rows, edits=edits)
        mx.eval(list(inputs.values()), logits)
        return _reading(inputs, logits)

    def _changed(self, changes: Mapping[Key, np.ndarray], origin: bool = False) -> dict[Key, mx.array]:
        """The sources with changes added."""
        sources: dict[Key, mx.array] = {} if origin else dict(self._sources)
        if self._places.hold != "all":
            sources = {EMBED: self._sources[EMBED]}
        for key, change in changes.items():
            added = mx.array(np.asarray(change, dtype=np.float32))
            sources[key] = sources[key] + added if key in sources else added
        return sources

    def rows(
        self, targets: Sequence[ReadAt], columns: Sequence[SourceVectors],
        heads: Mapping[Key, np.ndarray] | None = None,
    ) -> np.ndarray:  # fmt: skip
        """See `FrozenPass`."""
        if self._columns[0] is not columns:
            self._plan = ColumnPlan(columns)
            self._columns = columns, [mx.array(block.vectors) for block in self._plan.blocks]
        keys = list(dict.fromkeys(column.key for column in columns))
        factors = {key: mx.array(factor) for key, factor in (heads or {}).items()}
        zeros = [mx.zeros((len(targets), *self._sources[key].shape[1:])) for key in keys]

        def objective(sources: list[mx.array]) -> mx.array:
            inputs, logits = self._run(dict(zip(keys, sources, strict=True)), len(targets), factors=factors)
            return _total(targets, inputs, logits)

        gradients = dict(zip(keys, mx.grad(objective)(zeros), strict=True))
        products = [
            _products(gradients[block.key], block.positions, vectors)
            for block, vectors in zip(self._plan.blocks, self._columns[1], strict=True)
        ]
        mx.eval(products)
        return self._plan.gathered([np.array(product) for product in products])

    def prompt_pass(self, changes: Mapping[Key, np.ndarray], edits: Sequence[SiteEdit] = ()) -> PromptPass:
        """See `FrozenPass`."""

        def run(ids: mx.array, cache: list[Any], **options: Any) -> mx.array:
            inputs, logits = self._passed(
                self._changed(changes), 1, edits=edits, options={**options, "cache": cache}
            )
            mx.eval(list(inputs.values()))
            check_cached(
                _reading(inputs, logits[:, -1]), self.read(changes, edits=edits), self._model.model_type
            )
            plain: Any = make_prompt_cache(self._model.module)
            with settled(self._model.tree), unobserved():
                self._model.module(ids, cache=plain, **options)  # only to see its dtypes: never computed
            cast_like(cache, plain)
            return logits

        return run

    def first(self, positions: int) -> MLXFrozenPass:
        """See `FrozenPass`."""
        return MLXFrozenPass(self._model, self._ids[:positions], self._places, self._not_reached)

    # -- one pass -----------------------------------------------------------------------------

    def _run(
        self,
        sources: Mapping[Key, mx.array] | None,
        rows: int,
        *,
        factors: Mapping[Key, mx.array] | None = None,
        edits: Sequence[SiteEdit] = (),
    ) -> tuple[dict[Key, mx.array], mx.array]:
        """What is read, by key, and the logits of the last position; `sources` of None records."""
        read, logits = self._passed(sources, rows, factors=factors, edits=edits)
        return read, logits[:, -1].astype(mx.float32)

    def _passed(
        self,
        sources: Mapping[Key, mx.array] | None,
        rows: int,
        *,
        factors: Mapping[Key, mx.array] | None = None,
        edits: Sequence[SiteEdit] = (),
        options: Mapping[str, Any] | None = None,
    ) -> tuple[dict[Key, mx.array], mx.array]:
        """What is read, by key, and all logits, with `options` after a final soft cap."""
        model, places = self._model, self._places
        batch = TokenBatch.from_rows([self._ids] * rows)
        run = Run(None, {}, {}, Where.whole(len(self._ids), batch.lengths))
        edits, sites = [*self._edits(sources, rows), *edits], unique_sites(places.inputs.values())
        tracer = FrozenTracer(
            model, sites, [*edits, *self._parts], run, places, self._constants, recording=sources is None,
            factors={(model.layers[layer], call): factor for (layer, call), factor in (factors or {}).items()},
            capped=options is not None,
        )  # fmt: skip
        patched = PATCHES.replaced(self._patches)
        with settled(model.tree), patched, eager(), hooked(tracer):
            logits: Any = model.module(mx.array(batch.ids), **(options or {}))
        for site in (*sites, *(edit.site for edit in edits)):
            if site not in tracer.reached:
                raise self._not_reached(site, tracer.calls())
        tracer.finish()
        if sources is None:
            self._note(tracer)
        read = {
            key: self._by_text(component.compute(values).astype(mx.float32), rows)
            for layer, component in places.inputs.items()
            for key, values in calls_of(layer, (run.values[site] for site in component.sites))
        }
        return read, logits

    def _note(self, tracer: FrozenTracer) -> None:
        """Heads and scales, by layer."""
        self.heads |= {NO_BLOCK: 0} if tracer.outside else {}
        for layer, path in enumerate(self._model.layers):
            self.heads |= {(layer, call): n for (block, call), n in tracer.heads.items() if block == path}
            scale = tracer.scales.get(path)
            if scale is None:
                scale = own_scale(self._model.model_type, self._model.tree.by_path[path].module)
            if scale is not None:
                self.scales[layer] = scale

    def _edits(self, sources: Mapping[Key, mx.array] | None, rows: int) -> list[SiteEdit]:
        edits = list(self._places.embed.edits(self._embed(sources, rows), 0))
        for layer, component in self._places.outputs.items():
            edits += component.edits(self._output(layer, sources, rows), None)
        return edits

    def _embed(self, sources: Mapping[Key, mx.array] | None, rows: int) -> Change:
        def change(x: mx.array, _where: Where, _run: Run) -> mx.array:
            if sources is None:
                self._streams_first = streams_first(tuple(x.shape), len(self._ids), self._model.model_type)
                self._sources[EMBED] = self._by_text(mx.stop_gradient(x.astype(mx.float32)), rows)
                return self._as_passed(self._sources[EMBED], x)
            return self._as_passed(self._given(sources, EMBED, rows), x)

        return change

    def _output(self, layer: int, sources: Mapping[Key, mx.array] | None, rows: int) -> Change:
        numbers, all_held = count(), self._places.hold == "all"

        def change(x: mx.array, _where: Where, run: Run) -> mx.array:
            key = layer, next(numbers)
            if sources is None:
                found = self._by_text(x.astype(mx.float32), rows)
                self._sources[key] = mx.stop_gradient(found - self._skip(key, run, rows))
                return self._as_passed(mx.stop_gradient(found) if all_held else found, x)
            if not all_held:
                return x + self._as_passed(self._given(sources, key, rows), x) if key in sources else x
            return self._as_passed(self._given(sources, key, rows) + self._skip(key, run, rows), x)

        return change

    def _given(self, sources: Mapping[Key, mx.array], key: Key, rows: int) -> mx.array:
        shape = (rows, *self._sources[key].shape[1:])
        return mx.broadcast_to(sources[key], shape) if key in sources else mx.zeros(shape)

    def _skip(self, key: Key, run: Run, rows: int) -> mx.array | float:
        """What goes from the input of this layer's transcoder, in its latest call, straight to its output."""
        skip = self._skips.get(key)
        if skip is None:
            return 0.0
        component = self._places.inputs[key[0]]
        value = component.compute([run.values[site][-1] for site in component.sites])
        return self._by_text(value.astype(mx.float32), rows) @ skip

    def _by_text(self, x: mx.array, rows: int) -> mx.array:
        """(rows, positions, width), however the model lays its tokens and streams out."""
        if x.ndim == 3:
            return x
        if self._streams_first and tuple(x.shape[1:3]) == (rows, len(self._ids)):
            x = mx.moveaxis(x, 0, 2)
        return x.reshape(rows, len(self._ids), -1)

    def _as_passed(self, value: mx.array, like: mx.array) -> mx.array:
        """The other way round: a value by texts, as the model passes `like`."""
        if self._streams_first and like.ndim == 4 and tuple(like.shape[1:3]) == tuple(value.shape[:2]):
            streams = value.reshape(*value.shape[:2], like.shape[0], -1)
            return mx.moveaxis(streams, 2, 0)
        return value.reshape(like.shape)


def _total(targets: Sequence[ReadAt], inputs: Mapping[Key, mx.array], logits: mx.array) -> mx.array:
    """The sum of all targets, each read from its own row."""
    total = mx.array(0.0)
    for key in dict.fromkeys(target.key for target in targets):
        of_key = [(row, target) for row, target in enumerate(targets) if target.key == key]
        rows = mx.array([row for row, _ in of_key])
        directions = mx.array(np.stack([target.direction for _, target in of_key]))
        if key == LOGITS:
            total = total + (logits[rows] * directions).sum()
        else:
            positions = mx.array([target.position for _, target in of_key])
            total = total + (inputs[key][rows, positions] * directions).sum()
    return total


def _products(gradient: mx.array, positions: np.ndarray, vectors: mx.array) -> mx.array:
    """(blocks, rows, size): the gradient (rows, positions, width) at each block's position, times its vectors."""
    by_position = gradient.transpose(1, 0, 2)
    if not np.array_equal(positions, np.arange(gradient.shape[1])):
        by_position = by_position[mx.array(positions)]
    return by_position @ vectors


def _reading(inputs: Mapping[Key, mx.array], logits: mx.array) -> Reading:
    return Reading({key: np.array(value) for key, value in inputs.items()}, np.array(logits))

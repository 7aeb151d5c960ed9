"""The frozen pass of a torch model: recorded once, replayed with other sources, differentiated (see `core.frozen`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import nn

from ...core.frozen import EMBED, LOGITS, NO_BLOCK, FrozenPlaces, Key, ReadAt, Reading, SourceVectors
from ...core.sites import Change, Run, Site, SiteEdit, Where, unique_sites
from ...core.tokens import TokenBatch
from ..frozen import PromptPass, calls_of, check_cached, streams_first
from ..host.columns import ColumnPlan
from .attention import attention_seen
from .batching import cast_like
from .freeze import Constants, FrozenTracer, Held
from .modes import settled
from .swap import hooked, unobserved
from .tree import ModuleTree
from .values import logits_of


@dataclass(frozen=True, eq=False, slots=True)
class Wrapped:
    """The model that a frozen pass runs, and how."""

    module: nn.Module
    tree: ModuleTree
    layers: tuple[str, ...]
    options: Mapping[str, Any]
    device: torch.device | None
    not_reached: Callable[[Site, Mapping[str, int]], Exception]


@dataclass(eq=False, slots=True)
class _Live:
    """A batch's pass whose graph is kept, so that each further batch is a backward pass only."""

    rows: int
    sources: dict[Key, torch.Tensor]
    inputs: dict[Key, torch.Tensor]
    logits: torch.Tensor


_FULL = 0.8
"""A pass that was made for more rows is taken where at least this share of them is wanted."""


class TorchFrozenPass:
    """See `FrozenPass`."""

    _plan: ColumnPlan

    def __init__(self, model: Wrapped, ids: Sequence[int], places: FrozenPlaces):
        self._model, self._ids, self._places = model, list(ids), places
        self._constants = Constants()
        self._sources: dict[Key, torch.Tensor] = {}
        self._skips = {key: self._put(skip) for key, skip in places.skips.items()}
        self._columns: tuple[Any, list[torch.Tensor]] = (None, [])
        self._live: _Live | None = None
        self._skipped = _skipped(model.tree, places)
        self._streams_first = False
        self.heads: dict[Key, int] = {}
        self.scales: dict[int, float] = {}
        inputs, logits = self._run(None, 1)
        self.sources = {key: value[0].cpu().numpy() for key, value in self._sources.items()}
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
        return _reading(*self._run(self._changed(changes, origin), rows, edits=edits))

    def _changed(self, changes: Mapping[Key, np.ndarray], origin: bool = False) -> dict[Key, torch.Tensor]:
        """The sources with changes added."""
        sources = {} if origin else dict(self._sources)
        if self._places.hold != "all":
            sources = {EMBED: self._sources[EMBED]}
        for key, change in changes.items():
            added = self._put(change)
            sources[key] = sources[key] + added if key in sources else added
        return sources

    def rows(
        self, targets: Sequence[ReadAt], columns: Sequence[SourceVectors],
        heads: Mapping[Key, np.ndarray] | None = None,
    ) -> np.ndarray:  # fmt: skip
        """See `FrozenPass`."""
        if self._columns[0] is not columns:
            self._plan = ColumnPlan(columns)
            self._columns = columns, [self._put(block.vectors) for block in self._plan.blocks]
        keys = list(dict.fromkeys(column.key for column in columns))
        live = self._kept(keys, len(targets)) if heads is None else self._made(keys, len(targets), heads)
        values, gradients = _cotangents(targets, live.inputs, live.logits)
        leaves = [live.sources[key] for key in keys]
        got: Sequence[torch.Tensor | None] = [None] * len(leaves)
        if live_values := [(v, g) for v, g in zip(values, gradients, strict=True) if v.requires_grad]:
            got = torch.autograd.grad(
                [v for v, _ in live_values], leaves, [g for _, g in live_values], retain_graph=True,
                allow_unused=True,
            )  # fmt: skip
        found = {
            key: torch.zeros_like(leaf) if g is None else g
            for key, leaf, g in zip(keys, leaves, got, strict=True)
        }
        products = [
            _products(found[block.key][: len(targets)], block.positions, vectors)
            for block, vectors in zip(self._plan.blocks, self._columns[1], strict=True)
        ]
        return self._plan.gathered([product.cpu().numpy() for product in products])

    def _put(self, x: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(np.array(x, dtype=np.float32), device=self._model.device)

    def _kept(self, keys: Sequence[Key], rows: int) -> _Live:
        """The pass of a batch of so many rows, or of a few more, made once."""
        live = self._live
        if live is None or not _FULL * live.rows <= rows <= live.rows or list(live.sources) != list(keys):
            live = self._live = None  # two graphs are not held at once
            live = self._live = self._made(keys, rows)
        return live

    def prompt_pass(self, changes: Mapping[Key, np.ndarray], edits: Sequence[SiteEdit] = ()) -> PromptPass:
        """See `FrozenPass`."""
        model = self._model

        def run(ids: torch.Tensor, **options: Any) -> Any:
            read, out = self._passed(self._changed(changes), 1, edits=edits, options=options)
            found = _reading(read, logits_of(out)[:, -1].float())
            check_cached(found, self.read(changes, edits=edits), type(model.module).__name__)
            if any(p.dtype in (torch.float16, torch.bfloat16) for p in model.module.parameters()):
                with settled(model.tree), unobserved():
                    cast_like(out, model.module(ids, **options))
            return out

        return run

    def first(self, positions: int) -> TorchFrozenPass:
        """See `FrozenPass`."""
        return TorchFrozenPass(self._model, self._ids[:positions], self._places)

    def _made(self, keys: Sequence[Key], rows: int, heads: Mapping[Key, np.ndarray] | None = None) -> _Live:
        """A pass of so many rows."""
        factors = {key: self._put(factor) for key, factor in (heads or {}).items()}
        shapes = {key: (rows, *self._sources[key].shape[1:]) for key in keys}
        sources = {
            key: torch.zeros(shape, device=self._model.device, requires_grad=True)
            for key, shape in shapes.items()
        }
        return _Live(rows, sources, *self._run(sources, rows, gradients=True, factors=factors))

    # -- one pass -----------------------------------------------------------------------------

    def _run(
        self,
        sources: Mapping[Key, torch.Tensor] | None,
        rows: int,
        gradients: bool = False,
        factors: Mapping[Key, torch.Tensor] | None = None,
        edits: Sequence[SiteEdit] = (),
    ) -> tuple[dict[Key, torch.Tensor], torch.Tensor]:
        """What is read, by key, and the logits of the last position; `sources` of None records."""
        read, out = self._passed(sources, rows, gradients=gradients, factors=factors, edits=edits)
        with torch.set_grad_enabled(gradients):
            return read, logits_of(out)[:, -1].float()

    def _passed(
        self,
        sources: Mapping[Key, torch.Tensor] | None,
        rows: int,
        *,
        gradients: bool = False,
        factors: Mapping[Key, torch.Tensor] | None = None,
        edits: Sequence[SiteEdit] = (),
        options: Mapping[str, Any] | None = None,
    ) -> tuple[dict[Key, torch.Tensor], Any]:
        """What is read, by key, and what the model returns, with `options` after a final soft cap."""
        model, places, recording = self._model, self._places, sources is None
        batch = TokenBatch.from_rows([self._ids] * rows)
        run = Run(None, {}, {}, Where.whole(len(self._ids), batch.lengths))
        edits, sites = [*self._edits(sources, rows), *edits], unique_sites(places.inputs.values())
        wanted = list(dict.fromkeys([*sites, *(read for edit in edits for read in edit.reads)]))
        tracer = FrozenTracer(
            model.tree, model.layers, wanted, edits, run, places, self._constants,
            recording=recording, rows=rows, skipped=self._skipped,
            factors={(model.layers[layer], call): factor for (layer, call), factor in (factors or {}).items()},
            capped=options is not None,
        )  # fmt: skip
        held = Held(tracer, places, self._constants, recording=recording)
        ids = torch.as_tensor(batch.ids.astype(np.int64), device=model.device)
        with settled(model.tree, gradients=gradients), attention_seen(tracer), hooked(tracer), held:
            out = model.module(ids, **(model.options if options is None else options))
        for site in (*sites, *(edit.site for edit in edits)):
            if site not in tracer.reached:
                raise model.not_reached(site, tracer.counts)
        held.finish()
        if recording:
            paths = dict(enumerate(model.layers))
            number = {path: layer for layer, path in paths.items()}
            self.heads = {(number[path], call): n for (path, call), n in tracer.heads.items()}
            self.heads |= {NO_BLOCK: 0} if tracer.outside else {}
            self.scales = {n: tracer.scales[path] for n, path in paths.items() if path in tracer.scales}
        with torch.set_grad_enabled(gradients):
            read = {
                key: self._by_text(component.compute(values).float(), rows)
                for layer, component in places.inputs.items()
                for key, values in calls_of(layer, (run.values[site] for site in component.sites))
            }
        return read, out

    def _edits(self, sources: Mapping[Key, torch.Tensor] | None, rows: int) -> list[SiteEdit]:
        edits = list(self._places.embed.edits(self._embed(sources, rows), 0))
        for layer, component in self._places.outputs.items():
            edits += component.edits(self._output(layer, sources, rows), None)
        return edits

    def _embed(self, sources: Mapping[Key, torch.Tensor] | None, rows: int) -> Change:
        def change(x: torch.Tensor, _where: Where, _run: Run) -> torch.Tensor:
            if sources is None:
                self._streams_first = streams_first(
                    tuple(x.shape), len(self._ids), type(self._model.module).__name__
                )
                self._sources[EMBED] = self._by_text(x.detach().float(), rows)
                return self._as_passed(self._sources[EMBED], x)
            return self._as_passed(self._given(sources, EMBED, rows), x)

        return change

    def _output(self, layer: int, sources: Mapping[Key, torch.Tensor] | None, rows: int) -> Change:
        numbers, all_held = count(), self._places.hold == "all"

        def change(x: torch.Tensor, _where: Where, run: Run) -> torch.Tensor:
            key = layer, next(numbers)
            if sources is None:
                found = self._by_text(x.detach().float(), rows)
                self._sources[key] = found - self._skip(key, run, rows)
                return self._as_passed(found, x)
            if not all_held:
                return x + self._as_passed(self._given(sources, key, rows), x) if key in sources else x
            return self._as_passed(self._given(sources, key, rows) + self._skip(key, run, rows), x)

        return change

    def _given(self, sources: Mapping[Key, torch.Tensor], key: Key, rows: int) -> torch.Tensor:
        known = self._sources[key]
        shape = (rows, *known.shape[1:])
        return sources[key].expand(shape) if key in sources else known.new_zeros(shape)

    def _skip(self, key: Key, run: Run, rows: int) -> torch.Tensor | float:
        """What goes from the input of this layer's transcoder, in its latest call, straight to its output."""
        skip = self._skips.get(key)
        if skip is None:
            return 0.0
        component = self._places.inputs[key[0]]
        value = component.compute([run.values[site][-1] for site in component.sites])
        return self._by_text(value.float(), rows) @ skip

    def _by_text(self, x: torch.Tensor, rows: int) -> torch.Tensor:
        """(rows, positions, width), however the model lays its tokens and streams out."""
        if x.ndim == 3:
            return x
        if self._streams_first and tuple(x.shape[1:3]) == (rows, len(self._ids)):
            x = x.movedim(0, 2)
        return x.reshape(rows, len(self._ids), -1)

    def _as_passed(self, value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """The other way round: a value by texts, as the model passes `like`."""
        if self._streams_first and like.ndim == 4 and tuple(like.shape[1:3]) == tuple(value.shape[:2]):
            streams = value.reshape(*value.shape[:2], like.shape[0], -1)
            return streams.movedim(2, 0)
        return value.reshape(like.shape)


def _skipped(tree: ModuleTree, places: FrozenPlaces) -> frozenset[str]:
    """Modules that only make what is replaced: they need not run again."""
    if places.hold != "all":
        return frozenset()
    plain = [component for component in places.outputs.values() if component.plain]
    made = {site.module for component in plain for site in component.sites if site.port == "output"}
    needed = [
        site.module
        for component in (*places.outputs.values(), *places.inputs.values())
        for site in component.sites
    ]
    return frozenset(
        path for path in made | places.dead
        if path in tree.by_path and not any(module.startswith(f"{path}.") for module in needed)
    )  # fmt: skip


def _cotangents(
    targets: Sequence[ReadAt], inputs: Mapping[Key, torch.Tensor], logits: torch.Tensor
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What the targets are read from, and the direction of each in its own row."""
    values, directions = [], []
    for key in dict.fromkeys(target.key for target in targets):
        value = logits if key == LOGITS else inputs[key]
        direction = torch.zeros_like(value)
        for row, target in enumerate(targets):
            if target.key == key:
                place = direction[row] if key == LOGITS else direction[row, target.position]
                place.copy_(torch.as_tensor(target.direction, device=value.device))
        values.append(value)
        directions.append(direction)
    return values, directions


def _products(gradient: torch.Tensor, positions: np.ndarray, vectors: torch.Tensor) -> torch.Tensor:
    """(blocks, rows, size): the gradient (rows, positions, width) at each block's position, times its vectors."""
    by_position = gradient.transpose(0, 1)
    if not np.array_equal(positions, np.arange(gradient.shape[1])):
        by_position = by_position[torch.as_tensor(positions, device=gradient.device)]
    return by_position @ vectors


def _reading(inputs: Mapping[Key, torch.Tensor], logits: torch.Tensor) -> Reading:
    return Reading(
        {key: value.detach().cpu().numpy() for key, value in inputs.items()}, logits.detach().cpu().numpy()
    )

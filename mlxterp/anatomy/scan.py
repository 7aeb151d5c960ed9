"""What one small forward pass shows about a model: how blocks add to the stream, where it begins and ends.

Names cannot tell (`post_attention_layernorm` comes before the MLP in most architectures and after the
attention in others), numbers can. `Anatomy` asks a `Scan` once per model and keeps it; nothing is
computed before a name needs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ..backends.base import LanguageModel
from ..core.sites import Array, Run, Site
from ..core.tokens import TokenBatch
from ..errors import ComponentError
from .residual import BlockRule, Branch, Precision, find_rule

_STEPS = {"float64": 1e-9, "float32": 4e-6, "float16": 2e-3, "bfloat16": 1.2e-2}
_TOKENS = 8


class Scan:
    """Answers from a pass over a few tokens with everything recorded."""

    def __init__(self, model: LanguageModel):
        self.model = model
        ids = [(7 * i + 3) % model.vocab_size for i in range(_TOKENS)]
        self._batch = TokenBatch.from_rows([ids])
        self._rules: dict[int, BlockRule] = {}

    # -- the stream ---------------------------------------------------------------------------

    @cached_property
    def stream_port(self) -> str:
        """A block's argument that is the stream: the first, unless the second is the last block's output."""
        if len(self.model.layers) < 2:
            return "input"
        before, first, second = (
            Site(self.model.layers[0]),
            Site(self.model.layers[1], "input"),
            Site(self.model.layers[1], "input:1"),
        )
        found = self._capture([before, first, second])
        if second not in found or before not in found:
            return "input"
        shapes = {s: tuple(v[0].shape) for s, v in found.items()}
        if shapes[second] != shapes[before] or not self.model.backend.is_floating(found[second][0]):
            return "input"
        if first in found and np.array_equal(self._float(found[first][0]), self._float(found[before][0])):
            return "input"
        same = np.array_equal(self._float(found[second][0]), self._float(found[before][0]))
        return "input:1" if same else "input"

    def calls(self, module: str) -> int:
        """How often the pass called a module."""
        return self._run.calls.get(module, 0)

    def passes(self, sites: Sequence[Site]) -> bool:
        """Whether all of `sites` pass an array."""
        return all(site in self._heads for site in sites)

    @cached_property
    def _heads(self) -> set[Site]:
        """Sites of per-head values that this architecture has."""
        named = [
            self.model.head_component(layer, port, "")
            for layer in range(len(self.model.layers))
            for port in ("z", "q", "k", "v", "pattern")
        ]
        return set(self._capture([site for component in named for site in component.sites]))

    def rule(self, layer: int) -> BlockRule:
        """How this decoder block adds to the stream."""
        if layer not in self._rules:
            self._rules[layer] = self._find_rule(self.model.layers[layer])
        return self._rules[layer]

    def _find_rule(self, block: str) -> BlockRule:
        run, recorded = self._recorded
        inner = [m for m in run.calls if m.startswith(block + ".") and m in self.model.modules]
        pre_site = Site(block, self.stream_port)
        wanted = [pre_site, *(Site(m, "input") for m in inner)]
        values = {site: self._float(recorded[site]) for site in wanted if site in recorded}
        pre, post = values.pop(pre_site, None), self._output(block, run=run)
        if pre is None or post is None or pre.shape != post.shape or pre.shape[-1] != self.model.d_model:
            return BlockRule("none")
        inputs = {site.module: value for site, value in values.items() if value.shape == pre.shape}
        outputs = {
            m: v for m in inner if (v := self._output(m, run=run)) is not None and v.shape == pre.shape
        }
        return find_rule(pre, post, inputs, outputs, self.precision)

    @cached_property
    def _recorded(self) -> tuple[Run, dict[Site, Array]]:
        """A pass, and first inputs of all that is called in its blocks, from one further pass where all pass arrays."""
        self._run_again()
        blocks = tuple(f"{path}." for path in self.model.layers)
        inner = [m for m in self.model.modules if m.startswith(blocks) and self._run.calls.get(m)]
        called = [m for m in self.model.layers if self._run.calls.get(m)]
        sites = [Site(m, self.stream_port) for m in called] + [Site(m, "input") for m in inner]
        floating = self.model.backend.is_floating
        return self._run, {s: v[0] for s, v in self._capture(sites).items() if floating(v[0])}

    # -- outside the blocks -------------------------------------------------------------------

    @cached_property
    def final_norm(self) -> str:
        """The module that takes the last block's output and keeps its shape; where blocks carry several
        streams, the last norm that is called. Both are taken in their last calls, where a looped model ends."""
        self._run_again()
        last = self._output(self.model.layers[-1], call=-1)
        shape = (*self._batch.ids.shape, self.model.d_model)
        found = []
        for site, value in self._floats([Site(m, "input") for m in self._outside], call=-1).items():
            out = self._output(site.module, call=-1)
            if out is None or value.shape != shape or out.shape != shape:
                continue
            if last is not None and last.shape == shape and np.array_equal(value, last):
                return site.module
            if "norm" in self.model.modules[site.module].lower():
                found.append(site.module)
        if found and (last is None or last.shape != shape):
            return found[-1]
        raise ComponentError(
            f"No module of this {self.model.model_type} model is its final norm (it may be a function)."
            f" layers.{len(self.model.layers) - 1}.resid_post is what enters it."
        )

    @cached_property
    def embed(self) -> Branch | None:
        """The token embedding and its scale, where positions are added to it; else None: the first
        block's input is the embedding."""
        self._run_again()
        pre = Site(self.model.layers[0], self.stream_port)
        stream = self._floats([pre]).get(pre)
        if stream is None:
            raise ComponentError("The first block's input is not an array, so there is no embed.")
        tables = {
            m: v
            for m in self._outside
            if self.model.modules[m].endswith("Embedding") and (v := self._output(m)) is not None
        }
        for word, vectors in tables.items():
            for other, added in tables.items():
                if word == other or vectors.shape != stream.shape or added.shape[-2:] != stream.shape[-2:]:
                    continue
                scale = float(np.vdot(vectors, stream - added) / np.vdot(vectors, vectors))
                scale = 1.0 if abs(scale - 1) < 1e-3 else scale
                if abs(scale) > 1e-6 and self.precision.agree(
                    scale * vectors + added, stream, vectors, added
                ):
                    return Branch(word, scale)
        return None

    @cached_property
    def _outside(self) -> list[str]:
        blocks = tuple(f"{path}." for path in self.model.layers)
        called = (m for m in self.model.modules if self._run.calls.get(m))
        return [m for m in called if m not in self.model.layers and not m.startswith(blocks)]

    # -- the pass -----------------------------------------------------------------------------

    @cached_property
    def _run(self) -> Run:
        try:
            return self.model.run(self._batch, everything=True)
        except ComponentError:
            raise
        except Exception:  # some architectures run one token only
            self._batch = TokenBatch.from_rows([self._batch.ids[0, :1].tolist()])
            return self.model.run(self._batch, everything=True)

    def _run_again(self) -> None:
        """Forgets the pass: weights may have been trained since, and only values of the same ones can be compared."""
        self.__dict__.pop("_run", None)

    @cached_property
    def precision(self) -> Precision:
        values = self._run.values.get(Site(self.model.layers[0]), [])
        name = str(values[0].dtype).rpartition(".")[2] if values else "float32"
        return Precision(_STEPS.get(name, _STEPS["float32"]))

    def _output(self, module: str, call: int = 0, run: Run | None = None) -> np.ndarray | None:
        values = (self._run if run is None else run).values.get(Site(module))
        return self._float(values[call]) if values and self.model.backend.is_floating(values[call]) else None

    def _float(self, value: Array) -> np.ndarray:
        return self.model.backend.get(value).astype(np.float64)

    def _floats(self, sites: Sequence[Site], call: int = 0) -> dict[Site, np.ndarray]:
        """Values of one call at input sites (the pass is run again: recording every input always is dear)."""
        called = [s for s in sites if self._run.calls.get(s.module)]
        floating = self.model.backend.is_floating
        return {s: self._float(v[call]) for s, v in self._capture(called).items() if floating(v[call])}

    def _capture(self, sites: Sequence[Site]) -> dict[Site, list[Any]]:
        """Values at as many of `sites` as pass an array."""
        if not sites or not self._run.calls:  # the first pass settles how many tokens can be run
            return {}
        try:
            run = self.model.run(self._batch, sites)
            return {site: run.values[site] for site in sites}
        except ComponentError:
            if len(sites) == 1:
                return {}
            half = len(sites) // 2
            return {**self._capture(sites[:half]), **self._capture(sites[half:])}

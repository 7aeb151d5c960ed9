"""A language model that runs in MLX: any module of mlx-lm, quantized or not, exactly as it is."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.generate import generation_stream, wired_limit

from ...core.continuations import Continuation, Piece
from ...core.frozen import FrozenPlaces
from ...core.integers import is_integer
from ...core.sites import ATTENTION_PORTS, Component, Run, Site, SiteEdit, Where
from ...core.tokens import TokenBatch, encode_text
from ...errors import ComponentError, InputError, NeverCalledError, NotALanguageModelError
from ..base import Backend
from ..frozen import PromptPass
from ..host.batching import chosen_logits, stream_rows
from ..host.capacity import Capacities
from ..host.fork import refuse_in_children
from ..host.memory import free_bytes
from ..host.state import StateDigest, WeightsDigest
from .arrays import BACKEND
from .attention import attention_seen, head_component
from .batching import MLXPasses
from .freeze import Wrapped
from .frozen import MLXFrozenPass
from .generation import end_tokens, new_text, stream_tokens
from .intercept import Tracer, first_array
from .modes import settled
from .pullback import pullbacks
from .recording import Recording
from .state import state_digest, weights_digest
from .swap import hooked, own_class, unobserved
from .tree import ModuleTree

_LAYER_LISTS = ("layers", "h", "blocks")
_BLOCKS_OF_SLOTS = ("index_block_size", "candidate_block_size", "sparse_block_size")
"""Settings of models whose attention chooses among blocks of the cache's slots."""
_POSITION_EMBEDDINGS = ("wpe", "embed_positions", "position_embeddings", "position_embedding")


class MLXLanguageModel:
    """Runs an mlx-lm model with its components seen and edited (see `LanguageModel`).

    Passes run in evaluation mode; the model is left as it was given.
    """

    backend: Backend = BACKEND
    described: tuple[str, ...] = ()

    def __init__(self, model: nn.Module, tokenizer: Any = None):
        if not isinstance(model, nn.Module):
            raise NotALanguageModelError(
                f"Expected a model of mlx-lm (an mlx.nn.Module), got {type(model).__name__}."
            )
        self.model = model
        self.tokenizer = tokenizer
        mx.eval(model.parameters())  # a lazy weight could not be evaluated from another thread
        self._read_tree()
        self.model_type = str(
            self._setting("model_type") or getattr(model, "model_type", type(model).__name__)
        )
        self._measure()

    # -- what the model is --------------------------------------------------------------------

    def _read_tree(self) -> None:
        self.tree = ModuleTree(self.model)
        self._capacities = Capacities(self, self.passes, lambda: self._setting(*_BLOCKS_OF_SLOTS) is not None)
        self.modules: dict[str, str] = {
            path: own_class(node.module).__name__ for path, node in self.tree.by_path.items() if path
        }
        self.layers: tuple[str, ...] = self._find_layers()

    def refresh(self) -> bool:
        """Reads the modules again if some were replaced since (LoRA, quantizing) or the model was cast; whether so."""
        if self.tree.holds():
            return False
        mx.eval(self.model.parameters())
        self._read_tree()
        return True

    def _find_layers(self) -> tuple[str, ...]:
        try:
            blocks = list(self.model.layers or ())
        except (AttributeError, TypeError):
            blocks = []
        paths = [self._path_of(block) for block in blocks if isinstance(block, nn.Module)]
        if paths and None not in paths:
            return tuple(path for path in paths if path is not None)
        lists: dict[str, list[str]] = {}
        for path in self.modules:
            parent, _, index = path.rpartition(".")
            if index.isdigit() and parent.rpartition(".")[2] in _LAYER_LISTS:
                lists.setdefault(parent, []).append(path)
        if not lists:
            raise NotALanguageModelError(
                f"{type(self.model).__name__} has no list of decoder blocks ({', '.join(_LAYER_LISTS)}),"
                " so it does not look like a language model."
            )
        return tuple(lists[min(lists, key=lambda path: path.count("."))])

    def _path_of(self, module: nn.Module) -> str | None:
        nodes = self.tree.nodes.get(id(module))
        return nodes[0].path if nodes else None

    def _measure(self) -> None:
        try:
            with settled(self.tree):
                logits: Any = self.model(mx.zeros((1, 1), dtype=mx.int32))  # builds a graph, computes nothing
            self.vocab_size = int(logits.shape[-1])
            if logits.ndim != 3:
                raise ValueError(f"its output has shape {logits.shape}")
        except Exception as error:
            raise NotALanguageModelError(
                f"{type(self.model).__name__} does not map token ids (batch, positions) to logits"
                f" (batch, positions, vocabulary): {error}"
            ) from error
        width = self._setting("hidden_size", "d_model", "n_embd", "model_dim", "dim", "hidden_dim")
        self.d_model = int(width) if width is not None else self._width()
        heads = self._setting("num_attention_heads", "n_head", "n_heads", "num_heads")
        self.n_heads: int | None = heads if is_integer(heads) else None
        limit = self._setting("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
        self.max_positions: int | None = limit if is_integer(limit) else None
        tables = [
            node.module
            for path, node in self.tree.by_path.items()
            if path.rpartition(".")[2] in _POSITION_EMBEDDINGS and "weight" in node.module
        ]
        self.learned_positions = bool(tables)
        if tables:
            self.max_positions = int(tables[0]["weight"].shape[0])

    def _width(self) -> int:
        site = Site(self.layers[0], "input")
        run = self.run(TokenBatch.from_rows([[0]]), [site])
        return int(run.values[site][0].shape[-1])

    def _setting(self, *names: str) -> Any:
        """The first of these settings that the model's arguments hold, here or in `text_config`."""
        holders = [getattr(self.model, key, None) for key in ("args", "config")]
        for holder in list(holders):
            for key in ("text_config", "language_config", "llm_config"):
                holders.append(_get(holder, key))
        inner = getattr(self.model, "language_model", None)
        holders.append(getattr(inner, "args", None))
        for holder in holders:
            for name in names:
                value = _get(holder, name)
                if value is not None:
                    return value
        return None

    def tokenize(self, text: str) -> list[int]:
        return encode_text(self.tokenizer, text)

    def state_digest(self) -> StateDigest | None:
        return state_digest(self.model)

    def weights_digest(self) -> WeightsDigest | None:
        return weights_digest(self.model)

    # -- running ------------------------------------------------------------------------------

    def forward(self, batch: TokenBatch) -> mx.array:
        with settled(self.tree), unobserved():
            return self.model(mx.array(batch.ids))

    def head_component(self, layer: int, port: str, name: str) -> Component:
        heads = self.n_heads or 1
        head_dim = self._setting("head_dim") or self.d_model // heads
        return head_component(self.model_type, self.layers[layer], port, name, int(head_dim))

    def run(
        self,
        batch: TokenBatch,
        capture: Sequence[Site] = (),
        edits: Sequence[SiteEdit] = (),
        *,
        everything: bool = False,
        stop_after: Sequence[Site] = (),
        reuse: Run | None = None,
    ) -> Run:
        where = Where.whole(batch.ids.shape[1], batch.lengths)
        run = Run(None, {}, {}, where)
        earlier: Recording | None = None
        dirty = float("inf")
        wanted: Sequence[Site] = capture
        if reuse is not None:
            before: Tracer = reuse.memory
            earlier = before.recording
            dirty = min(
                (earlier.time_of(e.site, e.call) for e in edits[len(before.all_edits) :]), default=dirty
            )
            reads = [site for edit in edits for site in edit.reads]
            wanted = _carry_over([*capture, *reads], reuse, run, earlier, dirty)
        self._check_paths([*wanted, *(edit.site for edit in edits)])
        tracer = Tracer(
            self.tree, wanted, edits, run=run, model_type=self.model_type,
            everything=everything or reuse is not None, earlier=earlier, dirty=dirty,
        )  # fmt: skip
        logits = self._call(tracer, mx.array(batch.ids))
        if not stop_after:  # MLX is lazy: logits that nobody evaluates cost nothing
            run.logits = logits
        self._finish(run, tracer, wanted, edits if reuse is None else ())
        return run

    def _check_paths(self, sites: Sequence[Site]) -> None:
        for site in sites:
            if site.module not in self.tree.by_path:
                raise ComponentError(f"No module {site.module!r} in this model.")

    def _call(self, tracer: Tracer, ids: mx.array, **options: Any) -> mx.array:
        with settled(self.tree), attention_seen(tracer), hooked(tracer):
            return self.model(ids, **options)

    def _finish(self, run: Run, tracer: Tracer, capture: Sequence[Site], edits: Sequence[SiteEdit]) -> None:
        run.calls = tracer.calls()
        if tracer.everything:
            run.memory = tracer
            run.values = _Outputs(tracer, run.values)
        for site in (*capture, *(edit.site for edit in edits)):
            if site not in tracer.reached:
                raise self.not_reached(site, run.calls)

    def not_reached(self, site: Site, calls: Mapping[str, int]) -> ComponentError:
        if site.port in ATTENTION_PORTS:
            return ComponentError(
                f"{site.module} computes no attention that yields {site.port!r} in this"
                f" {self.model_type} model (its block may be a recurrence or a convolution)."
            )
        if calls.get(site.module, 0) == 0:
            return NeverCalledError(
                f"{site.module!r} exists in this {self.model_type} model, but its forward pass never"
                " calls it (the parent uses its parts directly). Its children may be called:"
                " model.components() lists every path."
            )
        return ComponentError(
            f"{site.module!r} passes no array at its {site.port}, so there is nothing to read or edit."
        )

    # -- generation and gradients -------------------------------------------------------------

    def stream(
        self,
        prompt: Sequence[int],
        max_tokens: int,
        edits: Sequence[SiteEdit] = (),
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        prefill_step_size: int = 2048,
        whole_prompt: bool = False,
        prompt_pass: PromptPass | None = None,
    ) -> Generator[tuple[int | None, str], None, None]:
        done, prompts = 0, np.array([len(prompt)])
        whole_prompt = whole_prompt or prompt_pass is not None

        def step(ids: mx.array, **options: Any) -> mx.array:
            nonlocal done
            if whole_prompt and done == 0:  # mlx-lm's loop knows its last token only
                ids = mx.array([list(prompt)])
            where = Where(np.arange(done, done + ids.shape[1]), None, prompts=prompts)
            done += ids.shape[1]
            if prompt_pass is not None and done == len(prompt):
                return prompt_pass(ids, **options)
            return self._generating(ids, edits, where, **options)

        return stream_tokens(
            self.model,
            step,
            self.tokenizer,
            prompt[-1:] if whole_prompt else prompt,
            max_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            prefill_step_size=prefill_step_size,
            edited=bool(edits),
            read_before=len(prompt) - 1 if whole_prompt else 0,
        )

    def stream_rows(
        self, rows: Sequence[Continuation], *, prefill_step_size: int = 2048, batch_tokens: int | None = None
    ) -> Generator[Piece, None, None]:
        capacity = self._capacities.of(rows)
        waves = capacity.waves(rows, batch_tokens, free_bytes())
        text, ends = (lambda: new_text(self.tokenizer)), end_tokens(self.tokenizer)
        with wired_limit(self.model, [cast(mx.Stream, generation_stream)]):
            reading = capacity.reading(prefill_step_size)
            yield from stream_rows(self.passes(rows), rows, waves, text, ends, reading)

    def last_logits(self, texts: Sequence[Sequence[int]], tokens: Sequence[int]) -> np.ndarray:
        rows = [Continuation(text, 1) for text in texts]
        most = max(map(len, self._capacities.of(rows).waves(rows, None, free_bytes())))
        return chosen_logits(self.passes(rows), rows, tokens, most)

    def passes(self, rows: Sequence[Continuation]) -> MLXPasses:
        """The passes that continue several texts."""
        return MLXPasses(self.model, self._generating, rows)

    def _generating(self, ids: mx.array, edits: Sequence[SiteEdit], where: Where, **options: Any) -> mx.array:
        """Logits of one pass of generation."""
        if not edits:
            with settled(self.tree), unobserved():
                return self.model(ids, **options)
        run = Run(None, {}, {}, where)
        tracer = Tracer(self.tree, (), edits, run=run, model_type=self.model_type)
        logits = self._call(tracer, ids, **options)
        if where.positions.flat[0] <= 0:  # negative ones are padding
            self._finish(run, tracer, (), edits)
        return logits

    def gradients(
        self,
        batch: TokenBatch,
        objective: Callable[[mx.array], mx.array],
        edits: Callable[[Mapping[str, Sequence[mx.array]]], Sequence[SiteEdit]],
        deltas: Mapping[str, Sequence[mx.array]],
    ) -> tuple[mx.array, dict[str, list[mx.array]]]:
        def value(deltas: dict) -> mx.array:
            logits: Any = self.run(batch, edits=edits(deltas)).logits
            result: Any = objective(logits)
            if not isinstance(result, mx.array) or result.size != 1:
                shape = getattr(result, "shape", type(result).__name__)
                raise InputError(f"The objective must return one number, got {shape}.")
            return result.reshape(())

        result, grads = mx.value_and_grad(value)({k: list(v) for k, v in deltas.items()})
        mx.eval(result, grads)
        return result, grads

    def pullbacks(
        self,
        batch: TokenBatch,
        capture: Sequence[Site],
        value: Callable[[Run], mx.array],
        edits: Callable[[Sequence[mx.array]], Sequence[SiteEdit]],
        deltas: Sequence[mx.array],
        cotangents: Iterable[np.ndarray],
    ) -> Iterator[list[mx.array]]:
        def function(rows: TokenBatch) -> Callable[..., list[mx.array]]:
            return lambda *given: [value(self.run(rows, capture, edits(given))).astype(mx.float32)]

        return pullbacks(function, batch, list(deltas), cotangents)

    def divergence(self, x: mx.array, target: mx.array) -> tuple[np.ndarray, mx.array]:
        aim = target.astype(mx.float32)
        aim = aim - mx.logsumexp(aim, axis=-1, keepdims=True)

        def function(x: mx.array) -> tuple[mx.array, mx.array]:
            said = self.decode_stream(x).astype(mx.float32)
            said = said - mx.logsumexp(said, axis=-1, keepdims=True)
            losses = (mx.exp(aim) * (aim - said)).sum(axis=-1)
            return losses.sum(), losses

        (_, losses), gradient = mx.value_and_grad(function)(x)
        return np.array(losses), gradient

    def frozen_pass(self, ids: Sequence[int], places: FrozenPlaces) -> MLXFrozenPass:
        model = Wrapped(self.model, self.tree, self.layers, self.model_type)
        return MLXFrozenPass(model, ids, places, self.not_reached)

    def decode_stream(self, x: mx.array) -> mx.array:
        """Replaces the last block's output: nothing before it is ever computed, because MLX is lazy."""
        batch = TokenBatch.from_rows([[0]] * x.shape[0])

        def replace(old: mx.array, _run: Run, _call: int) -> mx.array:
            if old.shape != (x.shape[0], 1, x.shape[1]):
                raise ComponentError(
                    f"The blocks of this {self.model_type} model put out shape {old.shape}, not one residual"
                    " stream (batch, positions, d_model), so vectors of it cannot be decoded."
                )
            return x[:, None, :].astype(old.dtype)

        logits = self.run(batch, edits=[SiteEdit(Site(self.layers[-1]), replace)]).logits
        assert logits is not None
        return logits[:, 0]


refuse_in_children("mlx", MLXLanguageModel)


def _carry_over(
    capture: Sequence[Site], reuse: Run, run: Run, earlier: Recording, dirty: float
) -> list[Site]:
    """Keeps the values that no new edit can change; returns the sites that must be seen again."""
    again: list[Site] = []
    for site in capture:
        old = reuse.values.get(site)
        if old and earlier.time_of(site, len(old) - 1, end=True) < dirty:
            run.values[site] = list(old)
        else:
            again.append(site)
    return again


class _Outputs(dict[Site, list[mx.array]]):
    """Values of a fully recorded pass: module outputs are gathered from its log when asked for."""

    def __init__(self, tracer: Tracer, values: dict[Site, list[mx.array]]):
        super().__init__(values)
        self._tracer = tracer

    def get(self, site: Site, default: Any = None) -> Any:
        if site not in self and site.port == "output":
            found: list[mx.array] = []
            while (out := self._tracer.recording.outputs.get((site.module, len(found)))) is not None:
                first = first_array(out)
                if first is None:
                    break
                found.append(first)
            if found:
                self[site] = found
        return super().get(site, default)


def _get(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, dict) else getattr(holder, name, None)

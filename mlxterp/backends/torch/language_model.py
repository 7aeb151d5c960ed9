"""A language model that runs in PyTorch: one of transformers, or any module from token ids to logits."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ...core.continuations import Continuation, Piece
from ...core.frozen import FrozenPlaces
from ...core.sites import ATTENTION_PORTS, Component, Run, Site, SiteEdit, Where, head_at_site
from ...core.tokens import TokenBatch, encode_text
from ...errors import ComponentError, InputError, NeverCalledError, NotALanguageModelError
from ..base import Backend
from ..frozen import PromptPass
from ..host.batching import chosen_logits, stream_rows
from ..host.capacity import Capacities
from ..host.state import StateDigest, WeightsDigest
from ..host.text_stream import TextStream
from .arrays import BACKEND
from .attention import attention_seen
from .batching import TorchPasses, scales_by_longest
from .devices import free_on
from .frozen import TorchFrozenPass, Wrapped
from .generation import CachedPasses, PassOptions, end_tokens, stream_tokens
from .intercept import Stopped, Tracer
from .modes import runs_in_inference, settled
from .recording import Record
from .shape import Shape, measure
from .state import state_digest, weights_digest
from .swap import hooked, unobserved
from .tree import ModuleTree
from .values import first_tensor, logits_of, with_first


class TorchLanguageModel:
    """Runs a PyTorch model with its components seen and edited (see `LanguageModel`).

    Passes run in evaluation mode and without a cache; the model is left as it was given.

    Raises:
        NotALanguageModelError: `model` is no module, has no list of decoder blocks, or does not map
            token ids to logits.
    """

    backend: Backend = BACKEND
    described: tuple[str, ...] = ()

    def __init__(self, model: nn.Module, tokenizer: Any = None):
        if not isinstance(model, nn.Module):
            raise NotALanguageModelError(
                f"Expected a PyTorch model (a torch.nn.Module), got {type(model).__name__}."
            )
        whole = getattr(model, "_orig_mod", model)  # what torch.compile wrapped
        self.model: nn.Module = whole if isinstance(whole, nn.Module) else model
        self.tokenizer = tokenizer
        self._read()

    def _read(self) -> None:
        self._parameters = tuple(inspect.signature(self.model.forward).parameters)
        self.tree = ModuleTree(self.model)
        self.modules: dict[str, str] = {
            path: type(node.module).__name__ for path, node in self.tree.by_path.items() if path
        }
        self._capacities = Capacities(self, self.passes, lambda: scales_by_longest(self.model))
        self._inference = runs_in_inference(self.model, self.tree)
        self._calls: dict[str, int] = {}  # known once a first pass has run
        self._shape = self._measure()

    def refresh(self) -> bool:
        """Reads the modules again if some were replaced (LoRA, quantizing), or the model cast or moved; whether so."""
        if self.tree.holds():
            return False
        self._read()
        return True

    def _measure(self) -> Shape:
        try:
            run = self.run(TokenBatch.from_rows([[0]]), everything=True)
        except Exception as error:
            raise NotALanguageModelError(
                f"{type(self.model).__name__} does not map token ids (batch, positions) to logits"
                f" (batch, positions, vocabulary): {error}"
            ) from error
        assert isinstance(run.memory, Record) and run.logits is not None
        self._calls = run.calls
        shape = measure(self.model, run.memory, run.logits)
        self.layers: tuple[str, ...] = shape.layers
        self.model_type: str = shape.model_type
        self.d_model: int = shape.d_model
        self.vocab_size: int = shape.vocab_size
        self.n_heads: int | None = shape.n_heads
        self.max_positions: int | None = shape.max_positions
        self.learned_positions: bool = shape.learned_positions
        return shape

    def tokenize(self, text: str) -> list[int]:
        return encode_text(self.tokenizer, text)

    def state_digest(self) -> StateDigest | None:
        return state_digest(self.model)

    def weights_digest(self) -> WeightsDigest | None:
        return weights_digest(self.model)

    # -- running ------------------------------------------------------------------------------

    def forward(self, batch: TokenBatch) -> torch.Tensor:
        with settled(self.tree), unobserved():
            return logits_of(self.model(self._ids(batch.ids), **self._uncached()))

    def head_component(self, layer: int, port: str, name: str) -> Component:
        return head_at_site(name, Site(self.layers[layer], port))

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
        self._check_paths((*capture, *stop_after, *(edit.site for edit in edits)))
        run = Run(None, {}, {}, Where(np.arange(batch.ids.shape[1]), batch.lengths))
        wanted = dict.fromkeys((*capture, *(site for edit in edits for site in edit.reads)))
        record, dirty = None, float("inf")
        if reuse is not None:
            record = _record_of(reuse)
            dirty = min((record.time_of(e.site, e.call) for e in edits[record.edits :]), default=dirty)
            wanted = _carry_over(wanted, reuse, run, record, dirty)
        tracer = Tracer(
            self.tree,
            wanted,
            edits,
            run=run,
            everything=everything or reuse is not None,
            previous=record,
            dirty=dirty,
            stops=self._stops((*stop_after, *wanted)) if stop_after else {},
        )
        with settled(self.tree):
            stopped, out = self._call(tracer, self._ids(batch.ids), self._uncached())
            run.logits = None if stop_after else logits_of(out)
        new = edits[record.edits if record else 0 :]
        self._finish(run, tracer, [*wanted, *(() if stopped else (edit.site for edit in new))])
        return run

    def _stops(self, sites: Sequence[Site]) -> dict[Site, int]:
        """How often each of `sites` is passed in a whole pass; for attention, the end of its block."""
        ends = (Site(site.module) if site.port in ATTENTION_PORTS else site for site in sites)
        return {site: max(1, self._calls.get(site.module, 1)) for site in ends}

    def _call(self, tracer: Tracer, ids: torch.Tensor, options: dict[str, Any]) -> tuple[bool, Any]:
        """Whether the pass ended early, and what the model returned."""
        with attention_seen(tracer), hooked(tracer):
            try:
                return False, self.model(ids, **options)
            except Stopped:
                return True, None

    def _device(self) -> torch.device | None:
        places = (p.device for p in self.model.parameters())
        return next((place for place in places if place.type != "meta"), None)  # meta: offloaded

    def _ids(self, ids: Any) -> torch.Tensor:
        if isinstance(ids, torch.Tensor):
            return ids.to(self._device(), torch.int64)
        return torch.as_tensor(np.asarray(ids, dtype=np.int64), device=self._device())

    def _uncached(self) -> dict[str, Any]:
        return {"use_cache": False} if "use_cache" in self._parameters else {}

    def _check_paths(self, sites: Sequence[Site]) -> None:
        for site in sites:
            if site.module not in self.tree.by_path:
                raise ComponentError(f"No module {site.module!r} in this model.")

    def _finish(self, run: Run, tracer: Tracer, expected: Sequence[Site]) -> None:
        run.calls = tracer.counts
        if tracer.record is not None:
            run.memory = tracer.record
            run.values = _Outputs(tracer.record, run.values)
        for site in expected:
            if site not in tracer.reached:
                raise self.not_reached(site, run.calls)

    def not_reached(self, site: Site, calls: Mapping[str, int]) -> ComponentError:
        if calls.get(site.module, 0) == 0:
            return NeverCalledError(
                f"{site.module!r} exists in this {self.model_type} model, but its forward pass never"
                " calls it (the parent uses its parts directly). Its children may be called:"
                " model.components() lists every path."
            )
        if site.port in ATTENTION_PORTS:
            return ComponentError(
                f"{site.module} computes no attention that yields {site.port!r}: this {self.model_type} block"
                " is a recurrence or a convolution, or it computes its own attention instead of going"
                " through transformers' AttentionInterface."
            )
        return ComponentError(
            f"{site.module!r} passes no tensor at its {site.port}, so there is nothing to read or edit."
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
        options = self._options(edits)
        prompts = np.array([len(prompt)])

        def step(ids: Sequence[int], positions: np.ndarray, given: dict[str, Any]) -> Any:
            if prompt_pass is not None and not positions[0]:
                if len(positions) > len(prompt):
                    raise ComponentError(
                        f"This {self.model_type} model keeps no cache, so its prompt cannot be held while it writes."
                        " Leave max_tokens= out, or take freeze=None."
                    )
                return prompt_pass(self._ids([ids]), **given)
            return self._generating([ids], edits, Where(positions, None, prompts=prompts), given)

        passes = CachedPasses(step, options)
        return stream_tokens(
            passes,
            self.tokenizer,
            self._ends(),
            prompt,
            max_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            prefill_step_size=len(prompt) if whole_prompt or prompt_pass is not None else prefill_step_size,
            edited=bool(edits),
        )

    def stream_rows(
        self, rows: Sequence[Continuation], *, prefill_step_size: int = 2048, batch_tokens: int | None = None
    ) -> Generator[Piece, None, None]:
        capacity = self._capacities.of(rows)
        waves = capacity.waves(rows, batch_tokens, free_on(self._device()))
        known: dict[tuple[int, ...], str] = {}
        text = lambda: TextStream(self.tokenizer, known)  # noqa: E731
        reading = capacity.reading(prefill_step_size)
        return stream_rows(self.passes(rows), rows, waves, text, self._ends(), reading)

    def last_logits(self, texts: Sequence[Sequence[int]], tokens: Sequence[int]) -> np.ndarray:
        rows = [Continuation(text, 1) for text in texts]
        most = max(map(len, self._capacities.of(rows).waves(rows, None, free_on(self._device()))))
        return chosen_logits(self.passes(rows), rows, tokens, most)

    def passes(self, rows: Sequence[Continuation]) -> TorchPasses:
        """The passes that continue several texts."""
        options = self._options([edit for row in rows for edit in row.edits])
        return TorchPasses(self._generating, options, rows)

    def _ends(self) -> set[int]:
        return end_tokens(self.tokenizer, getattr(self.model, "generation_config", None))

    def _options(self, edits: Sequence[SiteEdit]) -> PassOptions:
        self._check_paths([edit.site for edit in edits])
        inner = all(
            any(e.site.module.startswith(f"{p}.") or e.site.module == p for p in self.layers) for e in edits
        )
        return PassOptions(self.model, self._parameters, last_only=inner)

    def _generating(self, ids: Any, edits: Sequence[SiteEdit], where: Where, options: dict[str, Any]) -> Any:
        """What the model returned in one pass of generation."""
        ids = self._ids(ids)
        given = {k: v.to(ids.device) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
        if not edits:
            with settled(self.tree, inference=self._inference), unobserved():
                return self.model(ids, **given)
        run = Run(None, {}, {}, where)
        reads = [site for edit in edits for site in edit.reads]
        tracer = Tracer(self.tree, reads, edits, run=run)
        with settled(self.tree, inference=self._inference):
            _, out = self._call(tracer, ids, given)
        if where.positions.flat[0] <= 0:  # negative ones are padding
            self._finish(run, tracer, [edit.site for edit in edits])
        return out

    def gradients(
        self,
        batch: TokenBatch,
        objective: Callable[[torch.Tensor], torch.Tensor],
        edits: Callable[[Mapping[str, Sequence[torch.Tensor]]], Sequence[SiteEdit]],
        deltas: Mapping[str, Sequence[torch.Tensor]],
    ) -> tuple[torch.Tensor, dict[str, list[torch.Tensor]]]:
        leaves = {key: [x.detach().clone().requires_grad_() for x in value] for key, value in deltas.items()}
        flat = [x for value in leaves.values() for x in value]
        given = edits(leaves)
        self._check_paths([edit.site for edit in given])
        run = Run(None, {}, {}, Where(np.arange(batch.ids.shape[1]), batch.lengths))
        tracer = Tracer(self.tree, [site for e in given for site in e.reads], given, run=run)
        with settled(self.tree, gradients=True):
            _, out = self._call(tracer, self._ids(batch.ids), self._uncached())
            self._finish(run, tracer, [edit.site for edit in given])
            result = objective(logits_of(out))
            if not isinstance(result, torch.Tensor) or result.numel() != 1:
                shape = tuple(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
                raise InputError(f"The objective must return one number, got {shape}.")
            found: Sequence[torch.Tensor | None] = [None] * len(flat)
            if result.requires_grad and flat:
                found = torch.autograd.grad(result.reshape(()), flat, allow_unused=True)
        grads = iter([torch.zeros_like(x) if g is None else g for x, g in zip(flat, found, strict=True)])
        return result.detach().reshape(()), {k: [next(grads) for _ in v] for k, v in leaves.items()}

    def pullbacks(
        self,
        batch: TokenBatch,
        capture: Sequence[Site],
        value: Callable[[Run], torch.Tensor],
        edits: Callable[[Sequence[torch.Tensor]], Sequence[SiteEdit]],
        deltas: Sequence[torch.Tensor],
        cotangents: Iterable[np.ndarray],
    ) -> Iterator[list[torch.Tensor]]:
        graph: tuple[torch.Tensor, list[torch.Tensor]] | None = None
        for cotangent in cotangents:
            if graph is None:
                graph = self._graph(batch, capture, value, edits, deltas, len(cotangent))
            found, leaves = graph
            weights = torch.as_tensor(cotangent, device=found.device)
            grads = torch.autograd.grad(found, leaves, weights, retain_graph=True, allow_unused=True)
            yield [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, grads, strict=True)]

    def _graph(
        self,
        batch: TokenBatch,
        capture: Sequence[Site],
        value: Callable[[Run], torch.Tensor],
        edits: Callable[[Sequence[torch.Tensor]], Sequence[SiteEdit]],
        deltas: Sequence[torch.Tensor],
        n: int,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """A value of a pass over n copies of a text, and the arrays that it depends on."""
        leaves = [x.detach().expand(n, *x.shape[1:]).clone().requires_grad_() for x in deltas]
        given = edits(leaves)
        self._check_paths([*capture, *(edit.site for edit in given)])
        ids, lengths = np.repeat(batch.ids, n, axis=0), np.repeat(batch.lengths, n)
        run = Run(None, {}, {}, Where(np.arange(ids.shape[1]), lengths))
        reads = [site for edit in given for site in edit.reads]
        tracer = Tracer(self.tree, [*capture, *reads], given, run=run)
        with settled(self.tree, gradients=True):
            _, out = self._call(tracer, self._ids(ids), self._uncached())
            self._finish(run, tracer, [*capture, *(edit.site for edit in given)])
            run.logits = logits_of(out)
            return value(run).float(), leaves

    def divergence(self, x: torch.Tensor, target: torch.Tensor) -> tuple[np.ndarray, torch.Tensor]:
        leaf = x.detach().clone().requires_grad_()
        said = self.decode_stream(leaf, gradients=True).float().log_softmax(dim=-1)
        with torch.enable_grad():
            aim = target.detach().float().log_softmax(dim=-1)
            losses = (aim.exp() * (aim - said)).sum(dim=-1)
            [gradient] = torch.autograd.grad(losses.sum(), [leaf])
        return self.backend.get(losses), gradient

    def frozen_pass(self, ids: Sequence[int], places: FrozenPlaces) -> TorchFrozenPass:
        options = self._uncached()
        if "logits_to_keep" in self._parameters:
            options["logits_to_keep"] = 1
        model = Wrapped(self.model, self.tree, self.layers, options, self._device(), self.not_reached)
        return TorchFrozenPass(model, ids, places)

    def decode_stream(self, x: torch.Tensor, gradients: bool = False) -> torch.Tensor:
        """The blocks do not run: each returns what it returns for one token, holding `x` instead.

        Raises:
            ComponentError: The model's residual stream is more than one vector per position.
        """
        self.refresh()  # what blocks put out has the dtype of the weights
        given: dict[str, Any] = {}
        for path, out in self._shape.block_outputs.items():
            first = first_tensor(out)
            shape = () if first is None else tuple(first.shape)
            if first is None or x.ndim != 2 or shape != (1, 1, x.shape[-1]):
                raise ComponentError(
                    f"Vectors {tuple(x.shape)} cannot stand for the output of {path}, which is {shape} for"
                    f" one token. Expected (rows, {self.d_model}) and a model with one residual stream."
                )
            given[path] = with_first(out, x[:, None, :].to(first))
        tracer = Tracer(self.tree, (), (), run=Run(None, {}, {}, Where(np.arange(1), None)), given=given)
        with settled(self.tree, gradients=gradients):
            _, out = self._call(tracer, self._ids(np.zeros((len(x), 1))), self._uncached())
        return logits_of(out)[:, 0]


class _Outputs(dict[Site, list[torch.Tensor]]):
    """Values of a fully recorded pass: module outputs are gathered from its record when asked for."""

    def __init__(self, record: Record, values: dict[Site, list[torch.Tensor]]):
        super().__init__(values)
        self._record = record

    def __missing__(self, site: Site) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        while site.port == "output":
            first = first_tensor(self._record.outputs.get((site.module, len(found))))
            if first is None:
                break
            found.append(first)
        if not found:
            raise KeyError(site)
        self[site] = found
        return found

    def get(self, site: Site, default: Any = None) -> Any:
        try:
            return self[site]
        except KeyError:
            return default


def _record_of(run: Run) -> Record:
    if not isinstance(run.memory, Record):
        raise InputError("reuse= takes a run that was made with everything=True by a torch model.")
    return run.memory


def _carry_over(
    wanted: Mapping[Site, None], reuse: Run, run: Run, record: Record, dirty: float
) -> dict[Site, None]:
    """Keeps the values that no new edit can change; returns the sites that must be seen again."""
    again: dict[Site, None] = {}
    for site in wanted:
        old = reuse.values.get(site)
        if old and record.time_of(site, len(old) - 1, end=True) < dirty:
            run.values[site] = old
        else:
            again[site] = None
    return again

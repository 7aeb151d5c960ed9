"""`HookedTransformer`: a model of this library under TransformerLens's names, layouts and habits.

Everything runs through `InterpretableModel` (`model.interpretable`): hooks are interventions of one trace, a
cache is what it captured. Arrays are native: MLX arrays or torch tensors, whichever wing runs the model.

What differs by design: TransformerLens folds norms into weights and centres them unless told otherwise. Here
the model is as it was trained, which is what it calls `from_pretrained_no_processing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from ...core.sites import Array
from ...core.tokens import TokenBatch
from ...errors import ComponentError, InputError
from ...model.interpretable import InterpretableModel
from .cache import ActivationCache, moved
from .generating import GenerationMethods
from .hooks import HookFunction, HookPoint, Hooks, refuse_backward
from .loading import LoadingMethods
from .names import HookTable, Place

Name = str | Callable[[str], bool]
NamesFilter = Name | Sequence[str] | None


class Output(NamedTuple):
    """What `return_type="both"` gives.

    Attributes:
        logits: Native, (batch, positions, vocabulary).
        loss: Mean cross-entropy of the predicted tokens, nats.
    """

    logits: Array
    loss: Array


class HookedTransformer(LoadingMethods, GenerationMethods):
    """A language model with hooks.

    A hook function takes (activation, hook) and returns the new activation, or None, and then counts what it did to
    the array in place. Per-head activations are (batch, position, head, d_head), with as many heads of k and v
    as the model has (fewer where they are grouped); patterns are (batch, head, query, key). `hook_q` and `hook_k`
    are before rotary embedding, `hook_rot_q` and `hook_rot_k` after. A function at `hook_pattern` makes attention
    compute pattern @ v, which can differ in the last bits from the fused kernel.

    Args:
        model: An `InterpretableModel`, or what it takes: a model of mlx-lm or transformers, a folder, a repository.
        tokenizer: Where `model` is a model without one.
    """

    def __init__(self, model: Any, tokenizer: Any = None, backend: str | None = None):
        own = isinstance(model, InterpretableModel)
        self.interpretable: InterpretableModel = (
            model if own else InterpretableModel(model, tokenizer, backend)
        )
        self._hooks = Hooks()
        self._table = HookTable(self.interpretable)

    @property
    def hook_dict(self) -> dict[str, HookPoint]:
        """Every hook there is now, by name, in the order in which a pass reaches them."""
        return {name: self._hooks.point(name) for name in self._names()}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.interpretable!r})"

    # -- running ------------------------------------------------------------------------------

    def __call__(self, input: Any, return_type: str | None = "logits", **options: Any) -> Any:
        """See `forward`."""
        return self.forward(input, return_type, **options)

    def forward(
        self, input: Any, return_type: str | None = "logits", loss_per_token: bool = False,
        prepend_bos: bool | None = None, padding_side: str | None = None, stop_at_layer: int | None = None,
        **unsupported: Any,
    ) -> Any:  # fmt: skip
        """Runs text or token ids, with the hooks.

        Args:
            return_type: "logits" (batch, position, vocabulary); "loss", the mean cross-entropy in nats per predicted
                token (padding does not count); "both"; or None.
            loss_per_token: The loss as (batch, position - 1) instead, 0 at padding.
            prepend_bos: For text, see `to_tokens`.
            stop_at_layer: Run blocks before this one only, and return the residual stream there; negative ones from
                the end.

        Raises:
            InputError: An argument that cannot be honoured, or input that cannot be run.
        """
        batch = self._batch(input, prepend_bos, padding_side)
        return self._forward(batch, return_type, loss_per_token, stop_at_layer, unsupported)[0]

    def run_with_cache(
        self, input: Any, return_type: str | None = "logits", *, names_filter: NamesFilter = None,
        device: Any = None, remove_batch_dim: bool = False, return_cache_object: bool = True,
        incl_bwd: bool = False, reset_hooks_end: bool = True, clear_contexts: bool = False, **options: Any,
    ) -> tuple[Any, Any]:  # fmt: skip
        """What `forward` returns, and the activations of one pass, edits of hooks included.

        Args:
            names_filter: A name, names, or a function of names; None keeps everything.
            device: Where torch tensors are put.
            remove_batch_dim: For one text: leave the first axis out.
            return_cache_object: False gives a plain dictionary.
            options: Those of `forward`.

        Raises:
            ComponentError: A name that this model has no hook for.
        """
        refuse_backward(incl_bwd=incl_bwd)
        batch = self._batch(input, options.pop("prepend_bos", None), options.pop("padding_side", None))
        per_token, stop = options.pop("loss_per_token", False), options.pop("stop_at_layer", None)
        out, found = self._forward(batch, return_type, per_token, stop, options, self._chosen(names_filter))
        cache = ActivationCache({name: moved(x, device) for name, x in found.items()}, self)
        cache = cache.remove_batch_dim() if remove_batch_dim else cache
        if clear_contexts:
            self._hooks.clear_contexts()
        return out, cache if return_cache_object else cache.cache_dict

    def run_with_hooks(
        self, input: Any, return_type: str | None = "logits", *,
        fwd_hooks: Sequence[tuple[Name, HookFunction]] = (), bwd_hooks: Sequence[Any] = (),
        reset_hooks_end: bool = True, clear_contexts: bool = False, **options: Any,
    ) -> Any:  # fmt: skip
        """What `forward` returns while `fwd_hooks` act; see `hooks`."""
        with self.hooks(fwd_hooks, bwd_hooks, reset_hooks_end, clear_contexts):
            return self.forward(input, return_type, **options)

    def _forward(
        self, batch: TokenBatch, return_type: str | None, per_token: bool, stop_at_layer: int | None,
        unsupported: dict[str, Any], wanted: Sequence[str] = (),
    ) -> tuple[Any, dict[str, Array]]:  # fmt: skip
        refuse_options(unsupported)
        if return_type not in ("logits", "loss", "both", None):
            raise InputError(f"return_type={return_type!r}; there are 'logits', 'loss', 'both' and None.")
        n = self.interpretable.n_layers
        stop = None if stop_at_layer is None else len(range(n)[:stop_at_layer])
        out, found = self._run(batch, wanted, stop)
        if stop is not None or return_type == "logits":
            return out, found
        if return_type is None:
            return None, found
        loss = self._loss(out, batch, per_token)
        return (loss if return_type == "loss" else Output(out, loss)), found

    def _run(
        self, batch: TokenBatch, wanted: Sequence[str], stop: int | None
    ) -> tuple[Array, dict[str, Array]]:
        """Logits, or the residual stream before block `stop`, and what is wanted of one pass."""
        record: dict[str, Array] = {}
        table = self._table.places
        kept = [table[name] for name in wanted if name in table]
        kept = [place for place in kept if stop is None or place.layer < stop]
        edits = self._interventions(set(wanted), record, stop)
        capture = list(dict.fromkeys(place.component for place in kept))
        if stop is None:
            if not capture and not edits:
                return self.interpretable(batch), {}
            trace = self.interpretable.trace(batch, edits, capture)
            out = trace.output
        else:
            end = f"layers.{stop - 1}.resid_post" if stop else "layers.0.resid_pre"
            trace = self.interpretable.trace(batch, edits, [*capture, end], stop_after=end)
            out = trace.activations[end]
        found = {
            place.name: place.theirs(_single(trace.activations[place.component], place)) for place in kept
        }
        self.interpretable.language_model.backend.evaluate(list(record.values()))
        return out, {name: {**found, **record}[name] for name in wanted if name in found or name in record}

    def _loss(self, logits: Array, batch: TokenBatch, per_token: bool) -> Array:
        if not (batch.lengths > 1).any():
            raise InputError("The loss needs a text of at least two tokens: the first one is not predicted.")
        backend = self.interpretable.language_model.backend
        losses = np.zeros((len(batch.lengths), batch.ids.shape[1] - 1), np.float32)
        for row, n in enumerate(batch.lengths):
            if n > 1:
                losses[row, : n - 1] = backend.token_losses(logits[row, : n - 1], batch.ids[row, 1:n])
        mean = losses.sum(dtype=np.float64) / (batch.lengths - 1).sum()
        return backend.put_beside(losses if per_token else np.array(mean, np.float32), logits)

    # -- hooks --------------------------------------------------------------------------------

    def add_hook(
        self, name: Name, hook: HookFunction, dir: str = "fwd", is_permanent: bool = False,
        level: int | None = None, prepend: bool = False,
    ) -> None:  # fmt: skip
        """Lets a function act on every pass until `reset_hooks`.

        Args:
            name: A hook, or a function of names that is true for those meant.
            is_permanent: It stays when hooks are reset, unless permanent ones are included.
            prepend: It acts before the functions there.

        Raises:
            ComponentError: No such hook.
        """
        refuse_backward(dir=dir)
        for one in [name] if isinstance(name, str) else self._chosen(name):
            self._check_name(one)
            self._hooks.add(one, hook, level, is_permanent, prepend)

    def add_perma_hook(self, name: Name, hook: HookFunction, dir: str = "fwd") -> None:
        """`add_hook` with `is_permanent=True`."""
        self.add_hook(name, hook, dir, is_permanent=True)

    def reset_hooks(
        self, clear_contexts: bool = True, direction: str = "both", including_permanent: bool = False,
        level: int | None = None,
    ) -> None:  # fmt: skip
        """Ends all hooks, or those of one level; permanent ones only with `including_permanent`."""
        if clear_contexts:
            self._hooks.clear_contexts()
        if direction != "bwd":
            self._hooks.remove(level, including_permanent)

    @contextmanager
    def hooks(
        self, fwd_hooks: Sequence[tuple[Name, HookFunction]] = (), bwd_hooks: Sequence[Any] = (),
        reset_hooks_end: bool = True, clear_contexts: bool = False,
    ) -> Iterator[Any]:  # fmt: skip
        """Within `with model.hooks(fwd_hooks=[(name, function)]):` the functions act; also on `generate`."""
        refuse_backward(bwd_hooks)
        self._hooks.level += 1
        try:
            for name, function in fwd_hooks:
                self.add_hook(name, function, level=self._hooks.level)
            yield self
        finally:
            if reset_hooks_end:
                self.reset_hooks(clear_contexts, level=self._hooks.level)
            self._hooks.level -= 1

    def _names(self) -> list[str]:
        return list(self._table.places)

    def _check_name(self, name: str) -> None:
        if name not in self._names():
            raise ComponentError(self._table.why_not(name))

    def _chosen(self, names: NamesFilter) -> list[str]:
        """The hooks that a filter means, in the order of a pass."""
        known = self._names()
        if names is None:
            return known
        if callable(names):
            return [name for name in known if names(name)]
        asked = [names] if isinstance(names, str) else list(names)
        for name in asked:
            self._check_name(name)
        return [name for name in known if name in set(asked)]

    def _interventions(
        self, wanted: set[str], record: dict[str, Array], stop: int | None = None
    ) -> dict[str, list[Callable[[Array], Array]]]:
        """Everything that acts on a pass, by component.

        Args:
            wanted: Names whose values go to `record` where no component holds them.
            stop: Only what is before this block.
        """
        found: dict[str, list[Callable[[Array], Array]]] = {}
        for place, function in self._changes(wanted, record):
            if stop is None or place.layer < stop:
                found.setdefault(place.component, []).append(_laid_out(place, function))
        return found

    def _changes(
        self, wanted: set[str], record: dict[str, Array]
    ) -> Iterator[tuple[Place, Callable[[Array], Array]]]:
        """Functions of activations in TransformerLens's layout, and where they act."""
        for name in self._hooks.names:
            place = self._table.places.get(name)
            if place is not None:
                yield place, _firing(self._hooks, name)


def _firing(hooks: Hooks, name: str) -> Callable[[Array], Array]:
    return lambda x: hooks.fire(name, x)


def _laid_out(place: Place, function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda x: place.ours(function(place.theirs(x)), x)


def _single(value: Any, place: Place) -> Array:
    if isinstance(value, list):
        raise InputError(
            f"{place.component} is called {len(value)} times in one pass, so {place.name} has no one value. Leave it"
            " out of names_filter; a trace of model.interpretable gives each call."
        )
    return value


_IGNORED = {"attention_mask": "Texts are padded on the right, which no token can see.",
            "past_kv_cache": "generate keeps its own cache.",
            "start_at_layer": "Hook blocks.N.hook_resid_pre to put another residual stream there.",
            "pos_slice": "Index the cached arrays."}  # fmt: skip


def refuse_options(options: dict[str, Any]) -> None:
    """Raises InputError for arguments of TransformerLens that would have an effect there."""
    for name, value in options.items():
        if value is not None:
            raise InputError(f"{name}= is not there in mlxterp.compat. {_IGNORED.get(name, 'Leave it out.')}")

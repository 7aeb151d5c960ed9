"""`HookedSAETransformer`: a `HookedTransformer` with SAEs in the place of hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ...core.sites import Array
from ...errors import ComponentError, InputError
from ...sae import SAE as OwnSAE
from .hooks import HookFunction
from .model import HookedTransformer, Name, NamesFilter
from .names import Place
from .sae import SAE, as_compat
from .splicing import PARTS, Splice

SAEs = SAE | OwnSAE | Sequence[SAE | OwnSAE]


class HookedSAETransformer(HookedTransformer):
    """A model whose activations SAEs reconstruct, at the hooks that they were trained on.

    Where an SAE is attached, its hook's place is taken by `{hook}.hook_sae_input`, `hook_sae_acts_post` (the latents),
    `hook_sae_recons`, `hook_sae_error` (with the error term) and `hook_sae_output`, which can be cached and hooked.
    A transcoder's stand at the hook that it writes to.

    An SAE that was trained on centred weights, or on a norm without its gain, is fitted to this model as it is when it
    is attached. Encoding a cached activation yourself does not do that.
    """

    def __init__(self, model: Any, tokenizer: Any = None, backend: str | None = None):
        super().__init__(model, tokenizer, backend)
        self._splices: dict[str, Splice] = {}

    @property
    def acts_to_saes(self) -> dict[str, SAE]:
        """The attached SAEs, by the hook that each reads."""
        return {name: splice.sae for name, splice in self._splices.items()}

    def add_sae(
        self, sae: SAE | OwnSAE, use_error_term: bool | None = None, exclude_special_tokens: Any = False
    ) -> None:
        """Attaches an SAE or transcoder until `reset_saes`; one that reads the same hook is replaced.

        Args:
            use_error_term: Whether what the reconstruction misses is added again, so that the model computes what it
                would without the SAE, but for what hooks change; None takes the SAE's own setting.

        Raises:
            SAEError: It is not as wide as its hook, or does not say which that is.
            ComponentError: This model has no such hook.
            InputError: `exclude_special_tokens`, or something that is no SAE.
        """
        if exclude_special_tokens is not False:
            raise InputError(
                "exclude_special_tokens= is not there in mlxterp.compat. Put the activations of those positions back in"
                " a hook at '….hook_sae_output'."
            )
        given = as_compat(sae)
        error = given.use_error_term if use_error_term is None else use_error_term
        splice = Splice(self.interpretable, self._table, given, error)
        taken = [
            s for s in self._splices.values() if s.target is splice.target and s.source is not splice.source
        ]
        if taken:
            raise InputError(
                f"{taken[0].sae!r} already writes to {splice.target.name}. Reset it first: reset_saes()."
            )
        self._splices[splice.source.name] = splice

    def reset_saes(self, act_names: str | Sequence[str] | None = None) -> None:
        """Takes SAEs away, those that read the named hooks or all, and what was hooked within them.

        Raises:
            ComponentError: No SAE reads such a hook.
        """
        names = (
            [act_names]
            if isinstance(act_names, str)
            else list(self._splices if act_names is None else act_names)
        )
        for name in names:
            if name not in self._splices:
                raise ComponentError(
                    f"No SAE reads {name!r}. Attached are those of: {', '.join(self._splices) or 'none'}."
                )
            self._hooks.forget(f"{self._splices.pop(name).target.name}.hook_sae_")

    @contextmanager
    def saes(
        self, saes: SAEs = (), reset_saes_end: bool = True, use_error_term: bool | None = None,
        exclude_special_tokens: Any = False,
    ) -> Iterator[HookedSAETransformer]:  # fmt: skip
        """Within `with model.saes([sae]):` they are attached; those they replaced come back at the end."""
        before = dict(self._splices)
        try:
            for sae in [saes] if isinstance(saes, (SAE, OwnSAE)) else saes:
                self.add_sae(sae, use_error_term, exclude_special_tokens)
            yield self
        finally:
            if reset_saes_end:
                self.reset_saes(
                    [name for name, splice in self._splices.items() if before.get(name) is not splice]
                )
                self._splices = before

    def run_with_saes(
        self, *inputs: Any, saes: SAEs = (), reset_saes_end: bool = True, use_error_term: bool | None = None,
        exclude_special_tokens: Any = False, **options: Any,
    ) -> Any:  # fmt: skip
        """What `forward` returns with these SAEs attached."""
        with self.saes(saes, reset_saes_end, use_error_term, exclude_special_tokens):
            return self.forward(*inputs, **options)

    def run_with_cache_with_saes(
        self, *inputs: Any, saes: SAEs = (), reset_saes_end: bool = True, use_error_term: bool | None = None,
        exclude_special_tokens: Any = False, names_filter: NamesFilter = None, **options: Any,
    ) -> tuple[Any, Any]:  # fmt: skip
        """What `run_with_cache` returns with these SAEs attached; latents are `cache["….hook_sae_acts_post"]`."""
        with self.saes(saes, reset_saes_end, use_error_term, exclude_special_tokens):
            return self.run_with_cache(*inputs, names_filter=names_filter, **options)

    def run_with_hooks_with_saes(
        self, *inputs: Any, saes: SAEs = (), reset_saes_end: bool = True, use_error_term: bool | None = None,
        exclude_special_tokens: Any = False, fwd_hooks: Sequence[tuple[Name, HookFunction]] = (),
        bwd_hooks: Sequence[Any] = (), **options: Any,
    ) -> Any:  # fmt: skip
        """What `run_with_hooks` returns with these SAEs attached; hooks can be those within them."""
        with self.saes(saes, reset_saes_end, use_error_term, exclude_special_tokens):
            return self.run_with_hooks(*inputs, fwd_hooks=fwd_hooks, bwd_hooks=bwd_hooks, **options)

    # -- hooks --------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        inner = {splice.target.name: splice.names for splice in self._splices.values()}
        return [one for name in super()._names() for one in inner.get(name, [name])]

    def _check_name(self, name: str) -> None:
        if name in self._names():
            return
        if name in self._table.places:
            raise ComponentError(
                f"An SAE takes the place of {name!r}. Use {name + '.hook_sae_input'!r} for what comes in and"
                f" {name + '.hook_sae_output'!r} for what goes on, or reset_saes() first."
            )
        if name.rpartition(".")[2] in PARTS:
            raise ComponentError(
                f"{name!r} is there while an SAE is attached at {name.rpartition('.')[0]!r} (hook_sae_error with its"
                " error term): model.add_sae(sae), or saes=[sae] of the call."
            )
        super()._check_name(name)

    def _changes(
        self, wanted: set[str], record: dict[str, Array]
    ) -> Iterator[tuple[Place, Callable[[Array], Array]]]:
        yield from super()._changes(wanted, record)
        for splice in self._splices.values():
            yield from splice.changes(self._hooks, wanted, record)

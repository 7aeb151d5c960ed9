"""A model as a source of training rows: activations of several components from one forward pass.

`ModelRows` runs contexts block by block while SAEs train on the block before; `collect_activations`
writes the same rows to disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backends.base import LanguageModel
from ..core import checks
from ..core.sites import Component
from ..data.contexts import Contexts
from ..data.corpus import Corpus, CorpusBatch
from .exclusions import OF_TRAINING, check_exclusions, first_reasons, rule_of_training
from .fingerprint import weights_of
from .forward import Activations, batches_of, run_batch


@dataclass(frozen=True, eq=False, slots=True)
class TokenRows:
    """Activations of some tokens, and which tokens they are."""

    contexts: np.ndarray
    """int64, (n,): number of each token's context in its block."""
    positions: np.ndarray
    """int64, (n,): its position in the context."""
    tokens: np.ndarray
    """int32, (n,): its id."""
    values: tuple[np.ndarray, ...]
    """float32, (n, width) of each component."""


class ModelRows:
    """`training.rows.Rows` of a model that runs while SAEs train.

    Args:
        exclude: Some of `exclusions.OF_TRAINING`.
    """

    def __init__(self, model: LanguageModel, contexts: Contexts, components: Sequence[Component],
                 exclude: Iterable[str], widths: Sequence[int], context_length: int):  # fmt: skip
        self.context_length = context_length
        self.names = tuple(component.name for component in components)
        self.widths = tuple(widths)
        self.total = contexts.tokens
        self.excluded: dict[str, int] = dict.fromkeys(check_exclusions(exclude, OF_TRAINING), 0)
        """Tokens left out so far, by reason."""
        self._model, self._contexts, self._components = model, contexts, components
        self._rules = [rule_of_training(model, component, exclude) for component in components]

    def blocks(self, epoch: int) -> int:
        return self._contexts.blocks(epoch)

    def block(self, epoch: int, index: int) -> Iterator[tuple[np.ndarray, ...]]:
        for rows in self.token_rows(epoch, index):
            yield rows.values

    def token_rows(self, epoch: int, index: int) -> Iterator[TokenRows]:
        """Rows of a block with the tokens they belong to."""
        corpus = self._contexts.block(epoch, index)
        if corpus is None:
            return
        group = self._model.backend.group()
        runs = self._runs(corpus) if group.size == 1 else self._shared_runs(corpus)
        for activations, values in runs:
            yield self._without_excluded(corpus, activations, values)

    def identity(self) -> dict[str, Any]:
        return {
            "model": self._model.model_type,
            "components": list(self.names),
            "exclude": sorted(self.excluded),
            "texts": self._contexts.identity(),
            "weights": weights_of(self._model),
        }

    def facts(self) -> dict[str, Any]:
        return {"excluded_tokens": dict(self.excluded)}

    def _runs(self, corpus: Corpus) -> Iterator[tuple[Activations, tuple[np.ndarray, ...]]]:
        """One batch after the other; the next one is under way while this one is used."""
        backend = self._model.backend
        before: list[Activations] | None = None
        for batch in batches_of(self._model, corpus):
            found = run_batch(self._model, batch, self._components)
            backend.start([part.values for part in found])
            if before is not None:
                yield before[0], self._on_host(before)
            before = found
        if before is not None:
            yield before[0], self._on_host(before)

    def _shared_runs(self, corpus: Corpus) -> Iterator[tuple[Activations, tuple[np.ndarray, ...]]]:
        """Every process runs its share of the batches, and gets what the others found."""
        backend, group = self._model.backend, self._model.backend.group()
        for turn in _turns(list(batches_of(self._model, corpus)), group.size):
            found = []
            for rank, batch in enumerate(turn):
                row, _, positions = batch.kept()
                own = run_batch(self._model, batch, self._components) if rank == group.rank else None
                values = self._on_host(own) if own is not None else self._zeros(len(row))
                found.append((Activations(batch.text_ids[row], positions, None), values))
            for activations, values in found:
                summed = group.sum([backend.put(part) for part in values])
                yield activations, tuple(backend.get(part) for part in summed)

    def _zeros(self, n: int) -> tuple[np.ndarray, ...]:
        return tuple(np.zeros((n, width), dtype=np.float32) for width in self.widths)

    def _on_host(self, found: Sequence[Activations]) -> tuple[np.ndarray, ...]:
        get = self._model.backend.get
        values = tuple(get(part.values).astype(np.float32, copy=False) for part in found)
        for name, rows in zip(self.names, values, strict=True):
            checks.finite_rows(rows, f"the activations of {name}")
        return values

    def _without_excluded(
        self, corpus: Corpus, activations: Activations, values: tuple[np.ndarray, ...]
    ) -> TokenRows:
        tokens = corpus.tokens[corpus.offsets[activations.text_ids] + activations.positions]
        lengths = [
            np.linalg.norm(part, axis=1) if "sinks" in self.excluded else np.zeros(len(tokens))
            for part in values
        ]
        reasons = first_reasons(self._rules, tokens, activations.positions, lengths)
        for i, reason in enumerate(self.excluded):
            self.excluded[reason] += int((reasons == i).sum())
        keep = reasons < 0
        return TokenRows(
            activations.text_ids[keep], activations.positions[keep], tokens[keep],
            tuple(part[keep] for part in values),
        )  # fmt: skip


def _turns(batches: list[CorpusBatch], size: int) -> Iterator[list[CorpusBatch]]:
    for i in range(0, len(batches), size):
        yield batches[i : i + size]

"""`ActivationsStore`: batches of tokens from a data set, and the activations that an SAE reads on them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ...core import checks
from ...core.sites import Array
from ...data.dataset import HuggingFaceDataset, ListedTexts, StreamedTexts, open_texts
from ...errors import InputError
from .model import HookedTransformer
from .sae import SAE, as_compat


class ActivationsStore:
    """Texts joined and cut to contexts of equal length, handed out in batches; from the start again at the end.

    As in SAELens each context begins with BOS where the SAE was trained so, and BOS stands between texts. What is left
    at the end of the data set is no whole context, and is not handed out. Activations are not buffered or mixed:
    `mlxterp.collect_activations` does that for training.

    Args:
        dataset: A list of texts, a text file, a `datasets` object, a `HuggingFaceDataset`, or the name of a data set
            of the hub.
        context_size: Tokens of a context, BOS included.
        prepend_bos: Whether each context begins with BOS and BOS separates texts.
        streaming: Read a data set of the hub piece by piece.

    Raises:
        InputError: No data set or context size, or BOS is wanted and the tokenizer has none.
    """

    def __init__(
        self, model: HookedTransformer, dataset: Any, hook_name: str, context_size: int, prepend_bos: bool = True,
        streaming: bool = True, store_batch_size_prompts: int = 8,
    ):  # fmt: skip
        context_size = checks.count(
            context_size, "context_size", 1 + bool(prepend_bos), hint="A context has room for more than BOS."
        )
        store_batch_size_prompts = checks.count(store_batch_size_prompts, "store_batch_size_prompts")
        self.model, self.hook_name = model, hook_name
        self.context_size, self.prepend_bos = context_size, prepend_bos
        self.store_batch_size_prompts = store_batch_size_prompts
        self._bos = model.to_tokens("a", prepend_bos=True)[0, 0].item() if prepend_bos else None
        is_name = isinstance(dataset, str) and "://" not in dataset and "." not in dataset.rpartition("/")[2]
        given = HuggingFaceDataset(dataset, streaming=streaming) if is_name else dataset
        self._texts = open_texts(given, model.interpretable.language_model)
        self._contexts: Iterator[list[int]] = self._cut()

    @classmethod
    def from_sae(
        cls, model: HookedTransformer, sae: SAE, dataset: Any = None, context_size: int | None = None,
        streaming: bool = True, store_batch_size_prompts: int = 8, n_batches_in_buffer: int = 8,
        train_batch_size_tokens: int = 4096, total_tokens: int = 10**9, device: Any = None,
        dataset_trust_remote_code: bool = False,
    ) -> ActivationsStore:  # fmt: skip
        """A store with the settings that an SAE was trained with.

        Args:
            dataset: Instead of the SAE's own, which its files may name.
            context_size: Likewise.
            n_batches_in_buffer, train_batch_size_tokens, total_tokens, device: Without effect: nothing is buffered.

        Raises:
            InputError: Neither the SAE nor the call says which data set or context size; or code of a data set would
                have to be run.
        """
        facts = as_compat(sae).cfg.metadata
        data = facts.dataset_path if dataset is None else dataset
        size = facts.context_size if context_size is None else context_size
        if data is None or size is None or dataset_trust_remote_code:
            raise InputError(
                f"dataset={data!r}, context_size={size!r}: give both where the SAE's files do not. No code of data sets"
                " is run (dataset_trust_remote_code)."
            )
        hook, bos = facts.hook_name, facts.get("prepend_bos", True)
        return cls(model, data, hook, size, bos, streaming, store_batch_size_prompts)

    @property
    def store_batch_size(self) -> int:
        """`store_batch_size_prompts` by its older name."""
        return self.store_batch_size_prompts

    def get_batch_tokens(self, batch_size: int | None = None, raise_at_epoch_end: bool = False) -> Array:
        """Token ids of the next contexts, native (batch_size, context_size).

        Raises:
            StopIteration: The data set ended and `raise_at_epoch_end` is set; the next call begins anew.
            InputError: The data set has no whole context.
        """
        batch_size = checks.count_or_none(batch_size, "batch_size")
        rows: list[list[int]] = []
        fresh = False
        while len(rows) < (batch_size or self.store_batch_size_prompts):
            row = next(self._contexts, None)
            if row is not None:
                rows.append(row)
                fresh = False
                continue
            if fresh:
                raise InputError(
                    f"The data set has fewer than the {self.context_size} tokens of one context."
                )
            self._contexts, fresh = self._cut(), True
            if raise_at_epoch_end:
                raise StopIteration("The data set is at its end; the next call begins anew.")
        return self.model._native(np.array(rows, np.int32))

    def get_activations(self, batch_tokens: Array) -> Array:
        """Activations at the SAE's hook, native (batch, context_size, d_in); heads stand side by side."""
        name = self.hook_name
        layer = int(name.split(".")[1]) + 1 if name.startswith("blocks.") else None
        x = self.model.run_with_cache(batch_tokens, names_filter=name, stop_at_layer=layer)[1][name]
        return x.reshape((*x.shape[:2], x.shape[2] * x.shape[3])) if x.ndim == 4 else x

    def _cut(self) -> Iterator[list[int]]:
        context: list[int] = []
        for text in _each(self._texts):
            ids = self.model._texts(text, prepend_bos=False, truncate=False).ids[0].tolist() if text else []
            if ids and self._bos is not None and ids[0] != self._bos:
                ids = [self._bos, *ids]  # at the start of a context, and between texts
            while ids:
                if not context and self._bos is not None and ids[0] != self._bos:
                    context = [self._bos]
                room = self.context_size - len(context)
                context, ids = context + ids[:room], ids[room:]
                if len(context) == self.context_size:
                    yield context
                    context = []


def _each(texts: ListedTexts | StreamedTexts) -> Iterator[str]:
    if isinstance(texts, StreamedTexts):
        yield from texts
    else:
        yield from (texts[i] for i in range(len(texts)))

"""`lm.inference`: passes over lists of texts, with encodings, as Mi-Crow gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core import checks
from ...core.sites import Array
from ...core.tokens import TokenBatch
from ...errors import InputError
from ...model.interpretable import InterpretableModel
from .datasets import texts_of
from .signatures import component_of

Encodings = dict[str, Array]
"""Native integers (batch, longest): "input_ids", and "attention_mask", 1 on each text's tokens and 0 on padding."""
_IGNORED = {"padding": (True, "longest"), "truncation": (True, False), "return_tensors": ("pt", None)}


@dataclass(frozen=True, eq=False, slots=True)
class InferenceOutput:
    """What a pass gives; `output[0]` and `output["logits"]` are its logits too.

    Attributes:
        logits: Native, (batch, longest, vocabulary); beyond a text's end undefined.
    """

    logits: Array

    def __getitem__(self, key: int | str) -> Array:
        if key in (0, "logits"):
            return self.logits
        raise KeyError(f"{key!r}; a pass gives logits only.")


class InferenceEngine:
    """Runs a model over texts; made by `LanguageModel`."""

    def __init__(self, model: InterpretableModel):
        self._model = model

    def execute_inference(
        self,
        texts: Sequence[str],
        tok_kwargs: Mapping[str, Any] | None = None,
        autocast: bool = True,
        autocast_dtype: Any = None,
        with_controllers: bool = True,
        stop_after_layer: str | None = None,
    ) -> tuple[Any, Encodings]:
        """One padded pass over texts, with what is attached.

        Args:
            texts: A list or a `TextDataset`. Unequal texts are right-padded; each gives what it gives alone.
            tok_kwargs: {"max_length": n} keeps the first n tokens of each text, which are then tracked as that text.
                Without it a text beyond learned positions raises, where Mi-Crow cuts it.
            autocast, autocast_dtype: Without effect: the model runs in the precision it was loaded in.
            with_controllers: False runs without manipulations: controllers and attached SAEs change nothing, while
                detectors and text tracking go on.
            stop_after_layer: A layer signature: run no further, and give what it puts out instead of logits.

        Returns:
            An `InferenceOutput` (native logits), and the encodings.

        Raises:
            InputError: No list of texts, a text beyond the model's positions, or settings of a tokenizer that are not
                known here.
        """
        given = texts_of(texts)
        rows = self._rows(given, tok_kwargs)
        inputs = rows if (tok_kwargs or {}).get("max_length") is not None else given
        with nullcontext() if with_controllers else self._model.without_controllers():
            if stop_after_layer is None:
                output = InferenceOutput(self._model(inputs))
                return output, self._encodings(rows, output.logits)
            path = component_of(self._model, stop_after_layer)
            with self._model.trace(inputs, capture=[path], stop_after=path) as t:
                pass
            return t.activations[path], self._encodings(rows, t.activations[path])

    def infer_texts(
        self, texts: Sequence[str], run_name: str | None = None, batch_size: int | None = None, **options: Any
    ) -> tuple[Any, Any]:
        """As `execute_inference`, but in batches of `batch_size` texts: lists of outputs and of encodings.

        Without `batch_size` one pass, and no lists. To keep activations use `lm.activations.save`.
        """
        if run_name is not None:
            raise InputError(
                "infer_texts saves nothing here: lm.activations.save(texts, …, run_name=…) does."
            )
        given = texts_of(texts)
        batch_size = checks.count_or_none(batch_size, "batch_size")
        if batch_size is None or batch_size >= len(given):
            return self.execute_inference(given, **options)
        pairs = [
            self.execute_inference(given[i : i + batch_size], **options)
            for i in range(0, len(given), batch_size)
        ]
        return [output for output, _ in pairs], [encodings for _, encodings in pairs]

    def extract_logits(self, output: Any) -> Array:
        """The logits of an output."""
        return getattr(output, "logits", output)

    def encode(self, texts: Sequence[str], tok_kwargs: Mapping[str, Any] | None = None) -> Encodings:
        """The encodings of texts, without running them."""
        rows = self._rows(texts_of(texts), tok_kwargs)
        return self._encodings(rows, self._model.to_tokens([[0]]))

    def _rows(self, texts: Sequence[str], tok_kwargs: Mapping[str, Any] | None) -> list[list[int]]:
        settings = dict(tok_kwargs or {})
        limit = checks.count_or_none(settings.pop("max_length", None), "max_length")
        for name, value in settings.items():
            if name not in _IGNORED or value not in _IGNORED[name]:
                raise InputError(f"tok_kwargs has {name}={value!r}; only max_length is known here.")
        return [self._model.tokenize(text)[:limit] for text in texts]

    def _encodings(self, rows: Sequence[Sequence[int]], like: Array) -> Encodings:
        batch, backend = TokenBatch.from_rows([list(row) for row in rows]), self._model.language_model.backend
        ids = batch.ids.astype(np.int64)
        mask = (np.arange(ids.shape[1]) < batch.lengths[:, None]).astype(np.int64)
        return {
            "input_ids": backend.put_beside(ids, like),
            "attention_mask": backend.put_beside(mask, like),
        }

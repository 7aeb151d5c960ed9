"""`lm.activations`: saves activations into the model's store, under Mi-Crow's names."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ...activations.local_store import LocalStore
from ...data.dataset import HuggingFaceDataset
from ...errors import InputError
from ...model.interpretable import InterpretableModel
from .signatures import component_of

_OPTIONS = ("tokens", "exclude", "batch_tokens", "seed")


class LanguageModelActivations:
    """Saves activations; made by `LanguageModel`."""

    def __init__(self, model: InterpretableModel, store: LocalStore | None):
        self._model, self._store = model, store

    def save(
        self,
        dataset: Any,
        layer_signature: str | Sequence[str],
        run_name: str | None = None,
        batch_size: int | None = None,
        *,
        dtype: Any = None,
        max_length: int | None = None,
        verbose: bool = False,
        run_id: str | None = None,
        **options: Any,
    ) -> str:
        """Keeps what layers put out on texts, under `activations/<run_name>/` of the store; returns the run's name.

        Every token is kept, once; rows are mixed. `lm.store.activations(run_name)` opens them for training.

        Args:
            dataset: A list of texts, a `TextDataset`, a `HuggingFaceDataset`, or the path of a text file.
            layer_signature: One or several.
            run_name: None makes one of the time.
            batch_size: Without effect: batches are of `batch_tokens` tokens (65,536), whatever texts they come from.
            dtype: "float32", "float16", "bfloat16", or torch's type of that name; None is float32.
            max_length: Longer texts are cut into pieces of so many tokens; nothing is dropped.
            verbose: Whether a bar is shown.
            run_id: Another name of `run_name`.
            options: `tokens`, `exclude`, `batch_tokens` and `seed` of `mlxterp.collect_activations`.

        Raises:
            InputError: The language model has no store, no texts, or a setting that is unknown or cannot be;
                `run_name` and `run_id` differ.
            ComponentError: No such layer.
            SAEError: Other activations lie under this name.
        """
        if self._store is None:
            raise InputError(
                "This language model has no store: LanguageModel.from_huggingface(…, store=LocalStore())."
            )
        name = _run_name(run_name, run_id)
        if unknown := [option for option in options if option not in _OPTIONS]:
            known = ("run_name", "batch_size", "dtype", "max_length", "verbose", *_OPTIONS)
            raise InputError(f"There is no option {unknown[0]}=; save takes {', '.join(known)}.")
        signatures = [layer_signature] if isinstance(layer_signature, str) else list(layer_signature)
        saved = self._model.activations.save(
            dataset if isinstance(dataset, HuggingFaceDataset) else getattr(dataset, "texts", dataset),
            [component_of(self._model, signature) for signature in signatures],
            store=self._store,
            run_id=name,
            dtype=str(dtype or "float32").removeprefix("torch."),
            context_length=max_length,
            progress=verbose,
            **{"exclude": (), **options},
        )
        return saved.path.name

    save_activations = save
    save_activations_dataset = save


def _run_name(run_name: str | None, run_id: str | None) -> str:
    if run_name is not None and run_id is not None and run_name != run_id:
        raise InputError(
            f"run_name={run_name!r} and run_id={run_id!r} name the same thing. Give one of them."
        )
    given = run_id if run_name is None else run_name
    return given or datetime.now().strftime("run_%Y%m%d_%H%M%S_%f")

"""`LanguageModel`: an `InterpretableModel` under Mi-Crow's names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal

from ...activations.local_store import LocalStore
from ...errors import InputError
from ...hooks.attached_sae import AttachedSAE
from ...model.interpretable import InterpretableModel
from ...sae import SAE
from ..devices import opened, wing_for
from .activations import LanguageModelActivations
from .inference import Encodings, InferenceEngine
from .layers import LanguageModelLayers
from .signatures import component_of


class LanguageModel:
    """A language model with its store: `layers`, `inference` and `activations` do what they do in Mi-Crow.

    Args:
        model: A loaded model of torch or mlx-lm, or an `InterpretableModel`.
        tokenizer: Of a loaded model.
        store: A `LocalStore` or its folder; needed to save activations.
        model_id: Its name.
    """

    def __init__(
        self, model: Any, tokenizer: Any = None, store: LocalStore | str | os.PathLike | None = None,
        model_id: str | None = None,
    ):  # fmt: skip
        self.model = model if isinstance(model, InterpretableModel) else InterpretableModel(model, tokenizer)
        """The `InterpretableModel`, with everything that mlxterp does."""
        self.store = store if isinstance(store, LocalStore) or store is None else LocalStore(store)
        self.model_id = model_id or self.model.name or self.model.language_model.model_type
        self.layers = LanguageModelLayers(self.model)
        self.inference = InferenceEngine(self.model)
        self.activations = LanguageModelActivations(self.model, self.store)

    @classmethod
    def from_huggingface(
        cls,
        model_name: str,
        store: LocalStore | str | os.PathLike | None = None,
        tokenizer_params: Mapping[str, Any] | None = None,
        model_params: Mapping[str, Any] | None = None,
        device: Any = None,
    ) -> LanguageModel:
        """A model and its tokenizer from the hub or a folder.

        Args:
            device: "cuda", "cuda:1", "mps" and "cpu" run PyTorch there, where it (with transformers) is installed and
                has the device; arrays are then torch's, as in Mi-Crow. None and "mlx" run MLX where it is installed,
                which is the fast choice on a Mac. Where there is no such device, MLX or else PyTorch's best device is
                used, with one warning.
            tokenizer_params, model_params: Not taken; load the model yourself and give it to `LanguageModel`.

        Raises:
            InputError: There is no such model, no device of that name, or there are `…_params`.
            BackendError: The library that would run it is not installed.
        """
        if tokenizer_params or model_params:
            raise InputError(
                "tokenizer_params and model_params are not taken here. Load model and tokenizer yourself:"
                " LanguageModel(model, tokenizer, store)."
            )
        backend, where = wing_for(device)
        return cls(opened(model_name, None, backend, where), store=store, model_id=model_name)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer; None without one."""
        return self.model.tokenizer

    @property
    def device(self) -> str:
        """ "mlx", or where PyTorch computes: "cuda:0", "mps", "cpu"."""
        backend = self.model.language_model.backend
        return (
            "mlx" if backend.name == "mlx" else backend.device(self.model.unembed([0.0] * self.model.d_model))
        )

    def __repr__(self) -> str:
        return f"LanguageModel({self.model_id!r}: {self.model!r})"

    def tokenize(self, texts: Sequence[str], **tok_kwargs: Any) -> Encodings:
        """ "input_ids" and "attention_mask" of texts, native (batch, longest)."""
        return self.inference.encode(texts, tok_kwargs)

    def forwards(self, texts: Sequence[str], **options: Any) -> tuple[Any, Encodings]:
        """As `inference.execute_inference`."""
        return self.inference.execute_inference(texts, **options)

    def generate(
        self, texts: str | Sequence[str], max_tokens: int = 100, with_controllers: bool = True, **options: Any
    ) -> Any:
        """The continuation of a text; a list for a list. `options` are those of `InterpretableModel.generate`.

        Args:
            with_controllers: False generates without manipulations.
        """
        prompts = texts if isinstance(texts, str) else list(texts)
        with nullcontext() if with_controllers else self.model.without_controllers():
            return self.model.generate(prompts, max_tokens, **options)

    def attach_sae(
        self, sae: SAE, layer_signature: str | None = None, mode: Literal["change", "replace"] = "change"
    ) -> AttachedSAE:
        """Lets an SAE act on every pass, until `handle.detach()`; see `InterpretableModel.attach_sae`.

        Args:
            layer_signature: A path ("transformer.h.0.attn.c_proj"), or Mi-Crow's joined name; None takes the component
                that the SAE was trained on.
            mode: "change": the output changes only by what `sae.concepts` manipulates. "replace": the reconstruction
                takes its place, as in Mi-Crow.

        Raises:
            ComponentError: No such layer.
            SAEError: The layer is not as wide as the SAE.
        """
        path = None if layer_signature is None else component_of(self.model, layer_signature)
        return self.model.attach_sae(sae, path, mode=mode)

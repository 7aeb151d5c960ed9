"""How a `HookedTransformer` is loaded, moved, and what its weights are called."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ...errors import InputError, warn
from ...linear_part import LinearPart
from ...model import InterpretableModel
from ...sites import Array
from .pretrained import hub_name
from .sae import one_place_only
from .text import TextMethods

_Model = TypeVar("_Model", bound="LoadingMethods")
_TOLD: set[str] = set()
_PROCESSING = ("fold_ln", "center_writing_weights", "center_unembed")
_WITHOUT_EFFECT = (
    *_PROCESSING,
    "fold_value_biases",
    "refactor_factored_attn_matrices",
    "move_to_device",
    "n_devices",
    "trust_remote_code",
)
_ROWS = 512
"""Rows of weights that are read at once."""


class LoadingMethods(TextMethods):
    """Methods of `HookedTransformer` about where it comes from."""

    if TYPE_CHECKING:

        def __init__(self, model: Any, tokenizer: Any = None, backend: str | None = None): ...

    @classmethod
    def from_pretrained(
        cls: type[_Model], model_name: str, device: Any = None, dtype: Any = None, tokenizer: Any = None,
        backend: str | None = None, hf_model: Any = None, default_prepend_bos: bool | None = None, **options: Any,
    ) -> _Model:  # fmt: skip
        """A model from the hub or a folder, as it was trained.

        TransformerLens processes weights here by default. That is not done: logits agree up to a constant for each
        token, `hook_resid_*` keep their mean, and norms their gain. A warning says so once, unless all processing is
        declined (`fold_ln=False, center_writing_weights=False, center_unembed=False`).

        Args:
            model_name: A repository ("openai-community/gpt2"), a folder, or a short name ("gpt2-small").
            device: Of a torch model; MLX runs on its default device.
            dtype: "float32", "float16", or a dtype of the wing's library; None keeps the checkpoint's.
            backend: "mlx" or "torch"; by default MLX where it is installed.
            hf_model: A loaded model, used instead of loading one.
            default_prepend_bos: Whether text gets a BOS in front; None is True.

        Raises:
            InputError: It cannot be found, or an option cannot be honoured.
        """
        declined = all(options.get(name, True) is False for name in _PROCESSING)
        for name, value in options.items():
            if name not in _WITHOUT_EFFECT and value is not None:
                raise InputError(
                    f"{name}={value!r} cannot be honoured: the whole model is loaded as it is. Leave it out."
                )
        if not declined and "processing" not in _TOLD:
            _TOLD.add("processing")
            warn(
                "The model is loaded as it is: norms are not folded and weights not centred, as TransformerLens does by"
                " default. Its logits agree with these up to a constant for each token; residual streams here are not"
                " centred. from_pretrained_no_processing is the same without this sentence."
            )
        source = hub_name(str(model_name)) if hf_model is None else hf_model
        model = InterpretableModel(source, tokenizer, backend)
        _place(model, device, dtype)
        made = cls(model)
        if default_prepend_bos is not None:
            made.cfg.default_prepend_bos = default_prepend_bos
        return made

    @classmethod
    def from_pretrained_no_processing(
        cls: type[_Model], model_name: str, device: Any = None, **options: Any
    ) -> _Model:
        """`from_pretrained` for those who want the model as it is, which it always is here."""
        options.update(fold_ln=False, center_writing_weights=False, center_unembed=False)
        return cls.from_pretrained(model_name, device, **options)

    def to(self: _Model, device: Any) -> _Model:
        """The same model; a torch model is moved there."""
        _place(self.interpretable, device, None)
        for known in ("cfg", "_like", "W_E"):
            self.__dict__.pop(known, None)
        return self

    def eval(self: _Model) -> _Model:
        """Itself: passes always run in evaluation mode."""
        return self

    # -- weights ------------------------------------------------------------------------------

    @cached_property
    def _head(self) -> tuple[np.ndarray, np.ndarray]:
        model = self.interpretable

        def head(rows: np.ndarray) -> np.ndarray:
            return np.concatenate([_head_of(model, rows[i : i + _ROWS]) for i in range(0, len(rows), _ROWS)])

        part = LinearPart.of(head, model.d_model)
        return part(np.eye(model.d_model, dtype=np.float32)).astype(np.float32), part.bias.astype(np.float32)

    @property
    def W_U(self) -> Array:
        """Native float32 (d_model, d_vocab): what the final norm's output is multiplied by, without that norm's gain.

        Found from what the head gives, so it also holds a scale of the logits. For what a direction of the residual
        stream says, gain included, see `model.interpretable.feature_logits`.
        """
        return self._put(self._head[0])

    @property
    def b_U(self) -> Array:
        """Native float32 (d_vocab,): what the head adds; zeros for most models."""
        return self._put(self._head[1])

    @cached_property
    def W_E(self) -> Array:
        """Native float32 (d_vocab, d_model): what `hook_embed` holds for each token."""
        model, parts = self.interpretable, []
        for start in range(0, model.vocab_size, _ROWS):
            ids = [[i] for i in range(start, min(start + _ROWS, model.vocab_size))]
            trace = model.trace(ids, capture=["embed"], stop_after="embed")
            parts.append(model.language_model.backend.get(trace.activations["embed"])[:, 0])
        return self._put(np.concatenate(parts))

    def _put(self, x: np.ndarray) -> Array:
        backend = self.interpretable.language_model.backend
        return backend.put_beside(np.ascontiguousarray(x, np.float32), self._like)


def _head_of(model: InterpretableModel, rows: np.ndarray) -> np.ndarray:
    """float32 logits of rows (n, d_model) in the place of the final norm's output."""
    backend = model.language_model.backend

    def put(x: Array) -> Array:
        return backend.put(rows[:, None], x)

    logits = model.trace([[0]] * len(rows), {"final_norm": put}, capture=[]).output
    return backend.get(logits)[:, 0].astype(np.float32)


def _place(model: InterpretableModel, device: Any, dtype: Any) -> None:
    """Moves and converts the wrapped model."""
    lm = model.language_model
    native: Any = getattr(lm, "model")  # noqa: B009  each wing keeps it under this name
    if lm.backend.name == "mlx":
        one_place_only("models", device)
    elif device is not None:
        native.to(device)
    if dtype is None:
        return
    if isinstance(dtype, str):
        if dtype not in ("float32", "float16"):
            raise InputError(
                f"dtype={dtype!r}: expected 'float32', 'float16', or a dtype of the model's own library."
            )
        dtype = lm.backend.put(np.zeros(1, dtype)).dtype
    convert = native.set_dtype if lm.backend.name == "mlx" else native.to
    convert(dtype)

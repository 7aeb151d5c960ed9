"""How a `HookedTransformer` is loaded, moved, and what its weights are called."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ...core.sites import Array
from ...errors import InputError, warn
from ...lens.linear_part import LinearPart
from ...model.interpretable import InterpretableModel
from ..devices import opened, wing_for
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
            device: "cpu", "cuda", "cuda:1" and "mps" run PyTorch there, where it (with transformers) is installed
                and has the device; hooks and caches then hold torch tensors. None and "mlx" run MLX where it is
                installed. Where there is no such device, MLX or else PyTorch's best device is used, with one warning.
            dtype: "float32", "float16", or a dtype of the wing's library; None keeps the checkpoint's.
            backend: "mlx" or "torch"; where it is given, it decides, and `device` is one of that library's.
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
        if hf_model is not None:
            model = InterpretableModel(hf_model, tokenizer, backend)
        elif backend is None:
            backend, device = wing_for(device)
            model = opened(hub_name(str(model_name)), tokenizer, backend, device)
        else:
            model = InterpretableModel(hub_name(str(model_name)), tokenizer, backend)
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

    def ln_final(self, x: Array) -> Array:
        """Native float32: what the final norm makes of vectors (…, d_model) as they leave the last block."""
        model = self.interpretable
        return self._by_rows(x, lambda rows: _norm_of(model, rows))

    def unembed(self, x: Array) -> Array:
        """Native float32 logits (…, d_vocab) of vectors (…, d_model) as the final norm leaves them.

        As in TransformerLens it leaves out that norm: `model.unembed(model.ln_final(x))` is the logit lens.
        """
        model = self.interpretable
        return self._by_rows(x, lambda rows: _head_of(model, rows))

    def _by_rows(self, x: Any, function: Callable[[np.ndarray], np.ndarray]) -> Array:
        backend, width = self.interpretable.language_model.backend, self.interpretable.d_model
        array = backend.get(x) if isinstance(x, backend.array_type) else np.asarray(x)
        if array.ndim < 1 or array.shape[-1] != width or not array.size:
            raise InputError(f"Expected vectors (…, {width}), got shape {tuple(array.shape)}.")
        rows = array.reshape(-1, width).astype(np.float32)
        out = np.concatenate([function(rows[i : i + _ROWS]) for i in range(0, len(rows), _ROWS)])
        return self._put(out.reshape(*array.shape[:-1], -1))

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


def _norm_of(model: InterpretableModel, rows: np.ndarray) -> np.ndarray:
    """float32 (n, d_model): the final norm's output for rows in the place of the last block's."""
    backend = model.language_model.backend

    def put(x: Array) -> Array:
        return backend.put(rows[:, None], x)

    last = f"layers.{model.n_layers - 1}.resid_post"
    trace = model.trace([[0]] * len(rows), {last: put}, ["final_norm"], stop_after="final_norm")
    return backend.get(trace.activations["final_norm"])[:, 0].astype(np.float32)


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

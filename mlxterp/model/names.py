"""Names that users of the existing library and of PyTorch look for: token ids, modules and parameters of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core import checks
from ..core.texts import listed
from ..data.text import decode
from ..errors import InputError
from .facade import Facade


def encode(self: Facade, text: str) -> list[int]:
    """Token ids of a text: another name of `tokenize`.

    Examples:
        >>> model.encode("Lily lost her red ball.")
        [0, 609, 1344, 317, 809, 557, 14]
    """
    if not isinstance(text, str):
        raise InputError(f"encode takes one text, got {type(text).__name__}. For several: encode_batch.")
    self.session.require_tokenizer()
    return [int(i) for i in self.session.plain.model.tokenize(text)]


def encode_batch(self: Facade, texts: Any) -> list[list[int]]:
    """Token ids of several texts, each as long as it is.

    Examples:
        >>> model.encode_batch(["Lily lost her", "Tom"])
        [[0, 609, 1344, 317], [0, 757]]
    """
    return [encode(self, text) for text in listed(texts)]


def token_to_str(self: Facade, token_id: int) -> str:
    """The text of one token by itself. Of half a character it is a sign that says so: `to_str_tokens` has whole texts.

    Examples:
        >>> model.token_to_str(609)
        'Lily'
    """
    token = checks.integer(token_id, "token_id", 0, self.session.plain.model.vocab_size - 1)
    return decode(self.session.require_tokenizer(), [token])


def named_modules(self: Facade) -> list[tuple[str, Any]]:
    """(path, module) of every module of the wrapped model, as its library names them.

    Examples:
        >>> "model.layers.3.mlp" in dict(model.named_modules())
        True
    """
    return list(_wrapped(self).named_modules())


def parameters(self: Facade) -> Any:
    """The wrapped model's own `parameters()`: nested dictionaries of arrays in MLX, an iterator in PyTorch."""
    return _wrapped(self).parameters()


def trainable_parameters(self: Facade) -> Mapping[str, Any]:
    """The parameters that are trained: the model's own `trainable_parameters()` in MLX, by name in PyTorch."""
    wrapped = _wrapped(self)
    if self.session.plain.model.backend.name == "mlx":
        return wrapped.trainable_parameters()
    return {name: p for name, p in wrapped.named_parameters() if p.requires_grad}


def _wrapped(self: Facade) -> Any:
    held: Any = self.session.plain.model
    return held.model

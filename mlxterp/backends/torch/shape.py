"""What kind of language model a module is: its blocks, widths and limits, from one recorded pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...core.integers import is_integer
from ...errors import NotALanguageModelError
from .recording import Record
from .values import first_tensor

_LAYER_LISTS = ("layers", "h", "blocks", "block", "layer")
_POSITION_EMBEDDINGS = (
    "wpe",
    "embed_positions",
    "position_embeddings",
    "position_embedding",
    "positions_embed",
)


@dataclass(frozen=True, eq=False, slots=True)
class Shape:
    """The facts of `LanguageModel` about one model."""

    model_type: str
    layers: tuple[str, ...]
    block_outputs: dict[str, Any]
    """What each block returned for one token."""
    d_model: int
    vocab_size: int
    n_heads: int | None
    max_positions: int | None
    learned_positions: bool


def measure(model: nn.Module, record: Record, logits: torch.Tensor) -> Shape:
    """Reads the shape of `model` from a pass over one token and from its settings.

    Raises:
        NotALanguageModelError: It has no list of decoder blocks.
    """
    layers = _find_layers(model, record)
    outputs = {path: record.outputs[path, 0] for path in layers}
    stream = first_tensor(outputs[layers[-1]])
    heads = _setting(model, "num_attention_heads", "n_head", "n_heads")
    rows = _position_rows(model)
    limit = _setting(model, "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
    return Shape(
        model_type=str(_setting(model, "model_type") or type(model).__name__),
        layers=layers,
        block_outputs=outputs,
        d_model=int(logits.shape[-1] if stream is None else stream.shape[-1]),
        vocab_size=int(logits.shape[-1]),
        n_heads=heads if is_integer(heads) else None,
        max_positions=rows or (limit if is_integer(limit) and limit > 0 else None),
        learned_positions=rows is not None,
    )


def _find_layers(model: nn.Module, record: Record) -> tuple[str, ...]:
    """The shallowest list of modules that a pass calls, of those with a name that lists of blocks have."""
    lists: dict[str, list[str]] = {}
    for path, _ in model.named_modules(remove_duplicate=False):
        parent, _, index = path.rpartition(".")
        if index.isdigit() and parent.rpartition(".")[2] in _LAYER_LISTS and (path, 0) in record.times:
            lists.setdefault(parent, []).append(path)
    if not lists:
        raise NotALanguageModelError(
            f"{type(model).__name__} has no list of decoder blocks named {', '.join(_LAYER_LISTS)} that its"
            " forward pass calls, so it does not look like a language model."
        )
    return tuple(lists[min(lists, key=lambda path: (path.count("."), -len(lists[path])))])


def _position_rows(model: nn.Module) -> int | None:
    """How many positions a table of learned (or precomputed) position embeddings holds."""
    for path, module in model.named_modules():
        if path.rpartition(".")[2] in _POSITION_EMBEDDINGS and isinstance(module, nn.Embedding):
            offset = getattr(module, "offset", 0)  # opt's table starts with two rows for padding
            return module.num_embeddings - (offset if isinstance(offset, int) else 0)
    for path, buffer in model.named_buffers():
        if path.rpartition(".")[2] == "embed_positions":  # gptj, codegen
            return int(buffer.shape[0])
    return None


def _setting(model: nn.Module, *names: str) -> Any:
    """The first of these settings that the model's configuration holds."""
    config = getattr(model, "config", None)
    text_config = getattr(config, "get_text_config", None)
    holders = [config, text_config() if callable(text_config) else None, getattr(model, "args", None)]
    for holder in holders:
        for name in names:
            value = holder.get(name) if isinstance(holder, dict) else getattr(holder, name, None)
            if value is not None:
                return value
    return None

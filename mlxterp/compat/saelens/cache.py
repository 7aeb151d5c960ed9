"""`ActivationCache`: what `run_with_cache` kept, by TransformerLens's names and in its layouts."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from typing import Any

import numpy as np

from ...backends import backend_of
from ...core.integers import as_integer
from ...core.sites import Array
from ...errors import ComponentError, InputError
from .names import get_act_name


class ActivationCache(Mapping[str, Any]):
    """Native arrays by hook: `cache["blocks.3.hook_resid_pre"]`, `cache["resid_pre", 3]`, `cache["q", 0]`.

    Per-head values are (batch, position, head, d_head), patterns (batch, head, query, key).
    """

    def __init__(self, cache_dict: dict[str, Array], model: Any, has_batch_dim: bool = True):
        self.cache_dict = cache_dict
        self.model = model
        self.has_batch_dim = has_batch_dim
        self.has_embed = "hook_embed" in cache_dict

    def __getitem__(self, key: str | Sequence[Any]) -> Array:
        """An array by whole name, short name, or (short name, layer, part); negative layers from the end.

        Raises:
            ComponentError: It was not cached.
        """
        if isinstance(key, str):
            name = key if key in self.cache_dict else get_act_name(key)
        else:
            short, layer, *part = key
            number = as_integer(layer)
            if number is not None:
                layer = number + self.model.cfg.n_layers if number < 0 else number
            name = get_act_name(short, layer, *part)
        if name not in self.cache_dict:
            raise ComponentError(
                f"{name!r} is not in this cache, which holds {', '.join(list(self.cache_dict)[:6]) or 'nothing'}"
                f"{', …' if len(self.cache_dict) > 6 else ''}. names_filter= chooses what run_with_cache keeps;"
                " model.hook_dict lists what there is."
            )
        return self.cache_dict[name]

    def __contains__(self, key: object) -> bool:
        try:
            self[key]  # type: ignore[index]
        except (ComponentError, ValueError, TypeError):
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(self.cache_dict)

    def __len__(self) -> int:
        return len(self.cache_dict)

    def keys(self) -> KeysView[str]:
        """Names, in the order in which the model reached them."""
        return self.cache_dict.keys()

    def values(self) -> ValuesView[Array]:
        """The arrays."""
        return self.cache_dict.values()

    def items(self) -> ItemsView[str, Array]:
        """Names and arrays."""
        return self.cache_dict.items()

    def remove_batch_dim(self) -> ActivationCache:
        """The same cache without the first axis, which must have one entry.

        Raises:
            InputError: It holds several texts.
        """
        if self.has_batch_dim:
            sizes = {int(x.shape[0]) for x in self.cache_dict.values()}
            if sizes - {1}:
                raise InputError(
                    f"This cache holds {max(sizes)} texts; only that of one can lose its batch axis."
                )
            self.cache_dict = {name: x[0] for name, x in self.cache_dict.items()}
            self.has_batch_dim = False
        return self

    def to(self, device: Any) -> ActivationCache:
        """The same cache with its tensors on another device; MLX arrays have none of their own."""
        self.cache_dict = {name: moved(x, device) for name, x in self.cache_dict.items()}
        return self

    def stack_activation(
        self, activation_name: str, layer: int = -1, sublayer_type: str | None = None
    ) -> Array:
        """One hook of all layers before `layer`, (layer, batch, …); -1 takes all layers.

        Raises:
            ComponentError: It was not cached in each of them.
        """
        count = self.model.cfg.n_layers if layer == -1 else layer
        rows = [self[activation_name, i, sublayer_type] for i in range(count)]
        backend = backend_of(rows[0])
        return backend.put(np.stack([backend.get(row) for row in rows]), rows[0])

    def __repr__(self) -> str:
        return f"ActivationCache with keys {list(self.cache_dict)}"


def moved(x: Array, device: Any) -> Array:
    """A torch tensor on another device; anything else as it is."""
    return x.to(device) if device is not None and hasattr(x, "to") else x

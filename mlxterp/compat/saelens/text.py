"""Text and tokens as TransformerLens treats them: a BOS token goes in front of text unless one says otherwise.

Only the tokenizer's own BOS is used, and never twice. A tokenizer without one leaves text as it is (where
TransformerLens would take the EOS token instead).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ...core.sites import Array
from ...core.texts import listed
from ...core.tokens import TokenBatch, several, to_batch
from ...errors import InputError, NoTokenizerError, warn
from ...model.interpretable import InterpretableModel
from .config import HookedTransformerConfig, model_config
from .names import HookTable


class TextMethods:
    """Methods of `HookedTransformer` about text."""

    interpretable: InterpretableModel
    _table: HookTable

    @cached_property
    def cfg(self) -> HookedTransformerConfig:
        """Facts of the model."""
        return model_config(self.interpretable, self._table, self._prepends())

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that the model came with; None without one."""
        return self.interpretable.tokenizer

    def to_tokens(
        self, input: str | Sequence[str], prepend_bos: bool | None = None, padding_side: str | None = None,
        move_to_device: bool = True, truncate: bool = True,
    ) -> Array:  # fmt: skip
        """Token ids, native integers (batch, longest); shorter texts are padded on the right.

        Args:
            prepend_bos: Whether the tokenizer's BOS stands in front; None takes `cfg.default_prepend_bos`, which is
                True. A BOS that is there already is not put there again, and with False one that the tokenizer
                adds is taken away.
            truncate: Cut what is longer than `cfg.n_ctx`, with a warning.

        Raises:
            InputError: `prepend_bos=True` and the tokenizer has no BOS; or `padding_side` is not "right".
            NoTokenizerError: The model has no tokenizer.
        """
        batch = self._texts(input, prepend_bos, padding_side, truncate)
        return self._native(batch.ids)

    def to_string(self, tokens: Any) -> str | list[str]:
        """The text of token ids (positions,), or a list of texts of (batch, positions)."""
        rows = _ids(tokens)
        if rows.ndim > 2:
            raise InputError(
                f"to_string takes token ids (positions,) or (batch, positions), got {rows.shape}."
            )
        decode = self._tokenizer().decode
        return [decode(row.tolist()) for row in rows] if rows.ndim == 2 else decode(rows.reshape(-1).tolist())

    def to_str_tokens(
        self, input: Any, prepend_bos: bool | None = None, padding_side: str | None = None
    ) -> list[str] | list[list[str]]:
        """Each token's text by itself: of a text, of token ids (positions,) or (1, positions), or of a list of those.

        As there, a token is decoded alone, so tokenizers that mark spaces at a word's beginning lose them here;
        `model.interpretable.to_str_tokens` keeps them.
        """
        decode = self._tokenizer().decode
        if isinstance(input, (list, tuple)) and not (input and isinstance(input[0], (int, np.integer))):
            return [self.to_str_tokens(one, prepend_bos, padding_side) for one in input]  # type: ignore[misc]
        ids = self._texts(input, prepend_bos, padding_side).ids if isinstance(input, str) else _ids(input)
        if ids.ndim > 1 and ids.shape[0] != 1:
            raise InputError(
                f"to_str_tokens takes the tokens of one text, got shape {ids.shape}. Give a list."
            )
        return [decode([int(i)]) for i in ids.reshape(-1)]

    def to_single_token(self, string: str) -> int:
        """The id of a text that is one token, without BOS.

        Raises:
            InputError: It is several.
        """
        ids = self._texts(string, prepend_bos=False).ids[0]
        if len(ids) != 1:
            pieces = self.to_str_tokens(string, prepend_bos=False)
            raise InputError(f"{string!r} is {len(ids)} tokens ({pieces}), not one. Mind a space in front.")
        return int(ids[0])

    def to_single_str_token(self, int_token: int) -> str:
        """The text of one token id."""
        return self._tokenizer().decode([int(int_token)])

    def get_token_position(
        self, single_token: str | int, input: Any, mode: str = "first", prepend_bos: bool | None = None,
        padding_side: str | None = None,
    ) -> int:  # fmt: skip
        """The position of a token in a text or in token ids of one text; of its last occurrence with mode "last".

        Raises:
            InputError: It does not occur, or there is no such mode.
        """
        if mode not in ("first", "last"):
            raise InputError(f"mode={mode!r}; there are 'first' and 'last'.")
        batch = self._batch(input, prepend_bos, padding_side)
        token = self.to_single_token(single_token) if isinstance(single_token, str) else int(single_token)
        found = np.flatnonzero(batch.ids[0] == token)
        if not len(found) or len(batch.lengths) > 1:
            raise InputError(
                f"Token {single_token!r} does not occur in this text of {batch.ids.shape[1]} tokens."
            )
        return int(found[0 if mode == "first" else -1])

    # -- batches ------------------------------------------------------------------------------

    def _batch(
        self, input: Any, prepend_bos: bool | None = None, padding_side: str | None = None
    ) -> TokenBatch:
        """Text with BOS, or token ids as they are."""
        found = several(input)
        if isinstance(input, str) or (found is not None and all(type(one) is str for one in found)):
            return self._texts(input if found is None else found, prepend_bos, padding_side)
        input = input if found is None else found
        return to_batch(input, None, self.interpretable.vocab_size)

    def _texts(
        self, input: str | Sequence[str], prepend_bos: bool | None = None, padding_side: str | None = None,
        truncate: bool = True,
    ) -> TokenBatch:  # fmt: skip
        if padding_side not in (None, "right"):
            raise InputError(
                f"padding_side={padding_side!r}: texts are padded on the right here; results are the same."
            )
        texts = [input] if isinstance(input, str) else listed(input)
        rows = [self._with_bos(text, prepend_bos) for text in texts]
        longest, limit = max((len(row) for row in rows), default=0), self.cfg.n_ctx
        if truncate and limit is not None and longest > limit:
            warn(
                f"A text has {longest} tokens; it is cut to the {limit} that the model was made for (cfg.n_ctx)."
            )
            rows = [row[:limit] for row in rows]
        batch = to_batch(rows, None, self.interpretable.vocab_size)
        pad = getattr(self.tokenizer, "pad_token_id", None)
        return TokenBatch.from_rows(rows, 0 if pad is None else int(pad)) if len(rows) > 1 else batch

    def _with_bos(self, text: str, prepend_bos: bool | None) -> list[int]:
        self._tokenizer()
        ids = [int(i) for i in self.interpretable.language_model.tokenize(text)]
        bos = self._bos
        wanted = self.cfg.default_prepend_bos if prepend_bos is None else prepend_bos
        if prepend_bos and bos is None:
            raise InputError(
                "prepend_bos=True, and this tokenizer has no BOS token. Leave it out, or pass token ids."
            )
        if wanted and bos is not None:
            return ids if ids[:1] == [bos] else [bos, *ids]
        return ids[1:] if self.cfg.tokenizer_prepends_bos and ids[:1] == [bos] else ids

    @property
    def _bos(self) -> int | None:
        found = getattr(self.tokenizer, "bos_token_id", None)
        return None if found is None else int(found)

    def _prepends(self) -> bool:
        """Whether the tokenizer adds BOS by itself."""
        known = self.tokenizer is not None and self._bos is not None
        return known and self.interpretable.language_model.tokenize("a")[:1] == [self._bos]

    def _tokenizer(self) -> Any:
        if self.tokenizer is None:
            raise NoTokenizerError(
                "This model has no tokenizer, so it takes token ids. Pass tokenizer= when loading it."
            )
        return self.tokenizer

    def _native(self, ids: np.ndarray) -> Array:
        backend = self.interpretable.language_model.backend
        kind = np.int64 if backend.name == "torch" else np.int32  # torch.gather takes nothing shorter
        return backend.put_beside(ids.astype(kind), self._like)

    @cached_property
    def _like(self) -> Array:
        """An array where the model is."""
        start = "layers.0.resid_pre"
        return self.interpretable.trace([0], capture=[start]).activations[start]


def _ids(tokens: Any) -> np.ndarray:
    try:
        array = np.array(tokens.detach().cpu() if hasattr(tokens, "detach") else tokens)
    except (TypeError, ValueError):
        array = np.array([""])
    if array.dtype.kind not in "iu":
        raise InputError(f"Expected token ids, got {type(tokens).__name__}.")
    return array

"""`generate` with TransformerLens's arguments, through this library's own generation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ...core import checks
from ...core.integers import as_integer
from ...core.sites import Array
from ...errors import ComponentError, InputError
from ...model.interpretable import InterpretableModel
from ...tracing.declared import declared_edits
from ...tracing.passes import check_length
from .hooks import Hooks
from .text import TextMethods

Change = Callable[[Array], Array]


class GenerationMethods(TextMethods):
    """`HookedTransformer.generate`."""

    if TYPE_CHECKING:
        _hooks: Hooks

        def _interventions(self, wanted: set[str], record: dict[str, Array]) -> dict[str, list[Change]]: ...

    def generate(
        self, input: Any = "", max_new_tokens: int = 10, stop_at_eos: bool = True,
        eos_token_id: int | list[int] | None = None, do_sample: bool = True, top_k: int | None = None,
        top_p: float | None = None, temperature: float = 1.0, freq_penalty: float = 0.0,
        use_past_kv_cache: bool = True, prepend_bos: bool | None = None, padding_side: str | None = None,
        return_type: str | None = "input", verbose: bool = True, seed: int | None = None,
    ) -> Any:  # fmt: skip
        """The prompt with its continuation; hooks and SAEs act on every pass.

        Hook functions see the whole prompt first, (1, positions, …), then (1, 1, …) for each new token. `hook_k` and
        `hook_v` hold all tokens so far, not only the new ones. Without hooks a prompt is read 2048 tokens at a time.

        Args:
            input: Text, a list of texts, or token ids (batch, position).
            eos_token_id: Tokens that end the text, beside those the tokenizer names.
            do_sample: False takes the likeliest token.
            top_k: Sample from so many tokens only.
            top_p: Sample from the likeliest tokens of this share; applied before the temperature.
            freq_penalty: What a token's logit (after the temperature) loses for each time that it occurred, in the
                prompt too.
            return_type: "str", "tokens" (native, padded with EOS), or "input": as the input came.
            verbose: Without effect: there is no progress bar.
            seed: Makes sampling repeatable.

        Returns:
            str for one text, a list for several. Text begins with the prompt as it was given; tokens begin with the
            prompt's, BOS included, and end before EOS.

        Raises:
            InputError: `stop_at_eos=False`, or a prompt that cannot be run.
        """
        if not stop_at_eos or return_type not in ("input", "str", "tokens"):
            raise InputError(
                f"stop_at_eos={stop_at_eos}, return_type={return_type!r}: generation always ends at EOS, and returns"
                " 'str' or 'tokens' ('input' for as it came)."
            )
        batch = self._batch(input, prepend_bos, padding_side)
        texts = [input] if isinstance(input, str) else None
        if isinstance(input, (list, tuple)) and input and isinstance(input[0], str):
            texts = list(input)
        ends = _ends(eos_token_id)
        max_new_tokens, top_k = (
            checks.count(max_new_tokens, "max_new_tokens"),
            checks.count_or_none(top_k, "top_k"),
        )
        temperature = checks.temperature(temperature)
        freq_penalty = checks.finite(freq_penalty, "freq_penalty")
        greedy = not do_sample or temperature == 0
        sampling = {
            "temperature": 0.0 if greedy else temperature,
            "top_p": 1.0 if top_p is None else checks.finite(top_p, "top_p", above=0.0, most=1.0),
            "seed": None if seed is None else checks.seed(seed),
        }
        found: list[tuple[list[int], str]] = []
        for row, n in zip(batch.ids, batch.lengths, strict=True):
            ids = [int(i) for i in row[:n]]
            logits = None if greedy else _logit_change(self, len(ids), top_k, freq_penalty * temperature)
            found.append(self._continued(ids, max_new_tokens, ends, sampling, logits))
        if return_type == "str" or (return_type == "input" and texts is not None):
            starts = texts or [
                str(self.to_string(row[:n])) for row, n in zip(batch.ids, batch.lengths, strict=True)
            ]
            whole = [start + text for start, (_, text) in zip(starts, found, strict=True)]
            return whole[0] if len(whole) == 1 and not isinstance(input, (list, tuple)) else whole
        return self._padded(
            [[*row[:n], *ids] for row, n, (ids, _) in zip(batch.ids, batch.lengths, found, strict=True)]
        )

    def _continued(
        self,
        ids: list[int],
        count: int,
        ends: set[int],
        sampling: dict[str, Any],
        logits: dict[str, Change] | None,
    ) -> tuple[list[int], str]:
        """New tokens and their text."""
        anatomy = self.interpretable.anatomy
        check_length(anatomy.model, len(ids) + count, f"The prompt and max_new_tokens={count} make")
        edits = declared_edits(anatomy, self._interventions(set(), {}))
        edits = [*edits, *declared_edits(anatomy, logits)]
        tokens: list[int] = []
        pieces: list[str] = []
        stream: Iterator[tuple[int | None, str]] = anatomy.model.stream(
            ids, count, edits, whole_prompt=bool(self._hooks.names), **sampling
        )
        for token, text in stream:
            if token in ends:
                break
            pieces.append(text)
            if token is not None:
                tokens.append(int(token))
        return tokens, "".join(pieces)

    def _padded(self, rows: list[list[int]]) -> Array:
        longest = max(len(row) for row in rows)
        end = getattr(self.tokenizer, "eos_token_id", None)
        fill = 0 if end is None else int(end)
        return self._native(np.array([[*row, *[fill] * (longest - len(row))] for row in rows], np.int32))


def _ends(given: Any) -> set[int]:
    """Token ids that end a text, of one, of several or of none."""
    if given is None:
        return set()
    one = as_integer(given)
    ids = [given] if one is not None else given
    if isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
        raise InputError(f"eos_token_id is {given!r}; it must be a token id, or a list of them.")
    return {checks.integer(i, "eos_token_id", 0) for i in ids}


def _logit_change(
    model: TextMethods, prompt: int, top_k: int | None, penalty: float
) -> dict[str, Change] | None:
    """Interventions that count the tokens that are run, and change the logits of the next one."""
    if top_k is None and penalty == 0:
        return None
    lm, ids_at = model.interpretable.language_model, _embedding(model.interpretable)
    counts, seen = np.zeros(lm.vocab_size, np.float32), 0

    def count(ids: Array) -> Array:
        nonlocal seen
        new = lm.backend.get(ids).reshape(-1)
        np.add.at(counts, new.astype(np.int64), 1)
        seen += len(new)
        return ids

    def change(x: Array) -> Array:
        if seen < prompt:  # logits of a chunk of the prompt, from which nothing is sampled
            return x
        row = lm.backend.get(x[0, -1]).astype(np.float32) - penalty * counts
        if top_k is not None and top_k < len(row):
            row[row < np.partition(row, -top_k)[-top_k]] = -1e9
        x[0, -1] = lm.backend.put(row, x)
        return x

    return {ids_at: count, "logits": change}


def _embedding(model: InterpretableModel) -> str:
    """The component that is the token ids: the input of the module that embeds them."""
    ids = [min(3, model.vocab_size - 1), 1, 2]
    for module, kind in model.language_model.modules.items():
        if "Embedding" not in kind:
            continue
        name = f"{module}.input"
        try:
            found = model.trace(ids, capture=[name]).activations[name]
        except ComponentError:
            continue
        if model.language_model.backend.get(found).reshape(-1).tolist() == ids:
            return name
    raise InputError(
        f"top_k= and freq_penalty= need the tokens that enter the model, and this {model.language_model.model_type}"
        " model has no embedding module that shows them. Use top_p=."
    )

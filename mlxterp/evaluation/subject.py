"""What an SAE is measured on: a component, and texts cut into contexts.

`Subject` is made by `evaluate` and `check`, which ask the same place and the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..anatomy.anatomy import Anatomy
from ..core import checks
from ..core.integers import is_integer
from ..core.sites import Component
from ..core.tokens import TokenBatch
from ..data.dataset import check_readable, open_texts
from ..errors import InputError
from ..sae import SAE
from ..sae.adapt import check_width, resolve

_CONTEXT = 128
_LONGEST = 1024
_BATCH_TOKENS = 2048


@dataclass(frozen=True, eq=False, slots=True)
class Subject:
    """An SAE at a component, and the contexts to measure it on."""

    anatomy: Anatomy
    sae: SAE
    place: Component
    """What the SAE reads."""
    target: Component
    """What it reconstructs: `place`, but for transcoders."""
    contexts: list[list[int]]
    """Token ids; each context has at least two."""

    @staticmethod
    def of(anatomy: Anatomy, sae: SAE, texts: Any, component: str | None, max_tokens: int) -> Subject:
        """The SAE where it was trained, or at `component`.

        Texts are cut into contexts of 128 tokens (or the SAE's own context size, or the model's); contexts
        of one token are left out.

        Args:
            component: Path; None takes the SAE's own.
            max_tokens: Contexts are taken in order until there are this many tokens.

        Raises:
            InputError: No texts, no text of two tokens, or the SAE names no component.
            SAEError: The component is not as wide as the SAE.
        """
        name = component or sae.component
        if name is None:
            raise InputError("This SAE does not say where it was trained. Name the component: component='…'.")
        if not isinstance(name, str):
            raise InputError(f"A component is named by a path such as 'layers.3.mlp', got {name!r}.")
        max_tokens = checks.count(max_tokens, "max_tokens", 2)
        place = resolve(anatomy, sae, name)
        out_name = sae.metadata.get("component_out")
        target = resolve(anatomy, sae, out_name) if isinstance(out_name, str) else place
        check_width(anatomy, sae, place)
        check_width(anatomy, sae, target, gives=True)
        return Subject(anatomy, sae, place, target, contexts_of(anatomy, sae.metadata, texts, max_tokens))

    def batches(self) -> Iterator[TokenBatch]:
        """All contexts, by length, about 2048 tokens at a time."""
        return batches_of(self.contexts)


def batches_of(contexts: list[list[int]]) -> Iterator[TokenBatch]:
    """All contexts, by length, about 2048 tokens at a time."""
    group: list[list[int]] = []
    for row in sorted(contexts, key=len):
        if group and (len(group) + 1) * len(row) > _BATCH_TOKENS:
            yield TokenBatch.from_rows(group)
            group = []
        group.append(row)
    yield TokenBatch.from_rows(group)


def contexts_of(
    anatomy: Anatomy, metadata: Mapping[str, Any], texts: Any, max_tokens: int
) -> list[list[int]]:
    """Token ids of contexts of two tokens or more, in order, until there are `max_tokens`.

    Args:
        metadata: Of the SAE, which may say its "context_size".

    Raises:
        InputError: There are none.
    """
    model = anatomy.model
    opened = open_texts(texts, model)
    check_readable(opened, model)
    said = metadata.get("context_size")
    size = said if is_integer(said) and said > 1 else _CONTEXT
    size = min(size, model.max_positions or _CONTEXT, _LONGEST)
    found: list[list[int]] = []
    left = max_tokens
    for text in opened:
        ids = model.tokenize(text)
        for i in range(0, len(ids), size):
            context = ids[i : i + size][:left]
            if len(context) > 1:
                found.append(context)
                left -= len(context)
        if left < 2:
            break
    if not found:
        raise InputError(
            "No text has two tokens or more, and the first of each text is left out. Give longer texts."
        )
    return found

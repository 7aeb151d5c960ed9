"""Generation with edits, for either backend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..backends.base import LanguageModel
from ..core import checks
from ..core.positions import position_mask
from ..core.sites import Where
from ..core.tokens import to_batch
from ..errors import InputError
from ..interventions import restrict
from .declared import Interventions, as_interventions, declared_edits
from .passes import check_length


@dataclass(frozen=True, slots=True)
class Request:
    """How to generate; see `InterpretableModel.generate`."""

    max_tokens: int = 100
    interventions: Interventions | None = None
    positions: Any = "all"
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    chat: bool = False
    prefill_step_size: int = 2048

    def __post_init__(self) -> None:
        seed = self.seed
        checked = {
            "max_tokens": checks.count(self.max_tokens, "max_tokens"),
            "temperature": checks.temperature(self.temperature),
            "top_p": checks.finite(self.top_p, "top_p", above=0.0, most=1.0),
            "seed": None if seed is None else checks.seed(seed),
            "stop": checks.strings(self.stop, "stop"),
            "chat": checks.flag(self.chat, "chat"),
            "prefill_step_size": checks.count(self.prefill_step_size, "prefill_step_size"),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def stops(self) -> tuple[str, ...]:
        """The strings that end the text."""
        assert isinstance(self.stop, tuple)
        return self.stop


def stream(anatomy: Anatomy, prompt: Any, request: Request) -> Iterator[Any]:
    """Pieces of text; token ids where there is no tokenizer. Arguments are checked at the call."""
    model = anatomy.model
    ids = _prompt_ids(model, prompt, request.chat)
    check_length(model, len(ids), "The prompt has")
    check_length(model, len(ids) + request.max_tokens, f"The prompt and max_tokens={request.max_tokens} make")
    if request.stops and model.tokenizer is None:
        raise InputError("stop= needs a tokenizer to compare text with.")
    edits = declared_edits(anatomy, _placed(request, len(ids)))
    tokens = model.stream(
        ids, request.max_tokens, edits, temperature=request.temperature, top_p=request.top_p,
        seed=request.seed, prefill_step_size=request.prefill_step_size,
    )  # fmt: skip
    if model.tokenizer is None:
        return (token for token, _ in tokens if token is not None)
    return _until((text for _, text in tokens), request.stops)


def _prompt_ids(model: LanguageModel, prompt: Any, chat: bool) -> list[int]:
    if chat:
        if not isinstance(prompt, str):
            raise InputError("chat=True takes the user's message as a string.")
        template = getattr(model.tokenizer, "apply_chat_template", None)
        if template is None:
            raise InputError("chat=True needs a tokenizer with a chat template.")
        messages = [{"role": "user", "content": prompt}]
        ids = template(messages, add_generation_prompt=True, tokenize=True)
        ids = ids["input_ids"] if hasattr(ids, "keys") else ids
        prompt = list(ids)
    tokenize = None if model.tokenizer is None else model.tokenize
    batch = to_batch(prompt, tokenize, model.vocab_size)
    if len(batch.lengths) > 1:
        raise InputError("Give several prompts as a list of strings or of lists of token ids.")
    return batch.ids[0].tolist()


def _placed(request: Request, prompt: int) -> Interventions:
    """The interventions, each only at the positions asked for."""
    spans = {"all": None, "prompt": slice(0, prompt), "generated": slice(prompt, None)}
    positions = request.positions
    if isinstance(positions, str):
        if positions not in spans:
            raise InputError(
                f"positions={positions!r}: expected 'all', 'prompt', 'generated', a slice or a list."
            )
        positions = spans[positions]
    position_mask(positions, Where(np.arange(1), None))  # refuses negative positions before running
    interventions = as_interventions(request.interventions)
    if positions is None:
        return interventions
    return {
        name: [restrict(change, positions, name) for change in changes]
        for name, changes in interventions.items()
    }


def _until(pieces: Iterator[str], stops: Sequence[str]) -> Iterator[str]:
    """The text before the first stop string; what could be the start of one is held back."""
    if not stops:
        yield from (piece for piece in pieces if piece)
        return
    held = ""
    for piece in pieces:
        held += piece
        ends = [i for s in stops if (i := held.find(s)) >= 0]
        if ends:
            if held[: min(ends)]:
                yield held[: min(ends)]
            return
        keep = max((n for s in stops for n in range(1, len(s)) if held.endswith(s[:n])), default=0)
        ready, held = held[: len(held) - keep], held[len(held) - keep :]
        if ready:
            yield ready
    if held:
        yield held

"""Generation with edits, for either backend."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from ..anatomy.anatomy import Anatomy
from ..backends.base import LanguageModel
from ..backends.frozen import PromptPass
from ..core import checks
from ..core.positions import Positions, check_open_ended, check_reached
from ..core.tokens import to_batch
from ..errors import InputError
from ..interventions import positions_of, restrict
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


def stream(
    anatomy: Anatomy, prompt: Any, request: Request, places: Iterable[Positions] = (),
    prompt_pass: PromptPass | None = None,
) -> Iterator[Any]:  # fmt: skip
    """Pieces of text; token ids where there is no tokenizer. Arguments are checked at the call.

    Args:
        places: Positions of edits that act here, to be checked as those of interventions are.
        prompt_pass: See `LanguageModel.stream`.
    """
    tokens = stream_tokens(anatomy, prompt, request, places, prompt_pass)
    if anatomy.model.tokenizer is None:
        return (token for token, _ in tokens if token is not None)
    return _until((text for _, text in tokens), Until(request.stops))


def stream_tokens(
    anatomy: Anatomy, prompt: Any, request: Request, places: Iterable[Positions] = (),
    prompt_pass: PromptPass | None = None,
) -> Generator[tuple[int | None, str], None, None]:  # fmt: skip
    """Tokens with the text that is ready with each, whatever `request.stop` says; None where only text is left.

    Args:
        places, prompt_pass: See `stream`.
    """
    model = anatomy.model
    ids = prompt_ids(model, prompt, request.chat)
    check_length(model, len(ids), "The prompt has")
    check_length(model, len(ids) + request.max_tokens, f"The prompt and max_tokens={request.max_tokens} make")
    check_stops(model, request)
    check_places(request, len(ids), f"The prompt and max_tokens={request.max_tokens} make", places)
    edits = declared_edits(anatomy, placed(request))
    return model.stream(
        ids, request.max_tokens, edits, temperature=request.temperature, top_p=request.top_p,
        seed=request.seed, prefill_step_size=request.prefill_step_size,
        prompt_pass=prompt_pass,
    )  # fmt: skip


def check_places(request: Request, prompt: int, what: str, others: Iterable[Positions] = ()) -> None:
    """Raises InputError where a position that interventions name lies beyond the prompt and what is written.

    Args:
        prompt: Tokens of the prompt.
        what: Names both in messages.
        others: Positions that are named elsewhere.
    """
    several = as_interventions(request.interventions).values()
    places = [
        request.positions,
        *(positions_of(change) for changes in several for change in changes),
        *others,
    ]
    for positions in places:
        check_reached(positions, prompt + request.max_tokens, what)


def check_stops(model: LanguageModel, request: Request) -> None:
    """Raises InputError where there is no text to find the stops in."""
    if request.stops and model.tokenizer is None:
        raise InputError("stop= needs a tokenizer to compare text with.")


def prompt_ids(model: LanguageModel, prompt: Any, chat: bool) -> list[int]:
    """Token ids of a prompt, by the chat template where that is asked for.

    Raises:
        InputError: It is empty, or no prompt.
    """
    if chat:
        if not isinstance(prompt, str):
            raise InputError("chat=True takes the user's message as a string.")
        prompt = chat_ids(model, [{"role": "user", "content": prompt}])
    tokenize = None if model.tokenizer is None else model.tokenize
    batch = to_batch(prompt, tokenize, model.vocab_size)
    if len(batch.lengths) > 1:
        raise InputError("Give several prompts as a list of strings or of lists of token ids.")
    return batch.ids[0].tolist()


def chat_ids(model: LanguageModel, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Token ids of a chat, up to where the answer begins.

    Raises:
        InputError: There is no chat template, or it refuses the messages.
    """
    if not has_template(model.tokenizer):
        raise InputError("chat=True needs a tokenizer with a chat template.")
    try:
        ids = model.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=True)
    except Exception as error:  # a template raises what it likes
        raise InputError(f"The chat template refuses these messages: {error}") from error
    return list(ids["input_ids"] if hasattr(ids, "keys") else ids)


def has_template(tokenizer: Any) -> bool:
    """Whether a tokenizer has a chat template."""
    return hasattr(tokenizer, "apply_chat_template") and getattr(tokenizer, "chat_template", "") is not None


def placed(request: Request) -> Interventions:
    """The interventions, each only at the positions asked for.

    Raises:
        InputError: They cannot be used in generation.
    """
    check_open_ended(request.positions)
    interventions = as_interventions(request.interventions)
    if request.positions is None or (isinstance(request.positions, str) and request.positions == "all"):
        return interventions
    return {
        name: [restrict(change, cast(Positions, request.positions), name) for change in changes]
        for name, changes in interventions.items()
    }


class Until:
    """Lets text through up to the first of some strings; what could be the start of one is held back."""

    def __init__(self, stops: Sequence[str]):
        self._stops, self._held = stops, ""
        self.met = False
        """Whether one came."""

    def add(self, piece: str) -> str:
        """What is ready with this piece."""
        if not self._stops or self.met:
            return "" if self.met else piece
        held = self._held + piece
        ends = [i for s in self._stops if (i := held.find(s)) >= 0]
        if ends:
            self.met, self._held = True, ""
            return held[: min(ends)]
        keep = max((n for s in self._stops for n in range(1, len(s)) if held.endswith(s[:n])), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def finish(self) -> str:
        """What was still held back."""
        held, self._held = self._held, ""
        return held


def _until(pieces: Iterator[str], until: Until) -> Iterator[str]:
    for piece in pieces:
        ready = until.add(piece)
        if ready:
            yield ready
        if until.met:
            return
    rest = until.finish()
    if rest:
        yield rest

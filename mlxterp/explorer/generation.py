"""Text that is generated with edits beside the same without: what the steer page asks for.

A request is checked before its first event; then it waits for its turn in the model's thread, where both texts grow
in turns, token by token. What it says is what `model.generate` gives.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..anatomy.anatomy import Anatomy
from ..backends.base import LanguageModel
from ..concepts.explanations import checked_text
from ..core import checks
from ..core.tokens import TokenBatch
from ..data.text import token_after
from ..edits.edits import Edit, flattened
from ..edits.features import ablate, add_feature, amplify, clamp
from ..edits.placement import checked, placed
from ..errors import InputError, MlxterpError
from ..hooks.hooked_model import with_effects
from ..index import FeatureIndex
from ..tracing.generation import Request, prompt_ids, stream_tokens
from ..tracing.passes import cross_entropy
from .model_thread import ModelThread

MOST_TOKENS = 512
_KINDS = ("add", "clamp", "scale", "ablate")
_UNITS = ("max", "raw")
_POSITIONS = ("all", "prompt", "prompt[1:]", "generated")
_SETTINGS = ("prompt", "edits", "max_tokens", "temperature", "top_p", "seed", "positions", "baseline", "chat")
_OF_EDIT = ("feature", "kind", "strength", "units", "source")
_READ_AT_ONCE = 512
"""Tokens of a prompt; between such parts others are answered, and whoever has gone away is seen."""
_CONTEXT = 8
"""Tokens of the prompt that decide how the first one after it is written."""
_LOOK = 0.3
"""Seconds between two looks at how many are before."""

IndexOf = Callable[[str], FeatureIndex]
Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SteerRequest:
    """What is to be generated.

    Attributes:
        prompt: The prompt.
        edits: What changes the one side.
        settings: Of `tracing.generation.Request`, of both.
        baseline: Whether the other side is generated too.
    """

    prompt: str
    edits: tuple[Edit, ...]
    settings: Request
    baseline: bool


def request_of(said: Mapping[str, Any], own: str, index_of: IndexOf) -> SteerRequest:
    """The request that JSON says.

    Args:
        own: The source that edits are of where they name none.
        index_of: The index of a source.

    Raises:
        InputError, SAEError: Something cannot be.
    """
    _known(said, _SETTINGS, "a request")
    prompt = checked_text(said.get("prompt", ""), "The prompt")
    edits = said.get("edits", [])
    if not isinstance(edits, list) or len(edits) > 50:
        raise InputError("edits is a list of at most 50 edits.")
    tokens = checks.integer(
        said.get("max_tokens", 60), "max_tokens", 1, MOST_TOKENS, hint="More than that takes a notebook."
    )
    positions = checks.choice(said.get("positions", "all"), "positions", _POSITIONS)
    settings = Request(
        tokens, positions=positions, temperature=said.get("temperature", 0.0), top_p=said.get("top_p", 1.0),
        seed=said.get("seed", 0), chat=said.get("chat", False), prefill_step_size=_READ_AT_ONCE,
    )  # fmt: skip
    made = tuple(_edit(one, own, index_of) for one in edits)
    return SteerRequest(prompt, made, settings, checks.flag(said.get("baseline", True), "baseline"))


def _edit(said: Any, own: str, index_of: IndexOf) -> Edit:
    if not isinstance(said, dict):
        raise InputError(f"An edit is an object with {', '.join(_OF_EDIT)}, got {type(said).__name__}.")
    _known(said, _OF_EDIT, "an edit")
    index = index_of(str(said.get("source", own)))
    if index.source is None:
        raise InputError(f"The index of SAE {index.sae_name} has no model and SAE here, so it cannot steer.")
    sae = index.source.sae
    feature = index.check_feature(checks.integer(said.get("feature"), "feature", 0))
    kind = checks.choice(said.get("kind", "add"), "kind", _KINDS)
    units: Any = checks.choice(said.get("units", "max"), "units", _UNITS)
    if kind == "ablate":
        return ablate(sae, feature)
    strength = checks.finite(said.get("strength"), "strength")
    if kind == "scale":
        return amplify(sae, feature, strength)
    if kind == "clamp":
        return clamp(sae, feature, strength, units=units, index=index)
    return add_feature(sae, feature, strength, units, index=index)


def check_fits(model: LanguageModel, tokens: int, what: str) -> None:
    """Refuses a text that is longer than what the model was made for; from a page, nobody would see a warning.

    Raises:
        InputError: It is.
    """
    limit = model.max_positions
    if limit is not None and tokens > limit:
        raise InputError(f"{what} has {tokens:,} tokens, and the model {limit:,} positions. Shorten it.")


def _known(said: Mapping[str, Any], names: tuple[str, ...], what: str) -> None:
    if unknown := [name for name in said if name not in names]:
        raise InputError(f"{unknown[0]!r} is unknown in {what}; there are: {', '.join(names)}.")


@dataclass
class Last:
    """What came of the last generation."""

    pieces: int = 0
    seconds: float = 0.0
    stopped: bool = False


@dataclass(eq=False)
class Side:
    """One of the two texts.

    Attributes:
        tokens: What is still to come.
        ids: Tokens so far.
        text: Text so far.
    """

    tokens: Generator[tuple[int | None, str], None, None]
    ids: list[int] = field(default_factory=list)
    text: str = ""


@dataclass(eq=False)
class Generation:
    """Both texts of one request, as they grow. It lives in the model's thread, but for `stop`."""

    anatomy: Anatomy
    request: SteerRequest
    gone: threading.Event = field(default_factory=threading.Event)
    """Set when nobody listens any more."""
    note: str | None = None
    """What whoever asked should know."""

    def prepare(self) -> None:
        """Checks everything that can be checked before it runs.

        Raises:
            MlxterpError: It cannot run.
        """
        model, settings = self.anatomy.model, self.request.settings
        self._prompt = prompt_ids(model, self.request.prompt, settings.chat)
        check_fits(model, len(self._prompt), "The prompt")
        limit = model.max_positions
        if limit is not None and len(self._prompt) + settings.max_tokens > limit:
            self.note = (
                f"Beyond {limit:,} tokens, prompt included, this model was not made to go on; what comes there may be"
                " poor."
            )
        self._sides = self._begun()

    def _begun(self) -> dict[str, Side]:
        request, settings = self.request, self.request.settings
        found: dict[str, Side] = {}
        if request.baseline:
            found["base"] = Side(stream_tokens(self.anatomy, request.prompt, settings))
        edits = checked(self.anatomy, placed(flattened([list(request.edits)]), None, settings.positions))
        running = with_effects(self.anatomy, edits, None if settings.chat else request.prompt)
        found["steered"] = Side(
            stream_tokens(running, request.prompt, settings, [edit.positions for edit in edits])
        )
        return found

    def run(self, model: ModelThread, say: Callable[[Event], None]) -> Last:
        """Generates, telling each piece."""
        start, last = time.perf_counter(), Last()
        ended = lambda: self.gone.is_set() or model.stopped  # noqa: E731
        try:
            say({"started": True, **({} if self.note is None else {"note": self.note})})
            while self._sides and not ended():
                for name, side in list(self._sides.items()):
                    if (piece := self._next(side)) is None:
                        del self._sides[name]
                        say({"end": name, "text": side.text, **self._fluency(side)})
                    elif piece["piece"]:
                        last.pieces += 1
                        say({"on": name, **piece})
                    model.between()
                    if ended():
                        break
        finally:
            self.close()
            last.seconds, last.stopped = round(time.perf_counter() - start, 3), ended()
        return last

    def close(self) -> None:
        """Ends what was begun."""
        for side in self._sides.values():
            side.tokens.close()
        self._sides = {}

    def _next(self, side: Side) -> Event | None:
        """The next piece of a side; "" where a token has no text yet or the prompt is being read, None at the end."""
        found = next(side.tokens, None)
        if found is None:
            return None
        token, text = found
        if token is not None:
            side.ids.append(token)
        first = text and not side.text
        side.text += text
        glue = self._glue(side) if first else ""
        return {"piece": text, **({"glue": glue} if glue else {})}

    def _glue(self, side: Side) -> str:
        """The white space between prompt and continuation, which `generate` leaves out."""
        own = (
            token_after(self.anatomy.model.tokenizer, self._prompt[-_CONTEXT:], side.ids[0])
            if side.ids
            else ""
        )
        white = own[: len(own) - len(own.lstrip())]
        return "" if side.text.startswith(white) else white

    def _fluency(self, side: Side) -> dict[str, float | None]:
        """How the unedited model likes a text: the loss of its tokens, and the perplexity that this is."""
        model = self.anatomy.model
        nothing: dict[str, float | None] = {"loss": None, "perplexity": None}
        if not side.ids:
            return nothing
        batch = TokenBatch.from_rows([[*self._prompt, *side.ids]])
        try:
            check_fits(model, int(batch.lengths.max()), "The text")
            loss = cross_entropy(model, batch)
        except MlxterpError:  # more than the model's positions
            return nothing
        return {"loss": loss, "perplexity": math.exp(loss) if loss < 700 else None}


class Events:
    """What a generation says, as it comes. Made where the server's loop runs.

    The loop is woken once for all that was said since it last looked: each waking takes the interpreter from the model.

    Args:
        ended: Is told what came of it.

    Raises:
        BusyError: As many generations run and wait as may.
    """

    def __init__(self, generation: Generation, model: ModelThread, ended: Callable[[Last], None]):
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        self._said: deque[Event] = deque()
        self._woken = self._over = False
        self._generation, self._model = generation, model
        self._future = model.generate(lambda: generation.run(model, self._tell))
        self._future.add_done_callback(lambda done: self._end(done, ended))

    def _tell(self, event: Event) -> None:
        self._said.append(event)
        self._call()

    def _end(self, done: Future[Last], ended: Callable[[Last], None]) -> None:
        if not done.cancelled() and done.exception() is None:
            ended(done.result())
        self._over = True
        self._call()

    def _call(self) -> None:
        if not self._woken:
            self._woken = True
            with suppress(RuntimeError):  # the loop has ended, and with it whoever listened
                self._loop.call_soon_threadsafe(self._wake.set)

    async def stream(self) -> AsyncGenerator[list[Event], None]:
        """The events, as many at a time as there are; when this is closed, the generation ends."""
        try:
            before = self._model.ahead(self._future)
            yield [{"queued": before}]
            while True:
                if before and not await self._is_woken():
                    if (now := self._model.ahead(self._future)) != before:
                        before = now
                        yield [{"queued": before}]
                    continue
                await self._wake.wait()
                before = 0
                self._wake.clear()
                self._woken, over = (
                    False,
                    self._over,
                )  # before it looks: what is said from here on wakes it again
                if several := [self._said.popleft() for _ in range(len(self._said))]:
                    yield several
                if over:
                    break
            yield [_last(self._future)]
        finally:
            self.stop()

    async def _is_woken(self) -> bool:
        """Whether something is said before it is time to look how many are before."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), _LOOK)
        return self._wake.is_set()

    def stop(self) -> None:
        """Ends the generation at its next token, at the next part of its prompt, or before it begins."""
        self._generation.gone.set()
        if self._future.cancel():
            self._model.soon(self._generation.close)


def _last(future: Future[Last]) -> dict[str, Any]:
    if future.cancelled():
        return {"error": "The explorer was stopped."}
    error = future.exception()
    if error is None:
        last = future.result()
        return {"done": True, "pieces": last.pieces, "seconds": last.seconds, "stopped": last.stopped}
    if isinstance(error, MlxterpError):
        return {"error": str(error)}
    return {"error": f"Something went wrong in mlxterp ({type(error).__name__}); the terminal says where."}

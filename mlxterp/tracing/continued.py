"""Several prompts continued together, each with its own settings and edits."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from ..anatomy.anatomy import Anatomy
from ..core.continuations import Continuation
from ..core.positions import Positions
from ..core.progress import hidden
from ..core.sites import SiteEdit
from ..errors import InputError
from .declared import declared_edits
from .generation import Request, Until, check_places, check_stops, placed, prompt_ids
from .passes import check_length

_SHOWN_AFTER = 2.0
"""Seconds until a bar appears."""


@dataclass(eq=False, slots=True)
class Continued:
    """What became of one prompt."""

    tokens: list[int] = field(default_factory=list)
    """Token ids, up to the end of the text or, with a stop string, to the token that completed it."""
    text: str = ""
    """Up to the first stop string."""
    failure: Exception | None = None
    """Why it could not go on."""
    ended: bool = False
    """Whether it was finished."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while prompts were continued."""

    def __init__(self, found: list[Continued]):
        left = sum(not one.ended and one.failure is None for one in found)
        super().__init__(f"{left} of {len(found)} prompts are not finished")
        self.found = found
        """All prompts, as far as they came."""


def ids_of_prompts(
    anatomy: Anatomy,
    prompts: Sequence[Any],
    requests: Sequence[Request],
    places: Sequence[Sequence[Positions]] = (),
) -> list[list[int]]:
    """Token ids of each prompt.

    Args:
        places: For each prompt, positions of edits that act on it; prompts that share edits share the list.

    Raises:
        InputError: One is empty, no prompt, or with its `max_tokens` longer than the model's positions; it says which.
    """
    model, found = anatomy.model, []
    for number, (prompt, request) in enumerate(zip(prompts, requests, strict=True)):
        try:
            found.append(prompt_ids(model, prompt, request.chat))
            check_stops(model, request)
        except InputError as error:
            said = str(error).removeprefix("Text 0 of 1").lstrip(": ")
            raise type(error)(f"Prompt {number} of {len(prompts)}: {said}") from error
    longest = max(range(len(found)), key=lambda i: len(found[i]) + requests[i].max_tokens)
    most = requests[longest].max_tokens
    check_length(
        model, len(found[longest]) + most, f"Prompt {longest} of {len(prompts)} and max_tokens={most} make"
    )
    _check_places(found, requests, places)
    return found


def _check_places(
    found: Sequence[Sequence[int]], requests: Sequence[Request], places: Sequence[Sequence[Positions]]
) -> None:
    """Raises InputError where none of the prompts that share interventions or edits can reach a position of theirs."""
    longest: dict[tuple[int, int], int] = {}
    for i, (ids, request) in enumerate(zip(found, requests, strict=True)):
        key = (id(request.interventions), id(places[i]) if places else 0)
        best = longest.setdefault(key, i)
        if len(ids) + request.max_tokens > len(found[best]) + requests[best].max_tokens:
            longest[key] = i
    for i in longest.values():
        what = f"Prompt {i} of {len(found)} and max_tokens={requests[i].max_tokens} make"
        check_places(requests[i], len(found[i]), what, places[i] if places else ())


def continued(
    anatomy: Anatomy,
    prompts: Sequence[Sequence[int]],
    requests: Sequence[Request],
    *,
    batch_tokens: int | None = None,
    verbose: bool = True,
) -> list[Continued]:
    """All prompts continued, in order.

    Args:
        prompts: Token ids, as `prompts_ids` gives them.
        batch_tokens: See `InterpretableModel.generate`.
        verbose: Whether a bar shows how many are finished.

    Raises:
        InputError, ComponentError: See `InterpretableModel.generate`.
        Interrupted: Ctrl-C; it holds what is finished.
    """
    from tqdm.auto import tqdm

    edits: dict[int, list[SiteEdit]] = {}
    for request in requests:
        if id(request.interventions) not in edits:
            edits[id(request.interventions)] = declared_edits(anatomy, placed(request))
    rows = [
        Continuation(
            ids, request.max_tokens, request.temperature, request.top_p, request.seed,
            edits[id(request.interventions)],
        )
        for ids, request in zip(prompts, requests, strict=True)
    ]  # fmt: skip
    found = [Continued() for _ in rows]
    untils = [Until(request.stops) for request in requests]
    bar = tqdm(total=len(rows), desc="generate", unit="prompt", disable=hidden(verbose), delay=_SHOWN_AFTER)
    pieces = anatomy.model.stream_rows(
        rows, prefill_step_size=requests[0].prefill_step_size, batch_tokens=batch_tokens
    )
    try:
        with bar, closing(pieces):
            for piece in pieces:
                one, until = found[piece.row], untils[piece.row]
                one.tokens += [] if piece.token is None else [piece.token]
                one.text += until.add(piece.text)
                rows[piece.row].wanted = not until.met
                if piece.ended:
                    one.text += until.finish()
                    one.failure, one.ended = piece.failure, piece.failure is None
                    bar.update()
    except KeyboardInterrupt:
        raise Interrupted(found) from None
    return found

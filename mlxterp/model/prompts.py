"""How `generate` takes several prompts: settings for all or for each, and what is said of those that failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..core.positions import Positions
from ..edits.edits import Edit
from ..errors import InputError, warn
from ..hooks.session import ModelSession
from ..tracing.continued import Interrupted, continued, ids_of_prompts
from ..tracing.generation import Request


def requests(
    n: int, max_tokens: Any, interventions: Any, positions: Any, temperature: Any, top_p: Any, seed: Any, stop: Any,
    chat: Any, prefill_step_size: Any,
) -> list[Request]:  # fmt: skip
    """The settings of each prompt.

    Raises:
        InputError: A list has not as many entries as there are prompts, or a setting cannot be.
    """
    each = zip(
        _each(max_tokens, n, "max_tokens"), _each(interventions, n, "interventions"), _each(seed, n, "seed"),
        _each(stop, n, "stop") if _is_nested(stop) else [stop] * n, strict=True,
    )  # fmt: skip
    return [
        Request(most, changes, positions, temperature, top_p, own_seed, stops, chat, prefill_step_size)
        for most, changes, own_seed, stops in each
    ]


def edits_of(session: ModelSession, steer: Any, n: int, positions: Any) -> list[list[Edit]]:
    """The edits of each prompt; prompts that were given the same ones share them.

    Raises:
        InputError, ComponentError, SAEError, EditError: See `InterpretableModel.steer`.
    """
    for_all = (
        isinstance(steer, (list, tuple)) and len(steer) < 2 and all(isinstance(one, Edit) for one in steer)
    )
    known: dict[int, list[Edit]] = {}
    found = []
    for entry in [steer] * n if for_all else _each(steer, n, "steer"):
        if id(entry) not in known:
            known[id(entry)] = [] if entry is None else session.edits(entry, positions=positions)
        found.append(known[id(entry)])
    return found


def generated(
    session: ModelSession,
    prompts: Sequence[Any],
    asked: Sequence[Request],
    edits: Sequence[Sequence[Edit]],
    batch_tokens: int | None,
    verbose: bool,
) -> list[Any]:
    """The continuations; None for those that failed or were not finished, with a warning.

    Raises:
        NotFiniteError: None of the prompts could go on.
    """
    anatomy = session.running_rows([None if asked[0].chat else prompt for prompt in prompts], edits)
    shared: dict[int, list[Positions]] = {id(some): [edit.positions for edit in some] for some in edits}
    ids = ids_of_prompts(anatomy, prompts, asked, [shared[id(some)] for some in edits])
    try:
        found = continued(anatomy, ids, asked, batch_tokens=batch_tokens, verbose=verbose)
    except Interrupted as interrupted:
        found = interrupted.found
        warn(f"Interrupted: {interrupted}, and their texts are None.")
    failed = [(number, one.failure) for number, one in enumerate(found) if one.failure is not None]
    if failed:
        number, failure = failed[0]
        if len(failed) == len(found):
            raise failure
        which = f"Prompt {number}" if len(failed) == 1 else f"Prompts {', '.join(str(i) for i, _ in failed)}"
        warn(f"{which} of {len(found)} failed, and have None for a text. Prompt {number}: {failure}")
    whole = session.tokenizer is not None
    return [(one.text if whole else one.tokens) if one.ended else None for one in found]


def _each(given: Any, n: int, name: str) -> list[Any]:
    """One value for each of n prompts.

    Raises:
        InputError: Several of another number.
    """
    several = (
        isinstance(given, Iterable)
        and not isinstance(given, (str, Mapping, Edit))
        and getattr(given, "ndim", 1)
    )
    if not several:
        return [given] * n
    values = list(given)
    if len(values) != n:
        one = f"all for every prompt: [[…, …]] * {n}" if name in ("steer", "stop") else "one value for all"
        entries = "1 entry" if len(values) == 1 else f"{len(values)} entries"
        raise InputError(
            f"{name} has {entries} for {n} prompts. Give one for each (None for none), or {one}."
        )
    return values


def _is_nested(stop: Any) -> bool:
    """Whether stops are given for each prompt; a list of strings is for all."""
    return isinstance(stop, (list, tuple)) and any(
        one is None or isinstance(one, (list, tuple)) for one in stop
    )

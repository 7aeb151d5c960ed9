"""How `generate` takes several prompts: settings for all or for each, and what is said of those that failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core import checks
from ..edits.edits import Edit
from ..errors import InputError, warn
from ..hooks.session import ModelSession
from ..tracing.batched import Interrupted, continued, prompts_ids
from ..tracing.generation import Request


def requests(
    n: int, max_tokens: Any, interventions: Any, positions: Any, temperature: Any, top_p: Any, seed: Any, stop: Any,
    chat: Any, prefill_step_size: Any,
) -> list[Request]:  # fmt: skip
    """The settings of each prompt.

    Raises:
        InputError: A list has not as many entries as there are prompts, or a setting cannot be.
    """
    counts = _each(max_tokens, n, "max_tokens")
    changes = _each(interventions, n, "interventions")
    seeds = _each(seed, n, "seed")
    stops = _each(stop, n, "stop") if _is_nested(stop) else [stop] * n
    return [
        Request(
            counts[i], changes[i], positions, temperature, top_p, seeds[i], stops[i], chat, prefill_step_size
        )
        for i in range(n)
    ]


def edits_of(session: ModelSession, steer: Any, n: int, positions: Any) -> list[list[Edit]]:
    """The edits of each prompt; prompts that were given the same ones share them.

    Raises:
        InputError, ComponentError, SAEError, EditError: See `InterpretableModel.steer`.
    """
    one_list = isinstance(steer, (list, tuple)) and (len(steer) == 0 or (len(steer) == 1 and n > 1))
    if isinstance(steer, Edit) or (one_list and (not steer or isinstance(steer[0], Edit))):
        return [session.edits(steer, positions=positions)] * n
    known: dict[int, list[Edit]] = {}
    found = []
    for entry in _each(steer, n, "steer", "edit"):
        if id(entry) not in known:
            known[id(entry)] = [] if entry is None else session.edits(entry, positions=positions)
        found.append(known[id(entry)])
    return found


def generated(
    session: ModelSession,
    prompts: Sequence[Any],
    asked: Sequence[Request],
    edits: Sequence[Sequence[Edit]],
    batch_tokens: Any,
    verbose: bool,
) -> list[Any]:
    """The continuations; None for those that failed or were not finished, with a warning.

    Raises:
        NotFiniteError: None of the prompts could go on.
    """
    most = checks.count_or_none(batch_tokens, "batch_tokens")
    given = [None if asked[0].chat else prompt for prompt in prompts]
    anatomy = session.running_rows(given, edits)
    ids = prompts_ids(anatomy, prompts, asked)
    try:
        found = continued(anatomy, ids, asked, batch_tokens=most, verbose=verbose)
    except Interrupted as interrupted:
        found = interrupted.found
        warn(f"Interrupted: {interrupted}, and their texts are None.")
    failed = {number: one.failure for number, one in enumerate(found) if one.failure is not None}
    for number, failure in failed.items():
        if len(failed) == len(found):
            raise failure
        warn(f"Prompt {number} of {len(found)} failed, and its text is None: {failure}")
    whole = session.tokenizer is not None
    return [(one.text if whole else one.tokens) if one.ended else None for one in found]


def _each(given: Any, n: int, name: str, what: str = "entry") -> list[Any]:
    """One value for each of n prompts.

    Raises:
        InputError: A list of another length.
    """
    if isinstance(given, np.ndarray) and given.ndim == 1:
        given = given.tolist()
    if isinstance(given, (str, Mapping, Edit)) or not isinstance(given, (list, tuple)):
        return [given] * n
    if len(given) != n:
        raise InputError(
            f"{name} has {len(given)} {what if len(given) == 1 else _plural(what)} for {n} prompts. Give one for each,"
            f" None for none; what is meant for all: {name}=[[…, …]] * {n}."
            if name in ("steer", "stop")
            else f"{name} has {len(given)} entries for {n} prompts. Give one value for all, or one for each."
        )
    return list(given)


def _plural(word: str) -> str:
    return "entries" if word == "entry" else f"{word}s"


def _is_nested(stop: Any) -> bool:
    return isinstance(stop, (list, tuple)) and any(
        one is None or isinstance(one, (list, tuple)) for one in stop
    )

"""Several prompts generated together, held against each of them alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlxterp import InterpretableModel

EACH = ("max_tokens", "seed", "interventions", "steer", "stop")
"""What may be given for each prompt."""
CLOSE = 1e-5
"""Of the largest logit: candidates nearer than this may come in either order."""


@dataclass
class Compared:
    """How many texts were equal, and the ties at which others parted."""

    equal: int = 0
    ties: list[float] = field(default_factory=list)


def compared(model: InterpretableModel, prompts: Sequence[Any], **options: Any) -> Compared:
    """Generates together and alone; fails where texts part at anything but a tie.

    Args:
        options: Of `generate`; a list has one entry for each prompt.
    """
    batch_only = {name: options.pop(name) for name in ("batch_tokens",) if name in options}
    together = model.generate(list(prompts), **options, **batch_only)
    assert len(together) == len(prompts)
    found = Compared()
    for number, (prompt, ours) in enumerate(zip(prompts, together, strict=True)):
        own = {name for name in EACH if isinstance(options.get(name), list)}
        mine = {name: value[number] if name in own else value for name, value in options.items()}
        mine = {name: value for name, value in mine.items() if value is not None}
        alone = model.generate(prompt, **mine)
        if ours == alone:
            found.equal += 1
            continue
        at = next((i for i, (a, b) in enumerate(zip(ours, alone, strict=False)) if a != b), None)
        assert at is not None and isinstance(prompt, list), (number, ours, alone)
        gap = tie(model, [*prompt, *alone[:at]], (ours[at], alone[at]), mine)
        assert gap <= CLOSE, f"text {number} parts at token {at}: {ours} and {alone}, {gap} apart"
        found.ties.append(gap)
    return found


def tie(model: InterpretableModel, ids: list[int], tokens: tuple[int, int], options: dict[str, Any]) -> float:
    """How far apart two tokens' logits are after `ids`, as a share of the largest; inf where that is not known."""
    if options.get("temperature") or options.get("positions", "all") != "all":
        return float("inf")
    with model.steer(options.get("steer") or []):
        logits = model.trace(ids, options.get("interventions")).output[0, -1]
    found = model.language_model.backend.get(logits)
    return float(abs(found[tokens[0]] - found[tokens[1]]) / np.abs(found).max())

"""Questions that a language model is asked together: of one task and explanation, in an order that a seed draws."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise

from .judges import Question
from .prompts import TOGETHER, row

Key = tuple[str, str, str]
"""Task, explanation and window of a question that can be asked beside others."""


def key_of(question: Question) -> Key | int:
    """The same for equal questions; for one that is asked alone, its own."""
    if question.task not in TOGETHER:
        return id(question)
    return question.task, question.explanation, row(question)


def groups(questions: Sequence[Question], most: int, seed: int) -> list[list[Question]]:
    """The questions of each prompt, of about equal size; equal questions come once.

    Neither the groups nor the order in each depend on the order of the questions.

    Args:
        most: Of one prompt.
        seed: Draws the order, in [0, 2**64).
    """
    kinds: dict[tuple[str, str], dict[bytes, Question]] = {}
    alone: dict[Key | int, list[Question]] = {}
    for question in questions:
        key = key_of(question)
        if isinstance(key, tuple):
            kinds.setdefault(key[:2], {})[_place(key, seed)] = question
        else:
            alone[key] = [question]
    found: list[list[Question]] = []
    for members in kinds.values():
        ordered = [members[place] for place in sorted(members)]
        n = -(-len(ordered) // most)
        ends = [len(ordered) * k // n for k in range(n + 1)]
        found += [ordered[first:end] for first, end in pairwise(ends)]
    return [*found, *alone.values()]


def _place(key: Key, seed: int) -> bytes:
    """Where a question stands among those of its explanation."""
    digest = hashlib.blake2b(digest_size=16, key=seed.to_bytes(8, "little"))
    for part in key:
        digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
    return digest.digest()

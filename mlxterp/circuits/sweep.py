"""The law of the frozen pass on a model as such: without transcoders, along random directions of every MLP's input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..anatomy.anatomy import Anatomy
from ..anatomy.session import Model, session_of
from ..core.frozen import LOGITS, ReadAt
from ..core.sites import Component
from ..core.tokens import TokenBatch, to_batch
from ..errors import MlxterpError
from .law import Law
from .places import places_of


@dataclass(frozen=True, slots=True)
class Measured:
    """How well an architecture obeys the law.

    Attributes:
        law: The largest difference of a row, relative to its value.
        forward: Of the logits to those of the plain model, relative to the largest; a final soft cap counts.
        sources: How many sources there are.
        held: How many constants.
    """

    law: float
    forward: float
    sources: int
    held: int


@dataclass(frozen=True, slots=True)
class Broken:
    """Why an architecture could not be measured.

    Attributes:
        cause: The error's message.
    """

    cause: str
    law: float = float("inf")
    forward: float = float("inf")
    sources: int = 0
    held: int = 0


def law_of(
    model: Model, ids: Sequence[int] | None = None, directions: int = 4, seed: int = 0
) -> Measured | Broken:
    """Two logits and random directions of every MLP's input, on a few random tokens.

    Args:
        ids: Token ids; None takes seven at random.
        directions: Of each layer.
        seed: Of all that is random.
    """
    anatomy, draw = session_of(model).plain, np.random.default_rng(seed)
    size = anatomy.model.vocab_size
    tokens = draw.integers(0, min(size, 90), 7).tolist() if ids is None else list(ids)
    try:
        return _measured(anatomy, to_batch(tokens, None, size).ids[0].tolist(), directions, draw)
    except (MlxterpError, RuntimeError, ValueError, TypeError) as error:
        return Broken(f"{type(error).__name__}: {error}")


def _measured(anatomy: Anatomy, ids: list[int], directions: int, draw: np.random.Generator) -> Measured:
    frozen = anatomy.model.frozen_pass(ids, places_of(anatomy, _inputs(anatomy), {}))
    logits, last = frozen.base.logits[0], len(ids) - 1
    reads = []
    for token in np.argsort(-logits)[:2]:
        direction = np.full(len(logits), -1 / len(logits), np.float32)
        direction[token] += 1
        reads.append(ReadAt(LOGITS, last, direction))
    for key, value in frozen.base.inputs.items():
        for _ in range(directions):
            position = int(draw.integers(min(1, last), len(ids)))
            reads.append(ReadAt(key, position, draw.normal(size=value.shape[-1]).astype(np.float32)))
    law = Law(frozen, anatomy.model.model_type, limit=float("inf"))
    law.measure(reads, frozen.rows(reads, law.columns))
    plain = anatomy.model.backend.get(anatomy.model.forward(TokenBatch.from_rows([ids])))[0, -1].astype(
        np.float32
    )
    forward = float(np.abs(logits - plain).max() / np.abs(plain).max())
    return Measured(law.check(), forward, len(frozen.sources), frozen.held)


def _inputs(anatomy: Anatomy) -> dict[int, Component]:
    """What the MLP of each layer reads."""
    found = {}
    for layer in range(len(anatomy.model.layers)):
        name = f"layers.{layer}.mlp.input"
        if anatomy.has(name):
            found[layer] = anatomy.component(name)
    return found

"""What a model is asked about: a feature, a vector, a steering vector, or an activation on another text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..activations.exclusions import PROSE
from ..backends.host.conversion import to_vector
from ..core import checks
from ..core.controls import random_like
from ..core.feature_ids import feature_id
from ..core.integers import as_integer
from ..core.sites import unique_sites
from ..core.tokens import to_batch
from ..data.text import pieces_of
from ..errors import ComponentError, InputError, SAEError
from ..hooks.session import ModelSession
from ..sae import SAE
from ..steering.vectors import SteeringVector

_ROWS = 2048
"""Decoder rows that a covariance-matched control is drawn from."""
_TRIES = 100


@dataclass(frozen=True, eq=False, slots=True)
class Subject:
    """A direction, and what it is held against.

    Attributes:
        vector: float32, (d_model,): as it was given.
        described: In words.
        random: Draws so many random directions, float32 (n, d_model); what they are is `kind`.
        other: Another one's vector and words, of the same sort; None where there is no other.
    """

    vector: np.ndarray
    described: str
    kind: str
    random: Callable[[int, int], np.ndarray]
    other: Callable[[int], tuple[np.ndarray, str]] | None = None

    @property
    def unit(self) -> np.ndarray:
        """float64, of length 1."""
        return unit_of(self.vector)


def unit_of(vector: np.ndarray) -> np.ndarray:
    """float64: the direction with length 1."""
    wide = vector.astype(np.float64)
    return wide / np.linalg.norm(wide)


def subject_of(session: ModelSession, what: Any) -> Subject:
    """What was given as `what`.

    Raises:
        InputError: It is none of the four, of another width, zero, or a position outside its text.
        UnknownFeatureError: The SAE has no such feature.
        ComponentError: There is no such component.
    """
    d_model = session.plain.model.d_model
    if isinstance(what, tuple) and len(what) == 2 and isinstance(what[0], SAE):
        found = _feature(what[0], what[1], d_model)
    elif isinstance(what, tuple) and len(what) in (2, 3) and isinstance(what[0], str):
        found = _activation(session, *what)
    elif isinstance(what, SteeringVector):
        vector = to_vector(what, f"The steering vector at {what.component}", d_model)
        found = Subject(vector, f"the steering vector at {what.component}", "isotropic", isotropic(d_model))
    elif not _is_vector(what):
        raise InputError(
            f"what is {_told(what)}; expected (sae, feature), a vector of {d_model} numbers, a SteeringVector,"
            " or (component, text, position) for an activation on another text."
        )
    else:
        found = Subject(to_vector(what, "what", d_model), "a vector", "isotropic", isotropic(d_model))
    if not np.any(found.vector):
        raise InputError(
            f"{found.described[0].upper()}{found.described[1:]} is zero: it has no direction to ask about."
        )
    return found


def _is_vector(given: Any) -> bool:
    """Whether it is a vector of numbers, as far as its type tells; `to_vector` checks the rest."""
    if isinstance(given, (list, tuple)):
        return all(as_integer(one) is not None or isinstance(one, (float, np.floating)) for one in given)
    return bool(getattr(given, "shape", ()))


def _told(given: Any) -> str:
    if isinstance(given, (list, tuple)):
        inside = ", ".join(type(one).__name__ for one in given[:3])
        return f"a {type(given).__name__} of {len(given)} ({inside}{', …' if len(given) > 3 else ''})"
    return type(given).__name__


def isotropic(d_model: int) -> Callable[[int, int], np.ndarray]:
    """Random directions, evenly drawn."""
    return lambda n, seed: np.random.default_rng([seed, 1]).normal(size=(n, d_model)).astype(np.float32)


def _feature(sae: SAE, feature: Any, d_model: int) -> Subject:
    number, rows = feature_id(feature, sae.d_hidden), sae.W_dec
    if rows.shape[1] != d_model:
        raise SAEError(
            f"This SAE's decoder rows have {rows.shape[1]} numbers, the model's residual stream {d_model}. Take an SAE"
            " of this model's residual stream, or one that writes to it."
        )

    def random(n: int, seed: int) -> np.ndarray:
        draw = np.random.default_rng([seed, 2])
        some = draw.choice(len(rows), min(len(rows), _ROWS), replace=False)
        found = random_like(rows[np.sort(some)], "covariance", seed)
        return found[draw.integers(0, len(found), n)] if n > len(found) else found[:n]

    def other(seed: int) -> tuple[np.ndarray, str]:
        draw = np.random.default_rng([seed, 3])
        for _ in range(_TRIES):
            chosen = int(draw.integers(0, len(rows)))
            if chosen != number and rows[chosen].any():
                return rows[chosen].astype(np.float32), f"feature {chosen}"
        raise InputError("This SAE has no other feature to compare with. Use control=False.")

    place = f" of the SAE at {sae.component}" if sae.component else ""
    return Subject(
        rows[number].astype(np.float32), f"feature {number}{place}", "covariance-matched", random, other
    )


def _activation(session: ModelSession, name: str, text: Any, position: Any = -1) -> Subject:
    place = checks.integer(position, "The position in the other text")
    vector, token = activation_at(session, name, text, place)

    def other(seed: int) -> tuple[np.ndarray, str]:
        ids = _other_text(session)
        pieces = pieces_of(session.tokenizer, ids)
        words = [i for i, piece in enumerate(pieces) if i and any(map(str.isalnum, piece))] or [len(ids) - 1]
        chosen = words[int(np.random.default_rng([seed, 3]).integers(0, len(words)))]
        row, word = activation_at(session, name, ids, chosen)
        return row, f"{name} at {word!r} of some prose"

    described = f"{name} at position {place} ({token!r}) of another text"
    d_model = session.plain.model.d_model
    return Subject(vector, described, "isotropic", isotropic(d_model), other)


def _other_text(session: ModelSession) -> list[int]:
    model = session.plain.model
    if model.tokenizer is None:
        return np.random.default_rng(0).integers(0, model.vocab_size, 64).tolist()
    return [int(i) for i in model.tokenize(PROSE)[: model.max_positions]]


def activation_at(session: ModelSession, name: str, text: Any, position: int) -> tuple[np.ndarray, str]:
    """A component's activation at a position of a text, float32 (d_model,), and the text of the token there.

    Raises:
        InputError: A position outside the text, or not one text.
        ComponentError: There is no such component, or it is not as wide as the residual stream.
    """
    anatomy = session.anatomy
    model, component = anatomy.model, anatomy.component(name)
    batch = to_batch(text, session.tokenize, model.vocab_size)
    length = int(batch.lengths[0])
    if len(batch.lengths) != 1:
        raise InputError(f"An activation is taken from one text, got {len(batch.lengths)}.")
    if not -length <= position < length:
        raise InputError(
            f"Position {position} is outside the other text, which has {length} tokens (0 to {length - 1}, or"
            f" -{length} to -1 from its end)."
        )
    sites = unique_sites([component])
    value = component.read(model.run(batch, sites, stop_after=sites))
    if isinstance(value, list) or tuple(value.shape) != (1, length, model.d_model):
        shape = [tuple(x.shape) for x in value] if isinstance(value, list) else tuple(value.shape)
        raise ComponentError(
            f"{component.name} has shape {shape}, not (1, positions, {model.d_model}): only what is as wide as the"
            " residual stream can be put in its place."
        )
    row = model.backend.get(value[0, position % length]).astype(np.float32)
    return to_vector(row, f"{component.name} at position {position}"), pieces_of(
        model.tokenizer, batch.ids[0].tolist()
    )[position]

"""Activations of two sides of texts, from one pass: what `contrast` computes with.

Every text is run once, whole, in batches that end at the last component asked for. What a text gives does
not depend on the texts it is run with, but for the rounding of another batch; a text given several times is
one row, so that what is common to both sides cancels exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..activations.forward import run_batch
from ..anatomy.session import Model, session_of
from ..backends.base import LanguageModel
from ..core import checks
from ..core.sites import Array, Component
from ..core.tokens import to_batch
from ..data.corpus import Corpus
from ..data.dataset import texts_of
from ..errors import InputError
from ..tracing.passes import check_length

Texts = Any
"""Whatever holds texts or rows of token ids; see `dataset.texts_of`."""

_POSITIONS = ("last", "mean")


@dataclass(frozen=True, eq=False, slots=True)
class Sides:
    """Activations of both sides; a text that was given several times is one row."""

    names: list[str]
    """Canonical names of the components, as they were asked for."""
    rows: dict[str, np.ndarray]
    """name → float32 (texts, width): one activation for each distinct text."""
    positive: np.ndarray
    """int64, (positive texts,): the row of each."""
    negative: np.ndarray
    """int64, (negative texts,): the row of each."""
    several: bool
    """Whether a list of components was asked for."""
    facts: dict[str, Any]
    """What the metadata say of model and texts."""

    @property
    def texts(self) -> int:
        """Number of distinct texts."""
        return len(self.rows[self.names[0]])


def run_sides(
    model: Model, positive: list[str], negative: list[str], at: Any, position: str, batch_tokens: int
) -> Sides:
    """One pass over both sides; see `difference_of_means` for the arguments.

    Raises:
        InputError: Not two lists of texts with tokens, an unknown position, a text beyond learned positions,
            or an activation that is not finite.
        ComponentError: No such component, or it has no single value for each token.
    """
    if position not in _POSITIONS:
        raise InputError(f"position={position!r}; there are: {', '.join(_POSITIONS)}.")
    batch_tokens = checks.count(batch_tokens, "batch_tokens")
    session = session_of(model)
    session.refresh()  # notices replaced modules, as `trace` does
    anatomy = session.anatomy
    lm = anatomy.model
    one = isinstance(at, (str, Component))
    if not one and (not isinstance(at, Sequence) or not at):
        raise InputError(
            f"at={at!r} names no component. Name one, or a list, such as ['layers.3.resid_post']."
        )
    components = [anatomy.component(name) for name in ([at] if one else at)]
    known: dict[tuple[int, ...], int] = {}
    sides = []
    for side, texts in (("positive", positive), ("negative", negative)):
        ids = _tokens(lm, texts, side)
        sides.append(np.array([known.setdefault(row, len(known)) for row in ids], dtype=np.int64))
    rows = _activations(lm, Corpus.from_token_ids(list(known)), components, position, batch_tokens)
    for name, values in rows.items():
        _check_finite(values, name, sides)
    facts = {"position": position, "model_type": lm.model_type}
    if session.name is not None:
        facts["model"] = session.name
    return Sides([c.name for c in components], rows, sides[0], sides[1], not one, facts)


def sides_of(model: Model, positive: Texts, negative: Texts) -> tuple[list[str], list[str]]:
    """Both sides as lists of texts, each read once.

    Raises:
        InputError: One of them holds no texts.
    """
    lm = session_of(model).language_model
    return texts_of(positive, lm, "positive"), texts_of(negative, lm, "negative")


def _tokens(lm: LanguageModel, texts: list[str], side: str) -> list[tuple[int, ...]]:
    """Token ids of each text of a side.

    Raises:
        InputError: A text cannot be run.
    """
    try:
        batch = to_batch(texts, lm.tokenize if lm.tokenizer is not None else None, lm.vocab_size)
    except InputError as error:
        raise type(error)(f"{side}: {error}") from error
    longest = int(batch.lengths.argmax())
    check_length(lm, int(batch.lengths[longest]), f"{side}: text {longest} has")
    return [tuple(row[:n].tolist()) for row, n in zip(batch.ids, batch.lengths, strict=True)]


def _activations(
    lm: LanguageModel, corpus: Corpus, components: Sequence[Component], position: str, batch_tokens: int
) -> dict[str, np.ndarray]:
    """name → float32 (texts, width) of each component, in the order of the corpus."""
    components = list({component.name: component for component in components}.values())
    rows: dict[str, np.ndarray] = {}
    for batch in corpus.batches(batch_tokens):  # no windows: a text's last token sees all of it
        for component, found in zip(components, run_batch(lm, batch, components), strict=True):
            ends = np.flatnonzero(np.diff(found.text_ids, append=-1))  # a text's tokens lie together
            values = _of_texts(lm, found.values, ends, position)
            table = rows.setdefault(component.name, np.empty((len(corpus), values.shape[1]), np.float32))
            table[found.text_ids[ends]] = values
    return rows


def _of_texts(lm: LanguageModel, values: Array, ends: np.ndarray, position: str) -> np.ndarray:
    """(texts, width) of the tokens (n, width) of texts whose last tokens are at `ends`."""
    if position == "last":
        return lm.backend.get(values[lm.backend.put_beside(ends, values)])
    starts = np.concatenate([[0], ends[:-1] + 1])
    with np.errstate(invalid="ignore"):  # refused by name in _check_finite
        sums = np.add.reduceat(lm.backend.get(values).astype(np.float64), starts, axis=0)
    return sums / (ends - starts + 1)[:, None]


def _check_finite(values: np.ndarray, name: str, sides: Sequence[np.ndarray]) -> None:
    bad = np.any(~np.isfinite(values), axis=1, keepdims=True)[:, 0]
    if not bad.any():
        return
    for side, rows in zip(("positive", "negative"), sides, strict=True):
        if bad[rows].any():
            raise InputError(
                f"{name} puts out NaN or infinite values for {side} text {int(bad[rows].argmax())}, from which no"
                " direction can be made. Leave the text out, or run the model in float32 or bfloat16."
            )


def root_mean_square_length(rows: np.ndarray) -> float:
    """Root mean square length of activations (texts, width)."""
    return float(np.sqrt((rows**2).sum(axis=1).mean()))

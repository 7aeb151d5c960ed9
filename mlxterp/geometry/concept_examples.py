"""`ConceptExamples`: tokens with a concept and without it, and what a component puts out for them.

`probe` reads them from texts, or takes activations as they are; `absorption` measures an SAE on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..activations.forward import run_batch
from ..anatomy.session import Model, session_of
from ..backends.host.conversion import to_numpy
from ..core import checks
from ..core.controls import matrix
from ..core.options import names_options
from ..core.tokens import to_batch
from ..data.corpus import Corpus
from ..data.dataset import texts_of
from ..data.text import TokenTexts
from ..errors import InputError
from ..tracing.passes import check_length


@dataclass(frozen=True, eq=False, slots=True)
class ConceptExamples:
    """Activations of tokens, and which of them have a concept.

    Attributes:
        activations: float32, (n, width): one token of each text.
        labels: bool, (n,): whether it has the concept.
        texts: The texts; empty where activations were given.
        positions: int64, (n,): the token's position in its text; empty without texts.
        tokens: The token itself, as text; empty without texts.

    Raises:
        InputError: Activations that are no finite matrix, or labels that do not belong to them.
    """

    activations: np.ndarray
    labels: np.ndarray
    texts: tuple[str, ...] = ()
    positions: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    tokens: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rows = matrix(to_numpy(self.activations, "The activations"), "The activations")
        labels = checks.truth_values(self.labels, "labels", len(rows), "rows of activations")
        for name in ("texts", "positions", "tokens"):
            given = getattr(self, name)
            if not isinstance(given, Sized) or len(given) not in (0, len(rows)):
                raise InputError(
                    f"{name} are {given!r:.60}; expected one for each of {len(rows)} rows, or ()."
                )
        object.__setattr__(self, "activations", rows.astype(np.float32, copy=False))
        object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"<ConceptExamples: {int(self.labels.sum())} with the concept, {int((~self.labels).sum())} without>"

    def take(self, rows: np.ndarray) -> ConceptExamples:
        """Some of them, by number or as truth values.

        Raises:
            InputError: There is no such row, or `rows` is something else.
        """
        try:
            rows = np.atleast_1d(np.arange(len(self))[np.asarray(rows)])
        except (IndexError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"rows are {rows!r:.60}; expected numbers of rows, or truth values.") from error
        texts, tokens = (tuple(all_[i] for i in rows) if all_ else () for all_ in (self.texts, self.tokens))
        positions = self.positions[rows] if len(self.positions) else self.positions
        return ConceptExamples(self.activations[rows], self.labels[rows], texts, positions, tokens)


@names_options
def concept_examples(
    model: Model | None, component: str, positive: Any, negative: Any, *, position: int = -1,
    batch_tokens: int = 8192,
) -> ConceptExamples:  # fmt: skip
    """Tokens with a concept and without it; a text that is given twice counts once.

    Args:
        model: An `InterpretableModel`; None where activations are given.
        component: Path of the component that is read.
        positive: Texts, or activations (n, width), that have the concept.
        negative: The same of those that do not.
        position: Which token of each text is read; negative ones count from its end.
        batch_tokens: Tokens that run together, about.

    Raises:
        InputError: One side is empty, a text is on both or has no such position, or texts were given without a model.
        ComponentError: There is no such component, or it has no single value for each token.

    Examples:
        >>> from mlxterp import geometry
        >>> geometry.concept_examples(model, "layers.1.resid_post", ["A red ball", "My ball"], ["The dog", "She"])
        <ConceptExamples: 2 with the concept, 2 without>
    """
    if not isinstance(component, str):
        raise InputError(f"component is {component!r}; expected a path, such as 'layers.3.resid_post'.")
    position, batch_tokens = checks.integer(position, "position"), checks.count(batch_tokens, "batch_tokens")
    positive, negative = (list(one) if isinstance(one, Iterator) else one for one in (positive, negative))
    for side, name in ((positive, "positive"), (negative, "negative")):
        if isinstance(side, Sized) and getattr(side, "shape", (1,)) != () and not len(side):
            raise InputError(f"{name} holds no texts or activations: a probe needs both classes.")
    given = [_is_rows(side) for side in (positive, negative)]
    if all(given):
        sides = [
            matrix(to_numpy(rows, name), name)
            for rows, name in ((positive, "positive"), (negative, "negative"))
        ]
        if sides[0].shape[1] != sides[1].shape[1]:
            raise InputError(f"positive is {sides[0].shape[1]} wide and negative {sides[1].shape[1]}.")
        labels = np.repeat([True, False], [len(side) for side in sides])
        return ConceptExamples(np.concatenate(sides), labels)
    if any(given) or model is None:
        raise InputError(
            "positive and negative are both texts, with a model that reads them, or both activations."
        )
    lm = session_of(model).language_model
    texts = [_side(side, name, lm) for side, name in ((positive, "positive"), (negative, "negative"))]
    both = set(texts[0]) & set(texts[1])
    if both:
        raise InputError(f"{min(both)!r:.80} is among positive and negative texts ({len(both)} such texts).")
    return read(model, component, [*texts[0], *texts[1]], len(texts[0]), position, batch_tokens)


def _is_rows(side: Any) -> bool:
    """Whether activations were given, rather than texts (or the token ids of some)."""
    if isinstance(side, Sequence):
        return not isinstance(side, (str, bytes)) and all(_is_vector(row) for row in side)
    return getattr(side, "ndim", 0) == 2 and getattr(getattr(side, "dtype", None), "kind", "f") in "fiuV"


def _is_vector(row: Any) -> bool:
    """Whether it is one row of activations: an array, or a list with a number that is no integer."""
    if isinstance(row, Sequence) and not isinstance(row, str):
        return any(isinstance(number, float) for number in row)
    return getattr(row, "ndim", 0) == 1 and getattr(getattr(row, "dtype", None), "kind", "f") == "f"


def _side(given: Any, name: str, lm: Any) -> list[str]:
    return list(dict.fromkeys(texts_of(given, lm, name)))


def read(
    model: Model, component: str, texts: list[str], n_positive: int, position: int, batch_tokens: int
) -> ConceptExamples:
    """Runs every text once, whole; the first `n_positive` have the concept. See `concept_examples`."""
    session = session_of(model)
    session.refresh()
    session.warn_of_acts("examples of a concept are read")
    anatomy = session.anatomy
    lm, place = anatomy.model, anatomy.component(component)
    batch = to_batch(texts, session.tokenize, lm.vocab_size)
    check_length(lm, int(batch.lengths.max()), "The longest text has")
    at = np.where(position < 0, batch.lengths + position, position)
    short = np.flatnonzero((at < 0) | (at >= batch.lengths))
    if short.size:
        i = int(short[0])
        raise InputError(
            f"{texts[i]!r:.80} has {int(batch.lengths[i])} tokens and so no position {position}"
            f" ({short.size} such texts)."
        )
    corpus = Corpus.from_token_ids([row[:n] for row, n in zip(batch.ids, batch.lengths, strict=True)])
    rows = np.empty((len(texts), anatomy.width(place)), np.float32)
    for part in corpus.batches(batch_tokens):
        [found] = run_batch(lm, part, [place])
        wanted = np.flatnonzero(found.positions == at[found.text_ids])
        rows[found.text_ids[wanted]] = lm.backend.get(
            found.values[lm.backend.put_beside(wanted, found.values)]
        )
    text = TokenTexts(lm.tokenizer)
    tokens = [
        text.after(row[max(i - 1, 0) : i].tolist(), int(row[i])) for row, i in zip(batch.ids, at, strict=True)
    ]
    return ConceptExamples(
        rows, np.arange(len(texts)) < n_positive, tuple(texts), at.astype(np.int64), tuple(tokens)
    )

"""What names and texts say together: which features are active, what they are called, whether names hold.

Functions of the tables that `Concepts` holds and of held-out texts it encoded; nothing here knows a model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.sparse import SparseFeatures
from ..errors import InputError
from .checks import list_of_texts
from .explanations import Concept, Names
from .scales import features_of

TopTextsOf = Mapping[int, Sequence[tuple[str, float]]]


@dataclass(frozen=True, slots=True)
class ActiveConcept:
    """A named feature that is active on a text.

    Attributes:
        neuron_idx: The feature, in [0, d_hidden).
        name: One of its names.
        confidence: How sure the person is of the name, in [0, 1].
        activation: The feature's strongest on the text, in the SAE's own scale.
    """

    neuron_idx: int
    name: str
    confidence: float
    activation: float


@dataclass(frozen=True, slots=True)
class ConceptConsistency:
    """How well a concept's features tell its held-out texts from other concepts' texts.

    Attributes:
        hit_rate: Share of its own texts on which one of its features is active.
        false_alarm_rate: Share of the other concepts' texts on which one of its features is active; None where
            there are none.
        n_texts: Number of its own texts.
        n_hits: Those of its own texts on which one of its features is active.
        n_other_texts: Number of texts of the other concepts that are not also its own.
        n_false_alarms: Those of the other concepts' texts on which one of its features is active.
    """

    hit_rate: float
    false_alarm_rate: float | None
    n_texts: int
    n_hits: int
    n_other_texts: int
    n_false_alarms: int


@dataclass(frozen=True, slots=True)
class ConceptReview:
    """A feature's names beside its first top texts; `print` shows them.

    Attributes:
        neuron_idx: The feature, in [0, d_hidden).
        names: Its names, as they were given.
        texts: Text and activation, the strongest first.
    """

    neuron_idx: int
    names: tuple[Concept, ...]
    texts: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        names = ", ".join(f"{c.name!r} ({c.confidence:g})" for c in self.names) or "no name"
        shown = [f"  {value:.4f}  {text!r:.70}" for text, value in self.texts]
        return "\n".join([f"Feature {self.neuron_idx}: {names}", *(shown or ["  active on no text"])])


def most_active(texts: TopTextsOf, n: int) -> list[tuple[int, float]]:
    """See `Concepts.most_active_neurons`."""
    means = [(feature, sum(v for _, v in pairs) / len(pairs)) for feature, pairs in texts.items()]
    return sorted(means, key=lambda pair: (-abs(pair[1]), pair[0]))[:n]


def distribution(names: Names) -> dict[str, int]:
    """See `Concepts.concept_distribution`."""
    counts = Counter(concept.name for concepts in names.values() for concept in concepts)
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def above(texts: TopTextsOf, threshold: float) -> dict[int, list[tuple[str, float]]]:
    """See `Concepts.filter_texts`."""
    strong = {f: [pair for pair in pairs if abs(pair[1]) > threshold] for f, pairs in texts.items()}
    return {feature: pairs for feature, pairs in strong.items() if pairs}


def active(names: Names, by_text: SparseFeatures, threshold: float) -> list[list[ActiveConcept]]:
    """See `Concepts.active_concepts`."""
    return [_active_on(names, *by_text.row(i), threshold) for i in range(by_text.n)]


def _active_on(names: Names, ids: np.ndarray, values: np.ndarray, threshold: float) -> list[ActiveConcept]:
    pairs = [(f, v) for f, v in zip(ids.tolist(), values.tolist(), strict=True) if abs(v) > threshold]
    found = [ActiveConcept(f, c.name, c.confidence, v) for f, v in pairs for c in names.get(f, ())]
    return sorted(found, key=lambda a: -abs(a.activation))  # stable: ids ascend, names are in their order


def groups_of_texts(texts: Any, names: Names, d_hidden: int) -> dict[str, list[str]]:
    """Held-out texts by concept, checked.

    Raises:
        InputError: No dictionary of lists of texts, a concept without texts, or one that no feature is named.
    """
    if not isinstance(texts, Mapping) or not texts:
        raise InputError("Expected held-out texts by concept: {'family': ['My aunt called.', …], …}.")
    groups: dict[str, list[str]] = {}
    for name, given in texts.items():
        if not isinstance(name, str):
            raise InputError(f"{name!r} is no name of a concept.")
        features_of(name, names, d_hidden)
        if not (group := list_of_texts(given)):
            raise InputError(f"Concept {name!r} has no texts.")
        groups[name] = group
    return groups


def consistency(
    names: Names,
    groups: Mapping[str, Sequence[str]],
    by_text: SparseFeatures,
    row_of: Mapping[str, int],
    threshold: float,
) -> dict[str, ConceptConsistency]:
    """See `Concepts.consistency`; `row_of` says which row of `by_text` a text is."""
    row = by_text.row_ids[np.abs(by_text.values) > threshold]
    feature = by_text.indices[np.abs(by_text.values) > threshold]
    found = {}
    for name, own in groups.items():
        hit = np.zeros(by_text.n, dtype=bool)
        hit[row[np.isin(feature, features_of(name, names, by_text.d_hidden))]] = True
        mine = set(own)
        others = [
            text for other, texts in groups.items() if other != name for text in texts if text not in mine
        ]
        hits, alarms = (
            int(hit[[row_of[text] for text in texts]].sum()) if texts else 0 for texts in (own, others)
        )
        rate = alarms / len(others) if others else None
        found[name] = ConceptConsistency(hits / len(own), rate, len(own), hits, len(others), alarms)
    return found

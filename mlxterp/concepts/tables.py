"""The tables behind `sae.concepts`: top texts, names and scales of an SAE's features, and their files.

A table is filled by hand (`load_concepts`, `manipulate_concept`) or by what attaches an SAE to a model, which calls
`record` after each pass and reads `scales`. `Concepts` adds the questions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..core import checks
from ..core.beginnings import Beginnings
from ..core.integers import is_listable
from ..core.public_names import PublicNames
from ..core.sparse import SparseFeatures
from ..errors import InputError
from . import analysis, store
from . import export as exporting
from .checks import feature_id, list_of_texts
from .explanations import PERSON, Concept, Explanation, Explanations, Names, checked_text
from .labels import best_of, shown
from .names import said
from .scales import features_of, scales_of
from .tracking import TopTexts

What = Literal["concepts", "texts"]

_MOST_TEXTS = 100_000
"""Texts that are tracked for each feature, at most."""


class ConceptTables(PublicNames):
    """Names, top texts and scales of the features of one SAE: see `Concepts`.

    Args:
        d_hidden: Number of the SAE's features.

    Raises:
        InputError: `d_hidden` is below 1.
    """

    def __init__(self, d_hidden: int):
        self.d_hidden = checks.count(d_hidden, "d_hidden")
        self._tracking = False
        self._texts: TopTexts | None = None
        self._beginnings = Beginnings()
        self._names: Names = {}
        self._explanations: Explanations = {}
        self._scales: dict[int, float] = {}

    def __repr__(self) -> str:
        texts = 0 if self._texts is None else self._texts.n_recorded
        return (
            f"{type(self).__name__}({self.d_hidden} features: {len(self._names)} named, {len(self._scales)} scaled;"
            f" {texts} texts recorded, tracking {'on' if self._tracking else 'off'})"
        )

    # -- top texts ----------------------------------------------------------------------------

    @property
    def tracking(self) -> bool:
        """Whether `record` keeps texts."""
        return self._tracking

    def enable_text_tracking(self, top_k: int = 10) -> None:
        """Keeps, from now on, the texts on which each feature is strongest.

        Called again with another `top_k` it changes how many are kept: fewer cuts the lists; more keeps what is
        there, but texts that were dropped before are not recovered. To have them, `clear_texts()` and run again.

        Args:
            top_k: Texts kept for each feature; memory grows with it.

        Raises:
            InputError: `top_k` is below 1.

        Examples:
            >>> sae.concepts.enable_text_tracking(top_k=5)
            >>> with model.attach_sae(sae):
            ...     logits = model(["Lily lost her red ball.", "The dog was happy."])
            >>> len(sae.concepts.get_top_texts()) > 100  # features that were active on one of them
            True
        """
        top_k = checks.count(top_k, "top_k", 1, _MOST_TEXTS)
        if self._texts is None:
            self._texts = TopTexts(self.d_hidden, top_k)
        elif self._texts.top_k != top_k:
            self._texts = self._texts.resized(top_k)
        self._tracking = True

    def disable_text_tracking(self) -> None:
        """Keeps no further texts; those that were recorded stay."""
        self._tracking = False

    def clear_texts(self) -> None:
        """Forgets all recorded texts; tracking stays on or off."""
        self._beginnings = Beginnings()
        if self._texts is not None:
            self._texts = TopTexts(self.d_hidden, self._texts.top_k)

    def settled(self, features: SparseFeatures, prefixes: np.ndarray, marks: np.ndarray) -> SparseFeatures:
        """Features of tokens to be tracked, the same for tokens whose texts begin alike: see `Beginnings`."""
        return self._beginnings.settled(features, prefixes, marks)

    def record(self, texts: Sequence[str], by_text: SparseFeatures) -> None:
        """Takes into account the texts that were run; does nothing while tracking is off.

        The result is the same however texts are cut into calls. A text that comes again counts once, with its
        strongest activation; where it is stronger by rounding only (1e-5 of it), the first one stays.

        Args:
            by_text: Row i: each feature's strongest activation (by magnitude, with its sign) on text i.

        Raises:
            InputError: The rows are not these texts', are of another SAE, or hold what is not finite.
        """
        if self._tracking and self._texts is not None:
            self._texts.record(list_of_texts(texts), by_text)

    def get_top_texts(self, neuron_idx: int | None = None) -> dict[int, list[tuple[str, float]]]:
        """The texts on which each feature was strongest: {feature: [(text, activation)]}, features ascending.

        Strongest first by magnitude, at most `top_k`; among equals the text recorded earlier. `json.dump` takes it.

        Args:
            neuron_idx: Only this feature (its list is empty where it was never active); None gives every feature
                that was active on some text.

        Raises:
            InputError: No text was recorded; the message says what to do first.
            UnknownFeatureError: There is no such feature.
        """
        if neuron_idx is None:
            return self._recorded().of()
        feature = feature_id(neuron_idx, self.d_hidden)
        return {feature: [], **self._recorded().of([feature])}

    def _recorded(self) -> TopTexts:
        if self._texts is None:
            raise InputError(
                "No texts are tracked: call sae.concepts.enable_text_tracking(top_k=10) first, then run the model"
                " with the SAE attached."
            )
        if not self._texts.n_recorded:
            raise InputError(
                "No texts are recorded yet: attach the SAE (handle = model.attach_sae(sae, …)) and run the model"
                " on texts while tracking is on."
            )
        return self._texts

    # -- names --------------------------------------------------------------------------------

    @property
    def names(self) -> dict[int, list[Concept]]:
        """Names of the features that have some, features ascending, names as they were given; a copy."""
        return {feature: list(concepts) for feature, concepts in self._names.items()}

    def name_of(self, feature: int) -> str | None:
        """A feature's name; of several the most confident, among equals the first; None where it has none.

        Raises:
            UnknownFeatureError: There is no such feature.
        """
        concepts = self._names.get(feature_id(feature, self.d_hidden))
        return max(concepts, key=lambda concept: concept.confidence).name if concepts else None

    def load_concepts(self, concepts: Any) -> None:
        """Replaces all names; a feature may have several, in the order given. All are taken, or nothing changes.

        Explanations that come with them replace all explanations; where none come, those that are there stay.

        Args:
            concepts: One of

                - {feature: names}: names are [{"name", "confidence"}], [name] or a name;
                - a list of rows {"neuron_idx", "concept_name", "confidence"}, or a data frame with these columns;
                - a `FeatureRegistry`, or its dictionary: what an entry says beyond the name becomes a person's
                  explanation;
                - the path of a .csv file with these columns, or of a .json file with one of the above.

                The confidence, in [0, 1], may be left out (1) and may be called "score".

        Raises:
            InputError: Anything else, with its line: a file that is no UTF-8 or empty, other columns, no number,
                a confidence outside [0, 1], an empty name, a feature's name given twice.
            UnknownFeatureError: A feature outside [0, d_hidden).

        Examples:
            >>> sae.concepts.load_concepts({ball: [{"name": "ball", "confidence": 0.9}], 1470: "dog"})
            >>> sae.concepts.name_of(1470)
            'dog'
        """
        found = said(concepts, self.d_hidden)
        self._names = found.names
        if found.explanations:
            self._explanations = found.explanations

    # -- explanations -------------------------------------------------------------------------

    @property
    def explanations(self) -> dict[int, list[Explanation]]:
        """Explanations of the features that have some, features ascending, in the order given; a copy."""
        return {feature: list(several) for feature, several in self._explanations.items()}

    def add_explanations(self, explanations: Explanation | Iterable[Explanation]) -> None:
        """Keeps what is said of features beside their names. All are taken, or nothing changes.

        One with the source and text of one that is there takes its place: with new scores, say.

        Args:
            explanations: One, or several; also of the same feature, and by several sources.

        Raises:
            InputError: Something else is among them.
            UnknownFeatureError: A feature outside [0, d_hidden).
        """
        found = self.explanations
        given: Any = explanations if is_listable(explanations) else [explanations]
        for one in given:
            if not isinstance(one, Explanation):
                raise InputError(f"Expected an Explanation or a list of them, got {type(one).__name__}.")
            several = found.setdefault(feature_id(one.feature_id, self.d_hidden), [])
            same = [i for i, told in enumerate(several) if (told.source, told.text) == (one.source, one.text)]
            at = same[0] if same else len(several)
            several[at : at + 1] = [one]
        self._explanations = {feature: found[feature] for feature in sorted(found)}

    def clear_explanations(self, source: str | None = None) -> None:
        """Forgets the explanations of one source ("person", an explainer's name), or all of them.

        Raises:
            InputError: The source is no text.
        """
        if source is not None:
            checked_text(source, "the source")
        kept = {
            feature: [one for one in several if source is not None and one.source != source]
            for feature, several in self._explanations.items()
        }
        self._explanations = {feature: several for feature, several in kept.items() if several}

    def said_of(self, feature: int) -> list[Explanation]:
        """Everything that is said of a feature: its names, then what people and then what models say of it.

        Raises:
            UnknownFeatureError: There is no such feature.
        """
        feature = feature_id(feature, self.d_hidden)
        names = [Explanation(feature, c.name, PERSON, c.confidence) for c in self._names.get(feature, ())]
        told = self._explanations.get(feature, ())
        return [*names, *sorted(told, key=lambda one: not one.by_person)]  # stable: in the order given

    def best_explanation(self, feature: int) -> Explanation | None:
        """What a person says of a feature, else the explanation with the best score; None without any.

        Scores are compared by how far they are from chance; one that no measure of the sentence scored comes last.

        Raises:
            UnknownFeatureError: There is no such feature.
        """
        return best_of(self._explanations.get(feature_id(feature, self.d_hidden), ()))

    def label_of(self, feature: int, marked: bool = False) -> str | None:
        """What to call a feature: its name (`name_of`), or else its `best_explanation`; None without any.

        Args:
            marked: Whether what no person said is followed by "(explanation, detection 0.82)".

        Raises:
            UnknownFeatureError: There is no such feature.

        Examples:
            >>> sae.concepts.add_explanations(mlxterp.Explanation(ball, "toys", "me too", scores={"detection": 0.8}))
            >>> sae.concepts.label_of(ball), sae.concepts.label_of(ball, marked=True)
            ('toys', 'toys (explanation, detection 0.80)')
        """
        named, told = self.name_of(feature), self.best_explanation(feature)
        if named is not None or told is None:
            return named
        return shown(told) if checks.flag(marked, "marked") else told.text

    def concept_distribution(self) -> dict[str, int]:
        """How many features have each name; most first, then by alphabet."""
        return analysis.distribution(self._names)

    def _checked_names(self) -> Names:
        if not self._names:
            raise InputError("No concepts are named: call sae.concepts.load_concepts(…) first.")
        return self._names

    # -- files --------------------------------------------------------------------------------

    def export_json(self, path: str | os.PathLike, what: What | None = None) -> Path:
        """Writes {"42": [{"name", "confidence"}]}, or top texts as {"42": [["text", activation]]}.

        Explanations stand beside the names, as {"text", "source", …}. The file is UTF-8 and written whole or not at
        all; `load_concepts` reads names and explanations back as they were.

        Args:
            what: "concepts" (the names) or "texts"; None means names where some are loaded, else texts.

        Returns:
            The path.

        Raises:
            InputError: There is nothing to write (the message says what to call first), a text has half of a
                character (a lone surrogate), or nothing can be written there.
        """
        nested = lambda names: store.nested(names, self._explanations)  # noqa: E731
        return self._export(path, what, nested, exporting.nested_texts, bool(self._explanations))

    def export_flat_json(self, path: str | os.PathLike, what: What | None = None) -> Path:
        """Writes rows {"neuron_idx", "concept_name", "confidence"}, or of texts {"neuron", "text", "activation"}.

        See `export_json` for the rest.
        """
        return self._export(path, what, store.flat, exporting.flat_texts)

    def export_csv(self, path: str | os.PathLike, what: What | None = None) -> Path:
        """Writes columns neuron_idx,concept_name,confidence, or of texts neuron_idx,text,activation.

        Text that a spreadsheet would take for a formula gets a ' before it, and control characters are written as
        ⟨1B⟩; `load_concepts` takes both back.
        See `export_json` for the rest.
        """
        return self._export(path, what, store.table, exporting.csv_texts)

    def _export(
        self, path: str | os.PathLike, what: What | None, of_names: Callable[[Names], str],
        of_texts: Callable[[analysis.TopTextsOf], str], explained: bool = False,
    ) -> Path:  # fmt: skip
        if what not in ("concepts", "texts", None):
            raise InputError(f"what is {what!r}; expected 'concepts' or 'texts'.")
        named = bool(self._names) or explained
        if what is None and not named and (self._texts is None or not self._texts.n_recorded):
            raise InputError(
                "There is nothing to export: call sae.concepts.enable_text_tracking(top_k=10) and run the model with"
                " the SAE attached, or sae.concepts.load_concepts(…)."
            )
        if what == "texts" or (what is None and not named):
            return store.write(path, of_texts(self.get_top_texts()))
        return store.write(path, of_names(self._names if explained else self._checked_names()))

    # -- scales -------------------------------------------------------------------------------

    @property
    def scales(self) -> dict[int, float]:
        """Factors of the features whose factor is not 1, features ascending; a copy."""
        return dict(sorted(self._scales.items()))

    def manipulate_concept(self, neuron_idx: int | str, scale: float) -> None:
        """Multiplies a feature's activation wherever the SAE is attached: above 1 amplifies, 0 removes.

        Args:
            neuron_idx: A feature, or a concept's name: all features that have it.
            scale: Any finite factor; 1 resets the feature.

        Raises:
            InputError: `scale` is no finite number, or no feature has that name.
            UnknownFeatureError: There is no such feature.

        Examples:
            >>> sae.concepts.load_concepts({ball: "ball"})
            >>> sae.concepts.manipulate_concept("ball", 1.5)  # acts wherever the SAE is attached
            >>> sae.concepts.scales
            {741: 1.5}
        """
        factor = checks.finite(scale, "scale")
        for feature in features_of(neuron_idx, self._names, self.d_hidden):
            self._scales[feature] = factor
            if factor == 1.0:
                del self._scales[feature]

    def reset_manipulations(self, neuron_idx: int | str | None = None) -> None:
        """Sets the factor of a feature (or of all that have a concept's name) to 1; None resets every feature.

        Raises:
            InputError: No feature has that name.
            UnknownFeatureError: There is no such feature.
        """
        if neuron_idx is None:
            self._scales = {}
        else:
            self.manipulate_concept(neuron_idx, 1.0)

    def get_manipulation_config(self) -> dict[str, float]:
        """`scales` as JSON keeps them, {"42": 1.5}; for `load_manipulation_config`."""
        return {str(feature): scale for feature, scale in self.scales.items()}

    def load_manipulation_config(self, config: Mapping[Any, Any]) -> None:
        """Replaces all scales by {feature: scale}; all are taken, or nothing changes.

        Raises:
            InputError: No dictionary, a scale that is no finite number, or a feature twice.
            UnknownFeatureError: A feature outside [0, d_hidden).
        """
        self._scales = scales_of(config, self.d_hidden)

"""What people find out about an SAE's features and do with it; users reach it as `sae.concepts`.

    sae.concepts.enable_text_tracking(top_k=10)       # then run the model with the SAE attached
    sae.concepts.export_csv("top_texts.csv")          # read, find names
    sae.concepts.load_concepts("curated.csv")         # neuron_idx,concept_name,confidence
    sae.concepts.manipulate_concept("family", 1.5)    # the attached SAE reads `scales`

A `Concepts` knows neither model nor SAE: what attaches an SAE `bind`s a function that encodes texts, for questions
about held-out ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..core import checks
from ..core.feature_ids import Feature, is_several
from ..core.options import checks_options
from ..core.sparse import SparseFeatures
from ..errors import InputError
from . import analysis
from .analysis import ActiveConcept, ConceptConsistency, ConceptReview
from .checks import feature_id, list_of_texts
from .clusters import clusters, matrix_of, matrix_of_top_texts
from .tables import ConceptTables

Encode = Callable[[list[str]], SparseFeatures]
"""Row i of what it returns: each feature's strongest activation on text i."""


@checks_options
class Concepts(ConceptTables):
    """Names, top texts and scales of the features of one SAE, and questions about them.

    Args:
        d_hidden: Number of the SAE's features.

    Raises:
        InputError: `d_hidden` is below 1.
    """

    def __init__(self, d_hidden: int):
        super().__init__(d_hidden)
        self._encode: Encode | None = None

    # -- questions about recorded texts -------------------------------------------------------

    def most_active_neurons(self, n: int = 10) -> list[tuple[int, float]]:
        """The features with the largest mean activation over their top texts (by magnitude), and that mean.

        Raises:
            InputError: `n` is below 1, or no text was recorded.
        """
        return analysis.most_active(self.get_top_texts(), checks.count(n, "n"))

    def filter_texts(self, threshold: float) -> dict[int, list[tuple[str, float]]]:
        """Top texts with an activation above `threshold` (in magnitude); features left without any are dropped.

        Raises:
            InputError: `threshold` is no finite number, or no text was recorded.
        """
        return analysis.above(self.get_top_texts(), checks.finite(threshold, "threshold"))

    def review(self, neurons: Iterable[Feature] | None = None, n_texts: int = 3) -> list[ConceptReview]:
        """Names of features beside their first top texts, to see whether they fit; `print` shows each.

        Args:
            neurons: In this order; None takes the named features, or where nothing is named all with texts.

        Raises:
            InputError: `n_texts` is below 1, or no text was recorded.
            UnknownFeatureError: There is no such feature.
        """
        n, texts = checks.count(n_texts, "n_texts"), self.get_top_texts()
        chosen: Any = (self._names or texts) if neurons is None else neurons
        if not is_several(chosen):
            raise InputError(f"neurons is {neurons!r}; expected a list of features.")
        ids = [feature_id(neuron, self.d_hidden) for neuron in chosen]
        return [ConceptReview(f, tuple(self._names.get(f, ())), tuple(texts.get(f, ())[:n])) for f in ids]

    def cluster_neurons(
        self, n_clusters: int, texts: Sequence[str] | None = None, seed: int = 0
    ) -> dict[int, int]:
        """Features in groups that are active on the same texts: {feature: cluster}, features ascending.

        K-means over the features' activations on the texts, each feature's scaled to length 1; clusters are numbered
        from 0 in the order of their lowest feature.

        Args:
            texts: The model is run on them; None takes the recorded top texts, where what was not kept counts as 0.

        Raises:
            InputError: There are fewer active features than clusters, or nothing was recorded or attached.
            BackendError: scikit-learn is not installed.
        """
        n = checks.count(n_clusters, "n_clusters")
        seed = checks.seed(seed)
        if seed >= 1 << 32:  # more than scikit-learn takes
            seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        made = (
            matrix_of_top_texts(self.get_top_texts()) if texts is None else matrix_of(self._encoded(texts)[1])
        )
        return clusters(*made, n, seed)

    # -- questions about held-out texts -------------------------------------------------------

    def bind(self, encode: Encode | None) -> None:
        """Sets the function that encodes texts; None removes it. Attaching the SAE to a model calls this.

        Args:
            encode: Takes texts; row i of what it returns holds each feature's strongest activation on text i.
        """
        if encode is not None and not callable(encode):
            raise InputError(f"encode is {encode!r}; expected a function of a list of texts.")
        self._encode = encode

    def unbind(self, encode: Encode) -> None:
        """Removes the function that encodes texts, if it is this one."""
        if self._encode == encode:
            self._encode = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_encode": None}  # a copy or a file holds no model

    def activation_matrix(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Activations of features on texts, from running the model on them.

        Returns:
            Features active on one of the texts (int64, (m,), ascending), and each one's strongest activation on each
            text (float32, (m, texts); 0 where it is not active).

        Raises:
            InputError: No list of texts, or the SAE is not attached.
        """
        features, matrix = matrix_of(self._encoded(texts)[1])
        return features, matrix.to_dense()

    def active_concepts(self, texts: Sequence[str], threshold: float = 0.0) -> list[list[ActiveConcept]]:
        """For each text the named features that are active on it, strongest first.

        Among equals comes the lower feature, then its names as they were given.

        Args:
            threshold: Activations (in magnitude) must exceed it.

        Raises:
            InputError: No names are loaded, the SAE is not attached, or no list of texts.
        """
        least, names = checks.finite(threshold, "threshold"), self._checked_names()
        return analysis.active(names, self._encoded(texts)[1], least)

    def consistency(
        self, texts: Mapping[str, Sequence[str]], threshold: float = 0.0
    ) -> dict[str, ConceptConsistency]:
        """Whether names hold on held-out texts: how often a concept's features are active on its texts, and on others.

        Args:
            texts: Texts that show each concept; the other concepts' texts (those not also its own) show what it
                should not be active on.
            threshold: Activations (in magnitude) must exceed it.

        Raises:
            InputError: No names are loaded, no feature has one of these names, a concept has no texts, or the SAE is
                not attached.
        """
        least, names = checks.finite(threshold, "threshold"), self._checked_names()
        groups = analysis.groups_of_texts(texts, names, self.d_hidden)
        distinct, by_text = self._encoded(list(dict.fromkeys(t for group in groups.values() for t in group)))
        row_of = {text: row for row, text in enumerate(distinct)}
        return analysis.consistency(names, groups, by_text, row_of, least)

    def _encoded(self, texts: Iterable[str]) -> tuple[list[str], SparseFeatures]:
        given = list_of_texts(texts)
        if not given:
            raise InputError("Expected at least one text.")
        if self._encode is None:
            raise InputError("The SAE is not attached: handle = model.attach_sae(sae, …) first.")
        by_text = self._encode(given)
        if by_text.n != len(given) or by_text.d_hidden != self.d_hidden:
            raise InputError(
                f"{len(given)} texts came back as {by_text.n} rows of {by_text.d_hidden} features; expected one row for"
                f" each text and {self.d_hidden} features."
            )
        return given, by_text

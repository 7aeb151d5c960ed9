"""Labels of features by meaning: the cosine of their sentence embedding and a query's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..errors import InputError
from ..features.embeddings import Embed, check_embed, unit_embeddings


class Meanings:
    """Embeddings of the labels that were last asked about; they are made again where labels or function change."""

    def __init__(self) -> None:
        self._known: tuple[Embed, list[str], np.ndarray] | None = None

    def ranked(self, labels: Mapping[int, str], query: str, embed: Embed) -> list[tuple[int, float]]:
        """Features by the cosine of their label and a query, the largest first, then the lower id.

        Raises:
            InputError: `embed` gives no finite row for each text, or rows of another width than before.
        """
        check_embed(embed)
        said = list(dict.fromkeys(labels.values()))
        if not said:
            return []
        if self._known is None or self._known[0] is not embed or self._known[1] != said:
            self._known = embed, said, unit_embeddings(embed, said)
        vectors, asked = self._known[2], unit_embeddings(embed, [query])[0]
        if len(asked) != vectors.shape[1]:
            raise InputError(
                f"embed gave {len(asked)} numbers for the query, {vectors.shape[1]} for the labels."
            )
        cosines = dict(zip(said, (vectors @ asked).tolist(), strict=True))
        ranked = sorted(labels, key=lambda feature: (-cosines[labels[feature]], feature))
        return [(feature, cosines[labels[feature]]) for feature in ranked]

"""`ShownIndex`: one index as the explorer shows it."""

from __future__ import annotations

import gzip
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..concepts.explanations import Explanation
from ..concepts.labels import judged_by
from ..index import FeatureIndex
from ..sae import SAE
from ..steering.calibration import Calibration
from .columns import etag_of, table_of
from .label_file import LabelFile
from .map_columns import map_of


@dataclass(eq=False)
class ShownIndex:
    """An index among those that are shown.

    Attributes:
        number: Its place among them, from 0; what addresses call it.
        index: The index.
        labels: Its names.
        calibrations: How strongly features can be steered, where that was tried.
    """

    number: int
    index: FeatureIndex
    labels: LabelFile
    calibrations: Mapping[int, Calibration] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What to call it: the folder's name."""
        return self.index.path.name

    @property
    def sae(self) -> SAE | None:
        """The SAE, where the index has it."""
        return None if self.index.source is None else self.index.source.sae

    @cached_property
    def map(self) -> np.ndarray | None:
        """See `map_columns`."""
        return map_of(self.index)

    @cached_property
    def signed(self) -> bool:
        """Whether features are negative somewhere."""
        return bool((np.asarray(self.index.summary.maximum) < 0).any())

    @cached_property
    def table(self) -> bytes:
        """See `columns`."""
        return table_of(self.index, self._more())

    @cached_property
    def packed_table(self) -> bytes:
        """The same, compressed."""
        return gzip.compress(self.table, 5, mtime=0)

    @cached_property
    def etag(self) -> str:
        """Of the table."""
        return etag_of(self.table)

    def explanations(self, feature: int) -> list[Explanation]:
        """What is said of a feature with the SAE: names, then explanations."""
        return [] if self.sae is None else self.sae.concepts.said_of(feature)

    def _more(self) -> dict[str, np.ndarray]:
        """Columns that only some indexes have."""
        found: dict[str, np.ndarray] = {}
        if self.sae is not None and (scores := self._scores()) is not None:
            found["score"] = scores
        if self.map is not None:
            found["map"] = self.map
        return found

    def _scores(self) -> np.ndarray | None:
        """float32 (d_hidden,): of each feature's best explanation; NaN without; None where none has one."""
        assert self.sae is not None
        concepts = self.sae.concepts
        found = np.full(self.index.d_hidden, math.nan, dtype=np.float32)
        for feature in concepts.explanations:
            best = concepts.best_explanation(feature)
            judged = None if best is None else judged_by(best)
            if judged is not None:
                found[feature] = judged[1].value
        return found if np.isfinite(found).any() else None

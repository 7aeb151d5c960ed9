"""`ShownIndex`: one index as the explorer shows it."""

from __future__ import annotations

import gzip
import math
import threading
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


@dataclass(frozen=True, eq=False, slots=True)
class PackedTable:
    """A table of all features as it is sent (see `columns`).

    Attributes:
        state: What tells this table from that of a larger index.
        data: Its bytes.
        zipped: The same, compressed.
        etag: Of the data.
    """

    state: tuple[int, int]
    data: bytes
    zipped: bytes
    etag: str


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
    _table: PackedTable | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

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

    def packed_table(self) -> PackedTable:
        """The table of all features; made again where texts were added to the index."""
        state = self.index.n_texts, self.index.n_tokens
        with self._lock:
            if self._table is None or self._table.state != state:
                data = table_of(self.index, self._more())
                self._table = PackedTable(state, data, gzip.compress(data, 5, mtime=0), etag_of(data))
            return self._table

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

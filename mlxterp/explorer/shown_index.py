"""`ShownIndex`: one index as the explorer shows it."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..index import FeatureIndex
from .columns import etag_of, table_of


@dataclass(eq=False)
class ShownIndex:
    """An index among those that are shown.

    Attributes:
        number: Its place among them, from 0; what addresses call it.
        index: The index.
    """

    number: int
    index: FeatureIndex

    @property
    def name(self) -> str:
        """What to call it: the folder's name."""
        return self.index.path.name

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

    def _more(self) -> dict[str, np.ndarray]:
        """Columns that need the SAE."""
        if self.index.source is None:
            return {}
        rows = self.index.source.sae.W_dec
        return {"norm": np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64)).astype(np.float32)}

"""`AllExamples`: the examples of all features of an index, made in one sweep over its shards.

They come feature by feature, as arrays, as a DataFrame, or go to a file, a block of features at a time: memory does not
grow with the features or the texts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..core.files import DRAFT, atomic_write
from ..core.frames import data_frame
from ..core.places import path_of
from ..core.public_names import PublicNames
from ..errors import BackendError, FeatureIndexError, InputError
from .base import IndexBase
from .example_blocks import ExampleBlock, example_blocks
from .examples import FeatureExample, Window
from .excerpts import OUTSIDE
from .remote import is_url, written
from .spelling import Place

_COLUMNS = ("feature_id", "rank", "text_id", "position", "activation", "start", "tokens", "activations")
_REMEMBERED = 4096
"""Texts that are kept in memory."""
_AT_ONCE = 64
"""Examples whose tokens are turned into text by one look."""
_STAYS = "What was there before is unchanged. Make room or choose another path, then try again."
Row = dict[str, Any]


class AllExamples(PublicNames):
    """Examples of all features, those that `index.examples` gives of each; `FeatureIndex.all_examples` makes it.

    Nothing is read before it is asked for; each call and each loop is one sweep over the shards, which holds the
    firings of half a million tokens (or of one feature, if it has more) and their examples.

    Attributes:
        n: Examples of each feature, at most.
        before: Tokens shown before the strongest one.
        after: Tokens shown after it.

    Examples:
        >>> found = index.all_examples(3, before=4, after=3)
        >>> by_feature = dict(found)  # of every feature; an empty list where it is never active
        >>> by_feature[ball][0].to_str()
        ', then gave the<< ball>> a big kick'
        >>> found.to_jsonl("examples.jsonl").name, found.to_parquet("examples.parquet").name
        ('examples.jsonl', 'examples.parquet')
        >>> list(found.to_pandas().columns)[:4]
        ['feature_id', 'rank', 'text_id', 'position']
    """

    def __init__(self, index: IndexBase, n: int, before: int, after: int):
        self._index, self.n, self.before, self.after = index, n, before, after
        self._text = lru_cache(_REMEMBERED)(index._reader.text)

    def __repr__(self) -> str:
        return (
            f"AllExamples({self.n} of each of {self._index.d_hidden} features, {self.before} tokens before and"
            f" {self.after} after)"
        )

    def blocks(self) -> Iterator[ExampleBlock]:
        """The examples as arrays, some features at a time, features ascending: the fastest way to all of them.

        Raises:
            FeatureIndexError: A shard is damaged.
        """
        index = self._index
        yield from example_blocks(index._reader, index.d_hidden, self.n, self.before, self.after)

    def __iter__(self) -> Iterator[tuple[int, list[FeatureExample]]]:
        """Each feature with its examples, strongest first; an empty list where it is never active."""
        for block in self.blocks():
            counts = np.bincount(block.feature_id - block.first, minlength=block.stop - block.first)
            examples = self._of_block(block)
            for feature, count in enumerate(counts.tolist(), block.first):
                yield feature, list(islice(examples, count))

    def rows(self) -> Iterator[Row]:
        """Each example as a dictionary: "feature_id", "rank" (1 is the strongest), "text_id", "position", "activation",
        "start", "tokens" and "activations", as in `FeatureExample`."""
        for block in self.blocks():
            yield from map(_row, self._of_block(block), block.rank.tolist())

    def to_pandas(self) -> Any:
        """A DataFrame with a row for each example, the columns of `rows`; all of it in memory.

        Raises:
            BackendError: pandas is not installed.
        """
        found = list(self.rows())
        return data_frame({name: [row[name] for row in found] for name in _COLUMNS})

    def to_jsonl(self, path: str | os.PathLike) -> Path | str:
        """Writes a line of JSON for each of `rows`; returns the path.

        Args:
            path: A file, or an fsspec URL.
        """
        return written(path, ((json.dumps(row) + "\n").encode() for row in self.rows()))

    def to_parquet(self, path: str | os.PathLike) -> Path:
        """Writes `rows` as a Parquet file, a row group for each block of features; returns the path.

        Raises:
            InputError: `path` is a URL.
            BackendError: pyarrow is not installed.
        """
        if is_url(path):
            raise InputError(
                f"A Parquet file is written to a path, not to {path}. Write it here and copy it."
            )
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError as error:
            raise BackendError("Parquet needs pyarrow: pip install pyarrow") from error
        schema = pyarrow.schema(
            [("feature_id", pyarrow.int64()), ("rank", pyarrow.int64()), ("text_id", pyarrow.int64()),
             ("position", pyarrow.int64()), ("activation", pyarrow.float32()), ("start", pyarrow.int64()),
             ("tokens", pyarrow.list_(pyarrow.string())), ("activations", pyarrow.list_(pyarrow.float32()))]
        )  # fmt: skip
        target = path_of(path)
        with (
            atomic_write(target, DRAFT, FeatureIndexError, _STAYS) as draft,
            parquet.ParquetWriter(draft, schema) as file,
        ):
            for block in self.blocks():
                rows = [*map(_row, self._of_block(block), block.rank.tolist())]
                file.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
        return target

    # -- some examples ------------------------------------------------------------------------

    def _of_block(self, block: ExampleBlock) -> Iterator[FeatureExample]:
        for first in range(0, len(block), _AT_ONCE):
            yield from self._made(block, slice(first, first + _AT_ONCE))

    def _made(self, block: ExampleBlock, part: slice) -> Iterator[FeatureExample]:
        token_ids, activations, starts = (
            block.token_ids[part],
            block.activations[part],
            block.start[part].tolist(),
        )
        columns = block.feature_id, block.text_id, block.position
        where = list(zip(*(column[part].tolist() for column in columns), strict=True))
        inside = token_ids != OUTSIDE
        windows = [ids[own] for ids, own in zip(token_ids, inside, strict=True)]
        around = [values[own] for values, own in zip(activations, inside, strict=True)]

        def place(row: int) -> Place:
            feature, text_id, position = where[row]

            def wider(more: int) -> Window:
                reader = self._index._reader
                return reader.window(feature, text_id, position, self.before + more, self.after + more)

            return Place(Window(windows[row], around[row], starts[row]), wider, self._text(text_id))

        pieces_of = self._index._spelled(windows, starts, place)
        rows = zip(where, block.activation[part].tolist(), pieces_of, around, starts, strict=True)
        for (feature, text_id, position), value, pieces, own, start in rows:
            yield FeatureExample(feature, self._text(text_id), text_id, position, value, pieces, own, start)


def _row(example: FeatureExample, rank: int) -> Row:
    return {
        "feature_id": example.feature_id, "rank": rank + 1, "text_id": example.text_id,
        "position": example.position, "activation": example.activation, "start": example.start,
        "tokens": list(example.tokens), "activations": example.activations.tolist(),
    }  # fmt: skip

"""Decoder rows of one SAE or of several widths together, as maps place them: without dead rows, copies told apart.

`decoder_map` makes them; `DecoderMap` keeps them, so that clusters can be found in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.controls import matrix
from ..errors import InputError
from ..sae import SAE, SAECollection
from ..sae.directions import unit_rows
from .neighbours import Neighbours, cosine_neighbours

_SAME = 1 - 1e-9
"""Rows with such a cosine are one row."""


@dataclass(frozen=True, eq=False, slots=True)
class DecoderRows:
    """Decoder rows of norm 1, the narrowest SAE's first, each SAE's by feature id.

    Attributes:
        saes: By width, ascending.
        rows: float32, (n, d_out).
        width: int64, (n,): of each row's SAE.
        feature_id: int64, (n,).
        dead: Rows of zeros that were left out, by width.
    """

    saes: Mapping[int, SAE]
    rows: np.ndarray
    width: np.ndarray
    feature_id: np.ndarray
    dead: Mapping[int, int]


@dataclass(frozen=True, eq=False, slots=True)
class Distinct:
    """Rows without copies, and the neighbours among them.

    Attributes:
        rows: float32, (m, d_out): each direction once, in the order of its first row.
        place: int64, (n,): which of them each row is.
        neighbours: Of each, k others.
    """

    rows: np.ndarray
    place: np.ndarray
    neighbours: Neighbours


def decoder_rows(given: Any) -> DecoderRows:
    """The rows of one SAE, of an `SAECollection`, or of a dict or list of SAEs.

    Raises:
        InputError: There is no SAE, a row is not finite, or all are zero.
        SAEError: They are of several components or models, or two have the same width.
    """
    saes = _saes_of(given)
    parts, widths, ids, dead = [], [], [], {}
    for width, sae in saes.items():
        decoder = matrix(sae.W_dec, f"The decoder of width {width}")
        live = np.flatnonzero(decoder.any(axis=1))
        parts.append(unit_rows(decoder[live]).astype(np.float32))
        widths.append(np.full(len(live), width, dtype=np.int64))
        ids.append(live.astype(np.int64))
        dead[width] = len(decoder) - len(live)
    rows = np.concatenate(parts)
    if not len(rows):
        raise InputError("Every decoder row is zero: there is nothing to place.")
    return DecoderRows(saes, rows, np.concatenate(widths), np.concatenate(ids), dead)


def distinct_rows(rows: np.ndarray, k: int) -> Distinct:
    """Rows without copies, and k neighbours of each.

    Raises:
        InputError: There are not more distinct rows than neighbours.
    """
    if k >= len(rows):
        raise InputError(f"{k} neighbours of {len(rows)} live rows: ask for fewer, with n_neighbors=.")
    found = cosine_neighbours(rows, k=k)
    first = np.arange(len(rows))
    same = found.cosines >= _SAME
    if same.any():
        first = np.minimum(first, np.where(same, found.ids, len(rows)).min(axis=1))
        first = first[first]
    kept, place = np.unique(first, return_inverse=True)
    if len(kept) == len(rows):
        return Distinct(rows, place, found)
    if k >= len(kept):
        raise InputError(
            f"{k} neighbours of {len(kept)} rows ({len(rows) - len(kept)} more are copies): ask for fewer, with"
            " n_neighbors=."
        )
    return Distinct(rows[kept], place, cosine_neighbours(rows[kept], k=k))


def _saes_of(given: Any) -> Mapping[int, SAE]:
    if isinstance(given, SAE):
        return {given.d_hidden: given}
    if not isinstance(given, (SAECollection, Mapping, list, tuple)):
        raise InputError(
            f"Expected an SAE, an SAECollection of several widths, or a dict of SAEs, got {type(given).__name__}."
        )
    family = given if isinstance(given, SAECollection) else SAECollection(given)
    family = family.by("width")
    if len(family) > 1:
        family.same_component()
    models = {sae.metadata.get("model") for sae in family.values()} - {None}
    if len(models) > 1:
        raise InputError(
            f"SAEs of one model go onto one map; these are of {', '.join(sorted(map(str, models)))}."
        )
    return {width: family[width] for width in family.widths}

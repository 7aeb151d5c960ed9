"""`compute_sae_umap_data`: the map and the clusters of `mlxterp.geometry`, as the section's table.

Where the section's text and its code name a column otherwise, the table has both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...core import checks
from ...core.numeric import largest
from ...errors import BackendError, InputError
from ...geometry import DecoderMap, decoder_map
from ...geometry.decoder_rows import distinct_rows
from ...sae import SAE
from ..saelens import HookedTransformer
from ..saelens.sae import as_compat

_TOKENS, _DIMS = 10, 10
_BOTH = {
    "feature_idx": "latent_idx", "autointerp": "description", "top_token_strs_formatted": "top_token_strs"
}  # fmt: skip
_IDS = ("feature", "feature_idx", "latent_idx", "index")
"""What tables of descriptions call the column of feature ids."""


def compute_sae_umap_data(
    saes: Mapping[int, Any], autointerp_dfs: Mapping[int, Any] | None, sae_widths: Sequence[int], model: Any,
    n_neighbors_visual: int = 15, min_dist_visual: float = 0.05, find_clusters: bool = False,
    n_neighbors_cluster: int = 15, min_dist_cluster: float = 0.1, min_cluster_size: int = 3, batch_size: int = 1000,
) -> Any:  # fmt: skip
    """A DataFrame of all latents of several widths, with their places on one map.

    It is that of `geometry.decoder_map` with seed 0, and of its `clusters` (`control=False`: ask the native call how
    many clusters random rows have). Latents with a decoder row of zeros have no place (NaN) and no cluster.

    Args:
        saes: {width: SAE}, of `mlxterp.compat.saelens` or mlxterp.
        autointerp_dfs: {width: DataFrame} with the column "description", a row for each latent in their order, or with
            their ids in "feature" or "index"; its other columns stay. None, or a missing width: no descriptions.
        sae_widths: Which of them, in the order of the rows.
        model: A `HookedTransformer` of `mlxterp.compat.saelens`, or an `InterpretableModel`.
        n_neighbors_visual, min_dist_visual: Of the map.
        find_clusters: Whether to add the column "cluster", as text ("-1" is noise), and sort by it.
        n_neighbors_cluster, min_dist_cluster, min_cluster_size: Of the clusters.
        batch_size: Latents whose logits are held at once.

    Returns:
        Columns sae_width, latent_idx (= feature_idx), umap_x, umap_y, description (= autointerp), tok_token_ids (the
        ten largest of W_dec @ W_U), top_token_strs (= top_token_strs_formatted), marker_size (larger for narrower SAEs)
        and, where asked for, cluster.

    Raises:
        InputError: A width has no SAE, or a table another number of rows.
        BackendError: pandas, umap-learn or scikit-learn is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise BackendError('The table needs pandas: pip install "mlxterp[pandas]".') from error
    widths = [checks.count(width, "an entry of sae_widths") for width in sae_widths]
    batch_size = checks.count(batch_size, "batch_size")
    chosen = _chosen(saes, widths)
    hooked = model if isinstance(model, HookedTransformer) else HookedTransformer(model)
    tables = [_described(pandas, (autointerp_dfs or {}).get(width), width) for width in widths]
    frame = pandas.concat(tables, ignore_index=True)
    ids = np.concatenate([_top_tokens(hooked, chosen[width], batch_size) for width in widths])
    frame["tok_token_ids"] = ids.tolist()
    unique = np.unique(ids).tolist()
    known = dict(zip(unique, hooked.to_str_tokens(unique), strict=True))
    frame["top_token_strs_formatted"] = [", ".join(repr(known[t]) for t in row) for row in ids.tolist()]
    drawn = decoder_map(chosen, n_neighbors=n_neighbors_visual, min_dist=min_dist_visual)
    frame["umap_x"], frame["umap_y"] = (_placed(drawn, widths, axis, np.nan) for axis in drawn.coordinates.T)
    for column, other in _BOTH.items():
        frame[other] = frame[column]
    frame["marker_size"] = 4 * min(widths) / frame["sae_width"]
    if not checks.flag(find_clusters, "find_clusters"):
        return frame
    if n_neighbors_cluster != n_neighbors_visual and drawn.distinct is not None:
        count = checks.count(n_neighbors_cluster, "n_neighbors_cluster", 2)
        rows = drawn.distinct.rows[drawn.distinct.place]
        drawn = replace(drawn, n_neighbors=count, distinct=distinct_rows(rows, count))
    found = drawn.clusters(min_cluster_size, _DIMS, min_dist_cluster, control=False)
    frame["cluster"] = _placed(drawn, widths, found.labels, -1).astype(int)
    frame = frame.sort_values("cluster", kind="stable")
    return frame.assign(cluster=frame["cluster"].astype(str))


def _chosen(saes: Mapping[int, Any], widths: Sequence[int]) -> dict[int, SAE]:
    if not isinstance(saes, Mapping):
        raise InputError(f"saes is {{width: SAE}}, got {type(saes).__name__}.")
    if not widths or len(set(widths)) != len(widths):
        raise InputError(f"sae_widths names each width once, got {list(widths)}.")
    found = {}
    for width in widths:
        if width not in saes:
            raise InputError(f"sae_widths names {width}; saes has {list(saes)}.")
        found[width] = as_compat(saes[width]).sae
        if found[width].d_hidden != width:
            raise InputError(f"The SAE under {width} has {found[width].d_hidden} latents.")
    return found


def _described(pandas: Any, given: Any, width: int) -> Any:
    """The table of one width: a row for each latent, in their order."""
    if given is None:
        found = pandas.DataFrame({"description": [""] * width})
    else:
        found = given.copy()
        ids = next((found[name] for name in _IDS if name in found.columns), None)
        if ids is not None:
            found = found.set_index(ids.astype(int).rename(None))
            found = found[~found.index.duplicated()].reindex(range(width))
        if len(found) != width:
            raise InputError(
                f"The table of width {width} has {len(found)} rows: one for each latent is expected."
            )
        if "description" not in found.columns:
            raise InputError(
                f"The table of width {width} has no column 'description': {list(found.columns)}."
            )
    said = found["description"].fillna("").tolist()
    return found.reset_index(drop=True).assign(sae_width=width, feature_idx=range(width), autointerp=said)


def _top_tokens(model: HookedTransformer, sae: SAE, batch_size: int) -> np.ndarray:
    """int64, (width, 10): the tokens with the largest W_dec @ W_U; the norm's gain is left out, as in the section."""
    backend = model.interpretable.language_model.backend
    head = np.asarray(backend.get(model.W_U), dtype=np.float32)
    if sae.d_out != len(head):
        raise InputError(f"{sae!r} writes width {sae.d_out}; the model's residual stream has {len(head)}.")
    found = []
    for start in range(0, sae.d_hidden, batch_size):
        logits = sae.W_dec[start : start + batch_size] @ head
        found.append(np.array([largest(row, _TOKENS) for row in logits]))
    return np.concatenate(found)


def _placed(drawn: DecoderMap, widths: Sequence[int], values: np.ndarray, nothing: float) -> np.ndarray:
    """Values of the map's points in the order of the table's rows."""
    parts = []
    for width in widths:
        own, part = drawn.width == width, np.full(width, nothing)
        part[drawn.feature_id[own]] = values[own]
        parts.append(part)
    return np.concatenate(parts)

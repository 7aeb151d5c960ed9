"""Rows D7 to D9 as ARENA's section calls them: the same columns, and the numbers of the native calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlxterp import InputError
from mlxterp.compat.arena import compute_sae_umap_data
from mlxterp.compat.saelens import SAE, HookedSAETransformer
from mlxterp.geometry import decoder_map
from tests.geometry.families import sae_of
from tests.geometry.planting import opened

pandas = pytest.importorskip("pandas")
pytest.importorskip("umap")

WIDTHS = [24, 40, 96]


def splitting_saes(d: int, dead: int = 0) -> dict[int, Any]:
    draw = np.random.default_rng(0)
    found = {}
    for width in WIDTHS:
        rows = draw.normal(size=(width, d))
        rows[:dead] = 0
        found[width] = sae_of(rows)
    return found


def autointerp(widths: list[int]) -> dict[int, Any]:
    return {
        w: pandas.DataFrame({"description": [f"about {w}/{f}" for f in range(w)], "modelId": "demo"})
        for w in widths
    }


def test_d7_the_sections_cell_gives_the_native_map(backend):
    native = opened(backend).model
    model, saes = HookedSAETransformer(native), splitting_saes(native.d_model)
    asked = {width: SAE(sae) for width, sae in saes.items()}
    umap_df = compute_sae_umap_data(asked, autointerp(WIDTHS), [96, 24], model, batch_size=50)
    assert umap_df["sae_width"].tolist() == [96] * 96 + [24] * 24
    drawn = decoder_map({24: saes[24], 96: saes[96]})
    for width in (96, 24):
        own = umap_df[umap_df["sae_width"] == width]
        place = drawn.coordinates[drawn.width == width]
        assert np.array_equal(own[["umap_x", "umap_y"]].to_numpy(np.float32), place)
        assert own["latent_idx"].tolist() == own["feature_idx"].tolist() == [*range(width)]
        assert (
            own["description"].tolist()
            == own["autointerp"].tolist()
            == [f"about {width}/{f}" for f in range(width)]
        )
    head = np.asarray(native.language_model.backend.get(model.W_U), np.float32)
    expected = np.argsort(-(saes[96].W_dec[:3] @ head), axis=1, kind="stable")[:, :10]
    assert umap_df["tok_token_ids"].tolist()[:3] == expected.tolist()
    said = [", ".join(map(repr, model.to_str_tokens(row))) for row in expected.tolist()]
    assert umap_df["top_token_strs"].tolist()[:3] == said == umap_df["top_token_strs_formatted"].tolist()[:3]
    assert (umap_df["modelId"] == "demo").all() and "cluster" not in umap_df


def test_d8_the_sections_plot_has_what_it_needs_and_narrower_is_larger():
    native = opened("mlx").model
    saes = splitting_saes(native.d_model, dead=1)
    umap_df = compute_sae_umap_data(saes, None, WIDTHS, native)
    umap_df = umap_df.sort_values("sae_width", ascending=False)
    for column in ("umap_x", "umap_y", "description", "top_token_strs", "marker_size"):
        assert column in umap_df
    sizes = umap_df.groupby("sae_width")["marker_size"].first()
    assert sizes[24] == 4 > sizes[40] > sizes[96]
    assert umap_df["umap_x"].isna().sum() == len(WIDTHS) and (umap_df["description"] == "").all()


@pytest.mark.parametrize("neighbours", [15, 10])
def test_d9_clusters_are_text_and_those_of_the_native_call(neighbours):
    native = opened("mlx").model
    saes = splitting_saes(native.d_model)
    umap_df = compute_sae_umap_data(
        saes,
        autointerp(WIDTHS),
        [96],
        native,
        find_clusters=True,
        n_neighbors_cluster=neighbours,
        min_cluster_size=4,
    )
    clusters = decoder_map(saes[96], n_neighbors=neighbours).clusters(4, control=False)
    own = umap_df.sort_values("feature_idx")["cluster"]
    assert own.tolist() == [str(c) for c in clusters.labels.tolist()]
    assert umap_df["cluster"].astype(int).is_monotonic_increasing
    drawn = decoder_map(saes[96])
    assert umap_df.sort_values("feature_idx")["umap_x"].to_numpy(np.float32) == pytest.approx(
        drawn.coordinates[:, 0]
    )


def test_descriptions_are_put_to_the_latents_they_name():
    native = opened("mlx").model
    saes = splitting_saes(native.d_model)
    table = pandas.DataFrame({"index": ["5", "3", "3"], "description": ["five", "three", "more"]})
    umap_df = compute_sae_umap_data(saes, {24: table}, [24], native)
    said = umap_df["description"].tolist()
    assert said[3] == "three" and said[5] == "five" and set(said) == {"", "three", "five"}


def test_bad_input_is_named():
    native = opened("mlx").model
    saes: Any = splitting_saes(native.d_model)
    ask: Any = compute_sae_umap_data
    for call, words in [
        (lambda: ask(saes, None, [24, 25], native), "names 25"),
        (lambda: ask(saes, None, [], native), "each width once"),
        (lambda: ask(saes, None, [24, 24], native), "each width once"),
        (lambda: ask([saes[24]], None, [24], native), "saes is"),
        (lambda: ask({24: saes[40]}, None, [24], native), "has 40 latents"),
        (lambda: ask({24: "x"}, None, [24], native), "Expected an SAE"),
        (lambda: ask(splitting_saes(8), None, [24], native), "writes width 8"),
        (lambda: ask(saes, autointerp([24]) | {40: autointerp([24])[24]}, [40], native), "24 rows"),
        (
            lambda: ask(saes, {24: pandas.DataFrame({"x": range(24)})}, [24], native),
            "no column 'description'",
        ),
        (lambda: ask(saes, None, [24], native, batch_size=0), "batch_size"),
    ]:
        with pytest.raises(InputError, match=words):
            call()

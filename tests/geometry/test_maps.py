"""Rows D7, D8: maps of decoder rows, and what is kept of them."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import (
    BackendError,
    FeatureIndexError,
    FeatureRegistry,
    InputError,
    SAEError,
    UnknownFeatureError,
)
from mlxterp.geometry import DecoderMap, decoder_map
from mlxterp.index.folder import MAP
from mlxterp.viz.palette import GREY
from tests.geometry.bundles import BUNDLES, EACH, bundles, purity
from tests.geometry.families import COMPONENT, NARROW, WIDE, family, sae_of

ASK: Any = decoder_map
"""For what the type checker would not let through."""
METHODS = ("umap", "tsne", "pca")


def of(sae: Any, method: str = "pca", **options: Any) -> DecoderMap:
    """A map; skipped with the reason where the method's library is missing."""
    if method != "pca":
        pytest.importorskip({"umap": "umap", "tsne": "sklearn"}[method])
    return ASK(sae, method=method, **options)


def short(demo: Any, n: int) -> list[str]:
    """Stories that the model reads in one piece."""
    return [story for story in demo.texts if len(demo.model.tokenize(story)) <= 256][:n]


# -- places -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_d7_two_runs_are_equal_bit_for_bit(method):
    one, two = (of(bundles(), method) for _ in range(2))
    assert one.coordinates.dtype == np.float32 and np.array_equal(one.coordinates, two.coordinates)
    assert str(one) == str(two) and one.coordinates.shape == (BUNDLES * EACH, 2)


@pytest.mark.parametrize("method", ["umap", "tsne"])
def test_d7_planted_bundles_stay_together_on_the_map(method):
    drawn = of(bundles(), method)
    assert purity(drawn.coordinates, drawn.feature_id % BUNDLES) > 0.95
    assert drawn.kept.value > 5 * drawn.kept.control_mean and drawn.kept.stands_out


def test_d7_another_seed_gives_another_map_and_large_seeds_are_taken():
    one, two = (of(bundles(), "umap", seed=seed) for seed in (0, 2**63 + 1))
    assert not np.array_equal(one.coordinates, two.coordinates)


def test_d7_principal_axes_are_those_of_the_singular_values_with_a_fixed_sign():
    drawn, rows = of(bundles()), bundles().W_dec.astype(np.float64)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    u, s, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    expected = u[:, :2] * s[:2]
    signs = np.sign((expected * drawn.coordinates).sum(axis=0))
    np.testing.assert_allclose(drawn.coordinates, expected * signs, atol=1e-5)


def test_d7_the_share_of_neighbours_that_is_kept_is_that_of_brute_force():
    drawn, k = of(bundles(), n_neighbors=4), 4
    rows = bundles().W_dec.astype(np.float64)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -2)
    apart = ((drawn.coordinates[:, None].astype(float) - drawn.coordinates[None]) ** 2).sum(axis=-1)
    np.fill_diagonal(apart, np.inf)
    own, shown = np.argsort(-cosines, axis=1)[:, :k], np.argsort(apart, axis=1)[:, :k]
    kept = np.mean([len(set(a) & set(b)) / k for a, b in zip(own.tolist(), shown.tolist(), strict=True)])
    assert drawn.kept.value == pytest.approx(kept)
    assert len(drawn.kept.control) == 20 and drawn.kept.control_mean == pytest.approx(
        k / (len(rows) - 1), abs=0.01
    )
    low, high = drawn.kept.interval or (0, 0)
    assert low < kept < high and f"{kept:.3f} [" in str(drawn) and "control 0.0" in str(drawn)
    assert drawn.nearness == pytest.approx(np.sort(cosines, axis=1)[:, -k:].mean(axis=1))


def test_d7_widths_stand_on_one_map_the_narrowest_first():
    drawn = of(family(), n_neighbors=3)
    assert drawn.widths == [NARROW, WIDE] and drawn.width.tolist() == [NARROW] * NARROW + [WIDE] * WIDE
    assert drawn.feature_id.tolist() == [*range(NARROW), *range(WIDE)] and drawn.component == COMPONENT
    again = of(dict(family()), n_neighbors=3)
    assert np.array_equal(drawn.coordinates, again.coordinates)


@pytest.mark.parametrize("method", METHODS)
def test_d7_dead_rows_are_left_out_and_copies_stand_together(method):
    rows = bundles().W_dec.copy()
    rows[[3, 9]] = 0
    rows[40:70] = rows[40] * np.linspace(1, 2, 30)[:, None]  # more copies than neighbours
    drawn = of(sae_of(rows), method)
    assert drawn.dead == {BUNDLES * EACH: 2} and drawn.copies == 29 and len(drawn) == len(rows) - 2
    assert not set(drawn.feature_id.tolist()) & {3, 9}
    assert len(np.unique(drawn.coordinates[np.isin(drawn.feature_id, range(40, 70))], axis=0)) == 1
    assert "dead rows left out: 2 of width 320" in str(drawn) and "29 rows are copies" in str(drawn)


# -- names, tokens, scores --------------------------------------------------------------------------


def test_d7_labels_are_taken_in_every_form():
    sae, both = bundles(), family()
    for given in (
        {5: "ball"},
        {(320, 5): "ball"},
        FeatureRegistry({5: "ball"}),
        {320: {5: "ball"}},
        {5: {"name": "ball"}},
        {320: FeatureRegistry({5: "ball"})},
    ):
        drawn = of(sae, labels=given)
        assert [f for f, label in enumerate(drawn.labels) if label] == [5] and drawn.labels[5] == "ball"
    drawn = of(both, n_neighbors=3, labels={(WIDE, 2): "child", (NARROW, 2): "parent"})
    assert drawn.labels[2] == "parent" and drawn.labels[NARROW + 2] == "child"
    sae.concepts.load_concepts({7: "red"})
    assert of(sae).labels[7] == "red"


def test_d7_tokens_are_those_that_the_features_promote(demo):
    rows = demo.sae.W_dec[:40]
    small = mlxterp.SAE(
        mlxterp.weights.SAEWeights(demo.sae.W_enc[:, :40], demo.sae.b_enc[:40], rows, demo.sae.b_dec),
        demo.sae.activation, demo.sae.metadata,
    )  # fmt: skip
    drawn = of(small, model=demo.model)
    said = [tuple(token for token, _ in one.promoted) for one in demo.model.feature_logits(small, range(40))]
    assert drawn.tokens == tuple(said) and len(said[0]) == 10


def test_d7_an_index_brings_labels_and_densities(demo):
    index = demo.model.build_index(demo.sae, short(demo, 20), verbose=False)
    index.labels = {741: "ball"}
    drawn = of(demo.sae, labels=index)
    density = drawn.scores["log10 density"]
    assert drawn.labels[741] == "ball"
    count = index.summary.count
    assert density[count > 0] == pytest.approx(np.log10(count[count > 0] / index.n_tokens))
    assert np.isnan(density[count == 0]).all()


def test_d7_scores_are_for_one_sae_or_by_width_and_can_be_added():
    drawn = of(family(), n_neighbors=3, scores={"a": np.arange(32), "b": {WIDE: np.arange(24)}})
    assert drawn.scores["a"].tolist() == [*range(32)]
    assert np.isnan(drawn.scores["b"][:NARROW]).all() and drawn.scores["b"][NARROW:].tolist() == [*range(24)]
    more = drawn.with_scores({"c": drawn.coordinates[:, 0]})
    assert set(more.scores) == {"a", "b", "c"} and set(drawn.scores) == {"a", "b"}
    frame = more.to_pandas()
    assert list(frame.columns) == ["width", "feature_id", "x", "y", "label", "nearness", "a", "b", "c"]
    assert len(frame) == 32 and frame["x"].to_numpy() == pytest.approx(drawn.coordinates[:, 0])


# -- bad input --------------------------------------------------------------------------------------


def test_bad_input_is_named():
    sae, zero = bundles(), sae_of(np.zeros((20, 4)))
    nan = bundles().W_dec.copy()
    nan[17, 2] = np.nan
    for call, kind, words in [
        (lambda: ASK(sae, method="isomap"), InputError, "one of 'umap', 'tsne', 'pca'"),
        (lambda: ASK(sae, method="pca", n_neighbors=320), InputError, "320 neighbours of 320 live rows"),
        (lambda: ASK(sae_of(np.eye(8, 16)), method="pca"), InputError, "15 neighbours of 8 live rows"),
        (lambda: ASK(sae_of(np.ones((40, 4))), method="pca"), InputError, "39 more are copies"),
        (lambda: ASK(zero, method="pca"), InputError, "zero"),
        (lambda: ASK(sae, method="pca", seed=0.5), InputError, "seed"),
        (lambda: ASK(sae, method="pca", seed="0"), InputError, "seed"),
        (lambda: ASK(sae, method="pca", n_neighbors=1), InputError, "n_neighbors"),
        (lambda: ASK(sae, method="pca", min_dist=2), InputError, "min_dist"),
        (lambda: ASK("sae", method="pca"), InputError, "Expected an SAE"),
        (lambda: ASK([sae, sae_of(np.eye(400, 48), component="layers.0.mlp")], method="pca"), SAEError, "component"),
        (lambda: ASK(sae, method="pca", labels={999: "x"}), UnknownFeatureError, "999"),
        (lambda: ASK(sae, method="pca", labels={(64, 1): "x"}), InputError, "width 64"),
        (lambda: ASK(sae, method="pca", labels={1: 5}), InputError, "expected a text"),
        (lambda: ASK(sae, method="pca", labels=["x"]), InputError, "labels is list"),
        (lambda: ASK(family(), method="pca", n_neighbors=3, labels={1: "x"}), InputError, "of which width"),
        (lambda: ASK(sae, method="pca", scores={"a": [1, 2]}), InputError, "320 features"),
        (lambda: ASK(sae, method="pca", scores={"a": ["x"] * 320}), InputError, "no array of numbers"),
        (lambda: ASK(sae, method="pca", knn="exact"), InputError, "takes no knn="),
        (lambda: of(sae).with_scores({"a": [1]}), InputError, "320 points"),
        (lambda: of(sae).plot("colour"), InputError, "color is 'colour'"),
    ]:  # fmt: skip
        with pytest.raises(kind, match=words):
            call()
    try:
        broken = sae_of(nan)
    except (SAEError, InputError):
        return
    with pytest.raises((InputError, SAEError), match=r"Row 17|not finite|NaN"):
        ASK(broken, method="pca")


@pytest.mark.parametrize(
    ("method", "module", "package"),
    [("umap", "umap", "umap-learn"), ("tsne", "sklearn.manifold", "scikit-learn")],
)
def test_a_missing_library_is_named_with_the_method_that_needs_none(method, module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendError, match=rf'needs {package}: pip install "mlxterp\[umap\]"\. method="pca"'):
        ASK(bundles(), method=method)


# -- kept -------------------------------------------------------------------------------------------


def same(one: DecoderMap, two: DecoderMap) -> bool:
    arrays = ("coordinates", "width", "feature_id", "nearness")
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in arrays) and str(one) == str(
        two
    )


def test_d7_a_map_is_kept_in_a_folder_and_found_again(tmp_path):
    sae = bundles()
    drawn = of(sae, labels={1: "<b>"}, scores={"score": np.linspace(0, 1, 320)})
    assert drawn.save(tmp_path).name == MAP
    found = DecoderMap.load(tmp_path)
    assert same(found, drawn) and found.labels == drawn.labels and found.distinct is None
    assert np.array_equal(found.scores["score"], drawn.scores["score"])
    with pytest.raises(InputError, match="loaded without its SAEs"):
        found.clusters()
    whole = DecoderMap.load(tmp_path, sae)
    assert whole.distinct is not None and drawn.distinct is not None
    assert np.array_equal(whole.distinct.neighbours.ids, drawn.distinct.neighbours.ids)
    with pytest.raises(InputError, match="fingerprints differ"):
        DecoderMap.load(tmp_path, bundles(seed=1))
    with pytest.raises(InputError, match="no map"):
        DecoderMap.load(tmp_path / "elsewhere")


def test_d7_a_map_beside_an_index_is_that_of_its_sae(demo, tmp_path):
    index = demo.model.build_index(demo.sae, short(demo, 5), tmp_path / "index", verbose=False)
    drawn = of(demo.sae)
    with pytest.raises(InputError, match="not on this map"):
        of(bundles()).save(index)
    drawn.save(index)
    assert same(DecoderMap.load(index), drawn)
    assert same(DecoderMap.load(mlxterp.FeatureIndex.open(tmp_path / "index")), drawn)
    demo.model.build_index(demo.sae, short(demo, 5), tmp_path / "index", verbose=False)
    assert (tmp_path / "index" / MAP).exists()
    of(bundles()).save(tmp_path / "index")
    with pytest.raises(InputError, match="another SAE than the index"):
        DecoderMap.load(index)


def test_d7_a_damaged_map_is_found(tmp_path):
    path = of(bundles()).save(tmp_path)
    whole = path.read_bytes()
    for at in (4, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        with pytest.raises(FeatureIndexError, match="draw the map again"):
            DecoderMap.load(tmp_path)
    path.write_bytes(whole[:-9])
    with pytest.raises(FeatureIndexError, match="damaged"):
        DecoderMap.load(tmp_path)


# -- shown ------------------------------------------------------------------------------------------


def test_d8_the_plot_is_coloured_by_width_and_narrower_is_larger():
    pytest.importorskip("matplotlib")
    drawn = of(family(), n_neighbors=3, scores={"score": [*range(31), np.nan]})
    clouds: Any = drawn.plot().axes[0].collections
    sizes = {len(cloud.get_offsets()): float(cloud.get_sizes().max()) for cloud in clouds}
    assert sizes[NARROW] > sizes[WIDE]
    points = drawn.points()
    assert points.colourings[0].name == "width" and points.colourings[0].color(0) == GREY["light"]
    assert points.colourings[0].color(1) != GREY["light"]
    for name in ("score", "mean cosine of the nearest"):
        assert len(drawn.plot(name).axes) == 2
    assert of(bundles()).points().colourings[0].name == "mean cosine of the nearest"


def test_d8_a_picture_of_the_points_stands_in_notebooks():
    drawn = of(family(), n_neighbors=3, labels={(WIDE, 1): "</script><b>"})
    cell = drawn._repr_html_()
    assert cell.count("M") >= 32 and "<script" not in cell and "share of a row" in cell
    assert repr(drawn) == "<DecoderMap: 32 rows of widths [8, 24] by PCA>"


def test_d7_a_map_whose_parts_are_of_other_numbers_is_damaged(tmp_path):
    drawn = of(bundles())
    for wrong in ({"labels": drawn.labels[1:]}, {"width": drawn.width[1:]}, {"nearness": drawn.nearness[1:]}):
        replace(drawn, **wrong).save(tmp_path)
        with pytest.raises(FeatureIndexError, match="is damaged: draw the map again"):
            DecoderMap.load(tmp_path)

"""Row D9: clusters of decoder rows, beside those of random rows."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from mlxterp import BackendError, InputError
from mlxterp.geometry import Clusters, cosine_neighbours, decoder_map
from mlxterp.geometry.cluster_test import mean_cosine, p_by_random_groups
from mlxterp.geometry.clusters import hdbscan
from mlxterp.geometry.layouts import layout
from mlxterp.sae.directions import unit_rows
from tests.geometry.bundles import BUNDLES, EACH, bundles
from tests.geometry.families import sae_of

pytest.importorskip("sklearn")


def found(sae: Any, labels: Any = None, **options: Any) -> Clusters:
    return decoder_map(sae, labels, method="pca").clusters(**options)


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(a, b))


def test_d9_planted_bundles_are_the_clusters_and_beyond_the_control():
    clusters = found(
        bundles(), {f: f"about {'cats' if f % BUNDLES == 3 else f % BUNDLES}" for f in range(320)}
    )
    assert agreement(clusters.labels, np.arange(320) % BUNDLES) > 0.95
    assert (clusters.q < 0.05).all() and (clusters.p_control < 0.05).all() and clusters.tightness.stands_out
    assert clusters.count.value == len(clusters) and len(clusters.count.control) == 20
    assert (np.diff(clusters.sizes) <= 0).all() and clusters.sizes.sum() == (clusters.labels >= 0).sum()
    own = clusters.labels[3]
    assert (320, 3) in clusters.members(int(own)) and "cats" in clusters.names[own]
    row = clusters.table[int(own)]
    assert row["size"] == len(row["members"]) == EACH and row["cosine"] == pytest.approx(clusters.cosine[own])


def test_d9_clusters_of_a_umap_map_are_found_in_ten_dimensions_of_umap():
    pytest.importorskip("umap")
    drawn = decoder_map(bundles())
    clusters = drawn.clusters(draws=1)
    assert clusters.layout == "umap" and clusters.dims == 10 and clusters.map is drawn
    assert agreement(clusters.labels, np.arange(320) % BUNDLES) > 0.9
    assert np.array_equal(drawn.clusters(draws=1).labels, clusters.labels)
    assert "(1 draws, covariance-matched rows, seed 0)" in str(clusters)


def test_d9_random_directions_have_as_many_clusters_as_their_control():
    pytest.importorskip("umap")
    rows = np.random.default_rng(0).normal(size=(600, 48))
    clusters = decoder_map(sae_of(rows)).clusters(draws=4)
    assert clusters.count.value == pytest.approx(clusters.count.control_mean, rel=0.35)
    assert clusters.count.value > 10 and clusters.tightness.value < 1.15 * clusters.tightness.control_mean
    assert (clusters.q < 0.05).mean() > 0.7  # groups chosen for lying together pass the easy test
    assert (clusters.p_control < 0.05).mean() < 0.2


def test_d9_clusters_are_those_of_the_hdbscan_package(demo):
    peer = pytest.importorskip("hdbscan", reason="pip install hdbscan")
    pytest.importorskip("umap")
    rows = unit_rows(demo.sae.W_dec).astype(np.float32)
    points = layout(rows, cosine_neighbours(rows, k=15), 10, "umap", 0.1, 0)
    own = hdbscan(points, 3)
    for algorithm in ("prims_kdtree", "generic"):  # its default breaks ties of the tree by the points' order
        theirs = peer.HDBSCAN(min_cluster_size=3, algorithm=algorithm).fit(points.astype(np.float64)).labels_
        assert agreement(own, theirs) > 0.999


def test_d9_copies_are_one_row_and_share_its_cluster():
    rows = bundles().W_dec.copy()
    rows[:40:20] = rows[0]
    rows[40:60] = rows[40]
    clusters = found(sae_of(rows), control=False)
    assert len(np.unique(clusters.labels[[0, 20]])) == 1 and len(np.unique(clusters.labels[40:60])) == 1
    assert np.bincount(clusters.labels[clusters.labels >= 0]).tolist() == clusters.sizes.tolist()


def test_d9_without_a_control_it_is_said():
    clusters = found(bundles(), control=False)
    assert not len(clusters.count.control) and np.isnan(clusters.p_control).all()
    assert "no control: it was left out" in str(clusters) and "left out" in clusters.fragment()


def test_d9_the_test_of_a_cluster_is_against_random_groups_of_its_size():
    draw = np.random.default_rng(0)
    rows = unit_rows(draw.normal(size=(200, 12))).astype(np.float32)
    same = rows[:5] @ rows[:5].T
    assert mean_cosine(rows[:5]) == pytest.approx((same.sum() - 5) / 20, abs=1e-6)
    groups = [draw.choice(200, 5, replace=False) for _ in range(200)]
    cosines = np.array([mean_cosine(rows[one]) for one in groups])
    p = p_by_random_groups(rows, [5] * 200, cosines, 0)
    assert p.min() > 0 and abs((p < 0.1).mean() - 0.1) < 0.07
    assert p_by_random_groups(rows, [5], np.array([1.0]), 0)[0] == pytest.approx(1 / 1001)


def test_d9_many_rows_have_fewer_draws_and_noise_is_grey_on_page_and_plot():
    from mlxterp.geometry.clusters import _draws

    assert [_draws(n) for n in (300, 4096, 8192, 24_000, 10**6)] == [20, 20, 10, 3, 3]
    clusters = found(sae_of(np.random.default_rng(0).normal(size=(400, 24))), draws=1)
    assert (clusters.labels < 0).any()
    points = clusters.points()
    assert points.colourings[0].name == "cluster" and points.colourings[0].color(-1) == "#b9bbc2"
    assert clusters.members(-1) == [(400, f) for f in np.flatnonzero(clusters.labels < 0).tolist()]
    assert clusters.plot().axes[0].get_title().startswith("Clusters")
    assert clusters.to_pandas()["cluster"].tolist() == clusters.labels.tolist()


def test_d9_no_clusters_are_told(tmp_path):
    clusters = found(sae_of(np.random.default_rng(0).normal(size=(60, 40))), min_cluster_size=40, draws=1)
    assert len(clusters) == 0 and (clusters.labels == -1).all() and clusters.noise.value == 1
    assert "0 of 0" in str(clusters) and clusters.to_html(tmp_path / "none.html").stat().st_size > 1000


def test_bad_input_is_named(monkeypatch):
    drawn, ask = decoder_map(bundles(), method="pca"), None
    ask = drawn.clusters
    for call, words in [
        (lambda: ask(min_cluster_size=1), "min_cluster_size"),
        (lambda: ask(min_cluster_size=400), "A cluster of 400 rows among 320"),
        (lambda: ask(dims=49), "at most 48 dimensions"),
        (lambda: ask(dims=0), "dims"),
        (lambda: ask(min_dist=-1), "min_dist"),
        (lambda: ask(draws=0), "draws"),
        (lambda: ask(control="yes"), "control"),  # type: ignore[arg-type]
        (lambda: found(bundles(), control=False).members(99), "cluster"),
    ]:
        with pytest.raises(InputError, match=words):
            call()
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(BackendError, match=r"mlxterp\[umap\]"):
        ask(control=False)

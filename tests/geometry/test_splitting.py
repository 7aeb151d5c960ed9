"""Row D6, D8: parents and children of two widths, beside shuffled parents; stitching."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlxterp import FeatureIndex, InputError, SAECollection, SAEError
from mlxterp.core.sparse import SparseFeatures
from mlxterp.geometry import splitting, stitching
from mlxterp.geometry.splitting import theta_of
from mlxterp.variants import TopK
from tests.geometry.families import COMPONENT, NARROW, PARENTS, WIDE, activations, family, sae_of
from tests.index.small import TEXTS, random_sae

ASK: Any = splitting
"""For what the type checker would not let through."""


def test_d6_planted_children_are_found_and_new_directions_are_novel():
    found = splitting(family(), NARROW, WIDE, activations(), theta=0.5)
    assert {child: one.parent for child, one in found.parents.items()} == {c: c // 3 for c in range(18)}
    assert found.novel == list(range(18, 24)) and found.split == list(range(PARENTS))
    assert found.confirmed.value == 18 and found.confirmed.control_mean < 18 / 5
    assert found.coverage.value > 0.99 > 3 * found.coverage.control_mean
    for one in found.children(2):
        assert one.feature_id // 3 == one.parent == 2 == one.jaccard_parent
        assert one.p_parent > 0.99 and one.lift > 4 and 0.3 < one.jaccard < 0.7
        assert one.cosine == pytest.approx(0.8, abs=1e-6)
    assert found.children(7) == [] and found.agreement > 0.7


def test_d6_a_parent_that_is_active_everywhere_confirms_nothing():
    always = np.ones((4000, NARROW), np.float32)
    wide = family()[WIDE].encode_sparse(activations().astype(np.float32))
    found = splitting(
        family(), NARROW, WIDE, {NARROW: SparseFeatures.from_dense(always), WIDE: wide}, theta=0.5
    )
    assert found.confirmed.value == 0 and found.by_cosine.sum() == 18
    assert np.isnan(found.coverage.value) and found.children(0) == []


def test_children_that_are_active_elsewhere_are_not_confirmed_by_cosine_alone():
    x = activations()
    narrow = family()[NARROW].encode_sparse(x.astype(np.float32))
    wide = family()[WIDE].encode_sparse(np.random.default_rng(1).permutation(x).astype(np.float32))
    found = splitting(family(), NARROW, WIDE, {NARROW: narrow, WIDE: wide}, theta=0.5)
    assert found.by_cosine.sum() == 18 and found.confirmed.value == 0


def test_random_directions_of_a_family_split_no_more_than_shuffled_parents():
    draw = np.random.default_rng(3)
    rows = [draw.normal(size=(n, 32)) for n in (20, 90)]
    saes = [sae_of(x / np.linalg.norm(x, axis=1, keepdims=True), -0.3) for x in rows]
    found = splitting(SAECollection({20: saes[0], 90: saes[1]}), 20, 90, draw.normal(size=(3000, 32)) / 4)
    assert found.confirmed.value <= found.confirmed.control_interval[1] + 1


def test_d8_theta_is_what_random_directions_do_not_reach():
    draw = np.random.default_rng(0)
    theta = theta_of(draw.normal(size=(400, 12)), narrow := draw.normal(size=(30, 12)))
    fresh = draw.normal(size=(4000, 12))
    cosines = (fresh / np.linalg.norm(fresh, axis=1, keepdims=True)) @ (
        narrow / np.linalg.norm(narrow, axis=1)[:, None]
    ).T
    assert 0.98 < (cosines.max(axis=1) < theta).mean() < 1


def test_the_same_seed_gives_the_same_and_the_control_can_be_left_out():
    one, two = (splitting(family(), NARROW, WIDE, activations(), seed=5) for _ in range(2))
    assert str(one) == str(two) and one.theta == two.theta
    bare = splitting(family(), NARROW, WIDE, activations(), seed=5, control=False)
    assert np.array_equal(bare.is_child, one.is_child) and "no control: it was left out" in str(bare)
    assert "(20 draws, shuffled parents, seed 5)" in str(one)


def test_indexes_activations_and_texts_give_the_same(letter_model, backend, tmp_path):
    width = int(letter_model.trace("a").activations[COMPONENT].shape[-1])
    saes = [random_sae(TopK(8), width, n, seed=n, backend=backend) for n in (24, 64)]
    both = SAECollection({24: saes[0], 64: saes[1]})
    texts = [text[:60] for text in TEXTS]
    indexes = both.build_indexes(letter_model, texts, tmp_path / "indexes", verbose=False)
    options = {"theta": 0.2, "min_firings": 2, "subset": 0.5}
    by_index = splitting(both, 24, 64, indexes, **options)
    by_text = splitting(both, 24, 64, texts, model=letter_model, **options)
    assert by_index.n_tokens == by_text.n_tokens
    assert str(splitting(both, 24, 64, indexes[24], **options)) == str(by_text)
    with pytest.raises(InputError, match=r"index\.attach"):
        splitting(both, 24, 64, FeatureIndex.open(indexes[24].path))
    assert np.abs(by_index.counts - by_text.counts).max() <= 1  # a rounding apart at the border of k
    assert [one.parent for one in by_index.parents.values()] == [
        one.parent for one in by_text.parents.values()
    ]
    parent = next(iter(by_index.parents.values())).parent
    page = by_index.cards(parent).to_html(tmp_path / "cards.html").read_text(encoding="utf-8")
    assert f"Feature {parent} and its children" in page
    assert by_index.graph()["nodes"][0]["label"]
    with pytest.raises(InputError, match="other tokens"):
        splitting(both, 24, 64, {24: indexes[24], 64: SparseFeatures.from_dense(np.ones((3, 64)))})
    with pytest.raises(InputError, match="not of SAE"):
        splitting(SAECollection([saes[0].replace(activation=TopK(3)), saes[1]]).by("width"), 24, 64, indexes)


def test_a_splitting_is_a_table_a_graph_a_picture_and_a_page(tmp_path):
    found = splitting(family(), NARROW, WIDE, activations(), theta=0.5)
    frame = found.to_pandas()
    assert frame.confirmed.sum() == 18 and frame.novel.sum() == 6 and len(frame) == WIDE
    graph = found.graph()
    assert len(graph["edges"]) == 18 and len(graph["nodes"]) == 18 + PARENTS
    assert {edge["source"] for edge in graph["edges"]} == {f"8/{p}" for p in range(PARENTS)}
    assert found.plot(tmp_path / "plot.png") and (tmp_path / "plot.png").stat().st_size > 1000
    page = found.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "shuffled parents" in page and "http" not in page.replace("http-equiv", "")
    assert repr(found) == "<Splitting 8 → 24: 18 confirmed children>"
    assert found.fragment(element_id="here").startswith('<h3 class="mxt-h2" id="here">')


def test_bad_input_is_named():
    splitting, both, x = ASK, family(), activations(400)
    other = SAECollection({NARROW: both[NARROW], WIDE: sae_of(np.eye(WIDE, 16), component="layers.0.mlp")})
    nameless = SAECollection({NARROW: both[NARROW], WIDE: sae_of(np.eye(WIDE, 16), component=None)})
    for call, kind, words in [
        (lambda: splitting(both, WIDE, NARROW, x), InputError, "less than wide"),
        (lambda: splitting(both, 9, WIDE, x), SAEError, "No SAE of this collection has width 9"),
        (lambda: splitting(other, NARROW, WIDE, x), SAEError, "Compare SAEs of one component"),
        (lambda: splitting(nameless, NARROW, WIDE, x), SAEError, "names no component"),
        (lambda: splitting({8: 1}, NARROW, WIDE, x), InputError, "SAECollection"),
        (lambda: splitting(both, NARROW, WIDE, x[:, :3]), InputError, "16"),
        (lambda: splitting(both, NARROW, WIDE, np.full((4, 16), np.nan)), InputError, "not finite"),
        (lambda: splitting(both, NARROW, WIDE, ["a text"]), InputError, "model=model"),
        (lambda: splitting(both, NARROW, WIDE, {WIDE: x}), InputError, "no features of width 8"),
        (lambda: splitting(both, NARROW, WIDE, x, min_firings=1000), InputError, "smaller min_firings"),
        (lambda: splitting(both, NARROW, WIDE, x, theta=2), InputError, "theta is 2"),
        (lambda: splitting(both, NARROW, WIDE, x, seed=0.5), InputError, "seed is 0.5"),
        (lambda: splitting(both, NARROW, WIDE, x, treshold=0.5), InputError, "takes no treshold="),
        (lambda: stitching(both, NARROW, WIDE, x, min_firings=0), InputError, "min_firings is 0"),
        (lambda: splitting(both, NARROW, WIDE, x).child(99), SAEError, "99"),
    ]:
        with pytest.raises(kind, match=words):
            call()


# -- stitching ------------------------------------------------------------------------------------


def test_stitching_is_what_adding_the_feature_does():
    x = activations(500).astype(np.float32)
    both = family()
    found = stitching(both, NARROW, WIDE, x, min_firings=1)
    rebuilt, features = both[NARROW].reconstruct(x), both[WIDE].encode(x)
    before = ((x - rebuilt) ** 2).sum(axis=1).mean()
    assert found.mse == pytest.approx(before, rel=1e-4)
    for f in (0, 7, 20):
        added = rebuilt + features[:, [f]] * both[WIDE].W_dec[[f]]
        assert found.delta[f] == pytest.approx(((x - added) ** 2).sum(axis=1).mean() - before, rel=1e-3)


def test_d6_directions_that_the_narrow_sae_lacks_help_and_cosine_says_which():
    found = splitting(family(), NARROW, WIDE, activations(), theta=0.5).stitch(activations())
    assert set(range(18, 24)) <= set(found.novel)
    assert set(found.novel) | set(found.reconstruction) == set(range(WIDE))
    twin = SAECollection(
        {NARROW: family()[NARROW], WIDE: sae_of(np.vstack([np.eye(16), np.eye(8, 16)]), -0.4)}
    )
    told = stitching(twin, NARROW, WIDE, np.abs(np.random.default_rng(0).normal(size=(3000, 16))))
    assert sorted(told.novel) == list(range(8, 16))
    assert told.auc.value == 1 and 0.2 < told.auc.control_mean < 0.8 and told.best_theta < 0.5
    assert "AUC of a low cosine: 1.000" in str(told) and "8 of 24" in str(told)


def test_stitching_is_a_picture_and_a_page(tmp_path):
    found = stitching(family(), NARROW, WIDE, activations(), control=False)
    assert found.plot(tmp_path / "plot.png") and (tmp_path / "plot.png").exists()
    assert "All of them help" in found.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert np.isnan(found.best_theta) and np.isnan(found.auc.value)
    assert repr(found).startswith("<Stitching 8 ← 24")

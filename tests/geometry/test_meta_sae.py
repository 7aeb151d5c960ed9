"""Meta-SAEs: a dictionary with known parts is taken apart, and what the control gives stands beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxterp import SAE, InputError, MlxterpWarning, SAEError, UnknownFeatureError, geometry
from mlxterp.core.sparse import SparseFeatures
from mlxterp.geometry.meta_pairs import shared_pairs
from mlxterp.geometry.meta_training import share, unexplained
from mlxterp.variants import TopK
from mlxterp.weights import SAEWeights

ATOMS, WIDTH, FEATURES = 96, 64, 4096


def composed(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atoms of length 1, rows each made of three of them and a little noise, and which three."""
    rng = np.random.default_rng(seed)
    atoms = rng.normal(size=(ATOMS, WIDTH)).astype(np.float32)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    ids = np.stack([rng.choice(ATOMS, 3, replace=False) for _ in range(FEATURES)])
    weights = rng.uniform(0.6, 1.4, (FEATURES, 3, 1)).astype(np.float32)
    rows = (atoms[ids] * weights).sum(axis=1)
    rows += 0.05 * rng.normal(size=rows.shape).astype(np.float32)
    return atoms, rows / np.linalg.norm(rows, axis=1, keepdims=True), ids


def an_sae(rows: np.ndarray, **metadata: object) -> SAE:
    weights = SAEWeights(rows.T.copy(), np.zeros(len(rows)), rows, np.zeros(rows.shape[1]))
    return SAE(weights, TopK(2), dict(metadata))


@pytest.fixture(scope="module")
def truth():
    return composed()


@pytest.fixture(scope="module")
def meta(truth) -> geometry.MetaSAE:
    """Of decoder rows of length 3."""
    sae = an_sae(3 * truth[1], component="layers.1.resid_post")
    return geometry.train_meta_sae(sae, ATOMS, 3, verbose=False)


def test_d11_the_atoms_of_a_composed_dictionary_are_found(truth, meta):
    cosines = truth[0] @ meta.sae.W_dec.T
    assert np.mean(cosines.max(axis=1) > 0.9) >= 0.95


def test_d11_held_out_variance_is_far_above_that_of_rows_with_the_same_covariance(meta):
    found = meta.explained_variance
    assert found.value >= 2.5 * found.control_mean and found.stands_out
    assert len(found.control) == 20 and found.interval[0] < found.value < found.interval[1]
    assert meta.held_out_variance >= found.value - 0.01 and meta.control_epochs < meta.epochs


def test_d11_a_feature_decomposes_into_its_own_atoms(truth, meta):
    found = (truth[0] @ meta.sae.W_dec.T).argmax(axis=1)
    hits = [found[atom] in dict(meta.decompose(f)) for f in meta.held_out.tolist() for atom in truth[2][f]]
    assert np.mean(hits) > 0.9


def test_a_row_is_its_meta_latents_and_its_residual(meta):
    for feature in (0, 17, 4095):
        parts = sum(weight * meta.sae.W_dec[m] for m, weight in meta.decompose(feature))
        whole = parts + meta.sae.b_dec + meta.residual(feature)
        assert np.allclose(whole, meta.rows[feature], atol=1e-5)
        assert 0.5 < meta.explained(feature) <= 1


def test_d11_without_takes_one_part_out_and_leaves_the_rest(meta):
    for feature in (0, 17, 4095):
        first, weight = meta.decompose(feature)[0]
        vector = meta.without(feature, first)
        taken = 3 * meta.rows[feature] - vector.vector
        assert np.allclose(taken, 3 * weight * meta.sae.W_dec[first], atol=1e-4)
        assert vector.component == "layers.1.resid_post"
        assert vector.metadata["meta"] == first


def test_members_and_decompositions_are_the_same_pairs(meta):
    by_members = {(f, m) for m in range(ATOMS) for f, _ in meta.members(m)}
    by_features = {(f, m) for f in range(FEATURES) for m, _ in meta.decompose(f)}
    assert by_members == by_features
    weights = [weight for _, weight in meta.members(0)]
    assert weights == sorted(weights, reverse=True)


def test_a_meta_latent_is_named_by_what_its_members_have_in_common(truth, meta):
    words = [f"word{i}" for i in range(ATOMS)]
    labels = {f: " ".join(["the", *(words[a] for a in truth[2][f])]) for f in range(FEATURES)}
    cosines = truth[0] @ meta.sae.W_dec.T
    for atom in np.flatnonzero(cosines.max(axis=1) > 0.9)[:10].tolist():
        assert meta.label(int(cosines[atom].argmax()), labels, 1) == words[atom]
    assert meta.label(0, {}) == ""
    assert meta.label(0, {f: {"name": text} for f, text in labels.items()}) == meta.label(0, labels)


def test_pairs_with_an_atom_in_common_share_a_meta_latent_more_than_pairs_of_the_same_cosine(truth, meta):
    rng = np.random.default_rng(1)
    # one atom in common, however alike they are otherwise
    members = [np.flatnonzero((truth[2] == atom).any(axis=1)) for atom in range(20)]
    found = meta.shared({atom: rng.choice(f, 4, replace=False).tolist() for atom, f in enumerate(members)})
    assert len(found.pairs) == 120 and found.value > 0.85
    assert found.random.control_mean < found.matched.control_mean < found.value
    assert found.random.stands_out and found.matched.stands_out
    assert found.matched.interval[0] <= found.value <= found.matched.interval[1]
    assert "20 draws" in str(found) and "<p>" in found.fragment()


def test_pairs_that_share_nothing_say_so():
    codes = SparseFeatures.from_dense(np.eye(6, dtype=np.float32))
    rows = np.eye(6, dtype=np.float32)
    found = shared_pairs(codes, rows, [(0, 1), (2, 3)], 20, 0)
    assert found.value == 0 and found.excess == 0 and found.matched.interval == (0, 0)
    without = shared_pairs(codes, rows, [(0, 1)], 0, 0)
    assert np.isnan(without.excess) and "left out" in str(without)


def test_pairs_linked_by_a_feature_are_drawn_together():
    codes = SparseFeatures.from_dense(np.array([[1, 0], [1, 0], [1, 0], [0, 1], [1, 0], [0, 1]], np.float32))
    rows = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    one = shared_pairs(codes, rows, [(0, 1), (1, 2), (0, 3)], 0, 0)
    assert one.random.interval == pytest.approx((2 / 3, 2 / 3))  # a single group
    several = shared_pairs(codes, rows, [(0, 1), (3, 4)], 0, 0)
    assert several.random.interval == pytest.approx((0, 1))


@pytest.mark.parametrize("pairs", [[], [(1, 1)], [(1,)], [1], "12", 5, {3: []}, {3: [4]}])
def test_pairs_that_are_none_are_refused(meta, pairs):
    with pytest.raises(InputError):
        meta.shared(pairs)


def test_it_is_shown_with_its_control(meta, tmp_path):
    text = meta.to_str(False)
    assert "20 draws, covariance-matched rows, 10 epochs each" in text and "above the control" in text
    assert meta.to_html(tmp_path / "meta.html").read_text(encoding="utf-8").count("<tr>") == 11
    assert repr(meta).startswith("<Meta-SAE of 4096 features: 96 meta-latents")


def test_random_rows_are_no_finding():
    rows = np.random.default_rng(3).normal(size=(300, 16)).astype(np.float32)
    found = geometry.train_meta_sae(rows, 24, 3, epochs=4, control_epochs=4, verbose=False)
    assert not found.explained_variance.stands_out
    assert "no finding" in found.to_str(False)
    assert found.control_epochs == found.epochs == 4
    assert found.held_out_variance == found.explained_variance.value


def test_without_a_control_it_says_so():
    rows = np.random.default_rng(3).normal(size=(40, 8)).astype(np.float32)
    found = geometry.train_meta_sae(rows, 8, 2, epochs=1, control=False)
    assert "no control: it was left out" in str(found)
    assert len(found.held_out) == 4 and not len(found.explained_variance.control)


def test_the_same_seed_gives_the_same(backend):
    rows = np.random.default_rng(3).normal(size=(60, 8)).astype(np.float32)
    one, other = (
        geometry.train_meta_sae(rows, 8, 2, epochs=2, control=False, seed=5, backend=backend)
        for _ in range(2)
    )
    assert one.sae.fingerprint == other.sae.fingerprint and one.sae.backend == backend
    assert np.array_equal(one.held_out, other.held_out)
    assert one.explained_variance.interval == other.explained_variance.interval


def test_dead_features_and_copies_are_left_out_and_named():
    rows = np.random.default_rng(3).normal(size=(60, 8)).astype(np.float32)
    rows[[4, 9]] = 0
    rows[[20, 33]] = 3.7 * rows[2]
    with pytest.warns(MlxterpWarning) as told:
        found = geometry.train_meta_sae(rows, 8, 2, epochs=2, control=False)
    assert [str(w.message).split(":")[-1] for w in told] == [" 4, 9.", " 20, 33."]
    assert (found.dead, found.copies) == ((4, 9), (20, 33))
    assert not {4, 9, 20, 33} & set(found.held_out.tolist())
    assert dict(found.decompose(20)) == pytest.approx(dict(found.decompose(2)), rel=1e-4)
    assert "2 dead, 2 copies left out" in str(found)
    with pytest.raises(InputError, match="Feature 4 is dead"):
        found.decompose(4)
    with pytest.raises(InputError, match="No component"):
        found.without(2, found.decompose(2)[0][0])


def test_what_cannot_be_is_named(meta):
    rows = np.random.default_rng(3).normal(size=(60, 8)).astype(np.float32)
    bad = rows.copy()
    bad[7, 2] = np.nan
    wrong: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        (bad, {}, InputError, "Row 7"),
        (rows[:12], {}, InputError, "12 different rows"),
        (rows, {"d_hidden": 54}, InputError, "54 meta-latents of 54 rows"),
        (rows, {"d_hidden": 3}, SAEError, "k=4"),
        (rows, {"holdout": 0}, InputError, "holdout"),
        (rows, {"draws": 5}, InputError, "draws"),
        (rows, {"seed": 0.5}, InputError, "seed"),
        (rows, {"n_latents": 3}, InputError, "d_hidden"),
        ("sae", {}, InputError, "matrix"),
    ]
    for rows_, options, error, said in wrong:
        with pytest.raises(error, match=said):
            geometry.train_meta_sae(rows_, **options)
    with pytest.raises(UnknownFeatureError, match="4096"):
        meta.decompose(4096)
    with pytest.raises(UnknownFeatureError, match="meta-SAE has 96"):
        meta.members(96)
    absent = next(m for m in range(ATOMS) if m not in dict(meta.decompose(0)))
    with pytest.raises(InputError, match="it has"):
        meta.without(0, absent)
    for labels in ("words", 5, {0: 3}):
        with pytest.raises(InputError, match="label"):
            meta.label(0, labels)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_a_constant_guess_explains_nothing_and_a_perfect_one_everything(seed, mix):
    rows = np.random.default_rng(seed).normal(size=(30, 4)).astype(np.float32)
    basis = an_sae(np.vstack([np.eye(4), -np.eye(4)]).astype(np.float32))
    whole = basis.replace(activation=TopK(4))
    assert share(unexplained(whole, rows)) == pytest.approx(1)
    parts = unexplained(whole, rows)
    parts[:, 0] = mix * parts[:, 1]
    assert share(parts) == pytest.approx(1 - mix)

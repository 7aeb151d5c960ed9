"""Sparse probes: sae-probes' own figures, controls that show what random features reach, and bad sets refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import mlxterp
from mlxterp import InputError, geometry
from mlxterp.core.sparse import SparseFeatures
from mlxterp.geometry.probe_fits import Fitted, chosen_fit
from mlxterp.geometry.sparse_probing import ranked_features
from mlxterp.sae import SAE
from mlxterp.variants import TopK
from mlxterp.weights import SAEWeights
from tests.geometry.probed_rows import ACTIVE, FEATURES, KS, SIZES, WIDTH, probed_rows, weights

pytest.importorskip("sklearn")
pd = pytest.importorskip("pandas")

THEIRS = json.loads(Path(__file__).with_name("fixtures").joinpath("sae_probes.json").read_text())


@pytest.fixture(scope="module", params=["mlx", "torch"])
def sae(request: pytest.FixtureRequest) -> SAE:
    if request.param == "torch":
        pytest.importorskip("torch")
    encoder, decoder = weights()
    zeros = np.zeros(FEATURES, np.float32), np.zeros(WIDTH, np.float32)
    return SAE(SAEWeights(encoder.T, zeros[0], decoder, zeros[1]), TopK(ACTIVE), backend=request.param)


def figures(fit: Fitted) -> list[float]:
    return [fit.accuracy, fit.auc, fit.f1, fit.val_auc]


@pytest.mark.parametrize("n", SIZES)
def test_fits_are_those_of_sae_probes(n):
    x, y, x_test, y_test, codes, test_codes = probed_rows(n)
    theirs = THEIRS[str(n)]
    y, y_test = y.astype(bool), y_test.astype(bool)
    for k in KS if n > 10 else KS[:1]:  # below 13 rows there are 45 folds
        features = theirs["order"][:k]
        found = chosen_fit(codes[:, features], y, test_codes[:, features], y_test)
        assert figures(found) == pytest.approx(theirs[str(k)], abs=2e-3)
    assert figures(chosen_fit(x, y, x_test, y_test)) == pytest.approx(theirs["dense"], abs=2e-3)


def test_probing_an_sae_gives_the_figures_of_sae_probes(sae):
    x, y, x_test, y_test, *_ = probed_rows(400)  # among few rows many features are equally good
    theirs = THEIRS["400"]
    found = sae.probe({"rows": (x, y, x_test, y_test)}, ks=KS, verbose=False).sets[0]
    assert (found.n_fitted, found.n_tested, found.chance) == (400, len(y_test), 0.5)
    for probe in found.by_k:
        assert probe.features.tolist() == theirs["order"][: probe.k]
        assert figures(probe.fit) == pytest.approx(theirs[str(probe.k)], abs=2e-3)
        assert probe.accuracy.value == probe.fit.accuracy
    assert figures(found.dense) == pytest.approx(theirs["dense"], abs=2e-3)


def test_features_are_ranked_by_means_in_units_of_their_size():
    _, y, *_, codes, _ = probed_rows(60)
    typical = np.abs(codes).sum(axis=0) / ((codes != 0).sum(axis=0) + 1e-6) + 1e-6
    apart = np.abs((codes[y == 1] / typical).mean(axis=0) - (codes[y == 0] / typical).mean(axis=0))
    ranked = ranked_features(SparseFeatures.from_dense(codes), y.astype(bool))
    assert sorted(ranked.tolist()) == list(range(FEATURES))
    assert np.allclose(apart[ranked], np.sort(apart)[::-1], atol=1e-6)


def planted(n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows in which one direction of the decoder tells the classes apart."""
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < 0.5
    return (rng.normal(size=(n, WIDTH)) * 0.3 + 3 * labels[:, None] * weights()[1][4]).astype(
        np.float32
    ), labels


def test_a_planted_feature_is_found_and_beats_random_ones(sae):
    x, y = planted()
    found = sae.probe((x, y), ks=[1, 2], verbose=False)
    first = found.sets[0].by_k[0]
    assert first.features[0] == 4
    assert first.accuracy.value > 0.95
    assert first.accuracy.stands_out and found.means[1].stands_out
    assert found.sets[0].means.accuracy > 0.95


def test_shuffled_labels_are_told_no_better_than_by_chance(sae):
    x, y = planted(200)
    shuffled = np.random.default_rng(3).permutation(y)
    found = sae.probe((x, shuffled), ks=[1], verbose=False)
    assert not found.means[1].stands_out
    assert "no more than random features" in str(found)


def test_kinds_of_labels_and_sets_say_the_same(sae, tmp_path):
    x, y = planted(180)
    words = np.where(y, "yes", "no")
    given = {"a": (x, y), "b": (list(x), words.tolist()), "c": (x, pd.Series(y.astype(int)))}
    found = sae.probe(given, ks=[2], verbose=False)
    assert len({(one.by_k[0].fit.auc, one.dense.auc) for one in found.sets}) == 1
    assert found.sets[1].classes == ("no", "yes")
    table = found.to_pandas()
    assert table.dataset.tolist() == ["a", "b", "c"]
    assert {
        "accuracy",
        "low",
        "high",
        "random_features",
        "dense_accuracy",
        "means_accuracy",
        "chance",
    } <= set(table)
    found.to_html(tmp_path / "probing.html")
    assert "random features" in (tmp_path / "probing.html").read_text()


def test_seeds_decide_and_rows_are_tested_once(sae):
    x, y = planted(180)
    again = [sae.probe((x, y), ks=[1], seed=seed, verbose=False).to_pandas() for seed in (0, 0, 1)]
    assert again[0].equals(again[1]) and not again[0].equals(again[2])
    assert (again[0].n_fitted + again[0].n_tested == 180).all()


def test_more_than_a_thousand_rows_are_tested_not_fitted(sae):
    x, y = planted(1500)
    one = sae.probe((x, y), ks=[1], verbose=False).sets[0]
    assert one.n_fitted <= 1024 and one.n_fitted + one.n_tested == 1500


@pytest.fixture(scope="module")
def demo() -> tuple[mlxterp.InterpretableModel, SAE]:
    model, sae, _ = mlxterp.load_demo()
    return model, sae


def animals() -> tuple[list[str], list[str]]:
    kinds = {
        "animal": "dog cat bird fish bear frog duck lion",
        "thing": "car box ball book cup hat boat tree",
    }
    pairs = [
        (f"{start} {word}", kind)
        for kind, words in kinds.items()
        for word in words.split()
        for start in ("He saw a", "The")
    ]
    return [text for text, _ in pairs], [kind for _, kind in pairs]


def test_texts_are_read_at_one_token_and_tables_from_files(demo, tmp_path):
    model, sae = demo
    texts, labels = animals()
    frame = pd.DataFrame({"prompt": texts, "target": labels})
    frame.to_csv(tmp_path / "one.csv", index=False)
    frame.to_csv(tmp_path / "two.csv.gz", index=False)
    (tmp_path / "notes.txt").write_text("no table")
    given = [{"one": (texts, labels)}, frame, tmp_path / "one.csv", tmp_path]
    found = [sae.probe(each, model, ks=[1, 4], verbose=False) for each in given]
    assert [[one.name for one in each.sets] for each in found] == [
        ["one"],
        ["texts"],
        ["one"],
        ["one", "two"],
    ]
    assert len({(one.by_k[1].fit.auc, one.dense.accuracy) for each in found for one in each.sets}) == 1
    rows = geometry.concept_examples(model, sae.component, texts[:16], texts[16:]).activations
    same = sae.probe((rows, labels), ks=[2], verbose=False).sets[0]
    assert same.by_k[0].fit.auc == pytest.approx(found[0].sets[0].by_k[0].fit.auc, abs=1e-6)
    assert found[0].component == sae.component


def test_a_text_that_stands_there_twice_counts_once(demo):
    model, sae = demo
    texts, labels = animals()
    once = sae.probe((texts, labels), model, ks=[1], verbose=False).sets[0]
    twice = sae.probe((texts + texts, labels + labels), model, ks=[1], verbose=False).sets[0]
    assert (once.n_fitted, once.dense.auc) == (twice.n_fitted, twice.dense.auc)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({}, "datasets is empty"),
        (lambda x, y: (x, y[:-1]), "59 labels for 60"),
        (lambda x, y: (x, np.arange(60) % 3), "3 classes"),
        (lambda x, y: (x, np.zeros(60)), "1 classes"),
        (lambda x, y: (x[:, :5], y), "5 wide; the SAE reads 16"),
        (lambda x, y: (x[:6], [0, 1] * 3), "6 rows; at least 10"),
        (lambda x, y: (x, [1] + [0] * 59), "one class has 1 rows"),
        (lambda x, y: (x * np.nan, y), "finite"),
        (lambda x, y: (["a", "b"] * 6, [0, 1] * 6), "a model must read"),
        (lambda x, y: (["a"] * 12, [0, 1] * 6), "labels 0 and 1"),
        (lambda x, y: {"prompt": ["a"], "class": [1]}, "one of target"),
        (lambda x, y: 7, "expected \\(texts, labels\\)"),
        (lambda x, y: "nowhere.csv", "no table"),
    ],
)  # fmt: skip
def test_bad_sets_say_what_is_expected(sae, given, match):
    x, y = planted(60)
    with pytest.raises(InputError, match=match):
        sae.probe(given if isinstance(given, dict) else given(x, y), ks=[1], verbose=False)


def test_bad_settings_are_refused(sae):
    with pytest.raises(InputError, match="ks"):
        sae.probe(planted(), ks=[], verbose=False)
    for wrong in ([0], [FEATURES + 1], [1.5]):
        with pytest.raises(InputError, match="ks"):
            sae.probe(planted(), ks=wrong, verbose=False)
    with pytest.raises(InputError, match="draws"):
        sae.probe(planted(), draws=3, verbose=False)


def test_text_that_is_fitted_may_not_be_tested(demo):
    model, sae = demo
    texts, labels = animals()
    with pytest.raises(InputError, match="is fitted and tested"):
        sae.probe((texts, labels, texts[:4], labels[:4]), model, verbose=False)


@pytest.mark.parametrize("n", [8, 40, 300])
def test_every_choice_of_folds_has_both_classes(n):
    x, y, x_test, y_test, *_ = probed_rows(n)
    y = np.arange(n) < max(2, n // 10)  # the last fifth is of one class
    found = chosen_fit(x, y, x_test, y_test.astype(bool))
    assert 0 <= found.val_auc <= 1 and np.isfinite(found.auc)


def test_an_sae_of_few_features_is_probed_by_what_it_has():
    rows = np.random.default_rng(0).normal(size=(40, WIDTH)).astype(np.float32)
    encoder, decoder = (array[:3] for array in weights())
    narrow = SAE(
        SAEWeights(encoder.T, np.zeros(3, np.float32), decoder, np.zeros(WIDTH, np.float32)), TopK(2)
    )
    assert narrow.probe((rows, rows[:, 0] > 0), verbose=False).ks == (1, 2)
    with pytest.raises(InputError, match="ks is 4"):
        narrow.probe((rows, rows[:, 0] > 0), ks=[4], verbose=False)


def test_a_strength_that_calls_all_rows_alike_is_passed_over(monkeypatch):
    from mlxterp.geometry import probe_fits

    x = np.random.default_rng(1).normal(size=(60, 1))
    y = x[:, 0] > 0.4  # most are negative, so that weights near 0 say no to every row
    monkeypatch.setattr(probe_fits, "STRENGTHS", np.array([1e-6, 1.0]))  # both order the rows alike
    assert chosen_fit(x, y, x, y).C == 1.0

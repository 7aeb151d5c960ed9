"""Directions from contrasted texts: plain NumPy over single traces, scikit-learn's PCA, both wings."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxterp import (
    ComponentError,
    ConfigWarning,
    InputError,
    InterpretableModel,
    MlxterpWarning,
    NoTokenizerError,
)
from mlxterp.steering.contrast import _first_component, difference_of_means, pca_direction
from mlxterp.steering.vectors import SteeringVector
from tests.small import checkpoint
from tests.tiny import WordTokenizer, tiny_llama

POSITIVE = ["the cat sat on a mat", "a dog", "it saw one big red hat and then run", "the old cat"]
NEGATIVE = ["the dog sat on a mat", "an old dog", "it saw the hat", "a cat and a dog"]
AT = ["layers.1.resid_post", "layers.0.mlp", "layers.2.attn.z"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    return checkpoint("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture
def model(folder: Path, backend: str) -> InterpretableModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)
        return InterpretableModel(folder, tokenizer=WordTokenizer(), backend=backend)


def activations(model: InterpretableModel, text: Any, name: str, position: str) -> np.ndarray:
    """float64 (width,) of one text that is run alone; heads stand side by side."""
    t = model.trace(text, capture=[name])
    value = np.asarray(model.language_model.backend.get(t.activations[name]), dtype=np.float64)[0]
    if value.ndim == 3:  # (heads, positions, d_head)
        value = value.swapaxes(0, 1).reshape(value.shape[1], -1)
    return value[-1] if position == "last" else value.mean(axis=0)


def rows(model: InterpretableModel, texts: list[Any], name: str, position: str) -> np.ndarray:
    return np.stack([activations(model, text, name, position) for text in texts])


def first_component(d: np.ndarray, form: str) -> np.ndarray:
    """By the eigenvectors of the covariance matrix, with the sign of the majority of pairs."""
    x = d - d.mean(axis=0) if form == "diff" else d
    v = np.linalg.eigh(x.T @ x)[1][:, -1]
    score = np.sign(d @ v).sum() or (d @ v).mean()
    return v * np.sign(score)


def assert_close(vector: SteeringVector, expected: np.ndarray, share: float = 1e-4) -> None:
    assert vector.vector.dtype == np.float32
    assert np.abs(vector.vector - expected).max() <= share * np.abs(expected).max()


@pytest.mark.parametrize("position", ["last", "mean"])
def test_the_difference_of_means_is_that_of_texts_run_alone(model, position):
    found = difference_of_means(model, POSITIVE, NEGATIVE[:3], AT, position=position)
    for name, vector in zip(AT, found, strict=True):
        expected = rows(model, POSITIVE, name, position).mean(axis=0)
        expected -= rows(model, NEGATIVE[:3], name, position).mean(axis=0)
        assert vector.component == name
        assert_close(vector, expected)


@pytest.mark.parametrize("position", ["last", "mean"])
@pytest.mark.parametrize("form", ["diff", "center"])
def test_the_pca_direction_is_the_largest_eigenvector(model, form, position):
    found = pca_direction(model, POSITIVE, NEGATIVE, AT, form=form, position=position)
    for name, vector in zip(AT, found, strict=True):
        d = rows(model, POSITIVE, name, position) - rows(model, NEGATIVE, name, position)
        assert_close(vector, first_component(d, form), share=1e-3)
        assert vector.norm == pytest.approx(1, abs=1e-6)


def test_both_wings_find_the_same_directions(folder):
    pytest.importorskip("mlx.core")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)
        wings = [InterpretableModel(folder, WordTokenizer(), backend=name) for name in ("mlx", "torch")]
    for make in (difference_of_means, pca_direction):
        mlx, torch = (make(wing, POSITIVE, NEGATIVE, AT) for wing in wings)
        for a, b in zip(mlx, torch, strict=True):
            assert a.component == b.component
            assert_close(a, b.vector, share=1e-3)


def test_batches_and_their_padding_do_not_matter(model):
    for make in (difference_of_means, pca_direction):
        for position in ("last", "mean"):
            several = make(model, POSITIVE, NEGATIVE, AT[0], position=position)
            alone = make(model, POSITIVE, NEGATIVE, AT[0], position=position, batch_tokens=1)
            assert_close(several, alone.vector)


def test_other_components_asked_for_do_not_matter(model):
    both = difference_of_means(model, POSITIVE, NEGATIVE, ["layers.0.mlp", "layers.2.mlp", "layers.0.mlp"])
    alone = difference_of_means(model, POSITIVE, NEGATIVE, "layers.0.mlp")
    assert [v.component for v in both] == ["layers.0.mlp", "layers.2.mlp", "layers.0.mlp"]
    assert np.array_equal(both[0].vector, both[2].vector)
    assert_close(alone, both[0].vector, share=1e-6)


def test_exchanging_the_sides_turns_the_vector_around(model):
    there = difference_of_means(model, POSITIVE, NEGATIVE, AT[0])
    back = difference_of_means(model, NEGATIVE, POSITIVE, AT[0])
    assert_close(there, -back.vector, share=1e-5)
    for form in ("diff", "center"):
        there = pca_direction(model, POSITIVE, NEGATIVE, AT[0], form=form)
        back = pca_direction(model, NEGATIVE, POSITIVE, AT[0], form=form)
        assert_close(there, -back.vector)


def test_what_is_on_both_sides_cancels_exactly(model):
    with_common = difference_of_means(model, [POSITIVE[0], POSITIVE[1]], [NEGATIVE[0], POSITIVE[1]], AT[0])
    without = difference_of_means(model, [POSITIVE[0]], [NEGATIVE[0]], AT[0])
    assert_close(with_common, without.vector / 2)
    with pytest.raises(InputError, match=r"same mean at layers\.1\.resid_post"):
        difference_of_means(model, POSITIVE, POSITIVE[::-1] * 2, AT[0])


def test_adding_the_vector_moves_the_mean_of_the_negative_texts_onto_that_of_the_positive_ones(model):
    vector = difference_of_means(model, POSITIVE, NEGATIVE, AT[0])
    moved = rows(model, NEGATIVE, AT[0], "last").mean(axis=0) + np.asarray(vector)
    assert np.allclose(moved, rows(model, POSITIVE, AT[0], "last").mean(axis=0), atol=1e-5)


def test_token_ids_serve_as_texts_and_names_become_canonical(model):
    ids = [[model.tokenize(text) for text in side] for side in (POSITIVE, NEGATIVE)]
    of_ids = difference_of_means(model, ids[0], ids[1], "layers.-2.residual")
    of_texts = difference_of_means(model, POSITIVE, NEGATIVE, "layers.1.resid_post")
    assert of_ids.component == "layers.1.resid_post"
    assert np.array_equal(of_ids.vector, of_texts.vector)


def test_the_metadata_say_how_a_vector_was_made(model):
    facts = difference_of_means(model, POSITIVE, NEGATIVE[:2], AT[0], position="mean").metadata
    assert facts.items() >= {
        "method": "difference_of_means", "positive": 4, "negative": 2, "position": "mean", "model_type": "llama"
    }.items()  # fmt: skip
    facts = pca_direction(model, POSITIVE, NEGATIVE, AT[0]).metadata
    assert facts["method"] == "pca_direction" and facts["form"] == "diff" and facts["pairs"] == 4
    assert 0 < facts["explained_variance_ratio"] <= 1 and 0.5 <= facts["agreement"] <= 1


# -- the principal component, on numbers ------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_scikit_learns_pca_finds_the_same(seed):
    decomposition = pytest.importorskip("sklearn.decomposition")
    rng = np.random.default_rng(seed)
    positive, negative = rng.standard_normal((2, 12, 20)) + rng.standard_normal((2, 1, 20))
    center = (positive + negative) / 2
    for form, train in (
        ("diff", positive - negative),
        ("center", np.concatenate([positive - center, negative - center])),
    ):
        pca = decomposition.PCA(n_components=1).fit(train)
        found, ratio, _ = _first_component(positive - negative, form, 1.0, "here")
        assert abs(found @ pca.components_[0]) == pytest.approx(1, abs=1e-9)
        assert ratio == pytest.approx(pca.explained_variance_ratio_[0])


def test_the_two_forms_differ_by_the_mean_difference():
    d = np.array([[5.0, 1, 0], [5, -1, 0], [5, 0, 0.1]])
    assert np.allclose(np.abs(_first_component(d, "center", 1.0, "here")[0]), [1, 0, 0], atol=0.01)
    assert np.allclose(np.abs(_first_component(d, "diff", 1.0, "here")[0]), [0, 1, 0], atol=0.1)


@pytest.mark.parametrize(("d", "sign", "agreement"), [
    ([[1.0], [1], [-9]], 1, 2 / 3),  # the majority, not the mean
    ([[-1.0], [-1], [9]], -1, 2 / 3),
    ([[1.0], [-3]], -1, 1 / 2),  # as many: the mean
    ([[2.0], [-2]], 1, 1 / 2),  # and that is 0: the largest component is positive
    ([[1e-8], [-5], [1e-8]], -1, 1 / 3),  # rounding does not vote
])  # fmt: skip
def test_the_sign_is_the_majoritys(d, sign, agreement):
    vector, _, share = _first_component(np.array(d), "center", 1.0, "here")
    assert vector[0] == pytest.approx(sign) and share == pytest.approx(agreement)


# -- what cannot be ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny() -> InterpretableModel:
    pytest.importorskip("mlx_lm")
    return tiny_llama(layers=2, tokenizer=WordTokenizer())


@pytest.mark.parametrize(("positive", "negative", "message"), [
    ("the cat", ["a dog"], "positive is str; expected a list of texts. Put a single text into a list"),
    (["the cat"], "a dog", "negative is str"),
    ([], ["a dog"], r"positive=\[\] holds no text"),
    (["the cat"], [], r"negative=\[\] holds no text"),
    (["the cat", None], ["a dog"], "positive: text 1 is NoneType"),
    ([1, 2], ["a dog"], "positive: text 0 is int"),
    (["the cat", ""], ["a dog"], "positive: Text 1 of 2 has no tokens"),
    (["the cat"], [[1, 999]], "negative: Token id 999 is outside"),
    (["the cat"], ["the cat"], "same mean"),
])  # fmt: skip
def test_bad_texts_are_refused_where_they_enter(tiny, positive, negative, message):
    with pytest.raises(InputError, match=message):
        difference_of_means(tiny, positive, negative, "layers.0.mlp")


@pytest.mark.parametrize(("settings", "message"), [
    ({"position": "first"}, "position='first'; there are: last, mean"),
    ({"position": -1}, "position=-1"),
    ({"batch_tokens": 0}, "batch_tokens is 0"),
    ({"at": []}, r"at=\[\] names no component"),
    ({"at": None}, "at=None names no component"),
])  # fmt: skip
def test_bad_settings_are_refused(tiny, settings, message):
    with pytest.raises(InputError, match=message):
        difference_of_means(tiny, ["the cat"], ["a dog"], **{"at": "layers.0.mlp", **settings})


def test_components_without_one_value_for_each_token_are_refused(tiny):
    for name in ("layers.9.mlp", "layers.0.attn.pattern"):
        with pytest.raises(ComponentError):
            difference_of_means(tiny, ["the cat"], ["a dog"], name)


def test_pairs_have_to_be_pairs(tiny):
    with pytest.raises(InputError, match="2 positive and 1 negative texts make no pairs"):
        pca_direction(tiny, ["the cat", "the dog"], ["a dog"], "layers.0.mlp")
    with pytest.raises(InputError, match="form='umap'; there are: diff, center"):
        pca_direction(tiny, POSITIVE, NEGATIVE, "layers.0.mlp", form="umap")
    with pytest.raises(InputError, match="One pair has one difference"):
        pca_direction(tiny, ["the cat"], ["a dog"], "layers.0.mlp")
    with pytest.raises(InputError, match="In every pair both texts have the same activation"):
        pca_direction(tiny, POSITIVE, POSITIVE, "layers.0.mlp")
    with pytest.raises(InputError, match="All pairs differ in the same way"):
        pca_direction(tiny, ["the cat"] * 2, ["a dog"] * 2, "layers.0.mlp")


def test_one_pair_centred_is_their_difference(tiny):
    pca = pca_direction(tiny, ["the cat"], ["a dog"], "layers.1.mlp", form="center")
    assert_close(pca, difference_of_means(tiny, ["the cat"], ["a dog"], "layers.1.mlp").unit.vector)


def test_activations_that_are_not_finite_are_refused():
    mx = pytest.importorskip("mlx.core")
    tiny = tiny_llama(layers=2, tokenizer=WordTokenizer())
    raw: Any = tiny.language_model
    raw = raw.model
    raw.model.embed_tokens.weight[3] = mx.array(float("nan"))  # "on"
    with pytest.raises(InputError, match="NaN or infinite values for negative text 1"):
        difference_of_means(tiny, ["the cat"], ["a dog", "on"], "layers.0.mlp")


def test_texts_need_a_tokenizer_and_token_ids_do_not():
    pytest.importorskip("mlx_lm")
    bare = tiny_llama(layers=2)
    with pytest.raises(NoTokenizerError, match="positive: This model has no tokenizer"):
        difference_of_means(bare, ["the cat"], ["a dog"], "layers.0.mlp")
    assert len(difference_of_means(bare, [[1, 2]], [[3, 4, 5]], "layers.0.mlp")) == 32


def test_long_texts_are_refused_beyond_learned_positions_and_else_run_whole(tmp_path: Path, backend: str):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    long = "the cat " * 70
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)
        gpt2 = InterpretableModel(checkpoint("gpt2", tmp_path / "g"), WordTokenizer(), backend)
        llama = InterpretableModel(checkpoint("llama", tmp_path / "l"), WordTokenizer(), backend)
    with pytest.raises(
        InputError, match="negative: text 1 has 140 tokens, but this gpt2 model has learned 128"
    ):
        difference_of_means(gpt2, ["a dog"], ["the cat", long], AT[0])
    with pytest.warns(MlxterpWarning, match="positive: text 0 has 140 tokens"):
        found = difference_of_means(llama, [long], ["a dog"], AT[0])
    with pytest.warns(MlxterpWarning):
        whole = rows(llama, [long], AT[0], "last")[0] - rows(llama, ["a dog"], AT[0], "last")[0]
    assert_close(found, whole)


# -- a trained model --------------------------------------------------------------------------


def test_a_trained_models_direction_tells_new_texts_apart(shared: Path, backend: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)
        folder = shared / "data" / "models" / "tinystories_instruct_3m_gpt2"
        model = InterpretableModel(folder, backend=backend)
    names = ["Tom", "Lily", "Sam", "Mia", "Ben", "Sue"]
    happy = [f"{name} was very happy. {name} had a" for name in names]
    sad = [f"{name} was very sad. {name} had a" for name in names]
    at = f"layers.{model.n_layers // 2}.resid_post"
    for vector in (
        difference_of_means(model, happy[:4], sad[:4], at),
        pca_direction(model, happy[:4], sad[:4], at, form="center"),
    ):
        score = [rows(model, texts[4:], at, "last") @ np.asarray(vector) for texts in (happy, sad)]
        assert np.all(score[0] > score[1])

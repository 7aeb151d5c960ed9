"""Search over texts, compared with brute force: each text alone, every feature, plain NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlxterp import (
    SAE,
    ComponentError,
    InputError,
    InterpretableModel,
    MlxterpWarning,
    NoTokenizerError,
    SAEError,
    UnknownFeatureError,
)
from mlxterp.activations.forward import collect
from mlxterp.core.sites import Component, Run, Site, at_site
from mlxterp.core.tokens import TokenBatch
from mlxterp.data.corpus import Corpus
from mlxterp.features.search import _strongest, top_features, top_texts
from mlxterp.variants import TopK
from mlxterp.weights import SAEWeights
from tests import oracle
from tests.letters import TEXTS, TOKENIZER, llama_of_mlx, random_sae
from tests.ranking import assert_top_features, assert_top_texts


@pytest.fixture
def model(letter_model: InterpretableModel) -> InterpretableModel:
    return letter_model


def alone(model: InterpretableModel, text: str, component: Component) -> np.ndarray:
    """Activations (positions, width) of one text that runs by itself; heads side by side."""
    lm = model.language_model
    batch = TokenBatch.from_rows([TOKENIZER.encode(text)])
    value = lm.backend.get(component.read(lm.run(batch, capture=component.sites)))[0]
    return np.concatenate(list(value), axis=-1) if value.ndim == 3 else value


def brute_force(model, texts, component, sae) -> list[np.ndarray]:
    weights = SAEWeights(sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec)
    features = [oracle.encode(alone(model, text, component), weights, sae.k) for text in texts]
    return oracle.share_prefixes(features, [TOKENIZER.encode(text) for text in texts])


def same(found: list[tuple], expected: list[tuple], value: int) -> bool:
    """Equal but for the rounding of the activation at index `value`."""
    found_values, expected_values = [f[value] for f in found], [e[value] for e in expected]
    rest = [tuple(x for i, x in enumerate(t) if i != value) for t in (*found, *expected)]
    np.testing.assert_allclose(found_values, expected_values, rtol=1e-4)
    return rest[: len(found)] == rest[len(found) :]


PLACES = ["layers.1.mlp", "layers.0.resid_post", "layers.2.attn.z", "layers.1.attn.k", "layers.2.attn_out"]


def place(model: InterpretableModel, path: str, text: str = "ab") -> tuple[Component, int]:
    component = model.anatomy.component(path)
    return component, alone(model, text, component).shape[1]


# -- right answers ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PLACES)
def test_top_features_of_a_text_equal_brute_force(model, path):
    component, width = place(model, path)
    sae, text = random_sae(width), "a text of some length"
    found = top_features(model.language_model, text, sae, component, tokenize=TOKENIZER.encode, top_k=10)
    assert_top_features(found, brute_force(model, [text], component, sae)[0], 10)
    assert len(found) == 10


@pytest.mark.parametrize("path", PLACES)
def test_top_texts_of_every_feature_equal_brute_force(model, path):
    component, width = place(model, path)
    sae = random_sae(width, d_hidden=40)
    features = brute_force(model, TEXTS, component, sae)
    for feature in range(40):
        found = top_texts(
            model.language_model, feature, sae, TEXTS, component, tokenize=TOKENIZER.encode, top_k=4
        )
        assert_top_texts(found, features, TEXTS, feature, 4)


def test_the_sae_may_be_of_the_other_library(model):
    width = place(model, "layers.1.mlp")[1]
    one, two = (
        model.get_top_features_for_text("some text", random_sae(width, backend=name), 1)
        for name in ("mlx", "torch")
    )
    assert same(one, two, 1)


def test_only_active_features_come_back(model):
    component, width = place(model, "layers.1.mlp")
    found = model.get_top_features_for_text("abc", random_sae(width), 1, top_k=10_000)
    dense = brute_force(model, ["abc"], component, random_sae(width))[0]
    assert len(found) == (dense.max(axis=0) > 0).sum() < 10_000
    assert all(value > 0 for _, value in found)


def test_a_feature_that_never_fires_has_no_texts(model):
    sae = random_sae(place(model, "layers.1.mlp")[1])
    assert model.get_top_texts_for_feature(119, sae, TEXTS, 1) == []


def test_a_text_given_twice_appears_twice_the_earlier_first(model):
    sae = random_sae(place(model, "layers.1.mlp")[1])
    feature = model.get_top_features_for_text(TEXTS[0], sae, 1, top_k=1)[0][0]
    texts = ["other", TEXTS[0], "more", TEXTS[0]]
    found = [hit for hit in model.get_top_texts_for_feature(feature, sae, texts, 1) if hit[0] == TEXTS[0]]
    assert len(found) == 2
    assert found[0] == found[1]


def test_among_equal_tokens_of_a_text_the_earliest_counts_and_among_equal_texts_the_earlier():
    tokens, values = np.array([1, 3, 4, 6, 8]), np.array([1, 2, 2, 3, 2], np.float32)
    hits = _strongest(tokens, values, np.array([0, 5, 7, 9]), np.arange(9, dtype=np.uint64), "abc", 9)
    assert hits == [("b", 3.0, 1), ("a", 2.0, 3), ("c", 2.0, 1)]


def test_rounding_does_not_decide_between_texts_that_begin_alike():
    tokens, values = np.array([0, 2, 4]), np.array([1, 1 + 1e-6, 1.5], np.float32)
    prefixes = np.array([7, 0, 7, 0, 7], dtype=np.uint64)
    hits = _strongest(tokens, values, np.array([0, 2, 4, 5]), prefixes, "abc", 9)
    assert hits == [("c", 1.5, 0), ("a", 1.0, 0), ("b", 1.0, 0)]


def test_activations_and_ids_are_plain_numbers(model):
    sae = random_sae(place(model, "layers.1.mlp")[1])
    feature, activation = model.get_top_features_for_text("abc", sae, 1)[0]
    text, value, position = model.get_top_texts_for_feature(feature, sae, ["abc"], 1)[0]
    assert [type(x) for x in (feature, activation, text, value, position)] == [int, float, str, float, int]
    assert (text, value) == ("abc", pytest.approx(activation, rel=1e-5))


def test_long_texts_run_in_windows_and_keep_their_positions():
    model = llama_of_mlx(max_position_embeddings=16)
    component, width = place(model, "layers.1.mlp")
    text = "abcdefghijklmnopqrstuvwxyz0123456789"
    with pytest.warns(MlxterpWarning, match="1 of 1 texts"):
        parts = list(collect(model.language_model, Corpus.from_texts([text], TOKENIZER.encode), component))
    positions = np.concatenate([part.positions for part in parts])
    values = np.concatenate([np.array(part.values) for part in parts])[positions.argsort()]
    assert sorted(positions) == list(range(37))
    ids = TOKENIZER.encode(text)
    for position, value in enumerate(values):
        start = 0 if position < 16 else 8 * ((position - 16) // 8 + 1)
        lm = model.language_model
        run = lm.run(TokenBatch.from_rows([ids[start : position + 1]]), capture=component.sites)
        np.testing.assert_allclose(value, np.array(component.read(run))[0, -1], rtol=1e-3, atol=1e-5)
    with pytest.warns(MlxterpWarning, match="overlapping windows"):
        found = model.get_top_texts_for_feature(3, random_sae(width, 8, 8), [text, "b"], 1)
    assert all(position < 37 for *_, position in found)


# -- the pass -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PLACES)
def test_collecting_in_batches_equals_each_text_alone(model, path):
    component, width = place(model, path)
    corpus = Corpus.from_texts(TEXTS, TOKENIZER.encode)
    rows = np.full((len(corpus.tokens), width), np.nan, dtype=np.float32)
    for part in collect(model.language_model, corpus, component, batch_tokens=40):
        assert isinstance(part.values, model.language_model.backend.array_type)
        index = corpus.offsets[part.text_ids] + part.positions
        assert np.isnan(rows[index]).all()
        rows[index] = model.language_model.backend.get(part.values)
    expected = np.concatenate([alone(model, text, component) for text in TEXTS])
    np.testing.assert_allclose(rows, expected, rtol=1e-3, atol=1e-5)


class FakeModel:
    """Runs nothing: hands out a value of the given shape at every site."""

    vocab_size, max_positions = 300, None

    def __init__(self, *shapes: tuple[int, ...]):
        from mlxterp import get_backend

        self.backend = get_backend("torch")
        self.values = [self.backend.put(np.ones(shape, np.float32)) for shape in shapes]

    def run(self, batch, capture=(), edits=(), *, everything=False, stop_after=(), reuse=None) -> Run:
        return Run(None, dict.fromkeys(capture, self.values), {}, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "shapes", "message"),
    [
        ("layers.0.mlp", [(1, 3, 4), (1, 3, 4)], "called 2 times"),
        ("layers.0.attn.pattern", [(1, 2, 3, 3)], "as wide as the text is long"),
        ("layers.0.moe", [(3, 4)], r"has shape \(3, 4\)"),
        ("layers.0.moe", [(1, 2, 4)], "1 texts with 3 positions"),
        ("layers.0.rope", [(1, 3, 3, 4)], "cannot be told apart"),
        ("layers.0.mlp", [], "not reached"),
    ],
)
def test_a_component_without_one_value_a_token_is_refused(name, shapes, message):
    model = FakeModel(*shapes)
    with pytest.raises(ComponentError, match=message):
        list(collect(model, Corpus.from_token_ids([[1, 2, 3]]), at_site(name, Site("m"))))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "shape"),
    [("layers.0.attn.z", (1, 3, 3, 4)), ("layers.0.rope", (1, 2, 3, 4)), ("x", (1, 3, 2, 4))],
)
def test_heads_are_laid_side_by_side_head_by_head(name, shape):
    model = FakeModel(shape)
    numbers = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    model.values = [model.backend.put(numbers)]
    part = next(collect(model, Corpus.from_token_ids([[1, 2, 3]]), at_site(name, Site("m"))))  # type: ignore[arg-type]
    by_token = numbers[0] if name == "x" else numbers[0].swapaxes(0, 1)
    assert np.array_equal(model.backend.get(part.values), by_token.reshape(3, -1))


def test_ids_of_another_vocabulary_are_refused(model):
    component = model.anatomy.component("layers.0.mlp")
    with pytest.raises(InputError, match=r"Token id 200 is outside .* another model"):
        list(collect(model.language_model, Corpus.from_token_ids([[1, 200]]), component))


# -- what it refuses ----------------------------------------------------------------------------


def test_another_width_is_refused_with_both_widths(model):
    W_dec = np.ones((9, 7), np.float32)
    weights = SAEWeights(W_dec.T, np.zeros(9, np.float32), W_dec, np.zeros(7, np.float32))
    sae = SAE(weights, TopK(2), {"component": "layers.5.mlp"})
    width = place(model, "layers.1.mlp")[1]
    message = rf"layers\.1\.mlp.* {width} numbers .* takes 7\. .* trained on \(layers\.5\.mlp\)"
    with pytest.raises(SAEError, match=message):
        model.get_top_features_for_text("abc", sae, 1)
    with pytest.raises(SAEError, match=message):
        model.get_top_texts_for_feature(0, sae, ["abc"], 1)


@pytest.mark.parametrize("feature", [-1, 120, 1.0, True, "3"])
def test_a_feature_outside_the_sae_is_refused(feature):
    model = llama_of_mlx()
    with pytest.raises(UnknownFeatureError, match="numbered 0 to 119"):
        model.get_top_texts_for_feature(feature, random_sae(32), TEXTS, 1)


def test_bad_arguments_are_refused():
    model, sae = llama_of_mlx(), random_sae(32)
    lm, component = model.language_model, model.anatomy.component("layers.1.mlp")
    bad: list[Any] = [0, -1, 2.5, True]
    for top_k in bad:
        with pytest.raises(InputError, match="top_k"):
            model.get_top_features_for_text("a", sae, 1, top_k=top_k)
        with pytest.raises(InputError, match="top_k"):
            model.get_top_texts_for_feature(1, sae, ["a"], 1, top_k=top_k)
    for texts in ("bare string", [], ["a", None]):
        with pytest.raises(InputError):
            model.get_top_texts_for_feature(1, sae, texts, 1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one text as a string"):
        model.get_top_features_for_text(["a"], sae, 1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no tokens"):
        top_features(lm, "", sae, component, tokenize=lambda text: [])
    with pytest.raises(NoTokenizerError):
        top_texts(lm, 1, sae, ["a"], component, tokenize=None)

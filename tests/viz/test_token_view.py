"""One text's tokens coloured by features (row C5), on the embedded model and on small values."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import InputError, TokenView, UnknownFeatureError
from tests.viz.reading import HOSTILE, Reader, assert_offline

TEXT = "Lily was sad because she lost her “red” ball 😀.\n\nTom said: don't be sad!"


@pytest.fixture
def opened(backend):
    return mlxterp.load_demo(backend)


def show(opened, text: Any = TEXT, **options) -> TokenView:
    return opened.model.visualize_feature_activations(text, opened.sae, 1, "resid_post", **options)


def test_C5_every_token_has_the_activation_that_the_sae_gives_it(opened):
    model, sae, _ = opened
    path = sae.component
    x = model.language_model.backend.get(model.trace(TEXT, capture=[path]).activations[path])[0]
    view = show(opened, feature_ids=[1805, 52, 1805])
    assert view.feature_ids == (1805, 52)
    assert np.allclose(view.activations, sae.encode(x)[:, [1805, 52]].T, rtol=1e-4, atol=1e-4)
    assert view.activations.dtype == np.float32 and view.component == path


def test_C5_without_ids_the_texts_strongest_features_are_shown(opened):
    view = show(opened, top_k=3)
    top = opened.model.get_top_features_for_text(TEXT, opened.sae, 1, "resid_post", top_k=3)
    assert view.feature_ids == tuple(feature for feature, _ in top)
    assert np.allclose(view.activations.max(axis=1), [activation for _, activation in top], rtol=1e-4)


def test_C5_the_view_shows_the_whole_text_in_html_and_terminal(demo):
    view = show(demo, top_k=2)
    assert "".join(view.tokens).endswith(TEXT)
    read = assert_offline(view._repr_html_())
    assert read.of_class("mxt-text") == ["".join(view.tokens)] * 2
    assert [text.split()[:2] for text in read.of_class("mxt-title")] == [
        ["Feature", str(f)] for f in view.feature_ids
    ]
    assert str(view).count(" ball") == 2 and "\x1b" not in str(view)
    assert "\x1b[48;5;" in view.to_str(color=True)


def test_the_view_shows_the_names_that_a_person_gave():
    model, sae, _ = mlxterp.load_demo()
    assert model.visualize_feature_activations(TEXT, sae, 1, "resid_post", [741, 38]).labels is None
    sae.concepts.load_concepts({741: "ball"})
    view = model.visualize_feature_activations(TEXT, sae, 1, "resid_post", [741, 38])
    assert view.labels == {741: "ball"}
    assert any("ball" in title for title in assert_offline(view._repr_html_()).of_class("mxt-title"))


def test_C5_a_single_id_and_the_path_of_an_sae_will_do(demo, tmp_path):
    demo.sae.save(tmp_path / "sae")
    feature = demo.model.get_top_features_for_text(TEXT, demo.sae, 1, "resid_post")[2][0]
    view = demo.model.visualize_feature_activations(TEXT, tmp_path / "sae", 1, "resid_post", feature)
    assert view.feature_ids == (feature,) and view.activations.any()


def test_C5_a_text_longer_than_the_model_runs_in_windows(demo):
    text = " ".join(demo.texts[:3])
    with pytest.warns(mlxterp.MlxterpWarning, match="windows"):
        view = show(demo, text, top_k=1)
    assert len(view.tokens) == len(demo.model.tokenize(text)) > 256
    assert "".join(view.tokens).endswith(text)


def test_what_cannot_be_shown_is_refused(demo):
    for ids in ([2048], -1, ["52"], "52", [True], 1.5):
        with pytest.raises(UnknownFeatureError, match="numbered 0 to 2047"):
            show(demo, feature_ids=ids)
    with pytest.raises(InputError, match="feature_ids is empty"):
        show(demo, feature_ids=[])
    with pytest.raises(InputError, match="one text as a string"):
        show(demo, [TEXT])
    with pytest.raises(InputError, match="top_k"):
        show(demo, top_k=0)
    with pytest.raises(InputError, match=r"\(1, 2\)"):
        TokenView(("a", "b"), (3,), np.zeros((2, 2), np.float32))


def test_a_feature_that_is_silent_is_told():
    view = TokenView(("a", " b"), (3,), np.zeros((1, 2), np.float32))
    assert "not active on this text" in str(view) and "not active on this text" in view._repr_html_()
    none = TokenView(("a", " b"), (), np.zeros((0, 2), np.float32))
    assert "No feature is active" in str(none)
    assert assert_offline(none._repr_html_()).of_class("mxt-text") == ["a b"]


def test_a_maximum_from_elsewhere_sets_the_colours():
    values = np.array([[1.0, 2.0]], np.float32)
    alone, within = TokenView(("a", "b"), (3,), values), TokenView(("a", "b"), (3,), values, maxima={3: 8.0})
    assert "class=mxt-p8" in alone.fragment() and "class=mxt-p2" in within.fragment()


def test_a_signed_feature_has_two_hues_and_its_strongest_token_may_be_negative():
    html = TokenView(("a", "b"), (3,), np.array([[1.0, -2.0]], np.float32)).fragment()
    assert "class=mxt-p4" in html and "<mark class=mxt-n8" in html and "<b>b</b>" in html
    assert "negative" in html


def test_hostile_text_and_labels_stay_text(tmp_path):
    values = np.array([[0, 1, 2]], np.float32)
    view = TokenView((HOSTILE, HOSTILE, "x"), (3,), values, {3: HOSTILE}, component=HOSTILE)
    read = assert_offline(view.to_html(tmp_path / "view.html").read_text(encoding="utf-8"))
    assert "alert(1)" in read.of_class("mxt-text")[0] and "alert(1)" in read.of_class("mxt-label")[0]
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", view.to_str(color=False))


def test_a_long_sparse_text_stays_small():
    tokens = tuple(f" w{i}" for i in range(20_000))
    values = np.zeros((1, 20_000), np.float32)
    values[0, ::1000] = 1
    html = TokenView(tokens, (0,), values).fragment()
    assert len(html) < len("".join(tokens)) + 4000
    assert html.count("<mark class=mxt-p8") == 20


def test_the_repr_is_short():
    view = TokenView(("a",) * 50, tuple(range(9)), np.zeros((9, 50), np.float32))
    assert repr(view) == "TokenView(50 tokens, features [0, 1, 2, 3, 4, 5, …])"


def test_marks_can_be_read_without_the_style_sheet():
    html = TokenView(("a", "b", "c"), (3,), np.array([[0, 1.0, 2]], np.float32)).fragment()
    read = Reader(html)
    assert read.of_tag("mark")[:2] == ["b", "c"] and read.of_tag("b") == ["c"]

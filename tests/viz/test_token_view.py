"""One text's tokens coloured by features (row C5), on the embedded model and on small values."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import FeatureReport, InputError, TokenView, UnknownFeatureError
from mlxterp.variants import TopK
from tests.index.small import random_sae
from tests.viz.reading import HOSTILE, Reader, assert_offline, card

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
    assert read.of_class("mxt-text") == ["".join(view.tokens)] * 3  # all features, then each
    assert [text.split()[:2] for text in read.of_class("mxt-title")[1:]] == [
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


# -- all features of a text at once -----------------------------------------------------------


def tips(html: str) -> list[str]:
    """What pointing at a token of the merged text shows."""
    read = Reader(html.partition("</p>")[0] + "</p></div></section>")
    return [str(attributes["title"]) for tag, attributes in read.elements if tag == "mark"]


def test_several_features_are_shown_on_one_text_each_token_by_its_own_strongest():
    values = np.array([[4.0, 1.0, 0], [0, 6.0, 0]], np.float32)
    view = TokenView(
        ("a", " b", " c"), (3, 7), values, {7: "sevens"}, {3: 8.0, 7: 12.0}, maxima_in="an index of 9 texts"
    )
    html = view.fragment()
    assert tips(html) == ["3: 4 (50 %) at position 0", "7 sevens: 6 (50 %); 3: 1 (12 %) at position 1"]
    merged = html.partition("</p>")[0]
    assert merged.count("<mark class=mxt-p4") == 2 and merged.endswith(" c")
    read = assert_offline(view._repr_html_())
    assert read.of_tag("td")[-6:] == ["1", " b", "7 sevens: 6 (50 %) · 3: 1 (12 %)", "2", " c", ""]
    assert "full colour: the feature’s own maximum in an index of 9 texts" in read.of_class("mxt-foot")[0]
    assert "50 % of its maximum 12 in an index of 9 texts" in str(view)


def test_each_token_names_the_strongest_of_all_features_of_the_sae(demo):
    view = show(demo, top_k=2)
    model, sae = demo.model, demo.sae
    x = model.language_model.backend.get(
        model.trace(TEXT, capture=[sae.component]).activations[sae.component]
    )[0]
    codes = sae.encode(x)
    assert view.token_features is not None and len(view.token_features) == len(view.tokens)
    for row, found in zip(codes, view.token_features, strict=True):
        best = np.lexsort((np.arange(len(row)), -np.abs(row)))[:3]
        assert [f for f, _ in found] == best.tolist()
        assert np.allclose([a for _, a in found], row[best], rtol=1e-4, atol=1e-4)
    assert view.maxima is not None and view.maxima_in == "this text"
    for feature, largest in view.maxima.items():
        assert np.isclose(largest, np.abs(codes[:, feature]).max(), rtol=1e-4)
    assert "own maximum in this text" in view.fragment()


def test_an_index_gives_maxima_names_and_which_tokens_count(demo, tmp_path):
    index = demo.model.build_index(demo.sae, demo.texts[:4], tmp_path / "index", verbose=False)
    ball = index.top_features(TEXT, 1)[0][0]
    index.labels = {ball: "named here"}
    view = show(demo, top_k=3, index=index)
    assert view.feature_ids[0] == ball and view.labels == {ball: "named here"}
    assert view.token_features is not None and not view.token_features[0]  # the beginning of the text
    assert view.maxima_in == "an index of 4 texts"
    assert {f: abs(float(index.summary.maximum[f])) for f in view.maxima or ()} == {
        f: abs(value) for f, value in (view.maxima or {}).items()
    }
    every = show(demo, top_k=3, index=index, exclude=())
    assert every.token_features is not None and every.token_features[0]
    with pytest.raises(InputError, match="open it first"):
        show(demo, index="index")
    other = random_sae(TopK(2), demo.model.d_model, 8)
    with pytest.raises(InputError, match="The index is of"):
        demo.model.visualize_feature_activations(TEXT, other, 1, "resid_post", index=index)


def test_a_report_links_the_features_of_a_text_to_their_cards():
    values = np.array([[4.0, 1.0], [0, 6.0]], np.float32)
    view = TokenView(("a", " b"), (5, 7), values, sae_name="tiny SAE")
    read = assert_offline(FeatureReport("Both", [view, card(5)])._repr_html_())
    targets = [attributes["href"] for tag, attributes in read.elements if tag == "a"]
    assert targets == ["#mxt-1"] * 3  # twice in the table, once above the text by this feature


def test_a_long_text_is_shown_whole_and_its_table_says_what_is_left():
    tokens = tuple(f" w{i}" for i in range(300))
    values = np.ones((2, 300), np.float32)
    read = assert_offline(TokenView(tokens, (1, 2), values)._repr_html_())
    assert read.of_class("mxt-text")[0] == "".join(tokens)
    assert len(read.of_tag("tr")) == 201 and "… and 100 more tokens" in read.everything
    with pytest.raises(InputError, match="rows for 2 tokens"):
        TokenView(tokens, (1, 2), values, token_features=[[], []])

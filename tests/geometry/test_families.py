"""Rows D3, D6: families from releases, folders and training, and what is asked of two widths at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import InputError, SAECollection, SAEError, SAETrainConfig, UnknownFeatureError
from mlxterp.geometry import both_on, firing_on, load_family, search, train_family
from tests.geometry.families import COMPONENT, NARROW, WIDE, activations, family, sae_of
from tests.index.small import TEXTS

SHORT = [text[:60] for text in TEXTS] * 6

ASK: Any = train_family, firing_on, both_on
"""For what the type checker would not let through."""


def loose(value: Any) -> Any:
    """The same, for what the type checker would not let through."""
    return value


# -- where they come from -------------------------------------------------------------------------


def test_d3_a_release_is_a_family_by_width_without_a_network():
    found = load_family("gpt2-small-res-jb-feature-splitting")
    assert list(found) == [768 * 2**i for i in range(8)] and found.components == ["layers.8.resid_pre"]
    assert list(load_family("gpt2-small-res-jb-feature-splitting", widths=[768, 1536])) == [768, 1536]


def test_d3_a_folder_a_dict_and_a_list_are_families(tmp_path):
    both = family()
    both.save(tmp_path / "saes")
    for source in (
        tmp_path / "saes",
        str(tmp_path / "saes"),
        {"a": both[WIDE], "b": both[NARROW]},
        list(both.values()),
    ):
        assert list(load_family(source)) == [NARROW, WIDE]
    assert list(load_family(both, widths=WIDE)) == [WIDE]


def test_d3_trained_widths_see_the_same_batches_and_can_be_opened_again(letter_model, tmp_path):
    config = SAETrainConfig(k=4, epochs=1, batch_size=128, expansion_factor=3)
    found = train_family(
        letter_model, 1, SHORT, widths=(40, 16), config=config, save_path=tmp_path / "saes", verbose=False
    )
    assert list(found) == [16, 40] and found.same_component() == COMPONENT
    alone = train_family(letter_model, 1, SHORT, widths=(16,), config=config, verbose=False)
    np.testing.assert_allclose(alone[16].W_dec, found[16].W_dec, atol=2e-3)
    again = load_family(tmp_path / "saes")
    assert {w: sae.fingerprint for w, sae in again.items()} == {
        w: sae.fingerprint for w, sae in found.items()
    }


def test_bad_families_are_named(letter_model):
    train_family, both, other = ASK[0], family(), sae_of(np.eye(10, 16), component="layers.0.mlp")
    for call, kind, words in [
        (lambda: load_family([both[NARROW], other]), SAEError, "Compare SAEs of one component"),
        (lambda: load_family([both[NARROW], both[NARROW]]), SAEError, "same width"),
        (lambda: load_family(both, widths=9), SAEError, "no SAE of width 9"),
        (lambda: load_family("no-such-release"), SAEError, "is no release"),
        (lambda: load_family([both[NARROW]], revision="x"), InputError, "takes no revision="),
        (lambda: train_family(letter_model, 1, SHORT, widths=()), InputError, "each once"),
        (lambda: train_family(letter_model, 1, SHORT, widths=(8, 8)), InputError, "each once"),
        (lambda: train_family(letter_model, 1, SHORT, widths="512"), InputError, "widths are numbers"),
        (lambda: train_family(letter_model, 1, SHORT, widths=(4,), k=8), SAEError, "k=8"),
        (lambda: train_family(letter_model, 1, SHORT, epoch=2), InputError, "takes no epoch="),
        (lambda: train_family(None, 1, SHORT), InputError, "InterpretableModel"),
    ]:
        with pytest.raises(kind, match=words):
            call()


# -- two widths at once ---------------------------------------------------------------------------


def test_d6_children_are_what_fires_where_the_parent_is_strongest():
    found = firing_on(family(), NARROW, 2, WIDE, activations(), n=60)
    assert {one.feature_id for one in found[:3]} == {6, 7, 8}
    assert all(one.share > 0.3 > one.density for one in found[:3])
    [parent, *_] = firing_on(family(), WIDE, 7, NARROW, activations())
    assert (parent.feature_id, parent.share) == (2, 1.0) and parent.mean > 0
    assert len(firing_on(family(), NARROW, 2, WIDE, activations(), top_k=1)) == 1
    silent = np.eye(16)[[10]].repeat(30, axis=0)
    assert firing_on(family(), NARROW, 2, WIDE, silent) == []


def test_firing_on_takes_one_token_of_each_text_of_an_index(letter_model, tmp_path):
    both = train_family(letter_model, 1, SHORT, widths=(16, 40), k=4, epochs=1, batch_size=128, verbose=False)
    indexes = both.build_indexes(letter_model, SHORT[:8], tmp_path / "indexes", verbose=False)
    feature = int(np.argmax(indexes[16].summary.count))
    found = firing_on(both, 16, feature, 40, indexes)
    n = min(20, indexes[16].stats(feature).n_texts)
    assert found and all((one.share * n) % 1 == pytest.approx(0, abs=1e-9) for one in found)


def test_d6_both_widths_are_shown_on_one_text(letter_model, tmp_path):
    both = train_family(letter_model, 1, SHORT, widths=(16, 40), k=4, epochs=1, batch_size=128, verbose=False)
    both[16].concepts.load_concepts(dict.fromkeys(range(16), "named"))
    found = both_on(both, "a red ball", model=letter_model, top_k=2)
    x = letter_model.trace("a red ball").activations[COMPONENT]
    for width, sae in zip((16, 40), both.values(), strict=True):
        ids, values = sae.encode_sparse(x).row(3)
        assert found.at(width, 3)[0][0] == ids[values.argmax()] and len(found.at(width, 3)) <= 2
    assert len(found.tokens) == len(letter_model.tokenize("a red ball"))
    assert "named" in found.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert str(found).splitlines()[1].startswith("width") and "widths [16, 40]" in repr(found)
    assert list(both_on(both, "a", [40], model=letter_model).features) == [40]
    with pytest.raises(InputError, match="No width 3"):
        found.at(3, 0)


def test_d6_a_query_finds_labels_of_all_widths_by_words_and_by_embeddings():
    both = family()
    both[NARROW].concepts.load_concepts({1: "red balls", 3: "names of girls"})
    both[WIDE].concepts.load_concepts({3: "a ball that rolls", 5: "girls"})
    found = search(both, "Girls")
    assert [(one.width, one.feature_id) for one in found] == [(WIDE, 5), (NARROW, 3)]
    assert found[0].score == pytest.approx(1) and found[1].label == "names of girls"
    assert search(both, "zebra") == [] and len(search(both, "girls", widths=[NARROW])) == 1

    def embed(texts):
        return np.array([[text.count("l"), text.count("n"), 1.0] for text in texts])

    [best, *others] = search(both, "nnnnnnnn", embed)
    assert best.label == "names of girls" and len(others) == 3
    for call, words in [
        (lambda: search(both, " "), "give some words"),
        (lambda: search(family(), "girls"), "has a label"),
        (lambda: search(both, "girls", lambda texts: np.ones((2, 3))), "2 rows for 5 texts"),
        (lambda: search(both, "girls", lambda texts: np.full((5, 3), np.nan)), "not finite"),
    ]:
        with pytest.raises(InputError, match=words):
            call()


def test_features_without_a_name_stand_under_their_tokens(demo, tmp_path):
    index = demo.model.build_index(demo.sae, demo.texts[:6], tmp_path / "index", verbose=False)
    token = index.stats(int(index.live[0])).top_tokens[0][0].strip()
    [hit, *_] = search(SAECollection({2048: demo.sae}), token, indexes={2048: index})
    assert token.casefold() in hit.label.casefold() and hit.width == 2048
    with pytest.raises(InputError, match="is not one of"):
        search(SAECollection({WIDE: family()[WIDE]}), token, indexes={WIDE: index})


def test_d6_a_collection_asks_its_widths_itself(letter_model):
    both, x = family(), activations()
    both[WIDE].concepts.load_concepts({3: "a ball that rolls", 5: "girls"})
    assert both.firing_on(NARROW, 2, at=WIDE, index=x, n=60) == firing_on(both, NARROW, 2, WIDE, x, n=60)
    assert both.search("ball") == search(both, "ball") and both.search("ball")[0].feature_id == 3
    trained = train_family(letter_model, 1, SHORT, widths=(16,), k=4, epochs=1, batch_size=128, verbose=False)
    found, expected = (
        trained.both_on("a red ball", model=letter_model),
        both_on(trained, "a red ball", model=letter_model),
    )
    assert found.features == expected.features and found.text == "a red ball"
    with pytest.raises(InputError, match="takes no embedding="):
        loose(both).search("ball", embedding=None)


def test_d3_load_family_is_at_the_top():
    assert mlxterp.load_family is load_family and "load_family" in mlxterp.__all__


def test_bad_questions_are_named(letter_model):
    _, firing_on, both_on = ASK
    both, x = family(), activations(200)
    for call, kind, words in [
        (lambda: firing_on(both, 9, 0, WIDE, x), SAEError, "width 9"),
        (lambda: firing_on(both, NARROW, 8, WIDE, x), UnknownFeatureError, "8"),
        (lambda: firing_on([1], NARROW, 1, WIDE, x), InputError, "SAECollection"),
        (lambda: firing_on(both, NARROW, 1, WIDE, x, n=0), InputError, "n is 0"),
        (lambda: both_on(both, "a", [9], model=letter_model), SAEError, "width 9"),
        (lambda: both_on(both, 7, model=letter_model), InputError, "text"),
    ]:
        with pytest.raises(kind, match=words):
            call()

"""A feature is accepted in every form in which users hold one, by every call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mlxterp import FeatureIndex, FeatureRegistry, InputError, UnknownFeatureError, steering
from mlxterp.concepts import Concepts
from mlxterp.core.feature_ids import feature_id, feature_ids, is_several, named_feature
from mlxterp.index import FeatureHit
from mlxterp.variants import TopK
from tests.index.conftest import embedded, index  # noqa: F401
from tests.index.small import random_sae

HIT = FeatureHit(5, 0.5, "fires on 'ball'")
FORMS = [
    5,
    np.int64(5),
    np.uint8(5),
    np.array(5),
    HIT,
    (5, 0.25),
    (np.int32(5), np.float32(0.25)),
    (5, np.array(0.25)),
]
NONE = [
    "5",
    "ball",
    5.0,
    np.float32(5),
    True,
    np.True_,
    None,
    [5],
    np.array([5]),
    (5, 6),
    (5, True),
    {"feature_id": 5},
]


@pytest.mark.parametrize("given", FORMS, ids=repr)
def test_what_stands_for_a_feature_gives_its_id(given):
    assert feature_id(given, 8) == 5 and type(feature_id(given, 8)) is int
    assert not is_several(given) and feature_ids(given, 8, "x") == [5]


@pytest.mark.parametrize("given", NONE, ids=repr)
def test_what_stands_for_none_is_named(given):
    assert named_feature(given) is None
    with pytest.raises(UnknownFeatureError, match=r"No feature .*this SAE has 8, numbered 0 to 7"):
        feature_id(given, 8)


@pytest.mark.parametrize("given", [8, -1, np.int64(8), FeatureHit(8, 1.0, ""), (8, 0.5), 2**70])
def test_an_id_outside_is_named(given):
    with pytest.raises(UnknownFeatureError, match=r"No feature -?\d+: this SAE has 8, numbered 0 to 7\.$"):
        feature_id(given, 8)


def test_a_list_of_hits_is_a_list_of_features():
    assert feature_ids([HIT, 3, (5, 1.0), np.int8(2)], 8, "features") == [5, 3, 2]
    with pytest.raises(InputError, match="features is empty"):
        feature_ids([], 8, "features")


def test_every_question_to_an_index_takes_a_hit(index: FeatureIndex, tmp_path):  # noqa: F811
    f = int(index.live[0])
    hit = FeatureHit(f, 1.0, "")
    asked: list[Callable[[Any], Any]] = [
        index.top_texts, lambda x: str(index.stats(x)), index.similar, index.coactivation, index.label,
        lambda x: [str(e) for e in index.examples(x)], lambda x: str(index.feature(x)),
        lambda x: index.coactivation(x, x), lambda x: index.select_diverse(3, among=[x, 1, 2]),
        lambda x: index.export_json(tmp_path / "a.json", [x]).read_bytes(),  # type: ignore[union-attr]
        lambda x: index.export_csv(tmp_path / "a.csv", [x]).read_bytes(),  # type: ignore[union-attr]
    ]  # fmt: skip
    for ask in asked:
        assert ask(f) == ask(hit) == ask((f, 0.5)) == ask(np.int64(f))
    assert index.examples(f)[0].feature_id == index.examples(index.examples(f)[0])[0].feature_id


def test_what_a_search_found_opens_its_card_and_steers(index: FeatureIndex):  # noqa: F811
    source = index.source
    assert source is not None
    hit = index.search("ball")[0]
    assert index.feature(hit).feature_id == hit.feature_id
    for make in (
        lambda f: steering.add_feature(source.sae, f, 2.0), lambda f: steering.amplify(source.sae, f, 2.0),
        lambda f: steering.ablate(source.sae, f), lambda f: steering.clamp(source.sae, f, 1.0),
    ):  # fmt: skip
        assert make(hit).feature == hit.feature_id
        assert make(index.top_features("a red ball")[0]).feature == index.top_features("a red ball")[0][0]
    assert steering.feature(source.sae, hit).feature == hit.feature_id


def test_every_question_to_a_model_takes_a_hit(embedded):  # noqa: F811
    sae = random_sae(TopK(8), embedded.d_model)
    place = (sae, 1, "resid_post")
    found = embedded.get_top_features_for_text("Tom had a red ball.", *place)
    pair = found[0]
    hit = FeatureHit(pair[0], 1.0, "")
    texts = ["Tom had a red ball.", "A"]
    expected = embedded.get_top_texts_for_feature(pair[0], sae, texts, 1, "resid_post")
    view = embedded.visualize_feature_activations
    for given in (pair, hit, np.int32(pair[0])):
        assert embedded.get_top_texts_for_feature(given, sae, texts, 1, "resid_post") == expected
        assert embedded.feature_logits(sae, given).promoted == embedded.feature_logits(sae, pair[0]).promoted
        assert embedded.feature_logits(sae, [given])[0].feature_id == pair[0]
        assert view(texts[0], *place, given).feature_ids == (pair[0],)
        assert sae.similar(given, 2) == sae.similar(pair[0], 2)
    assert view(texts[0], *place, found[:3]).feature_ids == tuple(f for f, _ in found[:3])


def test_names_and_scales_take_a_hit():
    concepts = Concepts(8)
    concepts.load_concepts({5: "ball", 3: ["cat", {"name": "kitten", "confidence": 0.5}]})
    concepts.manipulate_concept(HIT, 2.0)  # type: ignore[arg-type]
    assert concepts.scales == {5: 2.0} and concepts.name_of(HIT) == "ball"  # type: ignore[arg-type]
    registry = FeatureRegistry(concepts.names)  # type: ignore[arg-type]
    assert registry[HIT]["name"] == "ball" and HIT in registry  # type: ignore[index]
    assert registry.label(3) == "cat" and FeatureRegistry(concepts) == registry  # type: ignore[arg-type]


def test_labels_may_be_plain_names(index: FeatureIndex):  # noqa: F811
    before = index.labels
    try:
        index.labels = {7: "ball"}
        assert index.label(7) == "ball" and index.search("ball")[0].feature_id == 7
        index.labels[np.int64(3)] = "cat"  # type: ignore[assignment,index]
        assert index.label(3) == "cat"
        with pytest.raises(UnknownFeatureError, match="No feature 64: this index has 64"):
            index.labels = {64: "beyond"}
        with pytest.raises(InputError, match="expected a name or"):
            index.labels = {3: 4}
    finally:
        index.labels = before

"""Texts that begin alike are one, whatever the rounding of the batches in which their tokens run.

`rounded` rounds every row that an SAE encodes otherwise, by the shape of the batch and the row's place in it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from mlxterp import SAE, FeatureIndex, FeatureIndexError, InterpretableModel
from mlxterp.backends import backend_of
from mlxterp.data.corpus import Corpus
from mlxterp.steering import add_feature
from mlxterp.variants import JumpReLU, TopK
from tests.index.small import COMPONENT, TEXTS, files_of, random_sae
from tests.rounding import Factors

PLACE = (1, "resid_post")


@pytest.fixture(params=[1, 2])
def rounded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    factors, encode = Factors(request.param), SAE.encode_sparse

    def encode_sparse(self, x):
        row = factors.of(x.shape).astype(np.float32)
        return encode(self, x * (row if isinstance(x, np.ndarray) else backend_of(x).put_beside(row, x)))

    monkeypatch.setattr(SAE, "encode_sparse", encode_sparse)


def attained(model: InterpretableModel) -> SAE:
    """An SAE whose thresholds are what its features attain on "Once upon a time, there was", token by token."""
    sae = random_sae(JumpReLU(), model.d_model)
    run = model.trace(TEXTS[0], capture=[COMPONENT], stop_after=COMPONENT)
    x = model.language_model.backend.get(run.activations[COMPONENT])[0].astype(np.float32)
    values = x @ sae.W_enc + sae.b_enc
    threshold = values[np.arange(sae.d_hidden) % 10, np.arange(sae.d_hidden)]
    threshold = np.where(threshold > 0, threshold, 1.0).astype(np.float32)
    return sae.replace(weights=replace(sae.weights, extra={"threshold": threshold}))


@pytest.mark.usefixtures("rounded")
@pytest.mark.parametrize("shard_tokens", [17, None])
def test_a_feature_at_its_threshold_fires_in_all_texts_that_begin_alike_or_in_none(
    model: InterpretableModel, shard_tokens
):
    sae = attained(model)
    index = model.build_index(sae, TEXTS, exclude=(), shard_tokens=shard_tokens)
    tokens = Counter(Corpus.from_texts(TEXTS, model.tokenize).prefixes().tolist())
    for feature in range(sae.d_hidden):
        firings = index._reader.firings(feature)
        fires = Counter(firings.prefixes.tolist())
        assert fires == {prefix: tokens[prefix] for prefix in fires}
        for prefix in fires:
            assert len(set(firings.values[firings.prefixes == prefix].tolist())) == 1
    for feature in range(0, sae.d_hidden, 16):
        direct = model.get_top_texts_for_feature(feature, sae, TEXTS, *PLACE)
        assert [text for text, _, _ in direct].count(TEXTS[0]) in (0, TEXTS.count(TEXTS[0]))


@pytest.mark.usefixtures("rounded")
@pytest.mark.parametrize("cut", [1, 3])
def test_tracked_texts_that_begin_alike_come_in_the_order_in_which_they_were_run(
    model: InterpretableModel, cut
):
    sae = random_sae(TopK(8), model.d_model, d_hidden=24)
    distinct = list(dict.fromkeys(TEXTS))
    with model.attach_sae(sae):
        sae.concepts.enable_text_tracking(top_k=len(distinct))
        for i in range(0, len(distinct), cut):
            model(distinct[i : i + cut])
        found = sae.concepts.get_top_texts()
    corpus = Corpus.from_texts(distinct, model.tokenize)
    prefixes = corpus.prefixes()
    wanted = {f: model.get_top_texts_for_feature(f, sae, distinct, *PLACE) for f in found}
    equal = 0
    for feature, pairs in found.items():
        place = {text: prefixes[corpus.offsets[distinct.index(text)] + at] for text, _, at in wanted[feature]}
        for (one, a), (other, b) in pairwise(pairs):
            if place[one] == place[other]:
                assert a == b and distinct.index(one) < distinct.index(other)
                equal += 1
    assert equal > 5


@pytest.mark.usefixtures("rounded")
def test_what_an_attached_sae_says_of_texts_is_the_same_where_they_begin_alike(model: InterpretableModel):
    sae = attained(model)
    with model.attach_sae(sae) as handle:
        dense = handle.encode([TEXTS[0], TEXTS[1], TEXTS[0]]).to_dense()
    assert np.array_equal(dense[0], dense[2]) and not np.array_equal(dense[0], dense[1])


@pytest.mark.usefixtures("rounded")
def test_shards_that_are_built_later_go_on_with_what_earlier_ones_began(
    embedded: InterpretableModel, tmp_path
):
    sae = attained(embedded)
    whole = embedded.build_index(sae, TEXTS, exclude=(), shard_tokens=17)
    grown = embedded.build_index(sae, TEXTS[:3], tmp_path / "grown", exclude=(), shard_tokens=17).add(
        TEXTS[3:]
    )
    for index in (whole, grown):
        for feature in index.live:
            firings = index._reader.firings(int(feature))
            for prefix in np.unique(firings.prefixes):
                assert len(set(firings.values[firings.prefixes == prefix].tolist())) == 1


ORDERS = [[0, 1], [1, 0], [0, 1, 2], [2, 0, 1], [1, 2, 0], [0, 0]]
CUTS = [slice(0, 1), slice(1, 4), slice(4, None)]


def rows(index: FeatureIndex) -> tuple[np.ndarray, np.ndarray]:
    """Features of all tokens (tokens, d_hidden), and how each begins (tokens,)."""
    shards = index._reader.shards()
    dense = [shard.by_feature.transpose().to_dense() for shard in shards]
    return np.concatenate(dense), np.concatenate([shard.prefixes for shard in shards])


@pytest.mark.usefixtures("rounded")
@pytest.mark.parametrize("order", ORDERS)
def test_merged_parts_have_one_value_where_their_texts_begin_alike(
    embedded: InterpretableModel, tmp_path, order
):
    sae = attained(embedded)
    parts = [embedded.build_index(sae, TEXTS[CUTS[i]], exclude=(), shard_tokens=17) for i in order]
    texts = [text for i in order for text in TEXTS[CUTS[i]]]
    merged = FeatureIndex.merge(parts, tmp_path / "merged")

    apart, prefixes = (np.concatenate(arrays) for arrays in zip(*map(rows, parts), strict=True))
    found, same = rows(merged)
    _, first, which = np.unique(prefixes, return_index=True, return_inverse=True)
    assert np.array_equal(same, prefixes) and np.array_equal(found, apart[first[which]])
    assert np.array_equal(found, apart) == (order == [0, 0])  # other parts ran in batches of other shapes

    count = (found != 0).sum(axis=0)
    for feature in range(merged.d_hidden):
        stats = merged.stats(feature)
        assert (stats.count, stats.maximum) == (count[feature], found[:, feature].max())
        assert stats.mean == pytest.approx(found[:, feature].sum() / max(count[feature], 1), rel=1e-6)
    files = files_of(tmp_path / "merged")
    embedded.build_index(sae, texts, tmp_path / "merged", exclude=())  # the digests of all files are right
    assert files_of(tmp_path / "merged") == files


@pytest.mark.usefixtures("rounded")
@pytest.mark.filterwarnings("ignore:Something acts on this model:mlxterp.MlxterpWarning")
def test_parts_that_were_built_while_something_acted_are_merged_as_they_are(
    embedded: InterpretableModel, tmp_path
):
    sae = attained(embedded)
    plain = embedded.build_index(sae, TEXTS[4:], exclude=())
    with embedded.steer(add_feature(sae, 3, 1e-3)):
        parts = [embedded.build_index(sae, texts, exclude=()) for texts in (TEXTS[:4], TEXTS[4:])]
        merged = FeatureIndex.merge(parts, tmp_path / "merged")
    assert np.array_equal(rows(merged)[0], np.concatenate([rows(part)[0] for part in parts]))
    with pytest.raises(FeatureIndexError, match="what acts on the model is"):
        FeatureIndex.merge([plain, parts[1]], tmp_path / "mixed")

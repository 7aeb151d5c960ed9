"""Co-activation: against brute force at every level, beside dealt-out activations; features that keep apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxterp import InputError, UnknownFeatureError
from mlxterp.core.sparse import SparseFeatures
from mlxterp.geometry import apart, coactivation, coactivation_graph, token_features
from mlxterp.geometry.token_features import counts_together

ASK: Any = coactivation, coactivation_graph
"""For what the type checker would not let through."""


def sparse(dense: np.ndarray) -> SparseFeatures:
    return SparseFeatures.from_dense(dense.astype(np.float32))


def random(n: int, d: int, seed: int, density: float = 0.2) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return (draw.random((n, d)) < density) * draw.uniform(0.1, 2, (n, d))


@settings(max_examples=40)
@given(
    st.integers(2, 60),
    st.integers(2, 12),
    st.integers(0, 10**6),
    st.sampled_from(["token", "window", "text"]),
)
def test_the_figures_are_those_of_brute_force(n, d, seed, level):
    dense = random(n, d, seed)
    dense[0, :2] = 1.0
    texts = np.sort(np.random.default_rng(seed).integers(0, 5, n))
    found = coactivation(sparse(dense), level=level, window=3, text_ids=texts, min_count=1, control=False)
    at = np.arange(n) - np.searchsorted(texts, texts)
    units = {"token": np.arange(n), "window": texts * 1000 + at // 3, "text": texts}[level]
    active = np.array([(dense[units == one] > 0).any(axis=0) for one in np.unique(units)])
    assert found.n == len(active) and np.array_equal(found.counts, active.sum(axis=0))
    together = active.T.astype(int) @ active.astype(int)
    first, second = np.nonzero(np.triu(together, 1))
    assert np.array_equal(np.stack([found.pairs.first, found.pairs.second]), [first, second])
    p, both = active.mean(axis=0), together[first, second] / len(active)
    np.testing.assert_allclose(found.pairs.pmi, np.log(both / (p[first] * p[second])), atol=1e-9)
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        one, other = active[:, a], active[:, b]
        assert found.pairs.jaccard[i] == pytest.approx((one & other).sum() / (one | other).sum())
        if 0 < p[a] < 1 and 0 < p[b] < 1:
            assert found.pairs.phi[i] == pytest.approx(np.corrcoef(one, other)[0, 1], abs=1e-9)
        else:
            assert np.isnan(found.pairs.phi[i])


def test_blocks_do_not_show(monkeypatch):
    a, b = sparse(random(50, 9, 1)), sparse(random(50, 7, 2))
    whole = np.concatenate([found for _, found in counts_together(a, b, weighted=True)])
    np.testing.assert_allclose(whole, a.to_dense().T.astype(float) @ b.to_dense(), rtol=1e-6)
    monkeypatch.setattr(token_features, "_CELLS", 20)
    parts = list(counts_together(a, b, weighted=True))
    assert len(parts) > 3 and np.allclose(np.concatenate([found for _, found in parts]), whole)
    [(some, counts)] = counts_together(a, b, np.array([5, 2]))
    assert some.tolist() == [5, 2]
    assert np.array_equal(counts, ((a.to_dense() > 0).T.astype(int) @ (b.to_dense() > 0))[[5, 2]])


def test_features_that_fire_together_have_a_strong_partner_and_independent_ones_what_the_control_has():
    dense = random(3000, 30, 0, 0.05)
    dense[:, 1:20:2] = dense[:, 0:20:2]
    tied, free = coactivation(sparse(dense)), coactivation(sparse(random(3000, 30, 1, 0.05)))
    assert tied.top(1)[0] == (0, 1, pytest.approx(1.0)) and tied.of(1, 1) == [(0, pytest.approx(1.0))]
    assert tied.strongest.value > 0.6 > free.strongest.value and tied.strongest.stands_out
    assert abs(free.strongest.value - free.strongest.control_mean) < 0.01
    assert "dealt out anew" in str(tied) and str(coactivation(sparse(dense))) == str(tied)


def test_two_that_share_a_direction_and_exclude_each_other_are_found():
    draw = np.random.default_rng(0)
    dense = random(4000, 40, 0, 0.1)
    alone = draw.random(4000) < 0.5
    dense[:, 3] = (draw.random(4000) < 0.3) & alone
    dense[:, 7] = (draw.random(4000) < 0.3) & ~alone
    rows = draw.normal(size=(40, 24))
    rows[7] = rows[3] + 0.1 * draw.normal(size=24)
    rows[9] = rows[8] + 0.1 * draw.normal(size=24)  # alike, and independent
    found = apart(coactivation(sparse(dense), control=False), rows)
    assert found.pairs.tolist() == [[3, 7]] and found.seen[0] == 0 < 80 < found.expected[0]
    assert found.counted.value == 1 > found.counted.control_mean
    assert found.n_pairs >= 2 and "neighbours dealt out anew" in str(found)
    none = apart(coactivation(sparse(dense), control=False), rows, min_cosine=0.999, control=False)
    assert not len(none.pairs) and "0 of 0 pairs" in str(none) and "nan" not in str(none)


def test_an_index_answers_at_every_level(index_of_demo):
    index, sae = index_of_demo
    by_token = coactivation(index, min_count=2)
    assert by_token.n == index.n_tokens
    a, b, _ = by_token.top(1)[0]
    own = index.coactivation(a, b)
    assert dict(by_token.of(a, 50, "jaccard"))[b] == pytest.approx(own)
    assert coactivation(index, level="text").n == index.n_texts
    window = coactivation(index, level="window", window=8, control=False)
    assert index.n_texts < window.n < index.n_tokens
    graph = coactivation_graph(index, 5, by="jaccard", min_count=2)
    assert len(graph["edges"]) == 5 and {edge["source"] for edge in graph["edges"]} <= {
        node["id"] for node in graph["nodes"]
    }
    assert index.coactivation_graph(5, by="jaccard", min_count=2) == graph
    assert apart(by_token, sae).n_pairs > 0


@pytest.fixture(scope="module")
def index_of_demo(demo, tmp_path_factory):
    texts = [text for text in demo.texts if len(demo.model.tokenize(text)) <= 200][:8]
    return demo.model.build_index(
        demo.sae, texts, tmp_path_factory.mktemp("i") / "index", verbose=False
    ), demo.sae


def test_it_is_a_table_and_a_page(tmp_path):
    found = coactivation(sparse(random(400, 10, 0)))
    assert list(found.to_pandas()) == ["first", "second", "count", "pmi", "lift", "phi", "jaccard"]
    assert "dealt out anew" in found.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    other = apart(found, np.eye(10), min_cosine=-1.0, share=1.0)
    assert "cosine" in other.to_html(tmp_path / "apart.html").read_text(encoding="utf-8")
    assert repr(found).startswith("<Coactivation: ") and repr(other).startswith("<Apart: ")


def test_bad_input_is_named():
    coactivation, coactivation_graph = ASK
    some = sparse(random(40, 5, 0))
    found = coactivation(some, control=False)
    for call, kind, words in [
        (lambda: coactivation(some, level="word"), InputError, "level is 'word'"),
        (lambda: coactivation(some, level="text"), InputError, "text_ids="),
        (
            lambda: coactivation(some, level="text", text_ids=[1, 2]),
            InputError,
            "one for each of the 40 rows",
        ),
        (lambda: coactivation(np.ones((3, 3))), InputError, "FeatureIndex or SparseFeatures"),
        (lambda: coactivation(sparse(np.zeros((3, 3)))), InputError, "No feature is active"),
        (lambda: coactivation(some, min_count=0), InputError, "min_count is 0"),
        (lambda: found.top(by="npmi"), InputError, "by is 'npmi'"),
        (lambda: found.of(5), UnknownFeatureError, "5"),
        (lambda: apart(found, np.eye(3)), InputError, "there are 5 features"),
        (lambda: apart(found, np.eye(5), share=2), InputError, "share is 2"),
        (lambda: coactivation_graph(some, by="npmi"), InputError, "by is 'npmi'"),
    ]:
        with pytest.raises(kind, match=words):
            call()

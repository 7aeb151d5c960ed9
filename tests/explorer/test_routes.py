"""What the explorer says is what the index, the model and NumPy say."""

from __future__ import annotations

import gzip
import json
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxterp.demo.choosing import short_stories
from mlxterp.explorer import answers
from mlxterp.explorer.label_file import LabelFile
from mlxterp.explorer.shown_index import ShownIndex
from tests.explorer.client import Client
from tests.explorer.conftest import BALL, Shown


@pytest.fixture(scope="module")
def client(shown: Shown) -> Iterator[Client]:
    """Asks the server that all tests share."""
    with Client(shown.url) as made:
        yield made


def unpacked(data: bytes) -> dict[str, Any]:
    """A table, as the browser reads it."""
    (size,) = struct.unpack_from("<I", data)
    found = json.loads(data[4 : 4 + size])
    for name, (kind, shape, offset) in found["columns"].items():
        assert (4 + size + offset) % 4 == 0
        count = int(np.prod(shape))
        found[name] = np.frombuffer(data, f"<{kind}", count, 4 + size + offset).reshape(shape)
    return found


def test_the_table_is_the_index(client: Client, shown: Shown):
    index = shown.index
    table = unpacked(client.get("0/table").content)
    assert table["d"] == index.d_hidden and table["tokens"] == index.n_tokens
    assert np.array_equal(table["count"], index.summary.count)
    assert np.array_equal(table["maximum"], index.summary.maximum)
    for feature in (BALL, int(np.argmax(index.summary.count)), int(np.argmin(index.summary.count))):
        stats = index.stats(feature)
        assert table["mean"][feature] == pytest.approx(stats.mean, rel=1e-6)
        assert table["n_texts"][feature] == stats.n_texts
        shown_tokens = [table["pieces"][str(t)] for t in table["top_tokens"][feature] if t >= 0]
        assert shown_tokens == [token for token, _ in stats.top_tokens[:5]]
        assert table["top_token_counts"][feature][: len(shown_tokens)].tolist() == [
            n for _, n in stats.top_tokens[:5]
        ]
    every = Counter(int(t) for shard in index._reader.shards() for t in shard.tokens)
    assert {int(t): n for t, n in table["totals"].items()} == {int(t): every[int(t)] for t in table["totals"]}


def test_the_table_has_the_map_and_the_norms(client: Client, shown: Shown):
    table = unpacked(client.get("0/table").content)
    assert np.array_equal(table["map"], shown.places)
    np.testing.assert_allclose(table["norm"], np.linalg.norm(shown.demo.sae.W_dec, axis=1), rtol=1e-5)
    assert "map" not in unpacked(client.get("1/table").content)


def test_the_table_is_sent_once_and_packed(client: Client):
    first = client.get("0/table", **{"accept-encoding": "gzip"})
    assert first.headers["content-encoding"] == "gzip"
    plain = client.get("0/table", **{"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers and plain.content == first.content
    assert len(gzip.compress(plain.content)) < len(plain.content)
    again = client.get("0/table", **{"if-none-match": first.headers["etag"]})
    assert again.status_code == 304 and not again.content


def same_window(said: dict[str, Any], example: Any) -> bool:
    return (
        (said["text"], said["pos"], said["start"]) == (example.text_id, example.position, example.start)
        and tuple(said["tokens"]) == tuple(example.tokens)
        and np.array_equal(np.float32(said["acts"]), example.activations)
    )


@pytest.mark.parametrize("feature", [BALL, 571, 0])
def test_a_feature_is_what_the_index_says_of_it(client: Client, shown: Shown, feature: int):
    index, said = shown.index, client.said(f"0/feature/{feature}")
    stats = index.stats(feature)
    assert (said["count"], said["texts"]) == (stats.count, stats.n_texts)
    assert said["density"] == pytest.approx(stats.density) and said["max"] == pytest.approx(stats.maximum)
    assert sum(said["hist"][0]) == stats.count and len(said["hist"][1]) == len(said["hist"][0]) + 1
    top = index.examples(feature, 12)
    assert len(said["top"]) == len(top)
    assert all(same_window(one, example) for one, example in zip(said["top"], top, strict=True))
    assert said["together"] == [list(one) for one in index.coactivation(feature, top_k=8)]
    assert [f for f, _ in said["similar"]] == [f for f, _ in index.similar(feature, 8)]


def looks(one: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(one["tokens"]), one["pos"] - one["start"]


@pytest.mark.parametrize("feature", [BALL, 1995])
def test_no_window_stands_twice_on_a_page(client: Client, feature: int):
    said = client.said(f"0/feature/{feature}")
    windows = [*said["top"], *(one for band in said["bands"] for one in band["examples"])]
    assert len({looks(one) for one in windows}) == len(windows)
    assert [band["q"] for band in said["bands"]] == sorted(
        (band["q"] for band in said["bands"]), reverse=True
    )


def test_before_and_after_count_all_firings(client: Client, shown: Shown):
    said, index = client.said(f"0/feature/{BALL}"), shown.index
    firings = index._reader.firings(BALL)
    before: Counter[str] = Counter()
    for text, at in zip(firings.text_ids.tolist(), firings.positions.tolist(), strict=True):
        if at:
            before[index._piece(int(index._reader.window(BALL, text, at - 1, 0, 0).ids[0]))] += 1
    assert dict(map(tuple, said["before"])).items() <= before.items()
    assert said["before"][0][1] == max(before.values())


def test_hard_negatives_show_its_token_where_it_is_silent(client: Client, shown: Shown):
    commonest = np.argsort(-np.asarray(shown.index.summary.count))[:40].tolist()
    found = {feature: client.said(f"0/feature/{feature}")["hard"] for feature in (BALL, 571, *commonest)}
    assert sum(map(len, found.values())) > 10
    for feature, several in found.items():
        often = {token for token, _ in shown.index.stats(feature).top_tokens[:3]}
        for one in several:
            at = one["pos"] - one["start"]
            assert one["acts"][at] == 0 and one["tokens"][at] in often


def test_a_dead_feature_says_so(client: Client, shown: Shown):
    dead = int(np.argmin(shown.index.summary.count))
    assert shown.index.summary.count[dead] == 0
    said = client.said(f"0/feature/{dead}")
    assert said["count"] == 0 and said["top"] == [] and said["bands"] == [] and said["hist"] == [[], [0.0]]
    assert "Never active" in said["flags"][0]
    assert client.said(f"0/peek?ids={dead}") == {}


def test_logits_are_those_of_the_model(client: Client, shown: Shown):
    said = client.said(f"0/logits/{BALL}")
    [expected] = shown.demo.model.feature_logits(shown.demo.sae, [BALL], 10)
    assert [token for token, _ in said["up"]] == [token for token, _ in expected.promoted]
    assert [token for token, _ in said["down"]] == [token for token, _ in expected.suppressed]
    assert sum(said["hist"][0]) == shown.demo.model.language_model.vocab_size
    assert said["hist"][1][-1] == pytest.approx(expected.maximum, rel=1e-4)


def test_a_peek_is_the_strongest_window(client: Client, shown: Shown):
    said = client.said(f"0/peek?ids={BALL},571")
    for feature in (BALL, 571):
        [best] = shown.index.examples(feature, 1, before=8, after=6)
        assert same_window(said[str(feature)], best)


def test_words_are_looked_up_as_the_index_does(client: Client, shown: Shown):
    assert client.said("0/search?q=ball&k=5") == [list(hit) for hit in shown.index.search("ball", 5)]
    assert client.said("0/token?q=ball&k=5") == [
        list(hit) for hit in shown.index.features_for_token("ball", 5)
    ]


def test_a_whole_text_has_its_activations(client: Client, shown: Shown):
    [best] = shown.index.examples(BALL, 1)
    said = client.said(f"0/text/{best.text_id}?feature={BALL}")
    assert said["text"] == best.text
    assert "".join(said["tokens"]).endswith(best.text[-40:])
    assert said["acts"][best.position] == pytest.approx(best.activation)
    assert set(client.said(f"0/text/{best.text_id}")["acts"]) == {0.0}


def test_an_own_text_has_the_features_that_the_model_finds(client: Client, shown: Shown):
    text = "Lily lost her red ball."
    said = client.post("0/text", {"text": text}).json()
    top = shown.demo.model.get_top_features_for_text(text, shown.demo.sae, top_k=50)
    assert [(f, a) for f, a, _ in said["top"]] == top
    assert said["tokens"] == shown.demo.model.to_str_tokens(text)
    best = {f: max(a for row in said["rows"] for g, a in row if g == f) for f, _ in top}
    assert best == dict(top)
    assert all(dict(said["rows"][at])[f] == a for f, a, at in said["top"])
    assert said["counted"] == [False] + [True] * (len(said["tokens"]) - 1)


def test_two_features_of_an_index_are_compared_as_the_index_does(client: Client, shown: Shown):
    said = client.said(f"compare?a=0:{BALL}&b=0:571")
    assert said["jaccard"] == shown.index.coactivation(BALL, 571)
    assert said["cosine"] == pytest.approx(dict(shown.index.similar(BALL, 2047))[571], abs=1e-12)
    mine, other = ({t for t, _, _ in shown.index.top_texts(f, 1000)} for f in (BALL, 571))
    assert said["shared_texts"] == len(mine & other)
    assert {t for t, _ in said["tokens"]["only_a"]} & {t for t, _ in said["tokens"]["only_b"]} == set()
    assert said["why_null"] is None


def test_indexes_of_other_texts_have_no_overlap_to_speak_of(client: Client):
    said = client.said(f"compare?a=0:{BALL}&b=1:3")
    assert said["jaccard"] is None and said["shared_texts"] is None and "different texts" in said["why_null"]
    assert -1 <= said["cosine"] <= 1


def test_about_names_every_index(client: Client, shown: Shown):
    said = client.said("about")
    assert [one["fingerprint"] for one in said["sources"]] == [
        shown.index.fingerprint,
        shown.other.fingerprint,
    ]
    assert said["live"] and said["writable"] and said["sources"][0]["map"] and not said["sources"][1]["map"]
    assert said["excluded"] == shown.index.excluded and said["positions"] == 256


def test_a_feature_without_an_explanation_is_explained_as_python_does_where_its_texts_are_enough(
    client: Client, shown: Shown, tmp_path: Path
):
    assert client.said(f"0/explain/{BALL}") == []
    demo = shown.demo
    index = demo.model.build_index(demo.sae, short_stories(demo)[:40], tmp_path / "more", verbose=False)
    often = next(f for f in range(index.d_hidden) if 20 <= index.stats(f).n_texts <= 30)
    [expected] = index.explain(often, verbose=False)
    [told] = answers.explained(ShownIndex(0, index, LabelFile(index, None, True)), often)
    assert (told["text"], told["source"], told["scores"]) == (expected.text, expected.source, {})
    assert not demo.sae.concepts.explanations


def test_a_page_that_asks_quietly_gets_the_same_refusal_as_an_answer(client: Client):
    loud, quiet = client.get("0/feature/99999"), client.get("0/feature/99999", **{"x-mlxterp-quiet": "1"})
    assert (loud.status_code, quiet.status_code) == (404, 200)
    assert quiet.headers["x-mlxterp-status"] == "404"
    assert quiet.json() == loud.json()

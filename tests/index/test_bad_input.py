"""What an index refuses, and what it says: texts, folders, files and questions that cannot be."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil

import numpy as np
import pytest

import mlxterp
from mlxterp import (
    ComponentError,
    FeatureIndex,
    FeatureIndexError,
    InputError,
    InterpretableModel,
    SAEError,
    UnknownFeatureError,
)
from mlxterp.variants import TopK
from tests.index.small import TEXTS, random_sae


@pytest.fixture
def sae(embedded: InterpretableModel):
    return random_sae(TopK(8), embedded.d_model)


@pytest.fixture
def folder(embedded, sae, tmp_path):
    """A complete index of a few texts."""
    embedded.build_index(sae, TEXTS, tmp_path / "index", shard_tokens=40)
    return tmp_path / "index"


@pytest.mark.parametrize("feature", [-1, 64, 1.5, "3", True])
def test_a_feature_that_is_not_there_raises_everywhere(index: FeatureIndex, feature):
    for ask in (
        index.top_texts, index.examples, index.stats, index.similar, index.coactivation, index.feature,
        lambda f: index.coactivation(0, f), lambda f: index.export_csv("never.csv", [f]),
    ):  # fmt: skip
        with pytest.raises(UnknownFeatureError, match="this index has 64, numbered 0 to 63"):
            ask(feature)


@pytest.mark.parametrize(
    "ask",
    [
        lambda i: i.top_texts(0, 0), lambda i: i.top_texts(0, 2.5), lambda i: i.examples(0, -1),
        lambda i: i.examples(0, quantile=10), lambda i: i.examples(0, quantile=True),
        lambda i: i.similar(0, by="taste"), lambda i: i.search(" "), lambda i: i.search(None),
        lambda i: i.features_for_token(""), lambda i: i.top_features(3), lambda i: i.examples(0, before=-1),
        lambda i: i.examples(0, after=1.5), lambda i: i.export_json("never.json", 5), lambda i: i.holds("abc"),
        lambda i: i.holds([1] * 8), lambda i: FeatureIndex.merge(i, "never"),
    ],
)  # fmt: skip
def test_questions_that_cannot_be_raise(index: FeatureIndex, ask):
    with pytest.raises(InputError):
        ask(index)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "at least one"), ("one text", "list"), ([1], "not a string"), ([""], "No token counts"),
        (["a", None], "not a string"), (7, "list"),
    ],
)  # fmt: skip
def test_texts_that_cannot_be_indexed_raise(embedded, sae, texts, message):
    with pytest.raises(InputError, match=message):
        embedded.build_index(sae, texts)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"n_examples": 0}, InputError, "n_examples"), ({"n_examples": True}, InputError, "n_examples"),
        ({"shard_tokens": -5}, InputError, "shard_tokens"), ({"seed": -1}, InputError, "seed"),
        ({"exclude": None}, InputError, "bos, sinks"), ({"exclude": [["bos"]]}, InputError, "bos, sinks"),
        ({"seed": 2**64}, InputError, "seed"),
        ({"workers": 0}, InputError, "workers"), ({"exclude": "padding"}, InputError, "bos, sinks"),
        ({"layer": 9, "component": "mlp"}, ComponentError, "9"),
        ({"component": "layers.1.nose"}, ComponentError, "nose"),
        ({"component": "layers.1.mlp.gate_proj"}, SAEError, "512"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:This SAE was trained:mlxterp.MlxterpWarning")
def test_settings_that_cannot_be_raise_and_leave_nothing(embedded, sae, tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        embedded.build_index(sae, TEXTS, tmp_path / "index", **settings)
    assert not (tmp_path / "index").exists()


def test_an_sae_without_a_component_has_to_be_told_one(embedded):
    sae = random_sae(TopK(8), embedded.d_model)
    del sae.metadata["component"]
    with pytest.raises(InputError, match="component="):
        embedded.build_index(sae, TEXTS)
    assert embedded.build_index(sae, TEXTS, component="layers.2.mlp").component == "layers.2.mlp"


def test_another_sae_or_model_is_refused(embedded, folder):
    other = random_sae(TopK(8), embedded.d_model, seed=4)
    with pytest.raises(FeatureIndexError, match="another SAE"):
        FeatureIndex.open(folder, embedded, other)
    with pytest.raises(FeatureIndexError, match="another SAE"):
        embedded.build_index(other, TEXTS, folder)
    index = FeatureIndex.open(folder)
    with pytest.raises(InputError, match="Build an index for this SAE"):
        embedded.get_top_texts_for_feature(0, other, None, 1, "resid_post", index=index)


def test_a_model_with_other_weights_is_refused(embedded, sae, folder):
    mx = pytest.importorskip("mlx.core")
    embedding = embedded.language_model.model.model.embed_tokens
    before = embedding.weight
    try:
        embedding.weight = before * 1.5 + mx.array(0.3)
        with pytest.raises(FeatureIndexError, match="another model"):
            FeatureIndex.open(folder, embedded, sae)
    finally:
        embedding.weight = before


def test_other_texts_or_settings_are_refused(embedded, sae, folder):
    with pytest.raises(FeatureIndexError, match="other texts"):
        embedded.build_index(sae, [*TEXTS[:-1], "Something else."], folder, shard_tokens=40)
    with pytest.raises(FeatureIndexError, match="more are given"):
        embedded.build_index(sae, [*TEXTS, "One more."], folder, shard_tokens=40)
    with pytest.raises(FeatureIndexError, match="n_examples was 20 and is 5"):
        embedded.build_index(sae, TEXTS, folder, n_examples=5, shard_tokens=40)
    with pytest.raises(FeatureIndexError, match="exclude was"):
        embedded.build_index(sae, TEXTS, folder, exclude=(), shard_tokens=40)
    index = FeatureIndex.open(folder)
    with pytest.raises(InputError, match="not the ones given"):
        embedded.get_top_texts_for_feature(0, sae, TEXTS[:3], 1, "resid_post", index=index)
    with pytest.raises(InputError, match="index="):
        embedded.get_top_texts_for_feature(0, sae, None, 1, "resid_post")


def test_a_folder_with_something_else_is_left_alone(embedded, sae, tmp_path):
    (tmp_path / "mine.txt").write_text("my notes")
    with pytest.raises(FeatureIndexError, match="something else"):
        embedded.build_index(sae, TEXTS, tmp_path)
    assert os.listdir(tmp_path) == ["mine.txt"]
    with pytest.raises(FeatureIndexError, match="no index"):
        FeatureIndex.open(tmp_path)


def test_questions_that_need_the_model_say_so(folder):
    index = FeatureIndex.open(folder)
    assert index.top_texts(int(index.live[0])) and index.examples(int(index.live[0]))
    for ask in (lambda: index.top_features("a"), lambda: index.similar(0), lambda: index.add(["a"])):
        with pytest.raises(FeatureIndexError, match="without its model"):
            ask()
    with pytest.raises(InputError, match="both"):
        index.attach(None, None)


def test_an_index_of_another_version_is_refused(folder):
    described = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(described | {"version": 0}))
    with pytest.raises(FeatureIndexError, match="format version 0"):
        FeatureIndex.open(folder)


DAMAGES = {
    "not json": b"{", "a list": b"[]", "another format": b'{"format": "zip", "version": 1}', "nothing": b"",
    "not utf-8": b"\xff\xfe", "no version": b'{"format": "mlxterp-index"}', "deep": b"[" * 100_000,
    "no shards": b'{"format": "mlxterp-index", "version": 1}',
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_description_is_told(folder, damage):
    (folder / "index.json").write_bytes(DAMAGES[damage])
    with pytest.raises(FeatureIndexError, match=r"index\.json|damaged|version"):
        FeatureIndex.open(folder)


def _asked(folder) -> None:
    index = FeatureIndex.open(folder)
    for feature in range(index.d_hidden):
        index.top_texts(feature)


@pytest.mark.parametrize("name", ["summary.safetensors", "shards/000001.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "longer", "wild header", "negative", "text"])
def test_a_damaged_file_is_told_when_it_is_read(folder, name, damage):
    path = folder / name
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    key = next(iter(header))
    if damage == "wild header":
        header[key]["shape"] = [2**62]
    elif damage == "negative":
        header[key]["data_offsets"] = [-8, header[key]["data_offsets"][1] - 8]
    changed = json.dumps(header).encode().ljust(length)
    damaged = {
        "cut": data[:-9], "empty": b"", "longer": data + b"x", "text": b"hello there, this is text",
        "wild header": len(changed).to_bytes(8, "little") + changed + data[8 + length :],
        "negative": len(changed).to_bytes(8, "little") + changed + data[8 + length :],
    }  # fmt: skip
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(damaged[damage])
    with pytest.raises(FeatureIndexError, match=r"is not a (file of this index|shard)"):
        _asked(folder)


def test_a_full_disk_leaves_what_is_there_and_the_build_goes_on(embedded, sae, tmp_path, monkeypatch):
    real, left = os.fsync, [2]

    def full(handle):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr("mlxterp.core.files.os.fsync", full)
        with pytest.raises(FeatureIndexError, match="No space left"):
            embedded.build_index(sae, TEXTS, tmp_path / "index", shard_tokens=40)
    assert not list((tmp_path / "index").rglob(".draft.*"))
    index = embedded.build_index(sae, TEXTS, tmp_path / "index", shard_tokens=40)
    assert index.n_texts == len(TEXTS)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_told(embedded, sae, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(FeatureIndexError, match="Nothing can be written"):
        embedded.build_index(sae, TEXTS, tmp_path / "locked" / "index")


def test_nothing_is_copied_over_what_is_there(folder, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(FeatureIndexError, match="holds something"):
        FeatureIndex.open(folder).save(tmp_path / "mine")
    with pytest.raises(FeatureIndexError, match="holds something"):
        FeatureIndex.merge([folder], tmp_path / "mine")
    with pytest.raises(InputError, match="at least one"):
        FeatureIndex.merge([], tmp_path / "new")


HOSTILE = [
    "<script>alert('x')</script> & \"quotes\"", "nul \x00 and bell \x07 and escape \x1b[31m red",
    "﷽ \u202e right to left \u2028 line", "=cmd|' /C calc'!A0", "an emoji 🎈 and a family 👨‍👩‍👧",
]  # fmt: skip


def test_hostile_text_comes_back_as_it_was_and_escaped_where_it_is_shown(embedded, sae, tmp_path):
    index = embedded.build_index(sae, HOSTILE, exclude=())
    seen = {text for f in index.live.tolist() for text, _, _ in index.top_texts(f, 20)}
    assert seen == set(HOSTILE)
    html = index.feature(int(index.live[0]))._repr_html_()
    assert "<script" not in html
    written = index.export_json(tmp_path / "all.json")
    assert set(json.loads(written.read_text())["features"]) == {str(f) for f in index.live.tolist()}
    assert index.export_csv(tmp_path / "all.csv").read_bytes().startswith(b"feature_id,label")
    shown = "".join(str(e) for f in index.live.tolist() for e in index.examples(f))
    assert not re.search("[\x00-\x1f\x7f-\x9f]", shown), "a terminal would act on it"


def test_a_lone_surrogate_is_told_where_it_enters(embedded, sae):
    with pytest.raises(InputError, match=r"lone surrogate .* at character 5"):
        embedded.build_index(sae, [TEXTS[0], "lone \ud83d here"])
    with pytest.raises(InputError, match="lone surrogate"):
        embedded.get_top_features_for_text("lone \ud83d here", sae, 1, "resid_post")


def test_a_line_of_a_megabyte_runs_in_windows(embedded, sae):
    line = (" ".join(TEXTS) + " ") * 60
    with pytest.warns(mlxterp.MlxterpWarning, match="1 of 1 texts are longer"):
        index = embedded.build_index(sae, [line], shard_tokens=2048)
    assert index.n_texts == 1 and index.windowed == 1
    feature = int(index.live[0])
    assert len(index.examples(feature)) == 1
    found = index._reader.firings(feature)
    assert (np.diff(found.positions) > 0).all()


def test_opening_takes_no_model_and_reads_no_shard(folder):
    shutil.rmtree(folder / "shards")
    index = FeatureIndex.open(folder)
    assert index.n_texts == len(TEXTS) and len(index.live) > 0
    assert list(index.to_pandas().columns[:5]) == ["count", "density", "mean", "maximum", "label"]

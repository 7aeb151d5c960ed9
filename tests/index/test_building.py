"""Building an index: whatever happens on the way, the same files or the same answers come out."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlxterp
from mlxterp import FeatureIndex, InterpretableModel, MlxterpWarning
from mlxterp.data.dataset import ListedTexts
from mlxterp.index.files import write_atomically
from mlxterp.index.plan import shard_plans
from mlxterp.variants import TopK
from tests.index.small import TEXTS, files_of, random_sae

WINDOWS = "ignore:.*longer than the model.*:mlxterp.MlxterpWarning"


@pytest.fixture
def sae(embedded: InterpretableModel):
    return random_sae(TopK(8), embedded.d_model)


def answers(index: FeatureIndex) -> list:
    """Everything that does not depend on how an index came to be."""
    found: list = [index.n_texts, index.n_tokens, index.excluded]
    for feature in range(index.d_hidden):
        stats = index.stats(feature)
        found += [
            index.top_texts(feature, 20), [(e.text_id, e.position, e.tokens) for e in index.examples(feature)],
            [(e.text_id, e.position) for e in index.examples(feature, 3, quantile=4)], stats.count, stats.n_texts,
            stats.maximum, round(stats.mean, 9), stats.top_tokens, index.coactivation(feature),
        ]  # fmt: skip
    return found


def assert_same(one, other):
    """Equal, numbers but for the rounding of another batch."""
    assert type(one) is type(other)
    if isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)
    else:
        assert one == other


@pytest.mark.parametrize("shard_tokens", [1, 13, 40, 1000])
def test_answers_do_not_depend_on_the_size_of_shards(embedded, sae, shard_tokens):
    one = embedded.build_index(sae, TEXTS, shard_tokens=shard_tokens)
    assert_same(answers(one), answers(embedded.build_index(sae, TEXTS, shard_tokens=25)))


@pytest.mark.parametrize("cut", [1, 3, 7])
def test_merged_and_appended_indexes_answer_as_one_built_at_once(embedded, sae, tmp_path, cut):
    whole = answers(embedded.build_index(sae, TEXTS))
    parts = [embedded.build_index(sae, texts, shard_tokens=20) for texts in (TEXTS[:cut], TEXTS[cut:])]
    merged = FeatureIndex.merge(parts, tmp_path / "merged")
    assert_same(answers(merged), whole)
    other = FeatureIndex.merge([parts[1], parts[0].path], tmp_path / "other")
    reordered = embedded.build_index(sae, [*TEXTS[cut:], *TEXTS[:cut]])
    assert_same(answers(other), answers(reordered))
    grown = embedded.build_index(sae, TEXTS[:cut], tmp_path / "grown")
    assert_same(answers(grown.add(TEXTS[cut:])), whole)
    assert_same(answers(FeatureIndex.open(tmp_path / "grown")), whole)


def test_indexes_that_do_not_belong_together_are_not_merged(embedded, sae, tmp_path):
    one = embedded.build_index(sae, TEXTS[:2])
    other = embedded.build_index(random_sae(TopK(8), embedded.d_model, seed=1), TEXTS[2:])
    with pytest.raises(mlxterp.FeatureIndexError, match="SAE is"):
        FeatureIndex.merge([one, other], tmp_path / "merged")
    with pytest.raises(mlxterp.FeatureIndexError, match="exclude is"):
        FeatureIndex.merge([one, embedded.build_index(sae, TEXTS, exclude=())], tmp_path / "merged")


@pytest.mark.filterwarnings(WINDOWS)
def test_a_text_of_several_shards_is_one_text(embedded, sae):
    long = " ".join(TEXTS * 12)
    texts = [TEXTS[0], long, TEXTS[1]]
    with pytest.warns(MlxterpWarning, match="1 of 3 texts are longer"):
        index = embedded.build_index(sae, texts, exclude=(), shard_tokens=300)
    assert index.windowed == 1 and len(index._reader) > 4
    assert index.n_tokens == sum(len(embedded.tokenize(text)) for text in texts)
    for feature in index.live.tolist():
        direct = embedded.get_top_texts_for_feature(feature, sae, texts, 1, "resid_post")
        found = index.top_texts(feature)
        assert [(t, at) for t, _, at in found] == [(t, at) for t, _, at in direct]
        np.testing.assert_allclose([v for _, v, _ in found], [v for _, v, _ in direct], rtol=1e-4)


def test_texts_without_tokens_keep_their_number_and_are_told(embedded, sae):
    bare = mlxterp.InterpretableModel(embedded.language_model.model, tokenizer=NoBos(embedded.tokenizer))
    with pytest.warns(MlxterpWarning, match="2 of 3 texts have no tokens"):
        index = bare.build_index(sae, ["", TEXTS[0], ""])
    assert index.n_texts == 3 and index.excluded == {"bos": 0, "sinks": 0}
    feature = int(index.live[0])
    assert index.examples(feature)[0].text_id == 1 and index.top_texts(feature)[0][0] == TEXTS[0]


class NoBos:
    """A tokenizer that puts nothing before a text."""

    bos_token_id = eos_token_id = None

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text))[1:]

    def decode(self, ids) -> str:
        return self._tokenizer.decode(ids)


@pytest.mark.parametrize("kind", ["file", "url", "table", "stream"])
def test_texts_come_from_files_and_data_sets_too(embedded, sae, tmp_path, kind):
    expected = answers(embedded.build_index(sae, TEXTS[:3]))
    if kind == "file":
        (tmp_path / "texts.txt").write_text("\n\n".join(TEXTS[:3]))
        given: object = tmp_path / "texts.txt"
    elif kind == "url":
        fsspec = pytest.importorskip("fsspec")
        with fsspec.open("memory://texts.txt", "wb") as file:
            file.write("\n\n".join(TEXTS[:3]).encode())
        given = "memory://texts.txt"
    else:
        datasets = pytest.importorskip("datasets")
        table = datasets.Dataset.from_dict({"text": TEXTS[:3]})
        given = table if kind == "table" else table.to_iterable_dataset()
    assert_same(answers(embedded.build_index(sae, given)), expected)


# -- interruption -------------------------------------------------------------------------------


class Interrupted(Exception):
    """Where a build stops."""


def stopping(monkeypatch, at: int) -> None:
    """Lets the write with that number stop halfway."""
    number = itertools.count()

    def write(path, parts):
        def stop():
            yield b"half of "
            raise Interrupted

        write_atomically(path, stop() if next(number) == at else parts)

    for module in ("shard", "folder", "summary"):
        monkeypatch.setattr(f"mlxterp.index.{module}.write_atomically", write)


@pytest.mark.parametrize("at", range(13))
def test_a_build_that_stopped_at_any_write_goes_on_to_the_same_files(
    embedded, sae, tmp_path, monkeypatch, at
):
    embedded.build_index(sae, TEXTS, tmp_path / "whole", shard_tokens=40)
    with monkeypatch.context() as patch:
        stopping(patch, at)
        with pytest.raises(Interrupted):
            embedded.build_index(sae, TEXTS, tmp_path / "again", shard_tokens=40)
    if at:
        with pytest.raises(mlxterp.FeatureIndexError, match="interrupted after"):
            FeatureIndex.open(tmp_path / "again")
    embedded.build_index(sae, TEXTS, tmp_path / "again", shard_tokens=40)
    assert files_of(tmp_path / "again") == files_of(tmp_path / "whole")


@pytest.mark.filterwarnings(WINDOWS)
@pytest.mark.parametrize("at", [1, 3, 5, 7, 9, 11])
def test_a_build_that_stopped_inside_a_long_text_goes_on_to_the_same_files(
    embedded, sae, tmp_path, monkeypatch, at
):
    texts = [TEXTS[0], " ".join(TEXTS * 12), TEXTS[1]]
    embedded.build_index(sae, texts, tmp_path / "whole", shard_tokens=300)
    with monkeypatch.context() as patch:
        stopping(patch, at)
        with pytest.raises(Interrupted):
            embedded.build_index(sae, texts, tmp_path / "again", shard_tokens=300)
    embedded.build_index(sae, texts, tmp_path / "again", shard_tokens=300)
    assert files_of(tmp_path / "again") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("at", range(9))
def test_appending_that_stopped_goes_on(embedded, sae, tmp_path, monkeypatch, at):
    whole = answers(embedded.build_index(sae, TEXTS))
    index = embedded.build_index(sae, TEXTS[:3], tmp_path / "index", shard_tokens=20)
    with monkeypatch.context() as patch:
        stopping(patch, at)
        with pytest.raises(Interrupted):
            index.add(TEXTS[3:])
    assert_same(answers(index.add(TEXTS[3:])), whole)


@pytest.mark.parametrize("at", range(11))
def test_an_index_whose_appending_stopped_opens_as_it_was_and_goes_on(
    embedded, sae, tmp_path, monkeypatch, at
):
    whole = answers(embedded.build_index(sae, TEXTS))
    before = answers(embedded.build_index(sae, TEXTS[:3], tmp_path / "index", shard_tokens=20))
    index = FeatureIndex.open(tmp_path / "index", embedded, sae)
    with monkeypatch.context() as patch:
        stopping(patch, at)
        with pytest.raises(Interrupted):
            index.add(TEXTS[3:])
    if at < 2:  # nothing is there of the new texts
        index = FeatureIndex.open(tmp_path / "index", embedded, sae)
    else:
        with pytest.warns(MlxterpWarning, match="Appending .* was interrupted. It answers with the 3 texts"):
            index = FeatureIndex.open(tmp_path / "index", embedded, sae)
    assert_same(answers(index), before)
    if at >= 2:
        with pytest.raises(mlxterp.FeatureIndexError, match="give the texts that were being appended"):
            index.add(["Something else."])
    assert_same(answers(index.add(TEXTS[3:])), whole)
    assert_same(answers(FeatureIndex.open(tmp_path / "index")), whole)


@pytest.mark.parametrize(
    "name",
    [
        "shards/000000.safetensors",
        "shards/000002.safetensors",
        "summary.safetensors",
        "pieces.json",
        "table.safetensors",
        "tokens.safetensors",
        "places.safetensors",
        "sample.safetensors",
    ],
)
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_the_same_build_makes_again_what_is_damaged(embedded, sae, tmp_path, name, damage):
    embedded.build_index(sae, TEXTS, tmp_path / "index", shard_tokens=40)
    whole = files_of(tmp_path / "index")
    path = tmp_path / "index" / name
    path.write_bytes(path.read_bytes()[:-9])
    if damage == "gone":
        path.unlink()
    with pytest.warns(MlxterpWarning, match="made again"):
        embedded.build_index(sae, TEXTS, tmp_path / "index", shard_tokens=40)
    assert files_of(tmp_path / "index") == whole


def test_a_build_goes_on_where_the_measured_size_of_shards_has_changed(embedded, sae, tmp_path, monkeypatch):
    embedded.build_index(sae, TEXTS, tmp_path / "index")
    monkeypatch.setattr(
        "mlxterp.index.building._shard_tokens", lambda source: 2049
    )  # another machine's rounding
    assert embedded.build_index(sae, TEXTS, tmp_path / "index").n_texts == len(TEXTS)


def test_a_merged_index_has_the_model_and_sae_of_its_parts(embedded, sae, tmp_path):
    half = embedded.build_index(sae, TEXTS[:4], tmp_path / "half")
    merged = FeatureIndex.merge([tmp_path / "half", half], tmp_path / "merged")
    assert merged.top_features(TEXTS[0]) == half.top_features(TEXTS[0])
    assert FeatureIndex.merge([tmp_path / "half"], tmp_path / "alone").source is None


def killed(folder: Path, backend: str, at: int | None) -> int:
    command = [sys.executable, "-m", "tests.index.interrupted", str(folder), "--backend", backend]
    command += [] if at is None else ["--kill-at", str(at)]
    return subprocess.run(command, check=False, capture_output=True).returncode


def test_a_killed_build_goes_on_to_the_same_files(backend, tmp_path):
    assert killed(tmp_path / "whole", backend, None) == 0
    assert killed(tmp_path / "again", backend, 5) == -9
    assert killed(tmp_path / "again", backend, None) == 0
    assert files_of(tmp_path / "again") == files_of(tmp_path / "whole")


@pytest.mark.slow
def test_a_build_killed_at_ten_random_points_goes_on_to_the_same_files(backend, tmp_path):
    assert killed(tmp_path / "whole", backend, None) == 0
    for at in np.random.default_rng(0).choice(19, 10, replace=False).tolist():
        assert killed(tmp_path / f"again{at}", backend, at) == -9
        assert killed(tmp_path / f"again{at}", backend, None) == 0
        assert files_of(tmp_path / f"again{at}") == files_of(tmp_path / "whole")


# -- workers and places -------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_two_ray_workers_write_the_same_files(embedded, sae, tmp_path):
    pytest.importorskip("ray")
    embedded.build_index(sae, TEXTS, tmp_path / "here", shard_tokens=20)
    embedded.build_index(sae, TEXTS, tmp_path / "ray", shard_tokens=20, workers=2)
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "here")


@pytest.mark.filterwarnings("ignore")
def test_workers_that_load_another_model_than_the_one_here_are_refused(sae, tmp_path):
    pytest.importorskip("ray")
    model = mlxterp.load_demo("mlx").model
    language_model: Any = model.language_model
    embedding = language_model.model.model.embed_tokens
    embedding.weight = embedding.weight * 1.5
    with pytest.raises(mlxterp.FeatureIndexError, match="A worker failed"):
        model.build_index(sae, TEXTS, tmp_path / "ray", workers=1)


def test_workers_cannot_load_a_model_that_was_given_as_an_object(embedded, sae):
    pytest.importorskip("ray")
    bare = mlxterp.InterpretableModel(embedded.language_model.model, tokenizer=embedded.tokenizer)
    with pytest.raises(mlxterp.InputError, match="repo or folder"):
        bare.build_index(sae, TEXTS, workers=2)


def test_an_index_can_lie_at_a_url(embedded, sae):
    pytest.importorskip("fsspec")
    built = embedded.build_index(sae, TEXTS, "memory://indexes/one")
    opened = FeatureIndex.open("memory://indexes/one", embedded, sae)
    assert_same(answers(opened), answers(built))
    with pytest.raises(mlxterp.FeatureIndexError, match="lies at memory://indexes/one already"):
        embedded.build_index(sae, TEXTS, "memory://indexes/one")
    with pytest.raises(mlxterp.FeatureIndexError, match="already"):
        built.save("memory://indexes/one")
    built.save("memory://indexes/two")
    with pytest.warns(MlxterpWarning, match="a copy of memory://indexes/one"):
        assert opened.add(["One more."]).n_texts == len(TEXTS) + 1
    assert_same(answers(FeatureIndex.open("memory://indexes/two")), answers(built))
    with pytest.raises(mlxterp.FeatureIndexError, match="no index"):
        FeatureIndex.open("memory://indexes/three")


def test_parts_at_urls_are_merged_in_a_folder(embedded, sae, tmp_path):
    pytest.importorskip("fsspec")
    index = embedded.build_index(sae, TEXTS[:4], "memory://parts/one")
    merged = FeatureIndex.merge(["memory://parts/one", index], tmp_path / "merged")
    assert merged.n_texts == 8
    with pytest.raises(mlxterp.InputError, match="save"):
        FeatureIndex.merge([index], "memory://parts/all")
    with pytest.raises(mlxterp.FeatureIndexError, match="there is no index"):
        FeatureIndex.open("memory://parts")


def test_exports_can_go_to_a_url(embedded, sae, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    index = embedded.build_index(sae, TEXTS)
    assert index.export_json("memory://exports/new/features.json") == "memory://exports/new/features.json"
    written = fsspec.filesystem("memory").cat_file("/exports/new/features.json")
    assert written == index.export_json(tmp_path / "features.json").read_bytes()


def test_an_index_without_a_path_goes_with_its_object(embedded, sae):
    index = embedded.build_index(sae, TEXTS)
    path = index.path
    kept = index.save(path.with_name(path.name + "-kept"))
    del index
    assert not path.exists()
    assert FeatureIndex.open(kept).n_texts == len(TEXTS)


# -- plans --------------------------------------------------------------------------------------


@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    size=st.one_of(st.none(), st.integers(1, 12)),
    shard_tokens=st.integers(1, 50),
    first=st.integers(0, 3),
)
@settings(max_examples=200, deadline=None)
def test_shards_hold_every_token_once_in_order(lengths, size, shard_tokens, first):
    texts = [f"{i}:{n}" for i, n in enumerate(lengths)]

    def tokenize(text: str) -> list[int]:
        number, n = map(int, text.split(":"))
        return [number * 100 + i for i in range(n)]

    plans = list(shard_plans(ListedTexts(texts), tokenize, size, shard_tokens))
    assert [plan.number for plan in plans] == list(range(len(plans)))
    assert [text for plan in plans for text in plan.texts] == texts
    tokens = [t for plan in plans for piece in plan.pieces for t in piece.tokens.tolist()]
    assert tokens == [t for text in texts for t in tokenize(text)]
    for plan in plans:
        for piece in plan.pieces:
            number = plan.first_text + piece.text
            assert (
                piece.tokens.tolist()
                == tokenize(texts[number])[piece.start : piece.start + len(piece.tokens)]
            )
            assert (
                piece.ids.tolist() == tokenize(texts[number])[piece.start - piece.context :][: len(piece.ids)]
            )
            assert size is None or piece.context <= size
    some = [plan for plan in plans if plan.first_text == min(first, len(texts) - 1) and not plan.continues]
    if some:
        again = list(
            shard_plans(ListedTexts(texts), tokenize, size, shard_tokens, some[0].first_text, some[0].number)
        )
        assert [(p.number, p.first_text, p.texts, p.ends) for p in again] == [
            (p.number, p.first_text, p.texts, p.ends) for p in plans[some[0].number :]
        ]


def test_the_bar_moves_within_a_shard_and_ends_at_all_texts(demo, tmp_path, monkeypatch):
    moves: list[int] = []

    class Bar:
        format_dict: ClassVar = {"elapsed": 1.0}

        def __init__(self, **settings):
            self.total = settings["total"]

        def update(self, n):
            moves.append(n)

        def set_postfix_str(self, text):
            """Says nothing."""

        close = lambda self: None  # noqa: E731

    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    texts = [text[:400] for text in demo.texts[:60]]
    index = demo.model.build_index(demo.sae, texts, tmp_path / "one shard", shard_tokens=1 << 20)
    assert len(index._meta.shards) == 1 and sum(moves) == len(texts)
    assert len([n for n in moves if n > 0]) > 2 and min(moves) >= 0
    moves.clear()
    index = demo.model.build_index(demo.sae, texts, tmp_path / "several", shard_tokens=2048)
    assert len(index._meta.shards) > 1 and sum(moves) == len(texts)

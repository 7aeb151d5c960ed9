"""The table of all features, and the files that pages are answered from, against their plain definitions."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxterp import FeatureIndex, InputError, MlxterpWarning, UnknownFeatureError
from mlxterp.core.digests import sealed
from mlxterp.index import FeatureTable, sweep
from mlxterp.index.folder import DERIVED, PLACES, read_meta
from tests.index.made import Made, adversarial, made_index, piece
from tests.index.small import files_of

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*have no tokens.*:mlxterp.MlxterpWarning", "ignore:.*longer than the model.*:mlxterp.MlxterpWarning"
)  # fmt: skip


@pytest.fixture(scope="module")
def made() -> Made:
    return adversarial(0)


@pytest.fixture(scope="module")
def index(made: Made, tmp_path_factory) -> FeatureIndex:
    return made_index(tmp_path_factory.mktemp("index"), made)


def firings_of(made: Made, feature: int) -> list[tuple[int, int, int, float]]:
    """(text, position, token id, activation), in the order of the corpus."""
    return [
        (text, at, ids[at], float(rows[at, feature]))
        for text, (ids, rows) in enumerate(zip(made.tokens, made.activations, strict=True))
        for at in range(len(ids))
        if rows[at, feature]
    ]


def plain_row(made: Made, feature: int) -> dict[str, Any]:
    """What the table says of a feature, by the words of its documentation."""
    fired = firings_of(made, feature)
    if not fired:
        return {
            "count": 0, "mean": 0.0, "maximum": 0.0, "n_texts": 0, "top_tokens": [-1] * 5,
            "top_token_counts": [0] * 5, "spark": [0] * 12, "best_text": -1, "best_position": -1,
        }  # fmt: skip
    values = [value for *_, value in fired]
    often = Counter(token for _, _, token, _ in fired)
    top = sorted(often.items(), key=lambda item: (-item[1], item[0]))[:5]
    top += [(-1, 0)] * (5 - len(top))
    largest = max(map(abs, values))
    text, position, _, maximum = next(one for one in fired if abs(one[3]) == largest)
    bins = Counter(min(int(abs(value) / largest * 12), 11) for value in values)
    spark = [int(np.ceil(255 * np.sqrt(bins[i] / max(bins.values())))) for i in range(12)]
    return {
        "count": len(fired), "mean": np.float32(sum(values) / len(values)), "maximum": abs(maximum),
        "n_texts": len({text for text, *_ in fired}), "top_tokens": [token for token, _ in top],
        "top_token_counts": [count for _, count in top], "spark": spark, "best_text": text,
        "best_position": position,
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shard_tokens", [5, 17, 1000])
def test_the_table_says_of_every_feature_what_its_firings_are(tmp_path, seed, shard_tokens):
    made = adversarial(seed)
    table = made_index(tmp_path / "index", made, shard_tokens, positions=6).table()
    for feature in range(made.d_hidden):
        for name, expected in plain_row(made, feature).items():
            found = np.asarray(getattr(table, name))[feature]
            if name == "maximum":  # of values of one magnitude, either sign
                found = abs(found)
            assert np.array_equal(found, expected), (feature, name)


def test_the_table_agrees_with_what_the_index_says_of_one_feature(index: FeatureIndex):
    table = index.table()
    texts, positions, _ = index.strongest_tokens(1)
    assert np.array_equal(table.best_text, texts[:, 0])
    assert np.array_equal(table.best_position, positions[:, 0])
    for feature in range(index.d_hidden):
        stats = index.stats(feature)
        assert (table.count[feature], table.n_texts[feature]) == (stats.count, stats.n_texts)
        assert table.density[feature] == stats.density and table.maximum[feature] == stats.maximum
        assert table.tokens[feature] == tuple(token for token, _ in stats.top_tokens[:5])


@pytest.mark.parametrize("pairs", [1, 40])
def test_what_is_made_does_not_depend_on_how_much_is_held_at_once(made, index, tmp_path, monkeypatch, pairs):
    monkeypatch.setattr(sweep, "PAIRS", pairs)
    again = made_index(tmp_path / "index", made)
    assert files_of(again.path) == files_of(index.path)


# -- format version 1 ---------------------------------------------------------------------------


def of_version_1(index: FeatureIndex, folder: Path) -> Path:
    """A copy of an index as format version 1 has it."""
    return without(index, folder, DERIVED, {"version": 1})


def without(index: FeatureIndex, folder: Path, names: Sequence[str], said: Mapping[str, Any]) -> Path:
    """A copy of an index that lacks some files."""
    shutil.copytree(index.path, folder)
    path = folder / "index.json"
    described = json.loads(path.read_text()) | said
    described.pop("digest")
    for name in names:
        del described["files"][name]
        (folder / name).unlink()
    path.write_text(json.dumps(sealed(described), indent=1))
    return folder


def test_an_index_of_version_1_is_completed_when_it_is_first_needed(index, tmp_path):
    folder = of_version_1(index, tmp_path / "old")
    before = files_of(folder)
    old = FeatureIndex.open(folder)
    assert old.examples(5) and files_of(folder) == before
    assert_same_table(old.table(), index.table())
    assert files_of(folder) == files_of(index.path)
    assert old.coactivation(5) == FeatureIndex.open(folder).coactivation(5) == index.coactivation(5)


def test_an_index_that_knows_no_places_of_tokens_is_completed(index, tmp_path):
    folder = without(index, tmp_path / "old", [PLACES], {})
    old = FeatureIndex.open(folder)
    assert old._derived.places.starts([1, 2]).tolist() == index._derived.places.starts([1, 2]).tolist()
    assert read_meta(folder) == read_meta(index.path)
    assert all((folder / name).read_bytes() == (index.path / name).read_bytes() for name in DERIVED)


def test_an_index_of_version_1_that_can_only_be_read_is_completed_in_memory(index, tmp_path, monkeypatch):
    folder = of_version_1(index, tmp_path / "old")
    before = files_of(folder)

    def full(_handle):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("mlxterp.core.files.os.fsync", full)
    old = FeatureIndex.open(folder)
    with pytest.warns(MlxterpWarning, match="kept in memory"):
        assert_same_table(old.table(), index.table())
    assert old.coactivation(5) == index.coactivation(5)
    assert files_of(folder) == before


@pytest.mark.parametrize("at", range(5))
def test_an_index_that_was_not_completed_can_be_asked_again(index, tmp_path, monkeypatch, at):
    from mlxterp.index import files

    folder, left = of_version_1(index, tmp_path / "old"), [at]

    def write(path, parts):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        files.write_atomically(path, parts)

    with monkeypatch.context() as patch:
        for module in ("folder", "summary"):
            patch.setattr(f"mlxterp.index.{module}.write_atomically", write)
        with pytest.raises(KeyboardInterrupt):
            FeatureIndex.open(folder).table()
    assert_same_table(FeatureIndex.open(folder).table(), index.table())
    assert files_of(folder) == files_of(index.path)


def test_parts_of_version_1_are_merged_into_version_2(made, index, tmp_path):
    half = Made(made.tokens[:6], made.activations[:6])
    rest = Made(made.tokens[6:], made.activations[6:])
    old = of_version_1(made_index(tmp_path / "half", half), tmp_path / "old")
    merged = FeatureIndex.merge([old, made_index(tmp_path / "rest", rest)], tmp_path / "merged")
    assert_same_table(merged.table(), index.table())
    assert all((merged.path / name).is_file() for name in DERIVED)


@pytest.mark.parametrize("name", DERIVED)
def test_damage_is_told(index, tmp_path, name):
    folder = Path(shutil.copytree(index.path, tmp_path / "index"))
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    found = FeatureIndex.open(folder)
    with pytest.raises(Exception, match=name.replace(".", r"\.")):
        _ = (
            found.table(), found.features_for_token("w1"), [found.coactivation(f) for f in range(24)],
            [found._derived.places.of(token) for token in found._pieces],
        )  # fmt: skip


def assert_same_table(one: FeatureTable, other: FeatureTable) -> None:
    for name in ("count", "mean", "maximum", "n_texts", "top_tokens", "top_token_counts", "spark", "best_text",
                 "best_position"):  # fmt: skip
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert one.tokens == other.tokens and one.label == other.label


# -- the table as a value -----------------------------------------------------------------------


@pytest.mark.parametrize("by", ["count", "density", "mean", "maximum", "n_texts", "feature_id"])
@pytest.mark.parametrize("descending", [True, False])
def test_a_table_is_sorted_by_a_column_and_then_by_id(index: FeatureIndex, by, descending):
    table = index.table().sort(by, descending)
    sign = -1 if descending else 1
    expected = sorted(range(24), key=lambda f: (sign * float(getattr(index.table(), by)[f]), f))
    assert table.feature_id.tolist() == expected


def test_named_features_come_first_by_label(index: FeatureIndex):
    named = FeatureIndex.open(index.path)
    named.labels = {7: "zebra", 9: "ant", 3: "ant"}
    assert named.table().sort("label", descending=False).feature_id.tolist()[:4] == [3, 9, 7, 0]
    assert named.table().sort("label").feature_id.tolist()[:4] == [7, 3, 9, 0]
    assert named.table().label[7] == "zebra"


def test_rows_are_taken_and_found(index: FeatureIndex):
    table = index.table()
    frequent = table.take(table.n_texts > 3)
    assert frequent.feature_id.tolist() == np.flatnonzero(table.n_texts > 3).tolist()
    assert frequent.tokens == tuple(table.tokens[f] for f in frequent.feature_id)
    assert frequent.sort("count").find([2]).feature_id.tolist() == [2]
    assert len(table.take([])) == 0 and len(table.take(np.array([3, 1]))) == 2
    with pytest.raises(UnknownFeatureError):
        table.find(24)
    with pytest.raises(InputError, match="not in this table"):
        frequent.find(0)
    with pytest.raises(InputError, match="not in this table"):
        table.take([]).find(0)
    for rows in ([24], [True], [[1]], [0.5]):
        with pytest.raises(InputError):
            table.take(rows)
    with pytest.raises(InputError):
        table.sort("spark")
    with pytest.raises(InputError, match="decoder norms"):
        table.sort("decoder_norm")


def test_a_table_is_printed_and_given_to_pandas(index: FeatureIndex, tmp_path):
    table = index.table().sort("density")
    assert "feature  label" in str(table) and "' w" in str(table) and len(str(table).splitlines()) == 24
    frame = table.to_pandas()
    assert frame.index.name == "feature_id" and frame.index[0] == table.feature_id[0] == 2
    assert frame["top_tokens"].iloc[0] == table.tokens[0] and piece(0)[0] == " "
    assert table.to_html(tmp_path / "table.html").read_text().count("<tr>") == 21

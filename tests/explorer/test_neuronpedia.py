"""A folder for Neuronpedia: its importer would take in what the index says; what is wrong with others is found."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlxterp
from mlxterp import FeatureIndex, InputError, neuronpedia
from mlxterp.errors import FeatureIndexError
from tests.explorer.conftest import BALL, Shown
from tests.neuronpedia.serving import serving

WHEN = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture(scope="module")
def index(shown: Shown) -> FeatureIndex:
    """The index, with names of its own."""
    found = FeatureIndex.open(shown.index.path, shown.demo.model, shown.demo.sae)
    found.labels = {BALL: "ball", 571: 'park, "slides" \u202e'}
    return found


@pytest.fixture(scope="module")
def features(index: FeatureIndex) -> list[int]:
    """A few, among them the commonest and one that is never active."""
    count = np.asarray(index.summary.count)
    return [BALL, 571, int(count.argmax()), int(count.argmin())]


@pytest.fixture(scope="module")
def folder(index: FeatureIndex, features: list[int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of these features."""
    target = tmp_path_factory.mktemp("np") / "folder"
    return index.to_neuronpedia(
        target, "tinystories-llama", "res", features=features, vectors=True, created=WHEN, verbose=False
    )


def rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of a kind, as the importer takes them: columns of the first line only."""
    found = []
    for path in sorted((folder / "tinystories-llama" / "1-res" / kind).glob("*.gz")):
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
        columns = json.loads(lines[0]).keys()
        found += [{key: json.loads(line)[key] for key in columns} for line in lines]
    return found


def test_nothing_is_wrong_with_it(folder: Path, features: list[int]):
    found = neuronpedia.check(folder)
    assert found.ok, str(found)
    assert found.sources == ("tinystories-llama/1-res",) and found.rows["features"] == len(features)
    assert "nothing is wrong" in str(found) and "nothing is wrong" in repr(found)


def test_features_are_those_of_the_index(
    folder: Path, index: FeatureIndex, features: list[int], shown: Shown
):
    found = rows(folder, "features")
    assert [row["index"] for row in found] == [str(f) for f in features]
    for row, f in zip(found, features, strict=True):
        stats = index.stats(f)
        assert row["maxActApprox"] == pytest.approx(abs(stats.maximum), abs=1e-5)
        assert row["frac_nonzero"] == pytest.approx(stats.density, abs=1e-5)
        assert sum(row["freq_hist_data_bar_heights"]) == stats.count
        assert sum(row["logits_hist_data_bar_heights"]) == shown.demo.model.language_model.vocab_size
        assert row["topkCosSimIndices"] == [g for g, _ in index.similar(f, 10)]
        [logits] = shown.demo.model.feature_logits(shown.demo.sae, [f], 10)
        assert row["pos_str"] == [token for token, _ in logits.promoted]
        decoder = shown.demo.sae.W_dec[f]
        np.testing.assert_allclose(row["vector"], decoder, atol=1e-5)
        best = int(np.abs(decoder).argmax())
        assert row["neuron_alignment_indices"][0] == best
        assert row["neuron_alignment_l1"][0] == pytest.approx(
            abs(decoder[best]) / np.abs(decoder).sum(), abs=1e-5
        )


def test_activations_are_windows_of_the_index_in_bins(folder: Path, index: FeatureIndex):
    found = [row for row in rows(folder, "activations") if row["index"] == str(BALL)]
    top = [row for row in found if row["binMin"] == -1]
    assert [row["values"][row["qualifyingTokenIndex"]] for row in top] == [
        pytest.approx(example.activation, abs=1e-5) for example in index.examples(BALL, 20)
    ]
    binned = [row for row in found if row["binMin"] != -1]
    assert binned
    for row in binned:
        at = row["values"][row["qualifyingTokenIndex"]]
        assert row["binMin"] - 1e-5 <= at <= row["binMax"] + 1e-5 and 0 < row["binContains"] <= 1
        assert len(row["tokens"]) <= 64 and row["maxValue"] == max(row["values"])


def test_the_same_call_writes_the_same_bytes(
    folder: Path, index: FeatureIndex, features: list[int], tmp_path: Path
):
    again = index.to_neuronpedia(
        tmp_path / "again",
        "tinystories-llama",
        "res",
        features=features,
        vectors=True,
        created=WHEN,
        verbose=False,
    )
    for path in (one for one in folder.rglob("*") if one.is_file()):
        assert (again / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_labels_come_back_from_a_server_as_they_went_out(folder: Path):
    told = [
        {"modelId": row["modelId"], "layer": row["layer"], "index": row["index"], "description": row["description"],
         "typeName": row["typeName"], "explanationModelName": row["explanationModelName"]}
        for row in rows(folder, "explanations")
    ]  # fmt: skip
    with serving(lambda _: (200, {}, told)) as (url, _):
        found = neuronpedia.labels("tinystories-llama", "1-res", base_url=url, cache=False)
    assert {f: found.label(f) for f in found} == {BALL: "ball", 571: 'park, "slides" \u202e'}


def changed(line: int, **values: Any) -> Callable[[list[dict[str, Any]]], None]:
    def change(found: list[dict[str, Any]]) -> None:
        found[line].update(values)

    return change


def dropped(line: int, key: str) -> Callable[[list[dict[str, Any]]], None]:
    return lambda found: found[line].pop(key) and None


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("features", dropped(1, "neg_str"), "keys are others"),
        ("features", dropped(0, "neg_str"), "columns are missing: neg_str"),
        ("features", changed(0, surprise=1), "columns are unknown: surprise"),
        ("features", changed(0, index="x"), "no number of a feature"),
        ("features", changed(1, index=str(BALL)), "comes twice"),
        ("features", changed(0, modelId="other"), "lies in another folder"),
        ("features", changed(0, maxActApprox="12"), "maxActApprox is no number"),
        ("features", changed(0, frac_nonzero=0.123456789), "more than 5 decimals"),
        ("features", changed(0, frac_nonzero=2.0), "no share"),
        ("features", changed(0, pos_values=[1.0]), "pos_str has 10 entries"),
        ("features", changed(0, freq_hist_data_bar_values=[2.0, 1.0]), "do not ascend"),
        ("activations", changed(0, maxValueTokenIndex=0), "not those of the largest value"),
        ("activations", changed(0, tokens=["a"]), "1 tokens have"),
        ("activations", changed(0, id="c1"), "of the form"),
        ("activations", changed(0, index="99999"), "there is no feature 99999"),
        ("activations", changed(0, binMin=5.0, binMax=1.0), "binMin is not below binMax"),
        ("activations", changed(0, tokens=["a\x00"] * 3), "character 0"),
        ("explanations", changed(0, description=" "), "description is empty"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(
    folder: Path, tmp_path: Path, kind: str, change: Callable[[Any], None], said: str
):
    copy = shutil.copytree(folder, tmp_path / "copy")
    found = rows(copy, kind)
    change(found)
    path = copy / "tinystories-llama" / "1-res" / kind / "batch-0.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in found).encode()))
    problems = neuronpedia.check(copy).problems
    assert any(said in one.problem and one.line > 0 and kind in one.file for one in problems), problems
    assert said.split(":")[0] in str(neuronpedia.check(copy))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"no gzip", "cannot be read"), (gzip.compress(b'{"a": NaN}\n'), "NaN"), (gzip.compress(b"[1]\n"), "no object"),
        (gzip.compress(b"\xff\n"), "no JSON"), (gzip.compress(b'{"a": 1}\n')[:-4], "cannot be read"),
    ],
    ids=["no gzip", "NaN", "a list", "no JSON", "cut"],
)  # fmt: skip
def test_files_that_cannot_be_read_are_named(folder: Path, tmp_path: Path, data: bytes, said: str):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "tinystories-llama" / "1-res" / "features" / "batch-0.jsonl.gz").write_bytes(data)
    assert any(said in one.problem for one in neuronpedia.check(copy).problems)


def test_a_folder_without_a_source_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no source"):
        neuronpedia.check(tmp_path)
    with pytest.raises(InputError, match="no source"):
        neuronpedia.check(tmp_path / "missing")


def test_a_missing_description_of_the_source_is_found(folder: Path, tmp_path: Path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "tinystories-llama" / "1-res" / "source.jsonl").unlink()
    assert any("source.jsonl" in one.file for one in neuronpedia.check(copy).problems)


@pytest.mark.parametrize(
    ("model_id", "source_set", "options"),
    [("A b", "res", {}), ("..", "res", {}), ("m", "Res", {}), ("m", "a/b", {}), ("m", "res", {"n": 0}),
     ("m", "res", {"features": 5}), ("m", "res", {"bins": 0})],
)  # fmt: skip
def test_names_and_numbers_that_cannot_be_are_refused(
    index: FeatureIndex, tmp_path: Path, model_id: str, source_set: str, options: dict[str, Any]
):
    with pytest.raises(InputError):
        index.to_neuronpedia(tmp_path / "x", model_id, source_set, verbose=False, **options)
    assert not (tmp_path / "x").exists()


def test_an_index_without_its_model_and_a_folder_in_use_are_refused(
    index: FeatureIndex, tmp_path: Path, shown: Shown
):
    with pytest.raises(FeatureIndexError):
        FeatureIndex.open(shown.index.path).to_neuronpedia(tmp_path / "x", "m", "res")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="already"):
        index.to_neuronpedia(tmp_path, "m", "res", features=[BALL], verbose=False)
    assert mlxterp.neuronpedia is neuronpedia

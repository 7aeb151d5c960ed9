"""Names from dictionaries, tables and files; what is wrong is named with its line and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxterp import InputError, UnknownFeatureError
from mlxterp.concepts import Concept, Concepts

WIDTH = 10
CSV = "neuron_idx,concept_name,confidence\n0,family,0.9\n0,parents,0.8\n3,science,1\n"
NAMES = {0: [Concept("family", 0.9), Concept("parents", 0.8)], 3: [Concept("science", 1.0)]}


def loaded(concepts) -> dict[int, list[Concept]]:
    table = Concepts(WIDTH)
    table.load_concepts(concepts)
    return table.names


def of_file(path: Path, content: str | bytes) -> dict[int, list[Concept]]:
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return loaded(path)


def test_every_form_of_the_same_names_loads_the_same(tmp_path):
    nested = {
        0: [{"name": "family", "confidence": 0.9}, {"name": "parents", "score": 0.8}],
        3: [{"name": "science"}],
    }
    flat = [
        {"neuron_idx": 0, "concept_name": "family", "confidence": 0.9},
        {"neuron_idx": np.int32(0), "concept_name": "parents", "score": np.float64(0.8)},
        {"neuron_idx": "3", "concept_name": "science"},
    ]
    assert loaded(nested) == NAMES
    assert loaded({np.int64(0): nested[0], "3": ["science"]}) == NAMES
    assert loaded({3: "science", 0: (Concept("family", 0.9), Concept("parents", 0.8))}) == NAMES
    assert loaded(flat) == NAMES
    assert of_file(tmp_path / "a.csv", CSV) == NAMES
    assert loaded(str(tmp_path / "a.csv")) == NAMES
    assert of_file(tmp_path / "b.json", json.dumps(nested)) == NAMES
    flat[1]["neuron_idx"], flat[1]["score"] = 0, 0.8
    assert of_file(tmp_path / "c.JSON", json.dumps(flat)) == NAMES
    assert loaded(pd.read_csv(tmp_path / "a.csv")) == NAMES
    assert loaded(pd.read_csv(tmp_path / "a.csv").rename(columns={"confidence": "score"})) == NAMES


def test_the_guides_loop_over_a_data_frame_loads(tmp_path):
    (tmp_path / "curated.csv").write_text(CSV)
    concepts = {}
    row: Any
    for _, row in pd.read_csv(tmp_path / "curated.csv").iterrows():
        concepts.setdefault(int(row["neuron_idx"]), []).append(
            {"name": row["concept_name"], "confidence": float(row["confidence"])}
        )
    assert loaded(concepts) == NAMES


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + CSV,
        CSV.replace("\n", "\r\n"),
        CSV.replace("\n", "\n\n") + "\n,,\n",
        CSV.replace("confidence", "score"),
        CSV.replace("3,science,1", ' 3,"science", 1.0 '),
        CSV.replace("3,science,1", "3,science,"),
        CSV.replace("neuron_idx", " Neuron_idx ").replace("concept_name", "CONCEPT_NAME"),
        "concept_name, confidence ,neuron_idx\nfamily,0.9,0\nparents,0.8,0\nscience,1e0,3\n",
    ],
)
def test_what_spreadsheets_do_to_a_table_does_no_harm(tmp_path, content):
    assert of_file(tmp_path / "a.csv", content) == NAMES


def test_a_table_without_confidences_is_sure_of_its_names(tmp_path):
    assert of_file(tmp_path / "a.csv", "neuron_idx,concept_name\n5,dogs\n") == {5: [Concept("dogs", 1.0)]}


HEAD = "neuron_idx,concept_name,confidence\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "the file is empty"),
        (" \n\n", "the file is empty"),
        (HEAD, "it holds no concepts"),
        ("neuron_idx,name,confidence\n0,a,1\n", "line 1: unknown column 'name'; expected neuron_idx,"),
        ("neuron_idx,Neuron_idx,concept_name\n0,0,a\n", "line 1: a column comes twice"),
        ("neuron_idx,concept_name, Note\n0,a,b\n", "line 1: unknown column 'Note'"),
        (",neuron_idx,concept_name\n0,0,a\n", r"index=False"),
        ("neuron_idx,confidence\n0,1\n", "line 1: there is no column concept_name"),
        ("concept_name\na\n", "line 1: there is no column neuron_idx"),
        ("neuron_idx,neuron_idx,concept_name\n0,0,a\n", "line 1: a column comes twice"),
        ("neuron_idx,concept_name,score,confidence\n0,a,1,1\n", "line 2: there are both"),
        (
            "neuron_idx;concept_name;confidence\n0;a;0,9\n",
            "separated by semicolons. Save the table with commas",
        ),
        ("neuron_idx\tconcept_name\n0\ta\n", "separated by tabs"),
        (HEAD + "0,a,1\n\nx,b,1\n", "line 4: 'x' is no feature"),
        (HEAD + '0,"two\nlines",1\n1.5,b,1\n', "line 4: '1.5' is no feature"),
        (HEAD + ",b,1\n", "line 2: '' is no feature"),
        (HEAD + "0,a,high\n", "line 2: the confidence is 'high'"),
        (HEAD + '0,a,"0,9"\n', "line 2: the confidence is '0,9'.* with a point"),
        (HEAD + "0,a,1_0\n", "line 2: the confidence is '1_0'"),
        (
            HEAD + "0,a,nan\n",
            "line 2: the confidence is nan; it must be a finite number, at least 0 and at most 1",
        ),
        (HEAD + "0,a,inf\n", "line 2: the confidence is inf"),
        (HEAD + "0,a,1.1\n", "line 2: the confidence is 1.1"),
        (HEAD + "0,a,-0.1\n", "line 2: the confidence is -0.1"),
        (HEAD + "0,a,1\n1, ,1\n", "line 3: the name is empty"),
        (HEAD + "0,a,1\n0,b,1\n0,a,0.5\n", r"line 4: feature 0 is named 'a' already \(line 2\)"),
        (HEAD + "0,dogs, cats,1\n", "line 2: 4 cells under 3 columns.*quotes"),
        (HEAD + "0,a\n", "line 2: 2 cells under 3 columns"),
        (HEAD + '0,a,1\n1,"b,1\n2,c,1\n', "line 3: this is no row of a CSV file"),
        (HEAD.encode() + "0,Bär,1\n".encode("latin-1"), "byte 38 is not UTF-8. Save the file as UTF-8"),
        ("\ufeff".encode() + HEAD.encode() + b"0,\xff,1\n", "byte 40 is not UTF-8"),
        (HEAD.encode("utf-16"), "byte 0 is not UTF-8"),
    ],
)
def test_a_table_that_is_wrong_names_its_line_and_changes_nothing(tmp_path, content, expected):
    table = Concepts(WIDTH)
    table.load_concepts(NAMES)
    path = tmp_path / "wrong.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError, match=r"wrong.csv: .*" + expected):
        table.load_concepts(path)
    assert table.names == NAMES


@pytest.mark.parametrize("feature", ["10", "-1", "999999999999999999"])
def test_a_feature_that_the_sae_lacks_is_named_with_its_line(tmp_path, feature):
    path = tmp_path / "wrong.csv"
    path.write_text(f"{HEAD}0,a,1\n{feature},b,1\n")
    with pytest.raises(
        UnknownFeatureError, match=rf"wrong.csv: line 3: No feature {feature}: this SAE has 10"
    ):
        loaded(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "the file is empty"),
        ("{}", "it holds no concepts"),
        ("[]", "it holds no concepts"),
        ("7", "expected {feature: names} or a list of rows"),
        ('{"0": [{"name": "a"}\n', "it is no JSON of concepts.*line 2"),
        ('{"0": "a", "0": "b"}', "the key '0' comes twice"),
        ('{"0": [{"name": "a", "confidence": NaN}]}', "NaN is not a number that JSON knows"),
        ('{"0": [{"name": "a", "confidence": 1e999}]}', "feature 0, name 1: the confidence is inf"),
        ('{"0": [{"name": "a", "confidence": "0.5"}]}', "feature 0, name 1: the confidence is '0.5'"),
        ('{"0": [{"name": "a", "confidence": true}]}', "the confidence is True"),
        ('{"0": [{"name": "a", "confidence": null}]}', "the confidence is None"),
        ('{"0": [{"name": "a", "why": "b"}]}', "feature 0, name 1: 'why' is unknown"),
        ('{"0": [{"confidence": 1}]}', "feature 0, name 1: expected {'name'"),
        ('{"0": ["a", "a"]}', r"feature 0, name 2: feature 0 is named 'a' already \(feature 0, name 1\)"),
        ('{"0": 5}', "feature 0: expected a name or a list of names, got 5"),
        ('{"0": [["a", 1]]}', "feature 0, name 1: expected"),
        ('{"0": ["\\ud800"]}', "half of a character"),
        ('{"x": "a"}', "'x' is no feature"),
        ('[{"neuron_idx": 0, "concept_name": "a"}, 5]', "row 1, counted from 0: expected"),
        ('[{"neuron_idx": 0}]', "row 0, counted from 0: concept_name is missing"),
        ('[{"neuron_idx": true, "concept_name": "a"}]', "True is no feature"),
        ("[" * 100_000, "it is no JSON of concepts"),
    ],
)
def test_json_that_is_wrong_says_where_and_changes_nothing(tmp_path, content, expected):
    table = Concepts(WIDTH)
    table.load_concepts(NAMES)
    path = tmp_path / "wrong.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"wrong.json: .*" + expected):
        table.load_concepts(path)
    assert table.names == NAMES


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (5, "Expected {feature: "),
        (b"a.csv", "Expected {feature: "),
        ({1: "a", "1": "b"}, "Feature 1 comes twice, as 1 and as '1'"),
        ({1.0: "a"}, "1.0 is no feature"),
        ({True: "a"}, "True is no feature"),
        ({0: ""}, "the name is empty"),
        ({0: [{"name": float("nan")}]}, "the name is nan; expected text"),
        ({0: [{"name": "a", "score": 1, "confidence": 1}]}, "both a confidence and a score"),
        ("there/is/none.csv", "cannot be read"),
        ("names.xlsx", "neither a .csv nor a .json file"),
        (pd.DataFrame({"neuron_idx": [0]}), "no column concept_name"),
        (pd.DataFrame({"neuron_idx": [], "concept_name": []}), "has no rows"),
        (
            pd.DataFrame({"neuron_idx": [0, None], "concept_name": ["a", "b"]}),
            "row 0, counted from 0: 0.0 is no",
        ),
        (
            pd.DataFrame({"neuron_idx": [0, 1], "concept_name": ["a", "b"], "confidence": [1, None]}),
            "row 1, counted from 0: the confidence is nan",
        ),
        (pd.DataFrame({"neuron_idx": [0], "concept_name": ["a"], "x": [1]}), "'x' is unknown"),
    ],
)
def test_what_holds_no_names_is_refused(given, expected):
    with pytest.raises(InputError, match=expected):
        loaded(given)


def test_a_feature_is_called_by_its_most_confident_name():
    table = Concepts(WIDTH)
    assert table.names == {} and table.name_of(0) is None
    table.load_concepts({2: [{"name": "a", "confidence": 0.2}, {"name": "b"}, {"name": "c"}], 1: "d"})
    assert [table.name_of(feature) for feature in range(4)] == [None, "d", "b", None]
    assert list(table.names) == [1, 2]
    with pytest.raises(UnknownFeatureError):
        table.name_of(WIDTH)


def test_loading_replaces_all_names_and_what_is_given_out_is_a_copy():
    table = Concepts(WIDTH)
    table.load_concepts({2: "a"})
    table.names[2].append(Concept("b"))
    assert table.names == {2: [Concept("a")]}
    table.load_concepts({3: "c"})
    assert table.names == {3: [Concept("c")]}
    table.load_concepts({})
    assert table.names == {}


@given(st.binary(max_size=80), st.sampled_from(["csv", "json"]))
def test_no_file_does_worse_than_an_input_error(tmp_path_factory, content, kind):
    path = tmp_path_factory.getbasetemp() / f"any.{kind}"
    for data in (content, HEAD.encode() + content):
        path.write_bytes(data)
        try:
            loaded(path)
        except (InputError, UnknownFeatureError) as error:
            assert str(path) in str(error)


def test_thousands_of_rows_load(tmp_path):
    rows = [f"{i % 5000},name {i},0.5" for i in range(50_000)]
    path = tmp_path / "many.csv"
    path.write_text(HEAD + "\n".join(rows))
    table = Concepts(5000)
    table.load_concepts(path)
    assert sum(map(len, table.names.values())) == 50_000 and table.names[7][1] == Concept("name 5007", 0.5)

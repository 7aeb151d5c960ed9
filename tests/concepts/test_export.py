"""Files of names and top texts: reading them back loses nothing."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxterp import InputError, SparseFeatures
from mlxterp.concepts import Concept, Concepts
from mlxterp.core.csv_cells import text_of_cell

WIDTH = 10
TEXT = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from(",\"\r\n;=+-@＝\t'\ufeff\x00\x1b⟨⟩ "),
    max_size=12,
)
NAMES = st.dictionaries(
    st.integers(0, WIDTH - 1),
    st.lists(
        st.builds(Concept, TEXT.filter(str.strip), st.floats(0, 1)), min_size=1, max_size=3, unique_by=lambda c: c.name
    ),
    min_size=1,
)  # fmt: skip
TEXTS = st.lists(st.tuples(TEXT, st.lists(st.floats(-8, 8, width=32), min_size=3, max_size=3)), min_size=1)


def of_names(names) -> Concepts:
    concepts = Concepts(WIDTH)
    concepts.load_concepts(names)
    return concepts


def of_texts(rows) -> Concepts:
    concepts = Concepts(3)
    concepts.enable_text_tracking(5)
    concepts.record(
        [text for text, _ in rows], SparseFeatures.from_dense(np.array([values for _, values in rows]))
    )
    return concepts


@given(NAMES)
def test_names_come_back_from_every_file_as_they_were(tmp_path_factory, names):
    folder, concepts = tmp_path_factory.getbasetemp(), of_names(names)
    for path in (
        concepts.export_csv(folder / "names.csv"),
        concepts.export_json(folder / "names.json"),
        concepts.export_flat_json(folder / "flat.json", "concepts"),
    ):
        assert of_names(path).names == concepts.names == {f: names[f] for f in sorted(names)}


@given(TEXTS)
def test_texts_come_back_from_every_file_as_they_were(tmp_path_factory, rows):
    folder, concepts = tmp_path_factory.getbasetemp(), of_texts(rows)
    expected = [(f, text, value) for f, pairs in concepts.get_top_texts().items() for text, value in pairs]
    nested = json.loads(concepts.export_json(folder / "texts.json").read_bytes())
    assert [(int(f), text, value) for f, pairs in nested.items() for text, value in pairs] == expected
    flat = json.loads(concepts.export_flat_json(folder / "flat.json").read_bytes())
    assert [(row["neuron"], row["text"], row["activation"]) for row in flat] == expected
    with open(concepts.export_csv(folder / "texts.csv"), newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    assert header == ["neuron_idx", "text", "activation"]
    assert [(int(f), text_of_cell(text), float(value)) for f, text, value in lines] == expected


@given(NAMES)
def test_names_come_back_from_a_data_frame_of_the_csv_file(tmp_path_factory, names):
    concepts = of_names(names)
    path = concepts.export_csv(tmp_path_factory.getbasetemp() / "names.csv")
    frame = pd.read_csv(path, keep_default_na=False, dtype={"concept_name": str})
    assert of_names(frame).names == concepts.names


def test_no_cell_of_names_or_texts_begins_a_formula(tmp_path):
    concepts = of_texts([("=cmd|' /C calc'!A0", [0, -1.5, 0]), ("\t@SUM(1)", [2, 0, 0])])
    concepts.load_concepts({1: "+1", 2: "＝A1"})
    names = (concepts.export_csv(tmp_path / "a.csv")).read_text("utf-8").splitlines()
    assert names[1:] == ["1,'+1,1.0", "2,'＝A1,1.0"]
    texts = (concepts.export_csv(tmp_path / "a.csv", "texts")).read_text("utf-8").splitlines()
    assert texts[1:] == ["0,'\t@SUM(1),2.0", "1,'=cmd|' /C calc'!A0,-1.5"]


def test_the_files_have_the_forms_that_are_documented(tmp_path):
    concepts = of_names({2: [{"name": "Bären, =1+1", "confidence": 0.1}]})
    assert json.loads(concepts.export_json(tmp_path / "a").read_text("utf-8")) == {
        "2": [{"name": "Bären, =1+1", "confidence": 0.1}]
    }
    assert json.loads(concepts.export_flat_json(tmp_path / "a").read_text("utf-8")) == [
        {"neuron_idx": 2, "concept_name": "Bären, =1+1", "confidence": 0.1}
    ]
    assert concepts.export_csv(tmp_path / "a").read_bytes().decode() == (
        'neuron_idx,concept_name,confidence\r\n2,"Bären, =1+1",0.1\r\n'
    )
    assert "Bären" in concepts.export_json(tmp_path / "a").read_text("utf-8")
    texts = of_texts([("a", [0, 1.5, 0])])
    assert json.loads(texts.export_json(tmp_path / "a").read_text()) == {"1": [["a", 1.5]]}
    assert json.loads(texts.export_flat_json(tmp_path / "a").read_text()) == [
        {"neuron": 1, "text": "a", "activation": 1.5}
    ]


def test_names_are_written_where_there_are_some_and_else_texts(tmp_path):
    concepts = of_texts([("a", [0, 1.5, 0])])
    assert "activation" in concepts.export_csv(tmp_path / "a.csv").read_text()
    concepts.load_concepts({1: "b"})
    assert "confidence" in concepts.export_csv(tmp_path / "a.csv").read_text()
    assert "activation" in concepts.export_csv(tmp_path / "a.csv", "texts").read_text()


def test_where_there_is_nothing_to_write_the_error_says_what_to_call(tmp_path):
    concepts, path = Concepts(WIDTH), tmp_path / "a.json"
    with pytest.raises(
        InputError, match=r"enable_text_tracking\(top_k=10\) and run the model .*load_concepts"
    ):
        concepts.export_json(path)
    with pytest.raises(InputError, match=r"load_concepts\(…\) first"):
        concepts.export_flat_json(path, "concepts")
    with pytest.raises(InputError, match="enable_text_tracking"):
        concepts.export_csv(path, "texts")
    with pytest.raises(InputError, match="what is 'names'; expected 'concepts' or 'texts'"):
        concepts.export_csv(path, "names")  # pyright: ignore[reportArgumentType]
    assert not path.exists()


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "a.json"
    concepts = of_names({1: "b"})
    assert concepts.export_json(str(path)) == path
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"not written: .*half of a character"):
        of_texts([("half \ud83d", [1, 0, 0])]).export_csv(path)

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="cannot be written: No space left"):
        of_names({1: "c"}).export_json(path)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["a.json"]
    with pytest.raises(InputError, match="cannot be written"):
        concepts.export_json(path / "below a file.json")
    monkeypatch.undo()
    with pytest.raises(InputError, match="cannot be written"):
        concepts.export_json(tmp_path / "deep")


def test_others_may_read_the_file(tmp_path):
    path = of_names({1: "b"}).export_csv(Path(tmp_path) / "a.csv")
    assert path.stat().st_mode & 0o777 == 0o644

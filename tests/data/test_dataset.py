"""Texts come from lists, files and data sets of the hub."""

from __future__ import annotations

import pytest

from mlxterp import BackendError, HuggingFaceDataset, InputError
from mlxterp.data.dataset import ListedTexts, StreamedTexts, open_texts


def texts_of(dataset) -> list[str]:
    opened = open_texts(dataset)
    return [opened[i] for i in range(len(opened))] if isinstance(opened, ListedTexts) else list(opened)


def test_a_list_of_texts_is_taken_as_it_is():
    assert texts_of(["one", "two"]) == ["one", "two"]


def test_a_text_file_is_split_at_end_of_text_marks_else_at_empty_lines(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("One\n\nand more.<|endoftext|>\nTwo.\n<|endoftext|>\n")
    assert texts_of(path) == texts_of(str(path)) == ["One\n\nand more.", "Two."]
    path.write_text("One\nline.\n\nTwo.\n\n\n")
    assert texts_of(path) == ["One\nline.", "Two."]


def test_a_table_is_read_by_its_text_column():
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"text": ["a", "b"], "label": ["x", "y"]})
    assert texts_of(table) == ["a", "b"]
    only = datasets.Dataset.from_dict({"story": ["a", "b"], "number": [1, 2]})
    assert texts_of(only) == ["a", "b"]
    with pytest.raises(InputError, match=r"Which column .* There are: story, title"):
        open_texts(datasets.Dataset.from_dict({"story": ["a"], "title": ["b"]}))
    with pytest.raises(InputError, match="no rows"):
        open_texts(datasets.Dataset.from_dict({"text": []}))


def test_a_stream_can_be_read_twice():
    datasets = pytest.importorskip("datasets")
    stream = datasets.Dataset.from_dict({"text": ["a", "b"]}).to_iterable_dataset()
    opened = open_texts(stream)
    assert isinstance(opened, StreamedTexts)
    assert list(opened) == list(opened) == ["a", "b"]


def test_a_row_without_text_is_named():
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"text": ["a", None]})
    with pytest.raises(InputError, match="Row 1 of the data set has no text in 'text'"):
        texts_of(table)


def test_a_data_set_of_the_hub_is_loaded_when_it_is_used(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "rows.csv"
    path.write_text("story\nOne\nTwo\n")
    asked = []

    def load(name, config, split, streaming):
        asked.append((name, config, split, streaming))
        return datasets.Dataset.from_csv(str(path), cache_dir=str(tmp_path))

    monkeypatch.setattr(datasets, "load_dataset", load)
    wanted = HuggingFaceDataset("someone/stories", split="validation", text_field="story", config="raw")
    assert not asked
    assert texts_of(wanted) == ["One", "Two"]
    assert asked == [("someone/stories", "raw", "validation", False)]
    with pytest.raises(InputError, match=r"no column 'text'. It has: story"):
        open_texts(HuggingFaceDataset("someone/stories"))


def test_a_data_set_that_cannot_be_loaded_is_named(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def load(*_args, **_settings):
        raise FileNotFoundError("no such data set")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(InputError, match=r"'nobody/nothing' .* cannot be loaded: no such data set"):
        open_texts(HuggingFaceDataset("nobody/nothing"))


def test_without_datasets_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BackendError, match=r"mlxterp\[datasets\]"):
        open_texts(HuggingFaceDataset("wikitext"))


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ([], "empty list"),
        ("a text that is no file", r"Put a single text into a list"),
        ([1, 2], "not a string"),
        (7, "Expected a list of texts"),
        ((text for text in []), "empty list"),
        ({"a": "one text"}, r"list\(texts.values\(\)\)"),
        ({"one", "two"}, "has no order"),
        (["one", None], r"Text 1 is NoneType .*an empty cell"),
    ],
)
def test_what_holds_no_texts_is_refused(dataset, message):
    with pytest.raises(InputError, match=message):
        open_texts(dataset)


def test_files_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(InputError, match="holds no text"):
        open_texts(tmp_path / "empty.txt")
    with pytest.raises(InputError, match="cannot be read as a text file"):
        open_texts(tmp_path / "binary.txt")
    with pytest.raises(InputError, match="cannot be read as a text file"):
        open_texts(tmp_path / "missing.txt")

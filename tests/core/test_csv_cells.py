"""What a spreadsheet or a terminal would act on is harmless in a CSV file, and comes back as it was."""

from __future__ import annotations

import csv
import io
import re
import unicodedata

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxterp.core.csv_cells import cell_of_text, csv_of, text_of_cell

TEXT = st.text(
    st.characters(exclude_categories=["Cs"])
    | st.sampled_from("=+-@\t\r\n＝＋－＠﹦'\"⟨⟩0127AEF8,; \x00\x1b\x7f\x9b\ufeff\u200b"),
    max_size=16,
)


@given(TEXT)
def test_a_text_comes_back_from_its_cell(text):
    assert text_of_cell(cell_of_text(text)) == text


@given(TEXT)
def test_a_cell_begins_no_formula_and_holds_no_control_character(text):
    cell = cell_of_text(text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", cell)
    seen = "".join(c for c in cell if unicodedata.category(c) not in ("Cf", "Zs", "Cc"))
    assert unicodedata.normalize("NFKC", seen[:1]) not in ("=", "+", "-", "@")
    assert cell[:1] not in ("\t", "\n", "\r")


@given(
    st.lists(st.lists(TEXT | st.floats(allow_nan=False) | st.integers(), min_size=2, max_size=4), min_size=1)
)
def test_rows_come_back_and_numbers_stay_numbers(rows):
    found = list(csv.reader(io.StringIO(csv_of(rows), newline="")))
    assert len(found) == len(rows)
    for given_row, row in zip(rows, found, strict=True):
        for value, cell in zip(given_row, row, strict=True):
            assert (text_of_cell(cell) if isinstance(value, str) else type(value)(cell)) == value


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("＝SUM(A1)", "'＝SUM(A1)"),
        (" @here", "' @here"),
        ("\ufeff-2", "'\ufeff-2"),
        ("\trow", "'\trow"),
        ("\rrow", "⟨0D⟩row"),
        ("'=1", "''=1"),
        ("'tis", "'tis"),
        ("a = b", "a = b"),
        ("red \x1b[31m", "red ⟨1B⟩[31m"),
        ("⟨1B⟩", "⟨27E8⟩1B⟩"),
        ("⟨x⟩ ⟨200B⟩", "⟨x⟩ ⟨27E8⟩200B⟩"),
    ],
)
def test_cells_are_as_documented(text, cell):
    assert cell_of_text(text) == cell
    assert text_of_cell(cell) == text


@pytest.mark.parametrize("cell", ["'tis", "⟨70⟩", "⟨0A⟩", "⟨1b⟩", "'", "⟨", "'x=1"])
def test_what_another_program_wrote_stays_as_it_is(cell):
    assert text_of_cell(cell) == cell


def test_pandas_reads_negative_numbers_as_numbers():
    frame = pd.read_csv(io.StringIO(csv_of([("text", "activation"), ("-1", -3.5), ("+x", 1e-7)])))
    assert frame["activation"].tolist() == [-3.5, 1e-7] and frame["text"].tolist() == ["'-1", "'+x"]

"""The grid of the logit lens and of patching: every token is there, whole, and can be seen."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from mlxterp.viz.escaping import token_line
from mlxterp.viz.grid import Cell, Grid
from tests.viz.reading import Reader

TOKENS = st.text("abé中😀-", min_size=1, max_size=140) | st.text(" \n\t\u00a0", min_size=1, max_size=8)


def grid(tokens: list[str]) -> Grid:
    return Grid("layer", [(str(i), t) for i, t in enumerate(tokens)], [("0", [Cell(t) for t in tokens])])


@given(st.lists(TOKENS, min_size=1, max_size=12))
def test_no_token_is_cut_or_empty(tokens):
    rows = [line.split() for line in grid(tokens).lines() if line.startswith("0")]
    assert [cell for row in rows for cell in row[1:]] == [token_line(token) for token in tokens]


@given(st.lists(st.text("ab ", min_size=1, max_size=30), min_size=1, max_size=30))
def test_lines_fit_where_every_token_does(tokens):
    assert all(cell_len(line) <= 100 for line in grid(tokens).lines())


def test_white_space_is_written_with_marks():
    tokens = [" ", "   ", "\n", "\n\n", "\t", "\u00a0", " the", "a"]
    marks = ["·", "···", "↵", "↵↵", "⇥", "⟨A0⟩"]
    assert grid(tokens).lines()[1].split() == ["0", *marks, "the", "a"]
    assert grid(tokens).lines()[0].split()[2::2] == [*marks, "the", "a"]
    read = Reader(grid(tokens).html())
    assert read.of_tag("td") == [*marks, " the", "a"]


def test_a_column_wider_than_the_line_stands_alone_or_with_what_fits_behind_it():
    lines = grid(["x" * 150, "y", "z" * 90]).lines()
    assert (
        len(lines) == 5 and "x" * 150 in lines[1] and lines[1].endswith(" y") and lines[4].endswith("z" * 90)
    )

"""Figures, and where they are shown."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from mlxterp.viz.plotting import heatmap, new_figure, write_figure


def test_a_notebook_shows_a_figure_that_pyplot_does_not_know():
    pytest.importorskip("matplotlib")
    figure = new_figure(2, 1)
    figure.subplots().plot([0, 1])
    assert figure._repr_png_().startswith(b"\x89PNG")  # pyright: ignore[reportAttributeAccessIssue]


def _widths(names: list[str], texts: list[str]) -> tuple[float, np.ndarray]:
    figure = heatmap(np.zeros((2, len(names))), ["0", "1"], names, limits=(0, 1), label="", texts=[texts] * 2)
    edges = figure.axes[0].collections[0].get_coordinates()[0, :, 0]  # pyright: ignore
    return figure.get_figwidth(), np.diff(edges)


def test_a_column_of_a_heatmap_is_as_wide_as_its_longest_text():
    pytest.importorskip("matplotlib")
    width, columns = _widths(["0 a", "1 b", "2 c"], ["a", "a long prediction", "b"])
    assert columns[0] == pytest.approx(columns[2]) and columns[0] < columns[1] and columns[1] > 17 * 0.06
    assert width > columns.sum()
    assert _widths(["0 a"] * 30, ["x"] * 30)[0] < _widths(["0 a"] * 30, ["longer than x"] * 30)[0] / 2


def test_names_under_a_heatmap_are_turned_only_where_they_are_long():
    pytest.importorskip("matplotlib")
    for names, turned in ((["0", "1"], 0), (["0 <|endoftext|>", "1"], 60)):
        axes = heatmap(np.zeros((1, 2)), ["0"], names, limits=(-1, 1), label="").axes[0]
        assert {label.get_rotation() for label in axes.get_xticklabels()} == {turned}


def test_letters_that_the_font_lacks_do_not_warn(tmp_path):
    pytest.importorskip("matplotlib")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = heatmap(np.zeros((1, 1)), ["0"], ["0 \u65e5"], limits=(0, 1), label="")
        write_figure(figure, tmp_path / "figure.png")
        assert figure._repr_png_()  # pyright: ignore[reportAttributeAccessIssue]


def test_a_title_has_room():
    pytest.importorskip("matplotlib")
    figure = heatmap(np.zeros((1, 1)), ["0"], ["0"], limits=(0, 1), label="", title="a long title " * 6)
    figure.draw_without_rendering()
    box = figure._suptitle.get_window_extent()  # pyright: ignore
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1

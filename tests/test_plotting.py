"""Figures, and where they are shown."""

from __future__ import annotations

import pytest

from mlxterp.plotting import new_figure


def test_a_notebook_shows_a_figure_that_pyplot_does_not_know():
    pytest.importorskip("matplotlib")
    figure = new_figure(2, 1)
    figure.subplots().plot([0, 1])
    assert figure._repr_png_().startswith(b"\x89PNG")  # pyright: ignore[reportAttributeAccessIssue]

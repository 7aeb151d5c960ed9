"""`PatchingResult`: its numbers, and how it shows itself."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from mlxterp import BackendError, InputError
from mlxterp.patching import PatchingResult
from tests.viz.reading import HOSTILE, assert_offline


def result(by: str = "position", **changes) -> PatchingResult:
    """Two layers by two places; clean is 3, corrupted is 1."""
    columns = () if by == "layer" else (4, 5)
    raw = np.array([3.0, 1.0]) if by == "layer" else np.array([[3.0, 1.0], [2.0, 0.0]])
    values = {
        "component": "mlp", "layers": (0, 7), "by": by, "columns": columns, "raw": raw, "clean": 3.0, "corrupted": 1.0,
        "metric": "l2", "method": "activation patching", "tokens": (" cat", " dog") if by == "position" else (),
    }  # fmt: skip
    return PatchingResult(**(values | changes))


def test_effects_are_shares_of_the_way_to_the_clean_run():
    assert result().effects.tolist() == [[1.0, 0.0], [0.5, -0.5]]
    assert result(raw=np.array([[1.0, 1.0], [1.0, 1.0]]), clean=1.0).effects.shape == (2, 2)
    assert np.isnan(result(clean=1.0).effects).all()


def test_the_table_has_a_row_for_each_place():
    rows = result().table
    assert rows[1] == {"layer": 0, "position": 5, "token": " dog", "effect": 0.0, "raw": 1.0}
    assert result("layer").table[0] == {"layer": 0, "effect": 1.0, "raw": 3.0}
    assert [list(row)[:2] for row in result("head").table] == [["layer", "head"]] * 4


def test_the_largest_effects_come_first_whatever_their_sign():
    assert result().top_components(3) == [(0, 4, 1.0), (7, 4, 0.5), (7, 5, -0.5)]
    assert result("layer").top_components() == [(0, 1.0), (7, 0.0)]


def test_it_prints_as_a_table_with_the_last_layer_on_top():
    lines = str(result()).splitlines()
    assert lines[0] == "Activation patching of mlp, by position"
    assert lines[1].split() == ["layer", "4", "cat", "5", "dog"]
    assert lines[2].split() == ["7", "+0.50", "-0.50"] and lines[3].split() == ["0", "+1.00", "+0.00"]
    assert "corrupted run (1)" in lines[-1] and "l2" in lines[-1]
    wide = str(result(columns=tuple(range(40)), raw=np.ones((2, 40)), tokens=(" token",) * 40))
    assert all(len(line) <= 100 for line in wide.splitlines()) and "39 token" in wide


def test_html_is_offline_and_escaped(tmp_path):
    hostile = result(tokens=(HOSTILE, "$x$"), metric=HOSTILE, component=HOSTILE)
    read = assert_offline(hostile._repr_html_())
    assert "alert(1)" in read.everything and not any(tag == "script" for tag, _ in read.elements)
    path = hostile.to_html(tmp_path / "patching.html")
    page = assert_offline(path.read_text(encoding="utf-8"))
    assert [text for text in page.of_tag("mark") if text] == ["+0.50", "-0.50", "+1.00"]
    with pytest.raises(InputError, match="no folder"):
        hostile.to_html(tmp_path / "nowhere" / "patching.html")


@pytest.mark.parametrize("by", ["layer", "position", "head"])
def test_a_plot_is_written(tmp_path, by, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    changes = {"tokens": (" $x$", "\n")} if by == "position" else {}
    result(by, **changes).plot(tmp_path / "patching.png")
    assert (tmp_path / "patching.png").read_bytes().startswith(b"\x89PNG")
    assert "matplotlib.pyplot" not in sys.modules


def test_layers_with_fewer_heads_stay_empty(tmp_path):
    pytest.importorskip("matplotlib")
    ragged = result("head", raw=np.array([[3.0, 1.0], [2.0, np.nan]]))
    assert ragged.top_components() == [(0, 4, 1.0), (7, 4, 0.5), (0, 5, 0.0)]
    assert str(ragged).splitlines()[2].split() == ["7", "+0.50"]
    ragged.plot(tmp_path / "ragged.svg")
    assert_offline(ragged._repr_html_())


def test_runs_that_agree_can_still_be_shown(tmp_path):
    pytest.importorskip("matplotlib")
    same = result(clean=1.0)
    assert "+nan" in str(same)
    same.plot(tmp_path / "same.png")
    assert_offline(same._repr_html_())


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(BackendError, match=r"mlxterp\[plot\]"):
        result().plot()


def test_a_window_is_opened_where_it_is_asked_for(monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = []
    monkeypatch.setattr(pyplot, "show", lambda: shown.append(pyplot.get_fignums()))
    figure = result().plot(show=True)
    pyplot.close(figure)
    assert len(shown) == 1 and len(shown[0]) == 1


def test_rounding_gets_no_colour_and_what_is_small_but_real_does():
    noise = result(raw=np.array([[1.0 + 1e-6, 1.0], [1.0, 1.0 - 2e-6]]))
    assert [cell.step for _, row in noise._grid().rows for cell in row] == [0, 0, 0, 0]
    small = result(raw=np.array([[1.02, 1.0], [1.0, 1.0 - 2e-6]]))
    assert [cell.step for _, row in small._grid().rows for cell in row] == [8, 0, 0, 0]
    assert noise._scale() > 10 * np.abs(noise.effects).max()


def test_what_is_written_as_zero_has_no_colour():
    cells = [
        cell
        for raw in ([[3.0, 1.0], [1.002, 0.998]], [[1.00013, 1.0], [1.002, 1.0]])
        for _, row in result(raw=np.array(raw))._grid().rows
        for cell in row
    ]
    assert [(cell.text, bool(cell.step)) for cell in cells[:4]] == [
        ("+1.00", True), ("+0.00", False), ("+0.00", False), ("+0.00", False),
    ]  # fmt: skip
    assert [(cell.text, bool(cell.step)) for cell in cells[4:]] == [
        ("+0.0001", True), ("+0.0000", False), ("+0.0010", True), ("+0.0000", False),
    ]  # fmt: skip


def test_a_token_whose_character_stands_before_it_is_marked():
    assert str(result(tokens=("\u65e5", ""))).splitlines()[1].split() == ["layer", "4", "\u65e5", "5", "▯"]


def test_noise_that_a_table_would_show_is_told():
    assert "rounding" not in str(result())
    assert "below 0.19 an effect is rounding" in str(result(eps=2**-7)).splitlines()[-1]


def test_a_plot_in_16_bits_keeps_its_colours_and_shows_no_rounding():
    pytest.importorskip("matplotlib")
    figure = result(raw=np.array([[3.0, 1.0], [2.0, 1.1]]), eps=2**-7).plot()
    cells: Any = figure.axes[0].collections[0]
    assert np.ravel(cells.get_array()).tolist() == [1.0, 0.0, 0.5, 0.0] and cells.norm.vmax == 1.0

"""Rows U7, U8: pictures by the names of the existing library."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

import mlxterp.visualization as vis
from mlxterp import BackendError, InputError, MlxterpWarning
from tests.viz.reading import HOSTILE

TEXT = "the cat sat"
N = 1 + len(TEXT)


@pytest.fixture
def trace(letter_model):
    with letter_model.trace(TEXT) as found:
        pass
    return found


@pytest.fixture
def tokens(letter_model) -> list[str]:
    return letter_model.to_str_tokens(TEXT)


def test_u7_a_heat_map_shows_one_head_with_the_first_query_on_top(trace, tokens):
    pytest.importorskip("matplotlib")
    pattern = vis.get_attention_patterns(trace, 1)[1]
    for given in (pattern, pattern[0], pattern[0, -1]):
        figure = vis.attention_heatmap(given, tokens, head_idx=-1 if given.ndim > 2 else 0, title="T")
        drawn: Any = figure.axes[0].images[0].get_array()
        lower = np.tril(np.ones((N, N), bool))
        assert np.allclose(drawn.data[lower], pattern[0, -1][lower]) and drawn.mask[~lower].all()
        assert (
            figure.axes[0].get_ylim()[0] > figure.axes[0].get_ylim()[1] and figure.axes[0].get_title() == "T"
        )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tokens": ["a"]}, "1 tokens for a pattern of 12"), ({"head_idx": 4}, "head_idx is 4"),
        ({"backend": "plotly"}, "save_interactive_attention"), ({"backend": "ascii"}, "backend is 'ascii'"),
        ({"attention": np.ones(3)}, "got shape"), ({"attention": np.ones((2, 4, N, N))}, "of 2 texts"),
        ({"config": vis.AttentionVisualizationConfig(colorscale="nothing")}, "no colour map"),
    ],
)  # fmt: skip
def test_u7_what_cannot_be_drawn_is_named(trace, tokens, change, said):
    pytest.importorskip("matplotlib")
    given = {"attention": vis.get_attention_patterns(trace, 0)[0], "tokens": tokens}
    with pytest.raises(InputError, match=said):
        vis.attention_heatmap(**(given | change))


def test_u7_a_trace_is_drawn_as_a_grid_as_one_head_and_as_a_page(trace, tokens):
    pytest.importorskip("matplotlib")
    grid = vis.attention_from_trace(trace, tokens, layers=[0, 2])
    titles = [axes.get_title() for axes in grid.axes if axes.get_title()]
    assert titles == [f"L{layer}H{head}" for layer in (0, 2) for head in range(4)]
    some = vis.attention_from_trace(trace, tokens, heads=[(2, 1), (0, 3)], head_notation="dot")
    assert [axes.get_title() for axes in some.axes if axes.get_title()] == ["2.1", "0.3"]
    assert len(vis.attention_from_trace(trace, tokens, mode="single").axes) == 2  # and its bar of colours
    page = vis.attention_from_trace(trace, tokens, heads=[(2, 1)], mode="interactive")
    assert page == vis.attention_from_trace(trace, tokens, layers=2, heads=[(2, 1)], mode="interactive")
    assert '"chosen":[[2,1]]' in page
    with pytest.raises(InputError, match="pairs"):
        vis.attention_from_trace(trace, tokens, heads=[3])  # type: ignore[list-item]
    with pytest.raises(InputError, match="mode is 'tree'"):
        vis.attention_from_trace(trace, tokens, mode="tree")


def test_u8_a_page_is_made_of_patterns_or_a_trace_and_written(trace, tokens, tmp_path, capsys):
    patterns = vis.get_attention_patterns(trace)
    page = vis.interactive_attention(patterns, tokens)
    assert page == vis.interactive_attention_from_trace(trace, tokens)
    assert page == vis.interactive_attention({n: x[0] for n, x in patterns.items()}, tokens)  # bare arrays
    path = vis.save_interactive_attention(patterns, tokens, tmp_path / "page.html")
    assert path.read_text(encoding="utf-8") == page and capsys.readouterr().out == ""
    titled = vis.InteractiveAttentionConfig(title=HOSTILE, show_layer_flow=False)
    other = vis.interactive_attention(patterns, [HOSTILE, *tokens[1:]], titled)
    assert "<script>alert" not in other and '"overview":false' in other
    with pytest.warns(MlxterpWarning, match="colours of its own"):
        vis.InteractiveAttentionConfig(colorscale="Reds")


def test_u8_what_is_no_pattern_of_one_text_is_refused(letter_model, tokens):
    with pytest.raises(InputError, match=r"patterns.of\(0\)"):
        vis.interactive_attention(letter_model.attention_patterns([TEXT, "a"]), tokens)
    with pytest.raises(InputError, match="patterns by layer"):
        vis.interactive_attention(np.ones((1, 1, N, N)), tokens)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the same tokens"):
        vis.interactive_attention({0: np.ones((1, N, N)), 1: np.ones((1, 4, 4))}, tokens)


def test_u8_a_notebook_gets_the_page_in_a_frame_of_its_own(trace, tokens, monkeypatch):
    display = pytest.importorskip("IPython.display")
    shown = []
    monkeypatch.setattr(display, "display", shown.append)
    vis.display_interactive_attention(vis.get_attention_patterns(trace), tokens)
    assert shown[0].data.startswith('<div><iframe sandbox="allow-scripts"') and "<script" not in shown[0].data
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(BackendError, match="save_interactive_attention"):
        vis.display_interactive_attention(vis.get_attention_patterns(trace), tokens)


def test_u7_patterns_draw_themselves(letter_model, tmp_path):
    pytest.importorskip("matplotlib")
    found = letter_model.attention_patterns([TEXT, "a"], layers=1)
    figure = found.plot(tmp_path / "heads.png")
    assert (
        len([a for a in figure.axes if a.get_title()]) == 4 and (tmp_path / "heads.png").stat().st_size > 1000
    )
    page = found.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count('"packed"') == 2  # a chooser of texts

"""The map and the comparison in a real browser: what they select and say is what NumPy and the index say."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.explorer.conftest import BALL, Page, Shown
from tests.explorer.in_page import rows_of, whole_list

pytestmark = pytest.mark.browser


def test_a_lasso_selects_the_features_that_numpy_selects(opened: Page, shown: Shown):
    page = opened.open(shown.at("map"))
    page.wait_for_selector(".page-map[data-drawn]")
    box = page.locator("canvas").bounding_box()
    corners = [(0.35, 0.3), (0.6, 0.35), (0.65, 0.6), (0.5, 0.5), (0.38, 0.62)]
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=3)
    page.mouse.up()
    page.wait_for_selector("a:text('List them')")
    lasso = re.search(r"lasso=([^&]+)", page.url)
    assert lasso
    polygon = np.array([[float(v) for v in point.split(",")] for point in lasso[1].split(";")])
    chosen = np.flatnonzero(inside(polygon, shown.places.astype(np.float64)))
    assert 0 < len(chosen) < len(shown.places)
    assert sorted(whole_list(page, f"lasso={lasso[1]}")) == chosen.tolist()
    page.click("a:text('List them')")
    page.wait_for_selector(".row")
    assert set(rows_of(page)) <= set(chosen.tolist())
    assert page.inner_text(".count").startswith(f"{len(chosen):,} of ")


def inside(polygon: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether points lie in a polygon, by how often a ray to the right crosses it."""
    (ax, ay), (bx, by) = polygon.T[:, :, None], np.roll(polygon, 1, axis=0).T[:, :, None]
    x, y = points.T
    crosses = (ay > y) != (by > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = (bx - ax) * (y - ay) / (by - ay) + ax
    return (crosses & (x < at)).sum(axis=0) % 2 == 1


def test_a_comparison_shows_the_indexs_cosine_and_jaccard(opened: Page, shown: Shown):
    near, cosine = shown.index.similar(BALL, 1)[0]
    page = opened.open(shown.at(f"compare/0:{BALL}/0:{near}"))
    figure = {
        name: float(page.get_attribute(f"[data-figure='{name}']", "data-value"))
        for name in ("cosine", "Jaccard")
    }
    assert figure["cosine"] == pytest.approx(cosine, abs=1e-6)
    assert figure["Jaccard"] == pytest.approx(shown.index.coactivation(BALL, near), abs=1e-9)
    opened.open(shown.at(f"compare/0:{BALL}/1:5"))
    rows = [np.asarray(sae.W_dec)[f].astype(np.float64) for sae, f in zip(shown.saes, (BALL, 5), strict=True)]
    between = rows[0] @ rows[1] / np.linalg.norm(rows[0]) / np.linalg.norm(rows[1])
    assert float(page.get_attribute("[data-figure='cosine']", "data-value")) == pytest.approx(
        between, abs=1e-6
    )

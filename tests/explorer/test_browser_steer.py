"""The steer page in a real browser: what it writes is what Python writes."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mlxterp.steering import add_feature, clamp
from tests.explorer.conftest import BALL, Page, Shown

pytestmark = pytest.mark.browser

PROMPT, TOKENS = "Once upon a time", 24


def written(tab: Page, shown: Shown, edits: str, more: str = "") -> dict[str, str]:
    """What both sides say in the end."""
    page = tab.open(shown.at(f"steer?e={edits}&n={TOKENS}{more}"))
    page.click("button.primary")
    page.wait_for_selector(".page-steer[data-state=done]")
    return {side: page.inner_text(f"[data-side={side}]") for side in ("base", "steered")}


def generated(shown: Shown, steer: list[Any] | None = None, **more: Any) -> str:
    """The prompt with what Python writes after it, as a page shows it."""
    return PROMPT + shown.demo.model.generate(PROMPT, TOKENS, steer=steer, **more)


def test_both_texts_are_those_of_generate(opened: Page, shown: Shown):
    sae, index = shown.demo.sae, shown.index
    edits = [add_feature(sae, BALL, 1.5, "max", index=index), clamp(sae, 5, 0.5, units="max", index=index)]
    said = written(opened, shown, f"0:{BALL}:add:1.5,0:5:clamp:0.5", "&temp=0.7&seed=3")
    settings = {"temperature": 0.7, "seed": 3}
    assert said == {"base": generated(shown, **settings), "steered": generated(shown, edits, **settings)}
    assert said["base"] != said["steered"]


def test_strength_0_writes_what_no_edit_writes(opened: Page, shown: Shown):
    said = written(opened, shown, f"0:{BALL}:add:0")
    assert said["base"] == said["steered"] == generated(shown)


@pytest.mark.parametrize("prompt", [PROMPT, "Lily went to the"])
def test_perplexities_are_those_of_the_models_loss(opened: Page, shown: Shown, prompt: str):
    said = written(opened, shown, f"0:{BALL}:add:2", f"&p={prompt.replace(' ', '+')}")
    assert all(text.startswith(prompt + (", " if prompt == PROMPT else " ")) for text in said.values())
    for side, text in said.items():
        told = float(opened.page.get_attribute(f"[data-perplexity={side}]", "data-value"))
        assert told == pytest.approx(math.exp(shown.demo.model.loss(text)), rel=1e-4)
    assert said["base"] != said["steered"]


def test_escape_stops_a_generation_and_the_model_is_free(opened: Page, shown: Shown):
    page = opened.open(shown.at(f"steer?e=0:{BALL}:add:1&n=240"))
    page.click("button.primary")
    page.wait_for_selector("[data-side=steered]:not(:empty)")
    page.keyboard.press("Escape")
    page.wait_for_selector(".page-steer[data-state=stopped]")
    ask = "async () => { const {ask} = await import('./static/data.js'); return ask('status'); }"
    status = page.evaluate(ask)
    for _ in range(200):
        if not status["busy"] and not status["waiting"]:
            break
        status = page.evaluate(ask)
    assert (status["busy"], status["waiting"]) == (False, 0)
    assert page.inner_text("[role=status]") == "Stopped."


def test_what_is_set_stands_in_the_address(opened: Page, shown: Shown):
    page = opened.open(shown.at(f"steer?e=0:{BALL}:add:1"))
    page.get_by_label("Add a feature").fill("12")
    page.keyboard.press("Enter")
    page.select_option(".edits li:last-child select", "ablate")
    page.fill("[name=n]", "30")
    page.keyboard.press("Tab")
    assert f"e=0:{BALL}:add:1,0:12:ablate:1&n=30" in page.url
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    opened.ready()
    assert page.locator(".edits li").count() == 2
    assert page.input_value("[name=n]") == "30"

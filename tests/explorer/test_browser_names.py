"""Names in a real browser: kept by a folder's page, taken from its file by the server's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.explorer.conftest import BALL, Page, Shown

pytestmark = pytest.mark.browser


def test_names_given_in_a_folder_are_exported_and_taken_in_by_a_server(
    browser, opened: Page, shown: Shown, site: Path, tmp_path
):
    context = browser.new_context(offline=True, accept_downloads=True)
    folder = Page(context.new_page(), site.parent.as_uri())
    page = folder.open(f"{site.as_uri()}#/feature/{BALL}")
    page.fill(".name", "  balls and toys ")
    page.keyboard.press("Enter")
    page.wait_for_selector(".saved:text('saved')")
    page.reload()
    folder.ready(f"/feature/{BALL}")
    assert page.input_value(".name") == "balls and toys"
    folder.open(site.as_uri() + "#/names")
    with page.expect_download() as download:
        page.click("button:text('Export')")
    download.value.save_as(tmp_path / "names.json")
    context.close()
    assert (folder.said, folder.foreign) == ([], [])
    assert json.loads((tmp_path / "names.json").read_text()) == {str(BALL): {"name": "balls and toys"}}

    there = opened.open(shown.at("names"))
    there.set_input_files("input[type=file]", tmp_path / "names.json")
    there.wait_for_selector("[role=status]:text('1 added')")
    assert there.input_value(f"li[data-id='{BALL}'] .name") == "balls and toys"
    assert shown.index.label(BALL) == "balls and toys"
    there.click(f"li[data-id='{BALL}'] .remove")
    there.wait_for_selector(f"li[data-id='{BALL}']", state="detached")
    assert shown.index.label(BALL) is None


def test_a_name_that_another_changed_meanwhile_is_told_and_not_overwritten(opened: Page, shown: Shown):
    page = opened.open(shown.at("feature/9"))
    other = page.context.new_page()
    other.goto(shown.at("feature/9"))
    for tab, name in ((other, "theirs"), (page, "mine")):
        tab.fill(".name", name)
        tab.keyboard.press("Enter")
        tab.wait_for_selector(".saved:not(:empty)")
    assert "Somebody else" in page.inner_text(".saved")
    assert shown.index.label(9) == "theirs"
    assert "“theirs”" in page.inner_text(".saved")
    page.locator(".stats").click()  # leaving the field does not overwrite what the other wrote
    assert shown.index.label(9) == "theirs"
    page.fill(".name", "")
    page.keyboard.press("Enter")
    page.wait_for_selector(".saved:text('name taken away')")
    assert shown.index.label(9) is None

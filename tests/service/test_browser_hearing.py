"""The page for those who hear it: what has which name, what is told and when, and where the focus is.

No screen reader is asked; compared is what one is given.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.service.hearing import heard, listen, tree
from tests.service.running import wait_for

SEARCHING = "Searching\N{HORIZONTAL ELLIPSIS}"
LOOKING = "Looking\N{HORIZONTAL ELLIPSIS}"
RESULTS = r"""
- status: /3 clips in \d+ ms, best first/
- region "Clips":
  - button /^1\. red, 0:00 to 0:02, fused 0\.9\d, match (over 99|9\d)%, similarity [01]\.\d\d$/
  - 'button "More like this: 1. red"'
  - button /^2\. (green|blue), 0:00 to 0:02, fused 0\.\d\d, match (under 1|\d)%, similarity (minus )?0\.\d\d$/
"""


def expect_heard(page: Page, *patterns: str) -> None:
    """Exactly this is told, from what was asked for last on, in this order."""
    said: list[str] = []

    def is_all() -> bool:
        said.extend(heard(page))
        return len(said) >= len(patterns)

    wait_for(is_all)
    page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")  # what comes on top of it
    said += heard(page)
    assert len(said) == len(patterns), said
    for pattern, text in zip(patterns, said, strict=True):
        assert re.fullmatch(pattern, text), said


def test_a_search_is_told_once_and_a_clip_is_entered_and_left(page: Page, palette: str) -> None:
    listen(page)
    page.goto(f"/?collection={palette}")
    expect_heard(page, r"3 videos, 3 clips\. Describe what you are looking for\.")
    page.locator("#query").fill("a red thing")
    page.keyboard.press("Enter")
    expect_heard(page, SEARCHING, r"3 clips in \d+ ms, best first")
    expect(page.locator("#query")).to_be_focused()
    expect(page.get_by_role("main")).to_match_aria_snapshot(RESULTS)

    page.keyboard.press("ArrowDown")
    first = page.get_by_role("button", name="1. red, 0:00 to 0:02")
    expect(first).to_be_focused()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="red", exact=True)
    expect(dialog).to_have_accessible_description(re.compile(r"^0:00 . 0:02 · 96.64 · color: red"))
    expect(dialog.get_by_role("heading", name="red", exact=True)).to_be_focused()
    there = tree(page)  # only the dialog, and a place of its own for what is told
    assert [name for role, name, _ in there if role in ("main", "dialog")] == ["red"]
    assert "log" in [role for role, _, about in there if about.get("live") == "polite"]
    page.locator("#captions").fill("a green thing\na red thing")
    page.get_by_role("button", name="Compare").press("Enter")
    expect_heard(
        page, LOOKING, r"Fits best: a red thing\. It almost certainly describes the clip\. fused 0\.9.*, match .*"
    )
    page.locator("#question").fill("which colour is it")
    page.locator("#question").press("Enter")
    expect_heard(page, LOOKING, r"red (over 99|\d\d)%, \w+ (under 1|\d\d?)%, .*")
    page.keyboard.press("Escape")
    expect(first).to_be_focused()

    page.route("**/search", lambda route: route.abort())
    page.locator("#query").press("Enter")
    expect_heard(page, SEARCHING, r"That did not work\. The service cannot be reached\. Is it running\?")
    page.unroute_all()
    page.goto(f'/?collection={palette}&q=a+red+thing&filter={{"color":"pink"}}')
    expect_heard(page, SEARCHING, r"Nothing found\. Nothing passes the filter\.")


def test_a_video_is_gone_through_by_keys_and_who_has_no_place_to_return_to_gets_one(page: Page, film: str) -> None:
    listen(page)
    page.goto(f"/?collection={film}&video=1&t=20-22")
    expect(page.get_by_role("heading", name="film")).to_be_focused()
    expect(page.get_by_role("slider", name="Clips of this video")).to_have_attribute(
        "aria-valuetext", "clip 11 of 30, 0:20 to 0:22"
    )
    heard(page)
    page.keyboard.press("ArrowRight")
    expect_heard(page, "clip 12 of 30, 0:22 to 0:24")
    page.get_by_role("slider", name="Clips of this video").press("ArrowRight")
    expect_heard(page)  # a slider tells its value by itself
    page.keyboard.press("Escape")
    expect(page.get_by_role("region", name="Clips")).to_be_focused()


def test_ends_and_failures_are_told_and_no_step_on_the_way(
    page: Page, collection: str, incoming: Path, files: Path, held: Callable[[], None]
) -> None:
    (incoming / "letter.mp4").write_text("Dear reader, this is no video.")
    for name in ("red", "green"):
        shutil.copy(files / f"{name}.mp4", incoming)
    listen(page)
    page.goto(f"/?collection={collection}")
    expect_heard(page, r"This collection is empty\. Drop videos .*")
    page.locator("#upload").click()
    page.get_by_label("Or a folder of the machine").fill(incoming.name)
    page.get_by_label("Or a folder of the machine").press("Enter")
    page.locator("#open-jobs").click()
    job = page.get_by_role("article")
    expect(job).to_contain_text("1 of 3 files")
    expect(job.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "33")
    job.get_by_role("button", name="Pause").click()
    expect(job).to_contain_text("pauses after the files at hand")
    held()
    expect(job.get_by_text("paused", exact=True)).to_be_visible()
    job.get_by_role("button", name="Resume").click()
    expect(job).to_contain_text("2 added, 1 failed")
    name = incoming.name
    end = rf"{name}: 2 added, 1 failed; letter\.mp4: the content is text.*"
    expect_heard(page, f"{name}: under way", f"{name}: paused", f"{name}: under way", end)

    # Above the sheet, and of several files only what went wrong, and all of them at the end.
    page.locator("#files").set_input_files([incoming / "letter.mp4", files / "red.mp4", files / "blue.mp4"])
    expect_heard(page, "Sending 3 files", r"letter\.mp4: .*", "3 files: 1 failed, 1 there already, 1 added")
    page.keyboard.press("Escape")
    expect(page.locator("#open-jobs")).to_be_focused()

"""Accessibility of the page: WCAG rules, touch targets, keyboard use, and announcements to screen readers."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import APIResponse, Page, Route, expect

from tests.chaos import only_by_chaos
from tests.media_files import solid, write_picture
from tests.service.browsing import (
    ADMIN,
    PATIENCE_MS,
    accessibility_tree,
    announcements,
    exceptions,
    record_announcements,
    views,
    wait_for_events,
)
from tests.service.running import Running
from tests.waiting import wait_for

SIZES = {"desk": (1200, 900), "phone": (360, 720)}
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], "resultTypes": ["violations"]}
COLOURS = {"runOnly": ["color-contrast", "link-in-text-block"], "resultTypes": ["violations"]}
SMALLEST_TARGET = 43.5  # of 44 CSS pixels, since edges are rounded
TARGETS = "button, select, summary, input:not([type=checkbox], [type=radio], [type=file]), label:has([type=checkbox])"
SEARCHING = "Searching\N{HORIZONTAL ELLIPSIS}"
LOADING = "Loading\N{HORIZONTAL ELLIPSIS}"
RESULTS = r"""
- status: /3 events in \d+\sm?s, best first/
- region "Clips":
  - button /^1\. red, 0:00 to 0:02, fit (over 99|9\d)%, found by picture, name$/
  - 'button "Find similar: 1. red"'
  - button /^2\. (green|blue), 0:00 to 0:02, fit (under 1|\d)%, found by picture$/
"""


@pytest.fixture(scope="module")
def with_a_job(guarded: Running, tmp_path_factory: pytest.TempPathFactory) -> Running:
    """The guarded service, with a job of which one file failed, and a revoked key."""
    folder = guarded.settings.data_dir / "incoming" / "cameras"
    folder.mkdir(parents=True)
    write_picture(folder / "door.png", solid((90, 90, 90), 48, 48))
    (folder / "broken.mp4").write_text("no video")
    job = guarded.client.post("/v1/collections/palette/jobs", json={"folder": "cameras"}).headers["location"]
    wait_for(lambda: guarded.client.get(job).json()["state"] == "succeeded")
    guarded.client.post("/v1/collections", json={"name": "empty"})
    key = guarded.client.post("/v1/keys", json={"name": "an old one", "scopes": ["read"]}).json()
    guarded.client.delete(f"/v1/keys/{key['id']}")
    return guarded


def violations(page: Page, rules: dict[str, list[str]]) -> list[str]:
    """Return the violations that axe-core, already injected, finds in the current view."""
    results = page.evaluate("rules => axe.run(rules)", rules)["violations"]
    return [f"{each['id']}: {node['target']} {node['failureSummary']}" for each in results for node in each["nodes"]]


def small_targets(page: Page) -> list[str]:
    """Return touch targets of the top view that are too small."""
    return page.evaluate(  # type: ignore[no-any-return]
        """([targets, minimum]) => {
            const top = [...document.querySelectorAll("dialog[open]")].pop() || document;
            return [...top.querySelectorAll(targets)]
                .filter((each) => each.checkVisibility({ visibilityProperty: true, opacityProperty: true }))
                .map((each) => [each, each.getBoundingClientRect()])
                .filter(([, box]) => box.width && (box.height < minimum || box.width < minimum))
                .map(([each, box]) => `${each.outerHTML.slice(0, 90)} ${box.width}x${box.height}`);
        }""",
        [TARGETS, SMALLEST_TARGET],
    )


def rightmost(page: Page) -> float:
    """Return the right edge of the page and its dialogs, in CSS pixels."""
    return page.evaluate(  # type: ignore[no-any-return]
        """() => Math.max(document.documentElement.scrollWidth,
            ...[...document.querySelectorAll("dialog[open]")].map((each) => each.getBoundingClientRect().right))"""
    )


ALLOWED_DUPLICATES = {"Add videos", "Remove this condition"}
"""The first does the same everywhere; the second follows the fields of its condition."""


def duplicate_names(page: Page) -> set[str]:
    """Return button names that are not unique, which screen reader users could not tell apart."""
    names = Counter(name for role, name, _ in accessibility_tree(page) if role == "button")
    return {name for name, count in names.items() if count > 1} - ALLOWED_DUPLICATES


@pytest.mark.parametrize("size", ["phone", pytest.param("desk", marks=only_by_chaos)])
def test_every_view_is_accessible(with_a_job: Running, enter: Callable[..., Page], tmp_path: Path, size: str) -> None:
    """All rules in dark mode, color rules in light mode as well."""
    width, height = SIZES[size]
    is_phone = size == "phone"
    context = {"viewport": {"width": width, "height": height}, "has_touch": is_phone, "is_mobile": is_phone}
    page = enter(ADMIN, color_scheme="dark", reduced_motion="reduce", **context)
    page.evaluate(Axe().axe_script)
    broken = tmp_path / "letter.mp4"
    broken.write_text("Dear reader, this is no video.")
    seen, wrong = [], []
    for view in chain(views(page, "a red thing", "which colour is it"), exceptions(page, broken, "empty")):
        seen.append(view)
        problems = violations(page, RULES) + (small_targets(page) if is_phone else [])
        page.emulate_media(color_scheme="light")
        problems += violations(page, COLOURS)
        page.emulate_media(color_scheme="dark")
        wrong += [(view, each) for each in problems]
        if problems:
            page.screenshot(path=tmp_path / f"{view}-{size}.png")
        assert rightmost(page) <= width, view
        wrong += [(view, name) for name in duplicate_names(page)]
    assert wrong == []
    assert len(seen) == 15
    assert page.evaluate("getComputedStyle(document.querySelector('#sheet')).animationName") == "none"


def test_the_side_panel_works_by_keyboard_and_returns_the_focus(
    with_a_job: Running, enter: Callable[..., Page]
) -> None:
    page = enter(ADMIN)
    page.locator("#open-jobs").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("tab", name="Jobs")).to_be_focused()
    expect(page.get_by_text("1 failed file")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("tabpanel")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("summary", has_text="1 failed file")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Collections")).to_be_focused()
    page.get_by_role("button", name="Delete…").last.press("Enter")
    expect(page.get_by_label("Type “palette” to confirm")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Delete…").last).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#open-jobs")).to_be_focused()
    page.locator("#query").fill("a red thing")
    page.locator("#query").press("Enter")
    expect(page).to_have_url(re.compile("q=a"))
    page.locator("#open-jobs").click()
    page.go_back()
    expect(page.locator("#sheet")).to_be_hidden()


def expect_announcements(page: Page, *patterns: str) -> None:
    """Wait for exactly these announcements, in this order, since the last call."""
    texts: list[str] = []

    def is_all() -> bool:
        texts.extend(announcements(page))
        return len(texts) >= len(patterns)

    wait_for(is_all)
    page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")  # further announcements
    texts += announcements(page)
    assert len(texts) == len(patterns), texts
    for pattern, text in zip(patterns, texts, strict=True):
        assert re.fullmatch(pattern, text), texts


def test_a_search_is_announced_once_and_a_clip_takes_and_returns_the_focus(page: Page, palette: str) -> None:
    record_announcements(page)
    page.goto(f"/?collection={palette}&rerank=1")
    expect_announcements(page, r"3 videos, 3 clips\. Describe what you are looking for\.")
    page.locator("#query").fill("a red thing")
    page.keyboard.press("Enter")
    expect_announcements(page, SEARCHING, r"3 events in \d+\sm?s, best first")
    expect(page.locator("#query")).to_be_focused()
    expect(page.get_by_role("main")).to_match_aria_snapshot(RESULTS)

    page.keyboard.press("ArrowDown")
    first = page.get_by_role("button", name="1. red, 0:00 to 0:02")
    expect(first).to_be_focused()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="red", exact=True)
    expect(dialog).to_have_accessible_description(re.compile(r"^0:00 . 0:02 · 96.64 · color: red"))
    expect(dialog.get_by_role("heading", name="red", exact=True)).to_be_focused()
    there = accessibility_tree(page)  # only the dialog, with its own live region
    assert [name for role, name, _ in there if role in ("main", "dialog")] == ["red"]
    assert "log" in [role for role, _, about in there if about.get("live") == "polite"]
    page.locator("#captions").fill("a green thing\na red thing")
    page.get_by_role("button", name="Compare").press("Enter")
    expect_announcements(
        page, LOADING, r"Best match: a red thing\. Very likely describes the clip\. fit (over 99|9\d)%"
    )
    page.locator("#question").fill("which colour is it")
    page.locator("#question").press("Enter")
    expect_announcements(page, LOADING, r"red (over 99|\d\d)%, \w+ (under 1|\d\d?)%, .*")
    page.keyboard.press("Escape")
    expect(first).to_be_focused()

    page.route("**/search", lambda route: route.abort())
    page.locator("#query").press("Enter")
    expect_announcements(page, SEARCHING, r"Something went wrong\. Cannot reach the service\. Is it running\?")
    page.unroute_all()
    page.goto(f'/?collection={palette}&q=a+red+thing&filter={{"color":"pink"}}')
    expect_announcements(page, SEARCHING, r"No results\. No clip matches the filter\.")
    page.goto(f'/?collection={palette}&q="red+fox"')
    expect_announcements(page, SEARCHING, r"No results\. No clip has these words exactly\. Remove .+")


def test_starts_ends_and_failures_are_announced_but_no_progress(
    page: Page, collection: str, incoming: Path, files: Path, release_jobs: Callable[[], None]
) -> None:
    (incoming / "letter.mp4").write_text("Dear reader, this is no video.")
    for name in ("red", "green"):
        shutil.copy(files / f"{name}.mp4", incoming)
    for number in range(8):  # with the others more than are in progress at a time
        write_picture(incoming / f"z{number}.png", solid((20 * number, 0, 0)))
    record_announcements(page)
    page.goto(f"/?collection={collection}")
    expect_announcements(page, r"This collection is empty\. Drop videos .*")
    page.locator("#upload").click()
    page.get_by_label("Or a folder on the server").fill(incoming.name)
    page.get_by_label("Or a folder on the server").press("Enter")
    page.locator("#open-jobs").click()
    job = page.get_by_role("article")
    expect(job).to_contain_text("1 of 11 files")
    expect(job.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "9")
    responses: list[tuple[Route, APIResponse]] = []
    page.route("**/pause", lambda route: responses.append((route, route.fetch(timeout=PATIENCE_MS))))
    job.get_by_role("button", name=re.compile("^Pause ")).click()
    expect(job).to_contain_text("pausing after the current files")
    wait_for_events(page, lambda: responses)
    release_jobs()
    paused = job.get_by_text("paused", exact=True)
    expect(paused).to_be_visible()
    [(route, response)] = responses
    route.fulfill(response=response)  # an outdated response that arrives late
    expect(job.get_by_text("Pause", exact=True)).not_to_have_attribute("aria-disabled", "true")
    expect(paused).to_be_visible()
    job.get_by_role("button", name=re.compile("^Resume ")).click()
    expect(job).to_contain_text("10 added, 1 failed")
    name = re.escape(incoming.name)
    end = rf"{name}: 10 added, 1 failed; letter\.mp4: the content is text.*"
    expect_announcements(page, f"{name}: indexing started", f"{name}: paused", f"{name}: running", end)

    # Also over the open panel. Of several files, only failures and a summary are announced.
    page.locator("#files").set_input_files([incoming / "letter.mp4", files / "red.mp4", files / "blue.mp4"])
    expect_announcements(page, "Sending 3 files", r"letter\.mp4: .*", "3 files: 1 failed, 1 already added, 1 added")
    page.keyboard.press("Escape")
    expect(page.locator("#open-jobs")).to_be_focused()

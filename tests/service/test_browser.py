"""The page in a real browser, on a real service, as a person uses it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.service.running import Running
from tests.tools import find_tool

PATIENCE_MS = 30_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = find_tool("chromium")
    with sync_playwright() as playwright:
        # Chromium's own sandbox cannot be set up by root, and only this repository's page is opened.
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser, running: Running) -> Iterator[Page]:
    """A page whose complaints and requests to other hosts fail the test."""
    context = browser.new_context(base_url=str(running.client.base_url), viewport={"width": 1200, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE_MS)
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    asked: list[str] = []
    yield opened
    context.close()
    assert not complaints
    own = str(running.client.base_url)
    assert all(url.startswith((own, "blob:", "data:")) for url in asked), asked


def test_upload_search_compare_and_ask(page: Page, collection: str, files: Path) -> None:
    page.goto(f"/?collection={collection}")
    expect(page.locator("#results")).to_contain_text("This collection is empty")
    page.locator("#files").set_input_files([files / f"{name}.mp4" for name in ("red", "green", "blue")])
    expect(page.locator("#summary")).to_contain_text("3 videos", timeout=PATIENCE_MS)

    page.keyboard.press("/")  # the search box has the focus from here on
    page.keyboard.type("a green thing")
    page.keyboard.press("Enter")
    first = page.locator("#results .card").first
    expect(first).to_contain_text("green")
    for score in ("Fused", "Match", "Similarity"):
        expect(first).to_contain_text(re.compile(score, re.IGNORECASE))

    first.click()
    page.locator("#captions").fill("a red thing\na green thing")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#scores .best")).to_contain_text("a green thing")
    page.locator("#question").fill("which colour is it")
    page.locator("#question").press("Enter")
    expect(page.locator("#answers > *").first).to_contain_text("green")


def test_a_search_is_in_the_address(page: Page, palette: str) -> None:
    page.goto(f"/?collection={palette}&q=a+blue+thing")
    expect(page.locator("#results .card").first).to_contain_text("blue")
    page.reload()
    expect(page.locator("#query")).to_have_value("a blue thing")
    expect(page.locator("#results .card").first).to_contain_text("blue")


def test_a_file_that_is_no_video_says_why_and_the_rest_goes_on(
    page: Page, collection: str, files: Path, tmp_path: Path
) -> None:
    (tmp_path / "letter.mp4").write_text("Dear reader, this is no video.")
    page.goto(f"/?collection={collection}")
    page.locator("#files").set_input_files([tmp_path / "letter.mp4", files / "red.mp4"])
    failed = page.locator("#uploads .failed")
    expect(failed).to_contain_text("letter.mp4")
    expect(failed.locator(".error")).not_to_be_empty()
    expect(page.locator("#summary")).to_contain_text("1 video", timeout=PATIENCE_MS)


def test_the_page_fits_a_phone(browser: Browser, running: Running, palette: str) -> None:
    context = browser.new_context(base_url=str(running.client.base_url), viewport={"width": 360, "height": 720})
    page = context.new_page()
    page.goto(f"/?collection={palette}&q=a+red+thing")
    expect(page.locator("#results .card").first).to_contain_text("red")
    width = page.evaluate("document.documentElement.scrollWidth")
    context.close()
    assert width <= 360

"""Every view of the page, one after another: pictures are taken of them, and their accessibility is checked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

TABS = ("collections", "models", "keys")


def views(page: Page, query: str, about: str) -> Iterator[str]:
    """Names of views, each as long as it is on the screen. ``page`` shows a collection with videos and jobs; ``query``
    finds some of them, and ``about`` is a question.
    """
    page.locator(".card").first.wait_for()
    page.locator("#query").fill(query)
    page.keyboard.press("Enter")
    page.locator(".card .scores").first.wait_for()
    yield "page"

    page.locator(".card").first.click()
    page.locator("#captions").fill(f"{query}\na cat sleeps on a sofa")
    page.get_by_role("button", name="Compare").click()
    page.locator("#scores .best").wait_for()
    page.locator("#question").fill(about)
    page.locator("#question").press("Enter")
    page.locator("#answers .answer").first.wait_for()
    yield "clip"
    page.keyboard.press("Escape")

    page.get_by_role("button", name="Add videos").click()
    page.get_by_label("Length of a window").wait_for()
    yield "adding"
    page.keyboard.press("Escape")

    page.locator("#open-jobs").click()
    page.get_by_role("article").first.wait_for()
    yield "jobs"
    for tab in TABS:
        page.locator(f"#tab-{tab}").click()
        page.get_by_role("article").first.wait_for()
        for folded in page.locator("#panel summary").all():
            folded.click()
        page.locator("#panel").evaluate("panel => panel.scrollTo(0, 0)")
        yield tab
        if tab == "collections":
            page.get_by_role("button", name="Delete…").first.click()
            yield "question"
            page.get_by_role("button", name="Cancel").last.click()
    page.keyboard.press("Escape")

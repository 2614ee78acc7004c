"""All views of the page in turn, for screenshots and accessibility checks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

TABS = ("collections", "models", "keys")


def views(page: Page, query: str, question: str) -> Iterator[str]:
    """Yield the name of each view while it is shown.

    ``page`` shows a collection with videos and jobs; ``query`` finds some, ``question`` is asked about the first.
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
    page.locator("#question").fill(question)
    page.locator("#question").press("Enter")
    page.locator("#answers .answer").first.wait_for()
    yield "clip"
    page.keyboard.press("Escape")

    page.get_by_role("button", name="Add videos").click()
    page.get_by_label("Clip length").wait_for()
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


def exceptions(page: Page, broken: Path, empty: str) -> Iterator[str]:
    """Yield the name of each empty, loading and error view while it is shown.

    ``page`` shows results; ``broken`` is a file that is not a video, ``empty`` an empty collection. The last view is
    the key prompt.
    """
    page.get_by_role("button", name="Filter", exact=True).click()
    page.get_by_label("Field").fill("width")
    page.get_by_label("Value").fill("1")
    page.get_by_role("button", name="Apply").click()
    page.get_by_role("heading", name="No results").wait_for()
    page.locator("#files").set_input_files([broken])
    page.locator("#uploads .failed").wait_for()
    yield "nothing"

    page.get_by_role("button", name="Add condition").click()
    page.get_by_label("Field").last.fill("clip.start")
    page.get_by_role("button", name="Apply").click()
    page.get_by_text("Enter a value").wait_for()
    page.get_by_text("What do the scores mean?").click()
    yield "filter"

    page.route("**/search", lambda route: None)
    page.get_by_role("button", name="Clear filter").click()
    page.locator(".ghost").first.wait_for()
    yield "loading"
    page.unroute_all()

    page.route("**/search", lambda route: route.abort())
    page.locator("#query").press("Enter")
    page.get_by_role("heading", name="Something went wrong").wait_for()
    yield "failed"
    page.unroute_all()

    page.locator("#query").fill("")
    page.locator("#collections").select_option(empty)
    page.get_by_role("heading", name="This collection is empty").wait_for()
    yield "empty"

    page.locator("#open-collections").click()
    page.locator("#panel").get_by_role("button", name="New collection").click()
    page.get_by_label("Name", exact=True).fill(empty)
    page.get_by_text("Advanced").click()
    page.get_by_role("button", name="Create").click()
    page.locator("#name-error:not(:empty)").wait_for()
    yield "name"
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")

    page.evaluate("sessionStorage.clear()")
    page.locator("#query").press("Enter")
    page.get_by_label("API key", exact=True).fill("vsk_wrong")
    page.get_by_role("button", name="Continue").click()
    page.locator("#key-error:not(:empty)").wait_for()
    yield "key"

"""Helpers for tests of the page in a browser: fixtures, screen reader output, toasts, and a tour of all views."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.media_files import solid, write_video
from tests.service.running import Running, serving
from tests.small_bundle import make_small_bundle
from tests.tools import find_tool
from tests.waiting import PATIENCE, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

PATIENCE_MS = PATIENCE * 1000
ADMIN = "the-admin-key-of-these-tests-0123456789abcdef"
FILM_CLIPS = 30
_RECORD_ANNOUNCEMENTS = """() => {
    window.announced = [];
    const opened = []; // open dialogs, the top one last
    const show = HTMLDialogElement.prototype.showModal;
    HTMLDialogElement.prototype.showModal = function () {
        show.call(this);
        opened.push(this);
        this.addEventListener("close", () => opened.splice(opened.indexOf(this), 1), { once: true });
    };
    const REGION = "[role=status], [role=alert], [role=log], [aria-live]";
    const isAtomic = (region) => ["status", "alert"].includes(region.role);
    const top = () => opened.findLast((dialog) => dialog.open);
    // Hidden regions, and those behind a dialog, are not announced.
    const isExposed = (region) => region.checkVisibility() && (!top() || top().contains(region));
    const record = (text) => text.trim() && announced.push(text.trim().replace(/\\s+/g, " "));
    new MutationObserver((changes) => {
        const changed = new Set();
        for (const { target, addedNodes } of changes) {
            const region = (target.closest ? target : target.parentElement)?.closest(REGION);
            const elements = [...addedNodes].filter((node) => node.querySelectorAll);
            const all = elements.flatMap((element) => [element, ...element.querySelectorAll("*")]);
            if (region && isAtomic(region)) changed.add(region);
            else if (region && isExposed(region)) addedNodes.forEach((node) => record(node.textContent));
            else all.filter((element) => element.role === "alert").forEach((element) => changed.add(element));
        }
        for (const region of changed) if (isExposed(region)) record(region.textContent);
    }).observe(document, { subtree: true, childList: true, characterData: true });
}"""
_RECORD_TOASTS = """() => {
    window.toastTexts = new Set();
    const toasts = () => document.querySelectorAll("#uploads .upload");
    const record = () => toasts().forEach((toast) => toastTexts.add(toast.textContent));
    new MutationObserver(record).observe(document, { subtree: true, childList: true, characterData: true });
}"""
TABS = ("collections", "models", "keys")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import expect, sync_playwright  # only if a browser is used

    chromium = find_tool("chromium-headless-shell", "chromium")  # the first takes half the processor time
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        # root cannot use Chromium's sandbox; only this repository's page is opened
        launched = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"], timeout=PATIENCE_MS)
        yield launched
        launched.close()


def wait_for_events(page: Page, condition: Callable[[], object]) -> None:
    """Wait for a condition that handlers of page events fulfil; Playwright calls them only during API calls."""
    wait_for(lambda: page.evaluate("1") and condition())


@pytest.fixture
def page(browser: Browser, running: Running) -> Iterator[Page]:
    """A page. Script errors and requests to other hosts fail the test."""
    context = browser.new_context(base_url=str(running.client.base_url), viewport={"width": 1200, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE_MS)
    script_errors: list[str] = []
    requested_urls: list[str] = []
    opened.on("pageerror", lambda error: script_errors.append(str(error)))
    opened.on("request", lambda request: requested_urls.append(request.url))
    # With a listener Chromium opens no file dialog of its own: Playwright intercepts each from the start of the page.
    opened.on("filechooser", lambda _: None)
    record_toasts(opened)
    yield opened
    context.close()
    assert not script_errors
    own = str(running.client.base_url)
    assert all(url.startswith((own, "blob:", "data:")) for url in requested_urls), requested_urls


@pytest.fixture(scope="session")
def film(running: Running, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A collection with one video: a yellow minute in clips of 2 s, red from 0:20 to 0:24, blue from 0:40 to 0:42."""
    yellow, red, blue = solid((220, 210, 10)), solid((220, 10, 10)), solid((10, 10, 220))
    frames = [red if 80 <= n < 96 else blue if 160 <= n < 168 else yellow for n in range(240)]
    path = write_video(tmp_path_factory.mktemp("film") / "film.mp4", frames, rate=4, gop=8)
    running.client.post("/v1/collections", json={"name": "film"}).raise_for_status()
    with path.open("rb") as file:
        answer = running.client.post(
            "/v1/collections/film/videos",
            files={"file": (path.name, file)},
            data={"segmentation": json.dumps({"rule": "windows", "length": 2})},
        )
    assert answer.json()["clips"] == FILM_CLIPS
    return "film"


@pytest.fixture(scope="module")
def guarded(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[Running]:
    """A service that requires keys, with the collection `palette` and an unloaded bundle `other`; admin client."""
    from tests.service.conftest import fill, settings_for

    root = tmp_path_factory.mktemp("bundles")
    make_small_bundle(root / "other", seed=7)
    data = tmp_path_factory.mktemp("guarded")
    settings = settings_for(small_bundle, data, allow_unauthenticated=False, admin_key=ADMIN, bundles_root=root)
    with serving(settings) as running:
        running.client.headers["x-api-key"] = ADMIN
        running.client.post("/v1/collections", json={"name": "palette"})
        fill(running, "palette", files)
        yield running


@pytest.fixture
def enter(browser: Browser, guarded: Running) -> Iterator[Callable[..., Page]]:
    """Return a function that opens the guarded service's page with a key.

    ``view`` is appended to the address ``/?collection=palette``; further arguments go to the browser context.
    """
    contexts: list[BrowserContext] = []

    def open_page(key: str, view: str = "", **context: object) -> Page:
        contexts.append(browser.new_context(base_url=str(guarded.client.base_url), **context))  # type: ignore[arg-type]
        opened = contexts[-1].new_page()
        opened.set_default_timeout(PATIENCE_MS)
        opened.goto(f"/?collection=palette{view}")
        opened.get_by_label("API key", exact=True).fill(key)
        opened.get_by_role("button", name="Continue").click()
        opened.locator("#key-dialog").wait_for(state="hidden")
        return opened

    yield open_page
    for context in contexts:
        context.close()


def record_announcements(page: Page) -> None:
    """Record all announcements from the next navigation on."""
    page.add_init_script(f"({_RECORD_ANNOUNCEMENTS})()")


def announcements(page: Page) -> list[str]:
    """Return and clear the recorded announcements."""
    return page.evaluate("announced.splice(0)")  # type: ignore[no-any-return]


def accessibility_tree(page: Page) -> list[tuple[str, str, dict[str, object]]]:
    """Return role, name and properties of all nodes of the accessibility tree except text."""
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    exposed = [node for node in nodes if not node["ignored"] and "Text" not in node["role"]["value"]]
    return [
        (
            node["role"]["value"],
            node.get("name", {}).get("value", ""),
            {item["name"]: item["value"].get("value") for item in node.get("properties", [])},
        )
        for node in exposed
    ]


def record_toasts(page: Page) -> None:
    """Record toasts from the next navigation on."""
    page.add_init_script(f"({_RECORD_TOASTS})()")


def expect_toast(page: Page, name: str, text: str) -> None:
    """Wait until the toast ``name`` has shown ``text``, even if it has changed or disappeared since."""
    wait_for(lambda: any(toast.startswith(name) and text in toast for toast in page.evaluate("[...toastTexts]")))


def views(page: Page, query: str, question: str) -> Iterator[str]:
    """Yield the name of each view while it is shown.

    ``page`` shows a collection with videos and jobs; ``query`` finds some, ``question`` is asked about the first.
    """
    page.locator(".card").first.wait_for()
    page.locator("#query").fill(query)
    page.keyboard.press("Enter")
    page.locator(".card .score").first.wait_for()
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
    page.get_by_text("Not applied: enter a value").wait_for()
    page.get_by_role("button", name="Options").click()
    page.get_by_role("button", name="But not…").click()
    yield "filter"
    page.get_by_role("button", name="Remove the condition").click()

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

    page.locator("#open-jobs").click()
    page.locator("#tab-collections").click()
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

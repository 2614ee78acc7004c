"""Browser fixtures for tests of the page; conftest.py offers them to all tests of the service."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.media_files import solid, write_video
from tests.service.running import Running, serving
from tests.service.toast_log import record_toasts
from tests.small_bundle import make_small_bundle
from tests.tools import find_tool
from tests.waiting import PATIENCE, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

PATIENCE_MS = PATIENCE * 1000
ADMIN = "the-admin-key-of-these-tests-0123456789abcdef"
FILM_CLIPS = 30


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import expect, sync_playwright  # only if a browser is used

    chromium = find_tool("chromium")
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

"""A real browser for tests of the page; conftest.py gives the fixtures to all tests of the service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.service.running import Running
from tests.tools import find_tool

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PATIENCE_MS = 30_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import expect, sync_playwright  # only where a browser is wanted

    chromium = find_tool("chromium")
    expect.set_options(timeout=PATIENCE_MS)
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

"""What the page shows for a moment only: all that lines in its corner have said, kept from when it was opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.waiting import wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Page

_KEEP = """() => {
    window.passed = new Set();
    const keep = () => document.querySelectorAll("#uploads .upload").forEach((line) => passed.add(line.textContent));
    new MutationObserver(keep).observe(document, { subtree: true, childList: true, characterData: true });
}"""


def keep_passing(page: Page) -> None:
    """Keep what lines say from when the page is opened next."""
    page.add_init_script(f"({_KEEP})()")


def expect_passed(page: Page, name: str, said: str) -> None:
    """The line of ``name`` has said this, though it may say something else by now, or be gone."""
    wait_for(lambda: any(line.startswith(name) and said in line for line in page.evaluate("[...passed]")))

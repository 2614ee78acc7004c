"""Record of all texts that the page's toasts have shown, as toasts disappear after some seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.waiting import wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Page

_RECORD = """() => {
    window.toastTexts = new Set();
    const toasts = () => document.querySelectorAll("#uploads .upload");
    const record = () => toasts().forEach((toast) => toastTexts.add(toast.textContent));
    new MutationObserver(record).observe(document, { subtree: true, childList: true, characterData: true });
}"""


def record_toasts(page: Page) -> None:
    """Record toasts from the next navigation on."""
    page.add_init_script(f"({_RECORD})()")


def expect_toast(page: Page, name: str, text: str) -> None:
    """Wait until the toast ``name`` has shown ``text``, even if it has changed or disappeared since."""
    wait_for(lambda: any(toast.startswith(name) and text in toast for toast in page.evaluate("[...toastTexts]")))

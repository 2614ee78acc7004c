"""What screen readers get from the page: announcements of live regions in order, and Chromium's accessibility tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

_RECORD = """() => {
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


def record_announcements(page: Page) -> None:
    """Record all announcements from the next navigation on."""
    page.add_init_script(f"({_RECORD})()")


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

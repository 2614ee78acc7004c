"""What a screen reader gets from the page: texts of live regions in their order, and Chromium's accessibility tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

_LISTEN = """() => {
    window.heard = [];
    const opened = []; // dialogs, the one on top last
    const show = HTMLDialogElement.prototype.showModal;
    HTMLDialogElement.prototype.showModal = function () {
        show.call(this);
        opened.push(this);
        this.addEventListener("close", () => opened.splice(opened.indexOf(this), 1), { once: true });
    };
    const REGION = "[role=status], [role=alert], [role=log], [aria-live]";
    const isAtomic = (region) => ["status", "alert"].includes(region.role);
    const top = () => opened.findLast((dialog) => dialog.open);
    // What is hidden or behind a dialog is not there for those who hear the page.
    const isThere = (region) => region.checkVisibility() && (!top() || top().contains(region));
    const tell = (text) => text.trim() && heard.push(text.trim().replace(/\\s+/g, " "));
    new MutationObserver((changes) => {
        const changed = new Set();
        for (const { target, addedNodes } of changes) {
            const region = (target.closest ? target : target.parentElement)?.closest(REGION);
            const elements = [...addedNodes].filter((node) => node.querySelectorAll);
            const all = elements.flatMap((each) => [each, ...each.querySelectorAll("*")]);
            if (region && isAtomic(region)) changed.add(region);
            else if (region && isThere(region)) addedNodes.forEach((node) => tell(node.textContent));
            else all.filter((each) => each.role === "alert").forEach((each) => changed.add(each));
        }
        for (const region of changed) if (isThere(region)) tell(region.textContent);
    }).observe(document, { subtree: true, childList: true, characterData: true });
}"""


def listen(page: Page) -> None:
    """Keep all that the page tells from when it is opened next."""
    page.add_init_script(f"({_LISTEN})()")


def heard(page: Page) -> list[str]:
    """What was told since this was asked for last."""
    return page.evaluate("heard.splice(0)")  # type: ignore[no-any-return]


def tree(page: Page) -> list[tuple[str, str, dict[str, object]]]:
    """Role, name and properties of all that is in the accessibility tree, without plain text."""
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    there = [node for node in nodes if not node["ignored"] and "Text" not in node["role"]["value"]]
    return [
        (
            node["role"]["value"],
            node.get("name", {}).get("value", ""),
            {each["name"]: each["value"].get("value") for each in node.get("properties", [])},
        )
        for node in there
    ]

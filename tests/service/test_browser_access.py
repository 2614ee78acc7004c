"""The page for those who cannot see it well, use no mouse, or hold it in one hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.chaos import only_by_chaos
from tests.media_files import solid, write_picture
from tests.service.browsing import ADMIN
from tests.service.page_views import views
from tests.service.running import Running, wait_for

SIZES = {"desk": (1200, 900), "phone": (390, 780)}
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], "resultTypes": ["violations"]}
COLOURS = {"runOnly": ["color-contrast", "link-in-text-block"], "resultTypes": ["violations"]}
SMALLEST_TARGET = 43.5  # of 44 CSS pixels, since edges are rounded
TARGETS = "button, select, summary, input:not([type=checkbox], [type=radio], [type=file]), label:has([type=checkbox])"


@pytest.fixture(scope="module")
def with_a_job(guarded: Running, tmp_path_factory: pytest.TempPathFactory) -> Running:
    """The guarded service, where a job has failed at one file of two, and a key was revoked."""
    folder = guarded.settings.data_dir / "incoming" / "cameras"
    folder.mkdir(parents=True)
    write_picture(folder / "door.png", solid((90, 90, 90), 48, 48))
    (folder / "broken.mp4").write_text("no video")
    job = guarded.client.post("/v1/collections/palette/jobs", json={"folder": "cameras"}).headers["location"]
    wait_for(lambda: guarded.client.get(job).json()["state"] == "succeeded")
    key = guarded.client.post("/v1/keys", json={"name": "an old one", "scopes": ["read"]}).json()
    guarded.client.delete(f"/v1/keys/{key['id']}")
    return guarded


def violations(page: Page, rules: dict[str, list[str]]) -> list[str]:
    """What axe-core, which the page has got before, has against the page as it is."""
    found = page.evaluate("rules => axe.run(rules)", rules)["violations"]
    return [f"{each['id']}: {node['target']} {node['failureSummary']}" for each in found for node in each["nodes"]]


def small_targets(page: Page) -> list[str]:
    """What a finger would miss, in the view on top."""
    return page.evaluate(  # type: ignore[no-any-return]
        """([targets, least]) => {
            const top = [...document.querySelectorAll("dialog[open]")].pop() || document;
            return [...top.querySelectorAll(targets)]
                .filter((each) => each.checkVisibility({ visibilityProperty: true, opacityProperty: true }))
                .map((each) => [each, each.getBoundingClientRect()])
                .filter(([, box]) => box.width && (box.height < least || box.width < least))
                .map(([each, box]) => `${each.outerHTML.slice(0, 90)} ${box.width}x${box.height}`);
        }""",
        [TARGETS, SMALLEST_TARGET],
    )


@pytest.mark.parametrize("size", ["phone", pytest.param("desk", marks=only_by_chaos)])
def test_every_view_can_be_read_and_used_by_everybody(
    with_a_job: Running, enter: Callable[..., Page], tmp_path: Path, size: str
) -> None:
    """In the dark by all rules, and in the light by those that colours may break."""
    width, height = SIZES[size]
    is_phone = size == "phone"
    context = {"viewport": {"width": width, "height": height}, "has_touch": is_phone, "is_mobile": is_phone}
    page = enter(ADMIN, color_scheme="dark", reduced_motion="reduce", **context)
    page.evaluate(Axe().axe_script)
    seen, wrong = [], []
    for view in views(page, "a red thing", "which colour is it"):
        seen.append(view)
        page.screenshot(path=tmp_path / f"{view}-{size}.png")
        found = violations(page, RULES) + (small_targets(page) if is_phone else [])
        page.emulate_media(color_scheme="light")
        found += violations(page, COLOURS)
        page.emulate_media(color_scheme="dark")
        wrong += [(view, each) for each in found]
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
    assert wrong == []
    assert len(seen) == 8
    assert page.evaluate("getComputedStyle(document.querySelector('#sheet')).animationName") == "none"


def test_the_sheet_is_used_by_keys_alone_and_leads_back(with_a_job: Running, enter: Callable[..., Page]) -> None:
    page = enter(ADMIN)
    page.locator("#open-jobs").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("tab", name="Jobs")).to_be_focused()
    expect(page.get_by_text("1 file that failed")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("tabpanel")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("summary", has_text="1 file that failed")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Collections")).to_be_focused()
    page.get_by_role("button", name="Delete…").press("Enter")
    expect(page.get_by_label("Type palette to confirm")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Delete…")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#open-jobs")).to_be_focused()

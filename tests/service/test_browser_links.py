"""Links to what is open on the page, in a real browser on a real service."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Page, expect

from tests.service.browsing import ADMIN
from tests.service.running import Running, wait_for


def in_address(page: Page) -> dict[str, str]:
    return {name: value for name, [value] in parse_qs(urlsplit(page.url).query).items()}


def test_an_open_clip_is_in_the_address_and_back_and_forward_close_and_open_it(page: Page, film: str) -> None:
    page.goto(f"/?collection={film}&q=a+red+thing&group=event")
    page.goto(f"/?collection={film}&q=a+blue+thing")
    page.locator("#results .card").first.click()
    title = page.locator("#clip-title")
    expect(title).to_be_visible()
    wait_for(lambda: in_address(page).get("t") == "40-42")
    assert in_address(page) == {"collection": film, "q": "a blue thing", "video": "1", "t": "40-42"}
    page.keyboard.press("ArrowRight")
    expect(page.locator("#clip-facts")).to_contain_text(re.compile("0:42.+0:44"))
    page.wait_for_url("**&t=42-44")

    page.reload()
    expect(page.locator("#clip-facts")).to_contain_text(re.compile("0:42.+0:44"))
    expect(page.locator("#moments button")).to_have_count(1)  # of the search, which is in the address, too
    wait_for(lambda: 42 <= page.locator("#clip-screen video").evaluate("video => video.currentTime") < 44.5)
    page.go_back()
    expect(page.locator("#clip")).to_be_hidden()
    assert "video" not in in_address(page)
    expect(page.locator("#results .card").first).to_contain_text("0:40")
    page.go_forward()
    expect(page.locator("#clip-facts")).to_contain_text(re.compile("0:42.+0:44"))

    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url
    page.keyboard.press("Escape")
    expect(page.locator("#clip")).to_be_hidden()
    assert "video" not in in_address(page)
    expect(page.locator("#results .card").first).to_be_visible()
    page.locator("#results .card").nth(1).click()
    expect(page.locator("#clip")).to_be_visible()
    page.get_by_role("button", name="Close", exact=True).click()
    page.go_back()  # to the search before: what was opened and closed is not in the way
    expect(page.locator("#query")).to_have_value("a red thing")
    expect(page.locator("#clip")).to_be_hidden()

    page.goto(link)
    expect(page.locator("#clip-facts")).to_contain_text(re.compile("0:42.+0:44"))


def test_a_link_to_what_is_not_there_says_so_and_the_page_works(page: Page, palette: str, film: str) -> None:
    page.goto(f"/?collection={palette}&q=a+red+thing&video=4711")
    notice = page.locator("#uploads .failed")
    expect(notice).to_contain_text("Link to video 4711")
    expect(notice).to_contain_text("There is no such video in palette. It may have been deleted.")
    expect(page.locator("#results .card")).to_have_count(3)
    expect(page.locator("#clip")).to_be_hidden()
    page.locator("#results .card").first.click()
    expect(page.locator("#clip-title")).to_have_text("red")
    assert in_address(page)["video"] == "1"

    page.goto("/?collection=nowhere&video=1&q=a+red+thing")
    expect(notice).to_contain_text("Collection nowhere")
    expect(notice).to_contain_text("It is not here, or not for the key of this tab. This is ")
    expect(page.locator("#results .card").first).to_be_visible()
    expect(page.locator("#clip")).to_be_hidden()
    assert "video" not in in_address(page)

    page.goto(f"/?collection={film}&video=1&t=never")
    expect(notice).to_contain_text("t: never; seconds such as 20 or 20-24 were expected, below 1:00")
    expect(page.locator("#clip-facts")).to_contain_text(re.compile("0:00.+1:00"))
    page.goto(f"/?collection={film}&video=1&t=41")
    expect(page.locator("#clip-facts")).to_contain_text(re.compile("0:40.+0:42"))
    page.keyboard.press("Escape")
    expect(page.locator("#clip")).to_be_hidden()
    assert in_address(page) == {"collection": film}

    page.route("**/videos/1", lambda route: route.abort())
    page.goto(f"/?collection={palette}&video=1")
    expect(notice).to_contain_text("The service cannot be reached.")
    page.unroute_all()
    notice.get_by_role("button", name="Try again").click()
    expect(page.locator("#clip-title")).to_have_text("red")


def test_a_link_is_followed_after_the_key_was_asked_for(guarded: Running, enter: Callable[..., Page]) -> None:
    page = enter(ADMIN, "&video=2")
    expect(page.locator("#clip-title")).to_have_text("green")
    page.reload()
    expect(page.locator("#clip-title")).to_have_text("green")

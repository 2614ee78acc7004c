"""The page in a browser: search, clips, links, history and API keys."""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

import service.page
from service.page import WEB_FILES, PageFiles
from tests.media_files import solid, write_picture, write_video
from tests.service.browsing import (
    FILM_CLIPS,
    PATIENCE_MS,
    announcements,
    expect_toast,
    record_announcements,
    record_toasts,
    wait_for_events,
)
from tests.service.conftest import fill, settings_for
from tests.service.running import Running, serving
from tests.small_bundle import make_small_bundle
from tests.waiting import wait_for

RED = (220, 10, 10)
SPAN = "{} \N{EN DASH} {}"
AT_20, AT_24, AT_40 = (SPAN.format(f"0:{start}", f"0:{start + 2}") for start in (20, 24, 40))


def expect_titles(page: Page, *titles: str) -> None:
    """Wait for results with these titles, in any order."""
    shown = page.locator("#results .title")
    wait_for(lambda: sorted(shown.all_inner_texts()) == sorted(titles))


@pytest.fixture
def page(page: Page) -> Page:
    """The page, which records the positions that its video seeks, since it may have played past them."""
    page.add_init_script("""window.seeks = [];
        document.addEventListener("seeking", (event) => seeks.push(event.target.currentTime), true);""")
    return page


def expect_seek(page: Page, seconds: float) -> None:
    """Wait until the video has been sought to a position within a second of ``seconds``."""
    wait_for(lambda: any(seconds <= position < seconds + 1 for position in page.evaluate("seeks")))


def expect_position(video: Locator, seconds: float) -> None:
    """Wait until the video shows a position at most two seconds after ``seconds``."""
    wait_for(lambda: video.count() and seconds < video.evaluate("video => video.currentTime") < seconds + 2)


@pytest.fixture
def red_picture(tmp_path: Path) -> Path:
    return write_picture(tmp_path / "red.png", solid(RED))


def test_search_by_image_alone_and_with_text(page: Page, palette: str, red_picture: Path) -> None:
    page.goto(f"/?collection={palette}")
    button = page.get_by_role("button", name="Search by image or video")
    with page.expect_file_chooser() as chosen:
        button.press("Enter")
    chosen.value.set_files(red_picture)
    titles = page.locator("#results .title")
    expect(page.locator("#summary")).to_contain_text("3 events")
    expect(titles.first).to_have_text("red")
    chip = page.locator("#chips li")
    expect(chip).to_contain_text("Similar to red.png")
    wait_for(lambda: chip.locator("img").evaluate("image => image.naturalWidth") > 0)

    page.locator("#query").fill("a blue thing")
    page.locator("#query").press("Enter")
    expect(chip).to_be_visible()
    expect(page.locator("#summary")).to_contain_text("3 events in")
    wait_for(lambda: {titles.nth(0).inner_text(), titles.nth(1).inner_text()} == {"blue", "red"})  # similar to both
    page.get_by_role("button", name="Options").click()
    requests: list[Route] = []
    page.route("**/search", lambda route: requests.append(route), times=1)
    page.get_by_label("Rerank top 20").check()
    wait_for_events(page, lambda: requests)
    remove = page.get_by_role("button", name="Remove similar to red.png")
    remove.focus()
    requests[0].continue_()
    expect(page.locator("#summary")).to_contain_text("3 events in")
    expect(titles).to_have_text(["blue", "red", "green"])  # reranked by the text

    expect(remove).to_be_focused()  # the results have arrived meanwhile
    page.keyboard.press("Enter")
    expect(chip).to_have_count(0)
    expect(page.locator("#query")).to_be_focused()
    expect(titles.first).to_have_text("blue")


def test_the_best_results_are_reranked_by_default_as_the_bundle_states(
    browser: Browser, tmp_path: Path, files: Path
) -> None:
    bundle = make_small_bundle(tmp_path / "bundle", default_rerank=2)
    with serving(settings_for(bundle, tmp_path / "data")) as running:
        running.client.post("/v1/collections", json={"name": "videos"}).raise_for_status()
        fill(running, "videos", files)
        page = browser.new_page(base_url=str(running.client.base_url))
        page.set_default_timeout(PATIENCE_MS)
        page.goto("/?q=a+red+thing")
        cards, reranks = page.locator("#results .card"), page.get_by_label("Rerank top 2:")
        page.get_by_role("button", name="Options").click()
        expect(cards.nth(1)).to_contain_text(re.compile(r"Fit.+%"))
        expect(cards.nth(2)).not_to_contain_text("%")  # a similarity is no probability
        expect(reranks).to_be_checked()
        reranks.uncheck()
        expect(cards.first).not_to_contain_text("%")
        page.get_by_role("button", name="Name", exact=True).click()  # switches the words of names off
        expected = {
            "collection": "videos",
            "q": "a red thing",
            "rerank": "0",
            "signals": "visual,speech,screen_text,caption",
        }
        wait_for(lambda: query_parameters(page) == expected)

        def respond(route: Route) -> None:
            body = route.fetch().json()
            body["collections"][0]["default_rerank"] = 5
            route.fulfill(json=body)

        page.route("**/v1/collections", respond)  # as for a collection with sound
        page.reload()
        expect(reranks).to_have_count(0)
        page.locator("#model").click()
        expect(page.get_by_role("article")).to_contain_text("top 2 by default, top 5 in collections with sound")
        page.close()


def test_a_dropped_or_pasted_file_is_added_or_searched_with_by_keyboard(
    page: Page, running: Running, collection: str, files: Path
) -> None:
    page.goto(f"/?collection={collection}")
    expect(page.locator("#results")).to_contain_text("This collection is empty")
    content = base64.b64encode((files / "red.mp4").read_bytes()).decode()
    drop = """([content, event]) => {
        const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], "red.mp4", { type: "video/mp4" }));
        const data = event === "paste" ? { clipboardData: transfer } : { dataTransfer: transfer };
        const Kind = event === "paste" ? ClipboardEvent : DragEvent;
        document.body.dispatchEvent(new Kind(event, { ...data, bubbles: true, cancelable: true }));
    }"""
    page.evaluate(drop, [content, "drop"])
    expect(page.get_by_role("heading", name="red.mp4")).to_be_visible()
    expect(page.get_by_role("button", name="Find similar")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name=f"Add to {collection}")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#summary")).to_contain_text("1 video")

    page.evaluate(drop, [content, "paste"])
    page.keyboard.press("Escape")
    expect(page.locator("#drop-dialog")).to_be_hidden()
    page.evaluate(drop, [content, "paste"])
    page.keyboard.press("Enter")  # Find similar
    expect(page.locator("#chips")).to_contain_text("Similar to red.mp4")
    expect(page.locator("#results .card")).to_have_count(1)
    expect(page.locator("#results .card")).to_have_accessible_name(re.compile(r"similarity (1\.00|0\.9\d)"))
    assert running.client.get(f"/v1/collections/{collection}").json()["videos"] == 1


def test_results_are_filtered_and_errors_are_shown_at_their_row(page: Page, palette: str) -> None:
    page.goto(f"/?collection={palette}&q=a+red+thing")
    expect(page.locator("#results .card")).to_have_count(3)
    page.get_by_role("button", name="Filter", exact=True).press("Enter")
    field = page.get_by_label("Field")
    expect(field).to_be_focused()
    suggestions = page.locator("#filter-fields option")  # metadata before built-in fields, once the facets are known
    expect(suggestions.nth(0)).to_have_attribute("value", "color")
    expect(suggestions.nth(1)).to_have_attribute("value", "number")
    comparison = page.get_by_label("Comparison")
    field.fill("color")
    comparison.select_option(label="contains")
    page.get_by_label("Value").fill("RE")
    page.keyboard.press("Enter")
    expect_titles(page, "green", "red")
    field.fill("number")
    assert "contains" not in comparison.locator("option").all_inner_texts()
    comparison.select_option(label="is at least")
    page.get_by_label("Value").fill("some")
    page.keyboard.press("Enter")
    expect(page.locator(".condition").get_by_role("alert")).to_have_text("Enter a number.")
    expect(page.get_by_label("Value")).to_be_focused()
    page.get_by_label("Value").fill("1")
    page.keyboard.press("Enter")
    expect_titles(page, "blue", "green")
    expect(page.locator("#chips li")).to_have_text(re.compile("number ≥ 1"))

    page.reload()  # the filter is in the address
    expect_titles(page, "blue", "green")
    page.get_by_role("button", name="Filter", exact=True).click()
    expect(page.get_by_label("Value")).to_have_value("1")
    page.get_by_role("button", name="Add condition").click()
    expect(page.get_by_label("Field").nth(1)).to_be_focused()
    page.keyboard.type("clip.start")
    page.keyboard.press("Enter")  # does not wait for the value
    row_error = page.locator(".condition").nth(1).get_by_role("alert")
    expect(row_error).to_contain_text("Not applied: enter a value")
    page.get_by_label("Value").nth(1).fill("soon")
    page.keyboard.press("Enter")
    expect(row_error).to_have_text("Enter seconds, or minutes and seconds such as 1:30.")
    page.get_by_label("Value").nth(1).fill("0:00")
    page.keyboard.press("Enter")
    expect(page.locator("#chips li")).to_have_count(2)
    expect_titles(page, "blue", "green")
    page.get_by_role("button", name="Remove filter number ≥ 1").click()
    expect(page.locator("#results .card")).to_have_count(3)

    page.locator("#query").fill("")  # the filter also applies to the list of videos
    page.goto(f'/?collection={palette}&filter={{"or":[{{"color":"red"}},{{"color":"blue"}}]}}')
    expect_titles(page, "blue", "red")
    expect(page.locator("#summary")).to_have_text("2 videos match the filter.")
    page.locator("#chips button").click()
    expect(page.locator("#results .card")).to_have_count(3)
    page.get_by_label("color", exact=True).select_option(label="blue (1)")  # a facet
    expect_titles(page, "blue")
    page.get_by_label("color", exact=True).select_option(label="color: any")
    expect(page.locator("#results .card")).to_have_count(3)
    page.goto(f'/?collection={palette}&filter={{"clip":{{"start":"soon"}}}}')  # rejected by the service
    expect(page.locator(".condition").get_by_role("alert")).to_contain_text("a number of seconds was expected")
    for invalid, reason in (
        ('{"field":{"regex":"x"}}', "field: operator 'regex'"),
        ('{"and":[1,"x"]}', "filter: 1;"),
        ('{"color":{}}', "color: {}; a value or operators"),
        ('{"clip":{"text":{}}}', "text: {}; a value or operators"),
        ('{"clip":{}}', "clip: {}; a value or operators"),
        ('{"and":[]}', "and: []; a list of at least one filter"),
    ):
        page.goto(f"/?collection={palette}&filter={invalid}")
        expect(page.locator("#filter-error")).to_contain_text(reason)
    page.goto(f"/?collection={palette}&filter=red")
    expect(page.locator("#filter-error")).to_contain_text("filter: red;")


def test_metadata_fields_may_be_named_like_properties_of_javascript_objects(
    page: Page, running: Running, colors: str
) -> None:
    names = ("constructor", "toString", "__proto__")
    address = f"/v1/collections/{colors}/videos/1"
    running.client.patch(address, json={"metadata": dict.fromkeys(names, "x")}).raise_for_status()
    nodes = json.dumps([{name: "x"} for name in names])
    page.goto(f'/?collection={colors}&filter={{"and":{nodes}}}')
    expect(page.locator("#summary")).to_have_text("1 video matches the filter.")
    page.get_by_role("button", name="Filter", exact=True).click()
    for number, name in enumerate(names):
        expect(page.get_by_label("Field").nth(number)).to_have_value(name)
    page.locator("#results .card").click()
    page.get_by_role("button", name="Edit…").click()
    page.get_by_label("Metadata", exact=True).fill("color: red")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#clip-facts")).not_to_contain_text("constructor")
    assert running.client.get(address).json()["metadata"] == {"color": "red"}


def test_moments_are_on_the_timeline_and_clips_are_played_by_keys(page: Page, film: str) -> None:
    page.goto(f"/?collection={film}&q=a+red+thing&rerank=1&group=clip")
    page.locator("#results .card").first.press("Enter")
    moments = page.locator("#best-clips button")
    expect(moments).to_have_count(1)  # two adjacent clips
    expect(moments).to_have_text(re.compile("^" + SPAN.format("0:20", "0:24") + r"fit (>99|9\d)%"))
    track = page.get_by_role("slider", name="Clips of this video")
    expect(track).to_have_attribute(
        "aria-valuetext", re.compile(r"^clip 1[12] of 30, 0:2[02] to 0:2[24], fit (over 99|9\d)%")
    )

    moments.click()
    expect(page.locator("#clip-facts")).to_contain_text(AT_20)
    video = page.locator("#clip-screen video")
    expect_seek(page, 20)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#clip-facts")).to_contain_text(AT_24)
    wait_for(lambda: video.evaluate("video => video.currentTime") > 24.2)  # playing
    page.keyboard.press("End")
    expect(track).to_have_attribute("aria-valuetext", "clip 30 of 30, 0:58 to 1:00")

    box = track.bounding_box()
    assert box is not None
    at_41 = {"x": box["width"] * 41 / 60, "y": 10.0}
    track.hover(position=at_41)
    expect(page.locator("#peek-text")).to_contain_text("clip 21 of 30")
    wait_for(lambda: page.locator("#peek-image").evaluate("image => image.naturalWidth") > 0)
    track.click(position=at_41)
    expect(page.locator("#clip-facts")).to_contain_text(AT_40)
    page.locator("#captions").fill("a blue thing\na yellow thing")
    page.get_by_role("button", name="Compare").click()  # for the selected clip
    expect(page.locator("#scores .best h4")).to_have_text("a blue thing")

    page.route("**/v1/answers", lambda route: None)  # no response
    page.locator("#question").fill("which colour is it")
    page.locator("#question").press("Enter")
    expect(page.locator("#answers")).to_have_text("Loading\N{HORIZONTAL ELLIPSIS}")
    moments.click()  # cancels the pending question
    expect(page.locator("#answers")).to_be_empty()
    expect(page.locator("#scores")).to_be_empty()
    page.unroute("**/v1/answers")
    page.locator("#question").press("Enter")
    expect(page.locator("#answers .answer").first).to_contain_text("red")

    track.click(position=at_41)
    expect(page.locator("#clip-facts")).to_contain_text(AT_40)
    page.locator("#clip-like").click()
    expect(page.locator("#clip")).to_be_hidden()
    expect(page.locator("#query")).to_have_value("")
    expect(page.locator("#chips")).to_contain_text(f"Similar to film, {AT_40}")
    expect(page.locator("#results")).not_to_contain_text(AT_40)  # the clip itself is excluded
    page.reload()
    expect(page.locator("#chips")).to_contain_text(f"Similar to film, {AT_40}")
    page.go_back()
    expect(page.locator("#query")).to_have_value("a red thing")
    expect(page.locator("#clip-facts")).to_contain_text(AT_40)  # the query clip
    expect(page.locator("#results .card").first).to_contain_text(re.compile("0:2[02]"))


def test_cards_are_shown_at_once_before_their_thumbnails_and_more_by_page(page: Page, film: str) -> None:
    waiting: list[Route] = []
    page.route("**/thumbnail?*", lambda route: waiting.append(route))
    page.goto(f"/?collection={film}&group=clip")
    expect(page.locator("#results .card")).to_have_count(1)
    page.evaluate("""() => {
        window.counts = [];
        const results = document.getElementById("results");
        const count = () => counts.push(results.querySelectorAll(".cell").length);
        new MutationObserver(count).observe(results, { childList: true });
    }""")
    page.locator("#query").fill("a yellow thing")
    page.keyboard.press("Enter")
    expect(page.locator("#results .card")).to_have_count(24)
    expect(page.locator("#summary")).to_have_text(re.compile(r"^Best 24 of 30 clips in \d+\sm?s$"))
    assert page.evaluate("counts") == [24]
    assert not any(page.locator("#results img").evaluate_all("images => images.map(image => image.naturalWidth)"))
    wait_for_events(page, lambda: waiting)
    page.unroute("**/thumbnail?*")

    page.get_by_role("button", name="Show more").press("Enter")
    expect(page.locator("#results .card")).to_have_count(FILM_CLIPS)
    expect(page.locator("#summary")).to_contain_text("30 clips")
    expect(page.locator("#results .card").nth(24)).to_be_focused()
    ranks = page.locator("#results .rank").all_inner_texts()
    assert ranks == [str(rank) for rank in range(1, FILM_CLIPS + 1)]
    assert len(set(page.locator("#results .card .time").all_inner_texts())) == FILM_CLIPS
    expect(page.get_by_role("button", name="Show more")).to_be_hidden()

    page.get_by_label("Show", exact=True).select_option("event")
    expect(page.locator("#summary")).to_contain_text(re.compile(r"^\d+ events? in"))
    page.reload()
    expect(page.locator("#group")).to_have_value("event")


def test_captions_have_scores_by_word_and_questions_may_have_no_confident_answer(page: Page, film: str) -> None:
    page.goto(f"/?collection={film}&q=a+red+thing")
    page.locator("#results .card").first.click()
    page.get_by_label("The whole video").check()
    page.locator("#captions").fill("a blue thing\na red thing\na green thing")
    page.get_by_text("Reference captions").click()
    page.get_by_label(re.compile("One per line. Each")).fill("a yellow thing")
    page.get_by_role("button", name="Compare").click()
    cards = page.locator("#scores article")
    expect(cards).to_have_count(3)
    for score in ("Fused", "Match", "Similarity"):
        expect(cards.first).to_contain_text(score)
    expect(page.locator("#scores .best")).to_have_count(1)
    expect(cards.first).to_contain_text(re.compile("[Dd]escribes? the clip"))
    expect(cards.first.locator(".unscored")).to_have_text("a")  # a function word
    cards.first.get_by_text("Other scores").click()
    expect(cards.first).to_contain_text(re.compile(r"RefCLIPScore\s*\d\.\d{3}"))
    yellow = page.locator("#scores").get_by_role("button", name=re.compile(r"^thing: \S+, best match at \d:\d\d"))
    expect(yellow).to_have_count(3)
    red = page.locator("#scores").get_by_role("button", name=re.compile("^red: "))
    label = red.get_attribute("aria-label") or ""
    seconds = int(re.search(r"at 0:(\d\d)", label)[1])
    page.evaluate("seeks.length = 0")
    red.click()  # plays from there
    expect_seek(page, seconds)

    question = page.locator("#question")
    question.fill("which colour is it")
    question.press("Enter")
    expect(page.locator("#answers .answer")).to_have_count(5)
    page.get_by_text("Restrict answers").click()
    minimum = page.get_by_label("Minimum confidence")
    expect(minimum).to_have_attribute("placeholder", "20")
    page.get_by_label(re.compile("Allowed answers")).fill("green\nblue")
    expect(minimum).to_have_attribute("placeholder", "75")  # a guess among two has 50%
    page.get_by_label(re.compile("Allowed answers")).fill("green\nwombat, blue")
    minimum.fill("99.9")
    question.press("Enter")
    expect(page.locator("#answers .not-confident")).to_contain_text(
        re.compile("Not confident. The likeliest answer, “.*”, has .*%")
    )
    expect(page.locator("#answers .answer")).to_have_count(2)
    expect(page.locator("#answers")).to_contain_text("not scored: “wombat”")
    page.get_by_label(re.compile("Allowed answers")).fill("wombat")
    question.press("Enter")
    expect(page.locator("#answers .not-confident")).to_have_text("The model knows none of these answers: “wombat”.")


def test_a_query_may_have_additional_sentences(page: Page, palette: str) -> None:
    page.goto(f"/?collection={palette}&q=a+red+thing")
    titles = page.locator("#results .title")
    expect(titles.first).to_have_text("red")
    page.get_by_role("button", name="And…").click()
    page.keyboard.type("a blue thing")
    page.keyboard.press("Enter")
    wait_for(lambda: {titles.nth(0).inner_text(), titles.nth(1).inner_text()} == {"blue", "red"})
    page.get_by_role("button", name="But not…").click()
    page.keyboard.type("a red thing")
    page.keyboard.press("Enter")
    expect(titles.first).to_have_text("blue")
    assert query_parameters(page) == {
        "collection": palette,
        "q": "a red thing",
        "and": "a blue thing",
        "not": "a red thing",
    }
    page.reload()
    expect(titles.first).to_have_text("blue")
    expect(page.get_by_label("Further condition").first).to_have_value("a blue thing")
    page.get_by_role("button", name="Remove the condition").last.click()
    expect(page.get_by_label("Further condition")).to_have_count(1)
    wait_for(lambda: {titles.nth(0).inner_text(), titles.nth(1).inner_text()} == {"blue", "red"})


def test_a_result_shows_its_fit_and_place_and_warnings_are_above_it(page: Page, palette: str) -> None:
    def respond(route: Route) -> None:
        sent = route.request.post_data or ""
        response = route.fetch()
        body = response.json()
        if "min_relevance" in sent:
            minima.append(sent)
            body = {"results": [], "next_cursor": None, "changed": False}
        for number, (result, relevance) in enumerate(zip(body["results"], (0.25, 0.3, 0.001), strict=False), 1):
            result["relevance"] = relevance
            result["conditions"] = [{"text": "a dog", "weight": -0.5, "relevance": 0.28, "met": number == 1}]
            result["video"] |= {"title": "0001", "path": f"/videos/CAM{number}/0001.mp4", "missing": number == 2}
            result["signals"] = {"visual": {"rank": number, "score": 0.4, "matches": []}}
        warnings = [
            {"code": code, "detail": "The model does not know the language"} for code in ("no_good_match", "language")
        ]
        route.fulfill(json={**body, "warnings": warnings})

    minima: list[str] = []
    page.route("**/search", respond)
    page.goto(f"/?collection={palette}&q=a+red+thing&rerank=0")
    expect(page.locator("#warnings p")).to_have_text(
        ["No good match. These are the nearest results.", "The model does not know the language."]
    )
    cards = page.locator("#results .card")
    expect(cards.nth(0)).to_have_accessible_name(
        "1. 0001, 0:00 to 0:02, fit 25%, not a dog: met, CAM1/0001.mp4, found by picture"
    )
    expect(cards.nth(1)).to_have_accessible_name(
        "2. 0001, 0:00 to 0:02, fit 30%, not a dog: not met, CAM2/0001.mp4, file missing, found by picture"
    )
    expect(cards.nth(1)).to_contain_text("File missing: CAM2/0001.mp4")
    expect(cards.nth(2)).to_contain_text(re.compile("Fit *<1%"))
    assert page.locator("#results .score").count() == 3  # one each
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    cards.nth(1).click()
    expect(page.locator("#clip-missing")).to_be_visible()
    page.get_by_role("button", name="Copy path").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "/videos/CAM2/0001.mp4"
    page.get_by_text("Scores", exact=True).click()
    expect(page.locator("#clip-scores-list")).to_contain_text(re.compile("Fit *30%.*not “a dog” *28%.*Similarity"))
    page.keyboard.press("Escape")

    page.get_by_role("button", name="Options").click()
    page.get_by_label("Minimum fit").fill("55")
    wait_for_events(page, lambda: minima)
    assert '"min_relevance":0.55' in minima[0]
    expect(page.locator("#results")).to_contain_text("No result fits with at least 55%.")
    assert query_parameters(page)["fit"] == "55"
    page.unroute("**/search")  # without calibration the service rejects a minimum, which other searches may have
    page.goto(f"/?collection={palette}&q=a+red+thing&fit=50")
    page.get_by_role("button", name="Find similar: 1. red").click()
    expect(page.locator("#chips")).to_contain_text("Similar to red")
    page.go_back()
    expect(page.locator("#chips")).not_to_contain_text("Similar to red")
    expect(page.locator("#results .card").first).to_be_visible()
    assert query_parameters(page)["fit"] == "50"
    page.get_by_role("button", name="Find similar: 1. red").click()
    expect(page.locator("#min-relevance")).to_be_disabled()
    page.locator("#query").fill("a red thing")
    page.keyboard.press("Enter")
    page.wait_for_url("**q=a+red+thing**like=1&fit=50")


def test_words_that_are_said_and_shown_are_highlighted_escaped_and_played_from_there(page: Page, palette: str) -> None:
    """Also words of hostile files: markup, right-to-left overrides, zero-width and control characters."""
    hostile = "\u202eThe quick \x00<img src=x> fo\u200bx\u2066 in the foxglove"

    def respond(route: Route) -> None:
        body = route.request.post_data_json
        chosen.append(body.pop("signals", None))
        response = route.fetch(post_data=json.dumps(body)).json()
        for number, result in enumerate(response["results"], 1):
            result |= {"text": hostile, "screen_text": "Fox (Vulpes) <b>"} if number == 1 else {"text": ""}
            result["signals"] = {"visual": {"rank": 80 if number == 1 else number, "score": 0.4, "matches": []}}
            if number == 1:
                match = {"end": 1.9, "box": None}
                written, spoken = match | {"text": "Fox (Vulpes)", "start": 0.4}, match | {"text": "fox", "start": 1.2}
                result["signals"]["speech"] = {"rank": 1, "score": 0.9, "matches": [spoken]}
                result["signals"]["screen_text"] = {"rank": 1, "score": 0.8, "matches": [written]}
        route.fulfill(json=response)

    chosen: list[list[str] | None] = []
    page.route("**/search", respond)
    page.route("**/facets", lambda route: route.fulfill(json=route.fetch().json() | {"speech": 1, "screen_text": 1}))
    page.goto(f"/?collection={palette}&q=fox")
    title = page.locator("#results .title").first.inner_text()
    clean = "The quick <img src=x> fox in the foxglove"
    match_button = page.get_by_role("button", name=f"Play 1. {title} from 0:01, speech: {clean}")
    expect(match_button.locator("mark")).to_have_text("fox")
    expect(page.locator("#results .matched").nth(1).locator("mark")).to_have_text("Fox (Vulpes)")
    assert page.locator("#results .matched img, #results .matched b").count() == 0
    expect(page.locator("#results .cell").first.locator(".signals")).to_have_count(0)  # its picture is not why
    expect(page.locator("#results .cell").nth(1).locator(".signals")).to_have_text("Picture")

    match_button.click()
    expect_seek(page, 1.2)
    assert page.locator("#clip-screen video").evaluate("video => video.muted") is False
    expect(page.locator("#clip-texts mark")).to_have_text(["fox", "Fox (Vulpes)"])
    matches = page.locator("#matches button")
    expect(matches).to_have_text([re.compile("^0:00.*Screen text$"), re.compile("^0:01fox.*Speech$")])
    page.evaluate("seeks.length = 0")
    matches.nth(1).click()
    expect_seek(page, 1.2)
    page.evaluate("seeks.length = 0")
    at_pin = 3 + page.locator("#track").evaluate("track => track.clientWidth") * 1.2 / 2
    page.locator("#track").click(position={"x": at_pin, "y": 9})
    expect_seek(page, 1.2)
    page.keyboard.press("Escape")

    speech = page.get_by_role("button", name="Speech", exact=True)
    speech.press("Enter")
    expect(speech).to_have_attribute("aria-pressed", "false")
    wait_for_events(page, lambda: chosen[-1] == ["visual", "screen_text", "caption", "name"])
    page.reload()
    expect(speech).to_have_attribute("aria-pressed", "false")
    assert query_parameters(page)["signals"] == "visual,screen_text,caption,name"
    for name in ("Picture", "Name", "Screen text"):  # the last one: all are on again
        page.get_by_role("button", name=name, exact=True).click()
    expect(speech).to_have_attribute("aria-pressed", "true")
    page.unroute_all(behavior="wait")


def test_a_file_that_the_browser_cannot_play_is_played_as_a_preview(page: Page, film: str) -> None:
    page.route("**/media", lambda route: route.fulfill(content_type="video/mp4", body=b"no video"))
    page.goto(f"/?collection={film}&q=a+red+thing&group=clip")
    page.locator("#results .card").first.click()
    video = page.locator("#clip-screen video")
    wait_for(lambda: video.count() and video.evaluate("video => video.currentTime") > 0)
    assert re.search(r"/preview\?start=2[02]&end=2[24]$", video.get_attribute("src") or "")
    page.keyboard.press("End")  # another clip, another preview
    wait_for(lambda: video.count() and "start=58&end=60" in (video.get_attribute("src") or ""))

    page.route("**/preview?*", lambda route: route.fulfill(status=504, json={"detail": "too slow"}))
    page.keyboard.press("Home")
    expect(page.locator("#clip-screen")).to_contain_text("Your browser cannot play this format")
    wait_for(lambda: page.locator("#clip-screen img").evaluate("image => image.naturalWidth") > 0)


def test_a_file_whose_clock_does_not_begin_at_0_is_played_from_the_clip(
    page: Page, running: Running, tmp_path: Path
) -> None:
    starts = [500 + n / 4 for n in range(80)]  # the recording of a live stream
    path = write_video(tmp_path / "live.mkv", [solid(RED)] * 80, starts=starts, gop=8)
    running.client.post("/v1/collections", json={"name": "live"}).raise_for_status()
    with path.open("rb") as file:
        rule = json.dumps({"rule": "windows", "length": 4})
        files, data = {"file": (path.name, file)}, {"segmentation": rule}
        running.client.post("/v1/collections/live/videos", files=files, data=data).raise_for_status()
    page.goto("/?collection=live&q=a+red+thing&group=clip")
    card = page.locator("#results .card", has_text=SPAN.format("0:12", "0:16"))
    card.hover()
    expect_position(card.locator("video"), 512)
    card.click()
    expect_position(page.locator("#clip-screen video"), 512)
    expect(page.get_by_role("slider", name="Clips of this video")).to_have_attribute(
        "aria-valuetext", re.compile("^clip 4 of 5, 0:12 to 0:16")
    )


def test_a_video_is_deleted_from_its_collection_though_another_is_selected_meanwhile(
    page: Page, colors: str, palette: str
) -> None:
    deleted: list[str] = []

    def record(route: Route) -> None:
        if route.request.method != "DELETE":
            return route.continue_()
        deleted.append(route.request.url)
        return route.fulfill(status=204)

    page.route("**/videos/1", record)
    page.goto(f"/?collection={colors}")
    page.locator("#results .card").first.click()
    select = "name => { const list = document.getElementById('collections'); list.value = name; list.onchange(); }"
    page.evaluate(select, palette)
    page.locator("#clip-delete").click()
    expect(page.locator("#confirm-text")).to_contain_text(f"from {colors}.")
    page.locator("#confirm-submit").click()
    wait_for_events(page, lambda: deleted)
    assert deleted[0].endswith(f"/v1/collections/{colors}/videos/1")


def test_a_video_is_edited(page: Page, running: Running, colors: str) -> None:
    address = f"/v1/collections/{colors}/videos/1"
    serial = 1234567890123456789  # which JavaScript rounds
    kept = {"exif:make": "Canon\u2028EOS", " padded": "x", "note": "", "serial": serial}
    running.client.patch(address, json={"metadata": kept}).raise_for_status()
    page.goto(f"/?collection={colors}")
    page.locator("#results .card").first.click()
    page.get_by_role("button", name="Edit…").click()
    page.get_by_label("Title", exact=True).fill("Crimson")
    metadata = page.get_by_label("Metadata", exact=True)
    shown = metadata.input_value()
    assert shown.startswith('" padded": x\ncolor: red\n"exif:make": Canon\u2028EOS\nnote: ""\nnumber: 0\nserial: ')
    metadata.fill("nonsense")
    page.get_by_role("button", name="Save").click()
    assert metadata.evaluate("input => input.validationMessage") == "“nonsense”: expected “name: value”."
    metadata.fill(shown.replace("color: red", "color: dark red").replace("number: 0", 'number: "7"\nnight: true'))
    page.route(f"**{address}", lambda route: route.fulfill(status=403, json={"detail": "not allowed"}), times=1)
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#clip-error")).to_have_text("not allowed")
    page.get_by_role("button", name="Edit…").click()
    page.get_by_label("Title", exact=True).fill("Crimson")
    metadata.fill(shown.replace("color: red", "color: dark red").replace("number: 0", 'number: "7"\nnight: true'))
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#clip-title")).to_have_text("Crimson")
    expect(page.locator("#clip-facts")).to_contain_text("color: dark red")
    expect(page.locator("#clip-error")).to_be_empty()
    video = running.client.get(address).json()
    assert video["metadata"] == kept | {"color": "dark red", "number": "7", "night": True}
    page.keyboard.press("Escape")
    expect_titles(page, "Crimson", "blue", "green")


def test_the_collection_used_last_is_shown_and_a_phone_shows_results_on_its_first_screen(
    browser: Browser, running: Running, film: str
) -> None:
    size = {"width": 360, "height": 720}
    context = browser.new_context(base_url=str(running.client.base_url), viewport=size, has_touch=True, is_mobile=True)  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"/?collection={film}")
    expect(page.locator("#collections option:checked")).to_have_text(film)  # without the number of videos
    page.goto("/")
    expect(page.locator("#collections")).to_have_value(film)
    page.goto("/?q=a+red+thing")
    page.locator("#results .card .score").first.wait_for()
    facets = page.get_by_label("Folder", exact=True).or_(page.get_by_role("button", name="Filter", exact=True))
    expect(facets.first).to_be_visible()
    box = page.locator("#results .card").first.bounding_box()
    assert box is not None
    assert box["y"] < size["height"] / 2
    expect(page.locator("footer")).to_contain_text(re.compile("^Model small-colours .*, licence: ."))
    page.locator("#results .card").first.click()
    page.locator("#question").fill("which colour is it")
    page.locator("#question").press("Enter")
    expect(page.locator("#answers .answer").first).to_be_in_viewport()
    context.close()


def test_folders_are_listed_where_they_narrow_the_search(page: Page, colors: str) -> None:
    counts = {"/home/ann/Videos/": 2, "/home/ann/Videos/2025/": 1, "/home/ann/old/films/": 3}
    folders = [{"value": value, "videos": videos} for value, videos in counts.items()]
    others = {"added": [], "durations": [], "speech": 0, "metadata": []}
    page.route("**/facets", lambda route: route.fulfill(json={"folders": folders, **others}))
    page.goto(f"/?collection={colors}")
    choices = page.get_by_label("Folder", exact=True).locator("option")
    expect(choices).to_have_text(["Folder: any", "Videos (3)", "Videos/2025 (1)", "old/films (3)"])


def query_parameters(page: Page) -> dict[str, str]:
    """Return the address's query parameters, read in the page because ``page.url`` is updated late."""
    return {name: value for name, [value] in parse_qs(page.evaluate("location.search.slice(1)")).items()}


def test_a_reload_fetches_only_the_page_itself_until_an_upgrade(
    page: Page, collection: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = """() => performance.getEntriesByType("resource").filter(
        (entry) => entry.name.includes("/static/") && entry.transferSize > 0).length"""
    page.goto(f"/?collection={collection}", wait_until="networkidle")  # modules for a first click are loaded as well
    expect(page.locator("#results")).to_contain_text("This collection is empty")
    assert page.evaluate(fetched) > 10
    page.reload(wait_until="networkidle")
    expect(page.locator("#results")).to_contain_text("This collection is empty")
    assert page.evaluate(fetched) == 0
    upgraded = shutil.copytree(WEB_FILES, tmp_path / "static")
    with (upgraded / "dom.js").open("a") as file:
        file.write("document.title = 'upgraded';\n")
    monkeypatch.setattr(service.page, "_page", PageFiles(upgraded))
    page.reload()
    expect(page).to_have_title("upgraded")
    assert page.evaluate(fetched) > 10


def test_the_search_and_the_open_clip_are_in_the_address_and_the_history(page: Page, film: str) -> None:
    record_announcements(page)
    page.goto(f"/?collection={film}&q=a+red+thing&group=clip")
    page.goto(f"/?collection={film}&q=a+blue+thing")
    page.locator("#results .card").first.click()
    expect(page.locator("#clip-title")).to_have_text("film")
    assert query_parameters(page) == {"collection": film, "q": "a blue thing", "video": "1", "t": "40-42"}
    expect(page.locator("#timeline")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#clip-facts")).to_contain_text(re.compile("0:42.+0:44"))
    page.wait_for_url("**&t=42-44")

    page.reload()
    expect(page.locator("#clip-facts")).to_contain_text(re.compile("0:42.+0:44"))
    expect(page.locator("#best-clips button")).to_have_count(1)  # of the search, which is also in the address
    expect_seek(page, 42)
    page.go_back()
    expect(page.locator("#clip")).to_be_hidden()
    assert "video" not in query_parameters(page)
    expect(page.locator("#query")).to_have_value("a blue thing")
    expect(page.locator("#results .card").first).to_contain_text("0:40")
    page.go_forward()
    expect(page.locator("#clip-facts")).to_contain_text(re.compile("0:42.+0:44"))

    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == page.evaluate("location.href")
    page.keyboard.press("Escape")
    expect(page.locator("#clip")).to_be_hidden()
    assert "video" not in query_parameters(page)
    expect(page.locator("#results .card").first).to_be_visible()
    page.locator("#results .card").nth(1).click()
    expect(page.locator("#clip")).to_be_visible()
    page.get_by_role("button", name="Close", exact=True).click()
    page.evaluate("void setTimeout(() => history.back())")  # to the previous search: the closed clip has no entry
    expect(page.locator("#query")).to_have_value("a red thing")
    expect(page.locator("#clip")).to_be_hidden()

    page.goto(f"/?collection={film}&video=1&t=21")  # an address typed by hand
    expect(page.locator("#clip-facts")).to_contain_text(re.compile("0:20.+0:22"))
    # Moves are announced, and closing the clip leaves the focus on the results.
    track = page.get_by_role("slider", name="Clips of this video")
    expect(track).to_have_attribute("aria-valuetext", "clip 11 of 30, 0:20 to 0:22")
    expect(page.get_by_role("heading", name="film")).to_be_focused()
    announcements(page)
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**&t=22-24")
    track.press("ArrowRight")  # the slider announces its own value
    page.wait_for_url("**&t=24-26")
    assert announcements(page) == ["clip 12 of 30, 0:22 to 0:24"]
    page.keyboard.press("Escape")
    expect(page.get_by_role("region", name="Clips")).to_be_focused()


def test_back_leads_past_a_deleted_collection(page: Page, running: Running, palette: str) -> None:
    running.client.post("/v1/collections", json={"name": "deleted"}).raise_for_status()
    page.goto(f"/?collection={palette}&q=a+red+thing")
    expect(page.locator("#results .card").first).to_be_visible()
    for name in ("deleted", palette):
        page.locator("#collections").select_option(name)
        page.wait_for_url(f"**collection={name}&**")
    running.client.delete("/v1/collections/deleted").raise_for_status()
    page.go_back()
    expect(page.locator("#uploads .failed")).to_contain_text("Collection deleted")
    page.go_back()
    page.wait_for_url(f"**collection={palette}&**")


def test_a_broken_link_is_reported_and_the_page_works(page: Page, running: Running, palette: str) -> None:
    first = running.client.get("/v1/collections").json()["collections"][0]["name"]
    notice = page.locator("#uploads .failed")
    page.goto("/?collection=nowhere&video=1&q=a+red+thing")
    expect(notice).to_contain_text("Collection nowhere")
    expect(notice.locator(".meter")).to_be_hidden()  # it reports no progress
    expect(notice).to_contain_text(f"It does not exist, or your API key has no access to it. Showing {first} instead.")
    expect(
        page.locator("#results").locator(".card, .note:not(.failed)").first
    ).to_be_visible()  # other tests filled the collection
    expect(page.locator("#clip")).to_be_hidden()
    assert "video" not in query_parameters(page)

    page.goto(f"/?collection={palette}&q=a+red+thing&video=4711")
    expect(notice).to_contain_text("Link to video 4711")
    expect(notice).to_contain_text("Video not found in palette. It may have been deleted.")
    expect(page.locator("#results .card")).to_have_count(3)
    expect(page.locator("#clip")).to_be_hidden()
    assert "video" not in query_parameters(page)
    page.locator("#results .card").first.click()
    expect(page.locator("#clip-title")).to_have_text("red")
    assert query_parameters(page)["video"] == "1"

    page.route("**/videos/2", lambda route: route.abort())
    page.goto(f"/?collection={palette}&video=2&t=never")
    expect(notice).to_contain_text("Cannot reach the service.")
    page.unroute_all()
    notice.get_by_role("button", name="Try again").click()
    expect(page.locator("#clip-title")).to_have_text("green")
    expect(notice).to_contain_text("t: never; expected seconds below 2, such as 20 or 20-24.")
    page.keyboard.press("Escape")
    expect(page.locator("#clip")).to_be_hidden()
    assert query_parameters(page) == {"collection": palette}


def test_the_page_prompts_once_for_a_required_key_and_then_shows_everything(
    browser: Browser, guarded: Running, files: Path
) -> None:
    created = guarded.client.post("/v1/keys", json={"name": "page", "scopes": ["read", "write"]}).json()
    key = created["key"]
    context = browser.new_context(base_url=str(guarded.client.base_url))
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    record_toasts(page)
    page.goto("/?collection=palette&q=a+red+thing&video=2")
    expect(page.locator("#key-dialog")).to_be_visible()
    page.get_by_label("API key", exact=True).fill("vsk_wrong")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#key-error")).to_contain_text("the API key is unknown")
    page.route("**/media-cookie", lambda route: route.abort(), times=1)
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#key-error")).to_have_text("Cannot reach the service. Is it running?")
    for _ in range(3):  # a second Escape closes a dialog whatever its cancel event is answered
        page.keyboard.press("Escape")
    expect(page.locator("#key-dialog")).to_be_visible()
    page.get_by_label("API key", exact=True).fill(key)
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#key-dialog")).to_be_hidden()
    expect(page.locator("#clip-title")).to_have_text("green")  # the link is opened after that
    page.keyboard.press("Escape")
    expect(page.locator("#results .card").first).to_contain_text("red")
    picture = page.locator("#results img").first  # loaded by the media cookie
    wait_for(lambda: picture.evaluate("image => image.naturalWidth") > 0)
    page.locator("#files").set_input_files(files / "red.mp4")
    expect_toast(page, "red.mp4", "already in the collection")
    page.reload()  # the tab keeps the key
    wait_for(lambda: picture.evaluate("image => image.naturalWidth") > 0)
    expect(page.locator("#key-dialog")).to_be_hidden()
    assert key not in page.evaluate("JSON.stringify({...localStorage}) + document.cookie + location.href")

    # A late rejection of the old key does not prompt again.
    late: list[Route] = []
    page.route("**/v1/models", lambda route: late.append(route), times=1)
    page.evaluate("sessionStorage.clear()")
    page.locator("#model").click()
    expect(page.locator("#key-error")).to_be_empty()
    page.get_by_label("API key", exact=True).fill(key)
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#key-dialog")).to_be_hidden()
    wait_for_events(page, lambda: late)
    late[0].fulfill(status=401, json={"detail": "an API key was expected"})
    expect(page.get_by_role("article").first).to_contain_text("small-colours")
    expect(page.locator("#key-dialog")).to_be_hidden()

    guarded.client.delete(f"/v1/keys/{created['id']}").raise_for_status()
    page.locator("#tab-keys").click()
    expect(page.locator("#key-error")).to_have_text("the API key was revoked")
    context.close()


def test_tabs_with_keys_of_different_collections_show_the_media_of_each(
    browser: Browser, guarded: Running, files: Path
) -> None:
    guarded.client.delete("/v1/collections/second")
    guarded.client.post("/v1/collections", json={"name": "second"}).raise_for_status()
    with (files / "blue.mp4").open("rb") as file:
        guarded.client.post("/v1/collections/second/videos", files={"file": file}).raise_for_status()
    context = browser.new_context(base_url=str(guarded.client.base_url))
    pages: list[Page] = []
    for name in ("palette", "second"):
        new_key = {"name": name, "scopes": ["read"], "collections": [name]}
        key = guarded.client.post("/v1/keys", json=new_key).json()["key"]
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(f"/?collection={name}")
        page.get_by_label("API key", exact=True).fill(key)
        page.get_by_role("button", name="Continue").click()
        expect(page.locator("#results .card").first).to_be_visible()
        pages.append(page)
    for page in pages:  # the first tab again, after the second one has got its cookie
        clip = page.evaluate("document.querySelector('#results img').src.replace(/thumbnail.*/, 'media')")
        for address in (clip, clip.replace("media", "thumbnail")):
            assert page.evaluate("address => fetch(address).then((response) => response.status)", address) == 200
        page.locator("#results .card").first.click()
        video = page.locator("#clip-screen video")
        wait_for(lambda video=video: video.evaluate("video => video.readyState") >= 1)
        expect(page.locator("#clip-edit").or_(page.locator("#clip-delete")).locator("visible=true")).to_have_count(0)
    context.close()

"""The page in a browser: uploads, clips, links, history and API keys."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from playwright.sync_api import Browser, Page, Route, expect

import service.page
from index.jobs import jobs as index_jobs
from service.page import WEB_FILES, PageFiles
from tests.media_files import solid, write_subtitled_video
from tests.service.accessibility import announcements, record_announcements
from tests.service.browsing import ADMIN, PATIENCE_MS, wait_for_events
from tests.service.running import Running
from tests.service.toast_log import expect_toast, record_toasts
from tests.waiting import wait_for


def query_parameters(page: Page) -> dict[str, str]:
    """Return the address's query parameters, read in the page because ``page.url`` is updated late."""
    return {name: value for name, [value] in parse_qs(page.evaluate("location.search.slice(1)")).items()}


def test_a_reload_fetches_only_the_page_itself_until_an_upgrade(
    page: Page, collection: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = """() => performance.getEntriesByType("resource").filter(
        (entry) => entry.name.includes("/static/") && entry.transferSize > 0).length"""
    page.goto(f"/?collection={collection}")
    expect(page.locator("#results")).to_contain_text("This collection is empty")
    assert page.evaluate(fetched) > 10
    page.reload()
    expect(page.locator("#results")).to_contain_text("This collection is empty")
    assert page.evaluate(fetched) == 0
    upgraded = shutil.copytree(WEB_FILES, tmp_path / "static")
    with (upgraded / "dom.js").open("a") as file:
        file.write("document.title = 'upgraded';\n")
    monkeypatch.setattr(service.page, "_page", PageFiles(upgraded))
    page.reload()
    expect(page).to_have_title("upgraded")
    assert page.evaluate(fetched) > 10


def test_upload_search_compare_and_ask(page: Page, collection: str, files: Path) -> None:
    page.goto(f"/?collection={collection}")
    expect(page.locator("#results")).to_contain_text("This collection is empty")
    page.locator("#files").set_input_files([files / f"{name}.mp4" for name in ("red", "green", "blue")])
    expect(page.locator("#summary")).to_contain_text("3 videos", timeout=PATIENCE_MS)

    page.keyboard.press("/")  # the search box has the focus from here on
    page.keyboard.type("a green thing")
    page.keyboard.press("Enter")
    first = page.locator("#results .card").first
    expect(first).to_contain_text("green")
    for score in ("Fused", "Match", "Similarity"):
        expect(first).to_contain_text(re.compile(score, re.IGNORECASE))

    first.click()
    page.locator("#captions").fill("a red thing\na green thing")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#scores .best")).to_contain_text("a green thing")
    page.locator("#question").fill("which colour is it")
    page.locator("#question").press("Enter")
    expect(page.locator("#answers > *").first).to_contain_text("green")


def test_videos_are_segmented_by_the_form_and_their_subtitles_are_shown(
    page: Page, running: Running, collection: str, tmp_path: Path
) -> None:
    """Uses only the keyboard, up to the choice of the file."""
    cues = [(0.0, 3.0, "EmbeddedClip, all of it is red."), (3.0, 6.0, "And here it ends.")]
    talk = write_subtitled_video(tmp_path / "talk.mkv", [solid((220, 10, 10))] * 60, [("subrip", "eng", cues)])
    page.goto(f"/?collection={collection}")
    expect(page.locator("#upload")).to_be_enabled()
    page.locator("#upload").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=f"Add videos to {collection}")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("radio", name="Fixed length")).to_be_focused()
    expect(page.get_by_label("Clip length")).to_have_value("8")
    page.keyboard.press("ArrowDown")
    expect(page.get_by_label("Clip length")).to_be_hidden()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("radio", name="Subtitles")).to_be_checked()
    expect(page.get_by_label("Overlap")).to_be_hidden()
    for pressed in ("Tab", "Tab", "2"):  # past the clip length, into "Minimum length"
        page.keyboard.press(pressed)
    expect(page.get_by_label("Minimum length")).to_have_value("2")
    page.get_by_label("Subtitle language").fill("english")
    page.locator("#add-title").focus()
    page.locator("#files").set_input_files([talk])
    expect(page.get_by_label("Subtitle language")).to_be_focused()  # the browser shows the validation error there
    expect(page.locator("#uploads .upload")).to_have_count(0)
    page.get_by_label("Subtitle language").fill("en")
    with page.expect_file_chooser() as chosen:
        page.get_by_role("button", name="Choose files").press("Enter")
    chosen.value.set_files([talk])
    expect_toast(page, "talk.mkv", "added, 2 clips")
    expect(page.locator("#add")).to_be_hidden()
    video = running.client.get(f"/v1/collections/{collection}/videos").json()["videos"][0]
    spans = running.client.get(f"/v1/collections/{collection}/videos/{video['id']}").json()["spans"]
    assert [(span["start"], span["end"], span["text"]) for span in spans] == cues

    page.locator("#query").fill("a red thing")
    page.keyboard.press("Enter")
    first = page.locator("#results .card").first
    expect(first).to_contain_text(re.compile("all of it is red|here it ends"))
    first.click()
    expect(page.locator("#clip-text")).to_have_text(re.compile("all of it is red|here it ends"))

    page.locator("#clip-delete").click()
    expect(page.locator("#confirm-cancel")).to_be_focused()
    page.keyboard.press("Enter")  # Cancel has the focus
    expect(page.locator("#confirm-dialog")).to_be_hidden()
    assert running.client.get(f"/v1/collections/{collection}").json()["videos"] == 1
    page.locator("#clip-delete").click()
    page.locator("#confirm-submit").click()
    expect(page.locator("#clip")).to_be_hidden()
    assert running.client.get(f"/v1/collections/{collection}").json()["videos"] == 0


def test_invalid_lengths_are_reported_before_the_upload(
    page: Page, running: Running, collection: str, files: Path
) -> None:
    page.goto(f"/?collection={collection}")
    page.locator("#upload").click()
    page.get_by_label("Overlap").fill("7.9")
    page.locator("#add-title").focus()
    page.locator("#files").set_input_files([files / "red.mp4"])
    expect(page.get_by_label("Overlap")).to_be_focused()
    problem = page.get_by_label("Overlap").evaluate("field => field.validationMessage")
    assert problem == "The overlap must be at least 0.5 s shorter than the clip length."
    page.get_by_label("Clip length").fill("9")
    page.locator("#files").set_input_files([files / "red.mp4"])
    expect(page.locator("#summary")).to_contain_text("1 video", timeout=PATIENCE_MS)
    # Errors of the service are shown at the file.
    page.locator("#upload").click()
    page.get_by_label("Shots").check()
    page.get_by_label("Minimum length").fill("9")
    page.get_by_label("Maximum length").fill("10")
    page.locator("#files").set_input_files([files / "blue.mp4"])
    expect(page.locator("#uploads .failed .error")).to_contain_text("shortest")
    assert running.client.get(f"/v1/collections/{collection}").json()["videos"] == 1


def test_a_folder_is_indexed_as_a_job_and_failed_files_are_named(
    page: Page, running: Running, collection: str, incoming: Path, files: Path
) -> None:
    (incoming / "red.mp4").write_bytes((files / "red.mp4").read_bytes())
    (incoming / "letter.mp4").write_text("Dear reader, this is no video.")
    page.goto(f"/?collection={collection}")
    page.locator("#upload").click()
    page.get_by_label("Shots").check()
    page.get_by_label("Maximum length").fill("12")
    folder = page.get_by_label("Or a folder on the server")
    folder.fill("/etc")
    folder.press("Enter")
    expect(page.get_by_role("alert").filter(has_text="/etc")).to_contain_text("outside the folders that jobs may name")
    folder.fill("https://media.example/film.mp4")
    folder.press("Enter")
    expect(page.get_by_role("alert").filter(has_text="https")).to_contain_text("VITASCOPE_URL_FETCH=on")
    folder.fill(incoming.name)
    folder.press("Enter")
    expect(page.locator("#uploads .failed")).to_contain_text("1 added, 1 failed; letter.mp4", timeout=PATIENCE_MS)
    expect(page.locator("#summary")).to_contain_text("1 video")
    page.locator("#uploads").get_by_role("button", name="Dismiss").click()
    expect(page.locator("#uploads .upload")).to_have_count(0)
    [job] = running.client.get(f"/v1/collections/{collection}/jobs").json()["jobs"]
    assert job["source"]["recursive"] is True
    kept = index_jobs.get_job(running.service.library.open(collection), int(job["id"])).options.segmentation
    assert (kept.rule, kept.longest, kept.shortest) == ("shots", 12, None)


def test_a_collection_of_an_unloaded_model_is_reembedded_by_a_click(
    guarded: Running, enter: Callable[..., Page], files: Path
) -> None:
    client = guarded.client
    other = client.post("/v1/models", json={"folder": "other"}).headers["location"]
    wait_for(lambda: client.get(other).json()["state"] == "ready")
    model = client.get(other).json()["fingerprint"]
    client.delete("/v1/collections/old")  # of an earlier attempt
    client.post("/v1/collections", json={"name": "old", "model": model}).raise_for_status()
    for name in ("red", "blue"):
        upload = {"file": (f"{name}.mp4", (files / f"{name}.mp4").read_bytes())}
        assert client.post("/v1/collections/old/videos", files=upload).status_code == 201
    client.delete(other, params={"force": True}).raise_for_status()

    page = enter(ADMIN)
    page.goto("/?collection=old")
    expect(page.locator("#summary")).to_contain_text("The model of this collection is not loaded")
    page.get_by_role("button", name="Re-embed with the default model").click()
    expect(page.locator("#summary")).to_contain_text("2 videos, 2 clips")
    page.locator("#query").fill("a red thing")
    page.keyboard.press("Enter")
    expect(page.locator("#results .card").first).to_contain_text("red")
    assert client.get("/v1/operations").json() == {"operations": []}


def test_the_search_and_the_open_clip_are_in_the_address_and_the_history(page: Page, film: str) -> None:
    record_announcements(page)
    page.goto(f"/?collection={film}&q=a+red+thing&group=event")
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
    expect(page.locator("#moments button")).to_have_count(1)  # of the search, which is also in the address
    wait_for(lambda: 42 <= page.locator("#clip-screen video").evaluate("video => video.currentTime") < 44.5)
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


def test_a_broken_link_is_reported_and_the_page_works(page: Page, running: Running, palette: str) -> None:
    first = running.client.get("/v1/collections").json()["collections"][0]["name"]
    notice = page.locator("#uploads .failed")
    page.goto("/?collection=nowhere&video=1&q=a+red+thing")
    expect(notice).to_contain_text("Collection nowhere")
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


def test_a_broken_file_shows_its_error_and_the_other_files_are_uploaded(
    page: Page, collection: str, files: Path, tmp_path: Path
) -> None:
    (tmp_path / "letter.mp4").write_text("Dear reader, this is no video.")
    page.goto(f"/?collection={collection}")
    page.locator("#files").set_input_files([tmp_path / "letter.mp4", files / "red.mp4"])
    failed = page.locator("#uploads .failed")
    expect(failed).to_contain_text("letter.mp4")
    expect(failed.locator(".error")).not_to_be_empty()
    expect(page.locator("#summary")).to_contain_text("1 video", timeout=PATIENCE_MS)


def test_a_slow_upload_continues_as_a_job_and_the_next_file_is_sent(
    page: Page,
    running: Running,
    collection: str,
    files: Path,
    held: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prefer_headers: list[str] = []
    monkeypatch.setattr("service.routes.videos.async_wait_seconds", lambda prefer: prefer_headers.extend(prefer) or 0.0)
    page.goto(f"/?collection={collection}")
    page.locator("#files").set_input_files([files / "red.mp4", files / "blue.mp4"])
    line = page.locator("#uploads .upload", has_text="red.mp4")
    expect(line).to_contain_text("running", timeout=PATIENCE_MS)
    expect(page.locator("#uploads .upload", has_text="blue.mp4")).to_contain_text("queued", timeout=PATIENCE_MS)
    held()
    expect_toast(page, "red.mp4", "succeeded: 1 added")
    expect(page.locator("#summary")).to_contain_text("2 videos", timeout=PATIENCE_MS)
    assert prefer_headers == ["respond-async, wait=20"] * 2


def test_the_page_prompts_once_for_a_required_key_and_then_shows_everything(
    browser: Browser, guarded: Running, files: Path
) -> None:
    key = guarded.client.post("/v1/keys", json={"name": "page", "scopes": ["read", "write"]}).json()["key"]
    context = browser.new_context(base_url=str(guarded.client.base_url))
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    record_toasts(page)
    page.goto("/?collection=palette&q=a+red+thing&video=2")
    expect(page.locator("#key-dialog")).to_be_visible()
    page.get_by_label("API key", exact=True).fill("vsk_wrong")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#key-error")).to_contain_text("the API key is unknown")
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
    page.get_by_label("API key", exact=True).fill(key)
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#key-dialog")).to_be_hidden()
    wait_for_events(page, lambda: late)
    late[0].fulfill(status=401, json={"detail": "an API key was expected"})
    expect(page.get_by_role("article").first).to_contain_text("small-colours")
    expect(page.locator("#key-dialog")).to_be_hidden()
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
    context.close()

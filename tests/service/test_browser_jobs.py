"""The page in a browser: uploads, jobs, and the panels for collections, models and keys."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, Request, Route, expect

from index.jobs import jobs as index_jobs
from service import events as service_events
from tests.chaos import only_by_chaos
from tests.index.jobs.fixtures import step_decoding
from tests.media_files import solid, write_color_video, write_picture, write_subtitled_video
from tests.service.browsing import (
    ADMIN,
    PATIENCE_MS,
    expect_toast,
    wait_for_events,
)
from tests.service.jobs import finished_job, start_job, write_pictures
from tests.service.running import Running
from tests.waiting import PATIENCE, wait_for

SLOW = 20_000
"""Bytes per second; slow enough that the upload of a 1.8 MB image outlasts the assertions about it."""
EXPORT = {"id": "1", "kind": "export", "collection": "", "state": "running", "progress": 0.5, "files": []}
BATCHES = 4


def submit_folder(page: Page, folder: Path) -> None:
    """Start a job for a folder on the page."""
    page.locator("#upload").click()
    page.get_by_label("Or a folder on the server").fill(folder.name)
    page.get_by_label("Or a folder on the server").press("Enter")
    expect(page.locator("#add")).to_be_hidden()


def job_requests(page: Page) -> list[Request]:
    """Return a list that collects the page's requests about single jobs from now on."""
    requests: list[Request] = []
    page.on("request", lambda request: requests.append(request) if re.search(r"/jobs/\d+", request.url) else None)
    return requests


def test_a_job_is_shown_live_paused_resumed_and_retried(
    page: Page, collection: str, incoming: Path, release_jobs: Callable[[], None]
) -> None:
    write_pictures(incoming, 3)
    broken = incoming / "broken.mp4"
    broken.write_text("no video")
    page.goto(f"/?collection={collection}")
    requests = job_requests(page)
    submit_folder(page, incoming)
    expect(page.get_by_role("button", name="Jobs, 1 active")).to_be_visible()
    page.get_by_role("button", name="Details").press("Enter")
    expect(page.get_by_role("tab", name="Jobs")).to_be_focused()
    job = page.get_by_role("article").filter(has_text=incoming.name)
    expect(job.get_by_text("running", exact=True)).to_be_visible()
    expect(job).to_contain_text("broken.mp4: the content is text")  # while the job is running
    expect(job).to_contain_text("1 of 4 files")

    job.get_by_role("button", name=re.compile("^Pause ")).press("Enter")
    expect(job).to_contain_text("pausing after the current files")
    expect(job.get_by_role("button", name=re.compile("^Resume "))).to_be_focused()
    page.keyboard.press("Enter")
    expect(job).not_to_contain_text("pausing after")
    release_jobs()
    expect(job.get_by_text("succeeded", exact=True)).to_be_visible()
    expect(job).to_contain_text("3 added, 1 failed")
    expect(page.locator("#summary")).to_contain_text("3 videos")
    polled = [request.url for request in requests if request.method == "GET" and not request.url.endswith("/events")]
    assert [url for url in polled if "/items?" not in url] == []

    write_picture(incoming / "repaired.png", solid((9, 9, 9), 48, 48)).rename(broken)
    job.get_by_role("button", name="Retry failed").click()
    expect(job).to_contain_text("4 added")
    expect(job).not_to_contain_text("broken.mp4")
    page.keyboard.press("Escape")
    expect(page.locator("#sheet")).to_be_hidden()


@only_by_chaos
def test_a_hidden_tab_closes_its_stream_and_catches_up_when_shown(
    page: Page, collection: str, incoming: Path, release_jobs: Callable[[], None]
) -> None:
    write_pictures(incoming, 3)
    page.goto(f"/?collection={collection}#jobs")
    expect(page.locator("#panel")).to_contain_text("No jobs yet")
    page.keyboard.press("Escape")
    requests = job_requests(page)
    failed_urls: list[str] = []
    page.on("requestfailed", lambda request: failed_urls.append(request.url))
    submit_folder(page, incoming)
    expect(page.locator("#uploads")).to_contain_text("0 of 3 files")

    def set_hidden(hidden: bool) -> None:
        page.evaluate(
            "hidden => { Object.defineProperty(document, 'hidden', { get: () => hidden, configurable: true });"
            " document.dispatchEvent(new Event('visibilitychange')); }",
            hidden,
        )

    set_hidden(hidden=True)
    wait_for_events(page, lambda: any(url.endswith("/events") for url in failed_urls))
    before = len(requests)
    release_jobs()
    address = requests[0].url.removesuffix("/events")
    wait_for(lambda: httpx.get(address, timeout=PATIENCE).json()["state"] == "succeeded")
    set_hidden(hidden=False)
    expect_toast(page, incoming.name, "succeeded: 3 added")
    assert [
        request.url for request in requests[before:] if request.url.endswith("/events")
    ] == []  # the list of jobs was enough
    expect(page.locator("#summary")).to_contain_text("3 videos")


def test_a_broken_stream_resumes_and_without_a_stream_the_job_is_polled(
    page: Page, running: Running, collection: str, incoming: Path, release_jobs: Callable[[], None]
) -> None:
    write_pictures(incoming, 2)
    (incoming / "broken.mp4").write_text("no video")
    page.add_init_script("Math.random = () => 0")  # shortest backoff
    page.goto(f"/?collection={collection}")
    responses = ["break", "reject"]

    def stream(route: Route) -> None:
        response = responses.pop(0) if responses else "continue"
        if response == "break":  # after the first event
            body = route.fetch(url=route.request.url.removesuffix("/events"), timeout=PATIENCE_MS).text()
            route.fulfill(content_type="text/event-stream", body=f"id: 1\nevent: state\ndata: {body}\n\n")
        elif response == "reject":
            route.fulfill(status=503, headers={"Retry-After": "1"}, json={"detail": "too many streams"})
        else:
            route.continue_()

    page.route("**/events", stream)
    requests = job_requests(page)
    submit_folder(page, incoming)
    expect(page.locator("#uploads")).to_contain_text("1 of 3 files")
    page.get_by_role("button", name="Details").click()
    expect(page.locator("#panel")).to_contain_text("broken.mp4: the content is text")

    def streams() -> list[Request]:
        return [request for request in requests if request.url.endswith("/events")]

    wait_for_events(page, lambda: len(streams()) >= 3)
    assert [request.headers.get("last-event-id") for request in streams()][:3] == [None, "1", "1"]
    assert any(re.search(r"/jobs/\d+$", request.url) for request in requests)  # polled while there was no stream
    release_jobs()
    expect(page.locator("#panel").get_by_text("succeeded", exact=True)).to_be_visible()
    expect(page.locator("#panel")).to_contain_text("2 added, 1 failed")
    # A new collection of the same name has no jobs.
    running.client.delete(f"/v1/collections/{collection}").raise_for_status()
    running.client.post("/v1/collections", json={"name": collection}).raise_for_status()
    page.get_by_role("tab", name="Models").click()
    page.get_by_role("tab", name="Jobs").click()
    expect(page.locator("#panel")).to_contain_text("No jobs yet")


def test_uploads_show_their_speed_obey_retry_after_and_can_be_cancelled_and_retried(
    page: Page, running: Running, collection: str, files: Path, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (780, 780, 3), dtype=np.uint8)
    large = write_picture(tmp_path / "large.png", noise, compress_level=0)
    page.goto(f"/?collection={collection}")
    page.locator("#summary").click()
    responses = ["busy", "continue", "break", "continue", "hang"]
    pending_routes: list[Route] = []

    def upload(route: Route) -> None:
        response = responses.pop(0)
        if response == "busy":
            route.fulfill(status=503, headers={"Retry-After": "1"}, json={"detail": "too much to do"})
        elif response == "break":
            route.abort()
        elif response == "hang":
            pending_routes.append(route)
        else:
            route.continue_()

    page.route("**/videos", lambda route: upload(route) if route.request.method == "POST" else route.continue_())
    page.locator("#files").set_input_files(files / "red.mp4")
    expect_toast(page, "red.mp4", "service busy; retrying in 1 s")
    expect_toast(page, "red.mp4", "added, 1 clip")

    page.locator("#files").set_input_files(files / "green.mp4")
    green = page.locator("#uploads .upload").filter(has_text="green.mp4")
    expect(green.locator(".error")).to_have_text("Upload interrupted.")
    green.get_by_role("button", name="Try again").click()
    expect_toast(page, "green.mp4", "added, 1 clip")

    page.locator("#files").set_input_files([files / "blue.mp4", files / "red.mp4"])
    wait_for_events(page, lambda: pending_routes)
    dialog_types: list[str] = []
    page.once("dialog", lambda dialog: (dialog_types.append(dialog.type), dialog.dismiss()))
    page.close(run_before_unload=True)
    wait_for_events(page, lambda: dialog_types == ["beforeunload"])
    page.get_by_role("button", name="Cancel all").click()
    expect_toast(page, "blue.mp4", "cancelled")
    expect(page.locator("#uploads").get_by_text("All files")).to_be_hidden()
    assert running.client.get(f"/v1/collections/{collection}").json()["videos"] == 2

    page.unroute_all()
    network = page.context.new_cdp_session(page)
    conditions = {"offline": False, "latency": 0, "downloadThroughput": -1}
    network.send("Network.emulateNetworkConditions", {**conditions, "uploadThroughput": SLOW})
    page.locator("#files").set_input_files([large, files / "blue.mp4"])
    toast = page.locator("#uploads .upload").filter(has_text="large.png")
    expect(toast).to_contain_text(re.compile(r"\d+\skB of 1\.8\sMB · [\d.]+\skB/s, about \d+\s(s|min) left"))
    expect(page.locator("#uploads .upload").filter(has_text="All files")).to_contain_text("0 of 2 files")
    network.send("Network.emulateNetworkConditions", {**conditions, "uploadThroughput": -1})
    expect(page.locator("#summary")).to_contain_text("4 videos")


@only_by_chaos
def test_a_collection_is_created_changed_backed_up_and_deleted(
    page: Page, running: Running, collection: str, tmp_path: Path
) -> None:
    page.goto(f"/?collection={collection}")
    page.get_by_role("button", name="Manage").press("Enter")
    expect(page.get_by_role("tab", name="Collections")).to_be_focused()
    page.locator("#panel").get_by_role("button", name="New collection").click()
    name = f"{collection}-made"
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_text("Advanced").click()
    page.get_by_label("Index type").select_option("flat")
    page.get_by_label("Token encoding (for reranking)").select_option("float16")
    page.get_by_role("button", name="Create").click()
    expect(page.locator("#collections")).to_have_value(name)
    created = running.client.get(f"/v1/collections/{name}").json()
    assert (created["index_kind"], created["token_encoding"]) == ("flat", "float16")

    polls: list[Route] = []
    page.route("**/v1/operations", lambda route: (polls.append(route), route.fulfill(json={"operations": [EXPORT]})))
    page.get_by_role("button", name="Manage").click()
    item = page.get_by_role("article").filter(has=page.get_by_role("heading", name=name, exact=True))
    item.get_by_role("button", name="Index…").hover()
    page.mouse.down()
    before = len(polls)
    wait_for_events(page, lambda: len(polls) >= before + 2)  # each redraws the panel, except a pressed button
    page.mouse.up()
    page.unroute("**/v1/operations")
    page.get_by_label("Index type").last.select_option("hnsw")
    page.get_by_role("button", name="Change").click()
    wait_for(lambda: running.client.get(f"/v1/collections/{name}").json()["index_kind"] == "hnsw")

    film = write_picture(tmp_path / "film.png", solid((1, 2, 3), 48, 48))
    with film.open("rb") as file:
        upload = running.client.post(f"/v1/collections/{name}/videos", files={"file": file})
    assert upload.status_code == 201
    item.get_by_role("button", name="Back up").click()
    expect(item).to_contain_text(re.compile(r"1 media file, [\d.]+\s\w+, not included"))
    with page.expect_download() as saved:
        item.get_by_role("button", name=f"Save {name}.sqlite3").click()
    assert saved.value.suggested_filename == f"{name}.sqlite3"
    assert Path(saved.value.path()).read_bytes().startswith(b"SQLite format 3")
    item.get_by_role("button", name="Remove").click()
    expect(item).not_to_contain_text("Backup")

    item.get_by_role("button", name="Delete…").press("Enter")
    delete = page.locator("#confirm-submit")
    page.get_by_label(f"Type “{name}” to confirm").fill(name[:-1])
    expect(delete).to_be_disabled()
    page.get_by_label(f"Type “{name}” to confirm").fill(name)
    delete.click()
    expect(item).to_have_count(0)
    assert running.client.get(f"/v1/collections/{name}").status_code == 404
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Manage")).to_be_focused()
    expect(page).not_to_have_url(re.compile("#"))


@only_by_chaos
def test_keys_are_created_shown_once_and_revoked(guarded: Running, enter: Callable[..., Page]) -> None:
    page = enter(ADMIN, "#keys")
    expect(page.get_by_role("article").filter(has_text="this tab")).to_contain_text("VITASCOPE_ADMIN_KEY")
    page.get_by_text("Create a key").click()
    page.locator("#panel").get_by_label("Name", exact=True).fill("the portal")
    page.get_by_label("palette", exact=True).check()
    page.get_by_label("read: ").uncheck()
    page.get_by_role("button", name="Create key").click()
    expect(page.locator("#panel form .error")).to_have_text("Select at least one scope.")
    page.get_by_label("read: ").check()
    page.get_by_label("Expires after").select_option(label="30 days")
    page.get_by_label("Requests per second").fill("50")
    page.get_by_role("button", name="Create key").click()
    text = page.get_by_label("Key the portal")
    expect(text).to_be_focused()
    key = text.input_value()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == key
    headers = {"x-api-key": key}
    permissions = httpx.get(f"{guarded.client.base_url}/v1/keys/self", headers=headers, timeout=PATIENCE).json()
    assert (permissions["scopes"], permissions["collections"]) == (["read"], ["palette"])

    page.get_by_role("tab", name="Keys").press("ArrowLeft")
    expect(page.get_by_role("tab", name="Models")).to_be_focused()
    page.keyboard.press("ArrowRight")
    item = page.get_by_role("article").filter(has_text="the portal")
    expect(item).to_contain_text("read · palette · 50 requests/s · expires")
    expect(page.get_by_label("Key the portal")).to_have_count(0)
    assert key not in page.content()

    visitor = enter(key, "")
    visitor.get_by_role("button", name="Add videos").click()
    expect(visitor.locator("#add")).to_be_visible()
    expect(visitor.locator("#add")).to_contain_text("Use a key with the write scope")
    expect(visitor.get_by_role("button", name="Choose files")).to_be_hidden()
    visitor.keyboard.press("Escape")
    visitor.get_by_role("button", name="Manage").click()
    expect(visitor.get_by_role("article")).to_contain_text("3 videos · 3 clips")
    expect(visitor.locator("#panel")).to_contain_text("requires the admin scope")
    expect(visitor.locator("#panel").get_by_role("button")).to_have_count(0)
    visitor.get_by_role("tab", name="Keys").click()
    expect(visitor.locator("#panel")).to_contain_text("Admin key required")

    item.get_by_role("button", name="Revoke…").click()
    expect(page.get_by_role("button", name="Cancel").last).to_be_focused()
    page.get_by_role("button", name="Revoke", exact=True).click()
    expect(page.get_by_text("1 revoked or expired key")).to_be_visible()
    visitor.get_by_role("tab", name="Models").click()
    expect(visitor.get_by_role("heading", name="API key required")).to_be_visible()


@only_by_chaos
def test_models_are_added_made_default_and_removed(guarded: Running, enter: Callable[..., Page]) -> None:
    page = enter(ADMIN, "#models")
    models = page.get_by_role("article")
    expect(models).to_have_count(1)
    models.get_by_text("Devices by graph").click()
    expect(models.get_by_role("row").nth(1)).to_contain_text("cpu")
    page.get_by_label("Bundle folder on the server").fill("../elsewhere")
    page.get_by_label("Bundle folder on the server").press("Enter")
    expect(page.get_by_role("alert").filter(has_text="elsewhere")).to_be_visible()
    page.get_by_label("Bundle folder on the server").fill("other")
    page.get_by_role("button", name="Add", exact=True).click()
    other = models.filter(has=page.get_by_text("other", exact=True))
    other.get_by_role("button", name="Make default").click()
    expect(other.get_by_text("default", exact=True)).to_be_visible()
    assert guarded.client.get("/v1/models").json()["models"][0]["folder"] == "other"

    first = models.filter(has_not=page.get_by_text("other", exact=True))
    first.get_by_role("button", name="Remove…").click()
    page.get_by_role("button", name="Remove", exact=True).click()
    expect(first.get_by_role("alert")).to_contain_text("palette could not be searched without it")
    first.get_by_role("button", name="Make default").click()
    expect(first.get_by_text("default", exact=True)).to_be_visible()
    other.get_by_role("button", name="Remove…").click()
    page.get_by_role("button", name="Remove", exact=True).click()
    expect(models).to_have_count(1)


def test_failures_of_a_job_are_paginated(page: Page, running: Running, collection: str, incoming: Path) -> None:
    for number in range(5):
        (incoming / f"letter-{number}.mp4").write_text("Dear reader, this is no video.")
    finished_job(running.client, start_job(running.client, collection, incoming))
    page.goto(f"/?collection={collection}#jobs")
    reasons = page.get_by_role("list", name="Failure reasons")
    more = page.locator("#panel").get_by_role("button", name="Show more")
    expect(page.locator("#panel")).to_contain_text("5 failed files")
    for count in (2, 4):  # the page size of this service is 2
        expect(reasons.get_by_role("listitem")).to_have_count(count)
        more.press("Enter")
    expect(reasons.get_by_role("listitem")).to_have_text([re.compile(f"^letter-{number}.mp4: ") for number in range(5)])
    expect(more).to_be_hidden()
    expect(reasons).to_be_focused()


def test_a_finished_upload_and_a_finished_job_keep_the_pages_of_show_more(
    page: Page, running: Running, collection: str, incoming: Path, tmp_path: Path
) -> None:
    write_pictures(incoming, 26)
    finished_job(running.client, start_job(running.client, collection, incoming))
    cards, count = page.locator("#results .card"), 26
    for query in ("", "&q=a+yellow+thing"):
        page.goto(f"/?collection={collection}{query}")
        expect(cards).to_have_count(24)
        page.locator("#query").fill("not submitted")
        page.get_by_role("button", name="Show more").click()
        expect(cards).to_have_count(count)
        picture = write_picture(tmp_path / f"new-{count}.png", solid((1, 2, count), 48, 48))
        page.locator("#files").set_input_files(picture)
        expect_toast(page, picture.name, "added, 1 clip")
        expect(cards).to_have_count(count + 1)
        write_picture(incoming / f"newer-{count}.png", solid((3, 2, count), 48, 48))
        submit_folder(page, incoming)
        expect_toast(page, incoming.name, "succeeded: 1 added")
        expect(cards).to_have_count(count + 2)
        count += 2


def test_panels_open_at_once_and_can_be_retried_after_an_error(page: Page, collection: str) -> None:
    pending: list[Route] = []
    page.route("**/v1/collections", lambda route: pending.append(route), times=1)
    page.route("**/jobs?*", lambda route: route.abort())
    page.goto(f"/?collection={collection}")
    page.locator("#open-jobs").click()
    expect(page.locator("#panel .ghost").first).to_be_visible()
    wait_for_events(page, lambda: pending)
    pending[0].continue_()
    expect(page.get_by_role("alert").filter(has_text="Cannot reach")).to_be_visible()
    page.unroute_all()
    page.locator("#panel").get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()
    page.route("**/models_panel.js", lambda route: route.abort(), times=1)
    page.get_by_role("tab", name="Models").click()
    expect(page.get_by_role("alert").filter(has_text="Cannot reach")).to_be_visible()
    page.route("**/v1/models", lambda route: route.fulfill(body="<html>Sign in"), times=1)  # of a proxy
    page.locator("#panel").get_by_role("button", name="Try again").click()
    expect(page.get_by_role("alert").filter(has_text="Cannot reach")).to_be_visible()
    page.get_by_role("tab", name="Keys").click()
    expect(page.locator("#panel")).to_contain_text("API keys are off")


def test_videos_are_segmented_by_the_form_and_their_subtitles_are_shown(
    page: Page, running: Running, collection: str, tmp_path: Path
) -> None:
    """Uses only the keyboard, up to the choice of the file."""
    cues = [(0.0, 3.0, "This part is red, all of it is red."), (3.0, 6.0, "And here it ends.")]
    talk = write_subtitled_video(tmp_path / "talk.mkv", [solid((220, 10, 10))] * 60, [("subrip", "eng", cues)])
    page.goto(f"/?collection={collection}")
    expect(page.locator("#upload")).to_be_enabled()
    page.locator("#upload").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=f"Add videos to {collection}")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("radio", name="Automatic")).to_be_focused()
    expect(page.get_by_label("Clip length")).to_have_value("8")
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("radio", name=re.compile("^Fixed length"))).to_be_focused()
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
    page.get_by_role("button", name="Play 1. talk from 0:00, speech: This part is red, all of it is red.").click()
    expect(page.locator("#clip-texts mark")).to_have_text(["red", "red"])

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
    page.get_by_role("radio", name=re.compile("^Shots")).check()
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
    page.get_by_role("radio", name=re.compile("^Shots")).check()
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
    stored = index_jobs.get_job(running.service.library.open(collection), int(job["id"])).options.segmentation
    assert (stored.rule, stored.longest, stored.shortest) == ("shots", 12, None)
    (incoming / "empty").mkdir()
    page.locator("#upload").click()
    folder.fill(f"{incoming.name}/empty")
    folder.press("Enter")
    expect(page.locator("#uploads .failed")).to_contain_text("no videos or pictures found")


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


def test_a_slow_upload_continues_as_a_job_and_the_next_file_is_sent(
    page: Page,
    running: Running,
    collection: str,
    files: Path,
    release_jobs: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prefer_headers: list[str] = []
    monkeypatch.setattr("service.routes.videos.async_wait_seconds", lambda prefer: prefer_headers.extend(prefer) or 0.0)
    page.goto(f"/?collection={collection}")
    page.locator("#files").set_input_files([files / "red.mp4", files / "blue.mp4"])
    line = page.locator("#uploads .upload", has_text="red.mp4")
    expect(line).to_contain_text("running", timeout=PATIENCE_MS)
    expect(page.locator("#uploads .upload", has_text="blue.mp4")).to_contain_text("queued", timeout=PATIENCE_MS)
    release_jobs()
    expect_toast(page, "red.mp4", "succeeded: 1 added")
    expect(page.locator("#summary")).to_contain_text("2 videos", timeout=PATIENCE_MS)
    assert prefer_headers == ["respond-async, wait=20"] * 2


def test_progress_within_a_long_video_and_the_remaining_time_are_shown(
    page: Page, running: Running, collection: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_events, "PROGRESS_SECONDS", 0.0)
    decoding = step_decoding(monkeypatch)
    film = write_color_video(tmp_path / "film.mp4", (220, 10, 10), seconds=16.0, rate=4)
    response = running.client.post(
        f"/v1/collections/{collection}/videos",
        files={"file": ("film.mp4", film.read_bytes())},
        data={"segmentation": '{"rule": "windows", "length": 0.5}'},
        headers={"Prefer": "respond-async"},
    )
    try:
        page.goto(f"/?collection={collection}")
        toast = page.get_by_role("region", name="Notifications").locator(".upload").filter(has_text="film.mp4")
        decoding.allowed.release(2)
        expect(toast).to_contain_text(re.compile(r"0 of 1 file · 50% · .*about .* left"))
        expect(toast.locator(".meter i")).to_have_css("--share", "0.5")
        decoding.allowed.release(BATCHES)
        expect(toast).to_contain_text("succeeded: 1 added")
    finally:
        decoding.interrupted.set()
    job = running.client.get(response.headers["location"]).json()
    assert (job["state"], job["progress"], job["done"]) == ("succeeded", 1, 1)

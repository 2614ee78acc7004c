"""The page in a browser: jobs, uploads, and the panels for collections, models and keys."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, Request, Route, expect

from tests.chaos import only_by_chaos
from tests.media_files import solid, write_picture
from tests.service.browsing import ADMIN, PATIENCE_MS, wait_for_events
from tests.service.running import Running
from tests.service.toast_log import expect_toast
from tests.waiting import PATIENCE, wait_for

SLOW = 20_000
"""Bytes per second; slow enough that the upload of a 1.8 MB image outlasts the assertions about it."""

EXPORT = {"id": "1", "kind": "export", "collection": "", "state": "running", "progress": 0.5, "files": []}


def pictures(folder: Path, count: int) -> None:
    for number in range(count):
        write_picture(folder / f"{number}.png", solid((number * 20, 255 - number, number), 48, 48))


def start_job(page: Page, folder: Path) -> None:
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


def test_the_jobs_panel_can_be_opened_before_collections_are_loaded(page: Page, collection: str) -> None:
    pending_routes: list[Route] = []
    page.route("**/v1/collections", lambda route: pending_routes.append(route), times=1)
    page.goto(f"/?collection={collection}")
    page.locator("#open-jobs").click()
    expect(page.locator("#panel .ghost").first).to_be_visible()
    wait_for_events(page, lambda: pending_routes)
    pending_routes[0].continue_()
    expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()


def test_a_job_is_shown_live_paused_resumed_and_retried(
    page: Page, collection: str, incoming: Path, held: Callable[[], None]
) -> None:
    pictures(incoming, 3)
    broken = incoming / "broken.mp4"
    broken.write_text("no video")
    page.goto(f"/?collection={collection}")
    requests = job_requests(page)
    start_job(page, incoming)
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
    held()
    expect(job.get_by_text("succeeded", exact=True)).to_be_visible()
    expect(job).to_contain_text("3 added, 1 failed")
    expect(page.locator("#summary")).to_contain_text("3 videos")
    polled = [request.url for request in requests if request.method == "GET" and not request.url.endswith("/events")]
    assert [url for url in polled if "/items?" not in url] == []

    write_picture(incoming / "mended.png", solid((9, 9, 9), 48, 48)).rename(broken)
    job.get_by_role("button", name="Retry failed").click()
    expect(job).to_contain_text("4 added")
    expect(job).not_to_contain_text("broken.mp4")
    page.keyboard.press("Escape")
    expect(page.locator("#sheet")).to_be_hidden()


@only_by_chaos
def test_a_hidden_tab_closes_its_stream_and_catches_up_when_shown(
    page: Page, collection: str, incoming: Path, held: Callable[[], None]
) -> None:
    pictures(incoming, 3)
    page.goto(f"/?collection={collection}#jobs")
    expect(page.locator("#panel")).to_contain_text("No jobs yet")
    page.keyboard.press("Escape")
    requests = job_requests(page)
    failed_urls: list[str] = []
    page.on("requestfailed", lambda request: failed_urls.append(request.url))
    start_job(page, incoming)
    expect(page.locator("#uploads")).to_contain_text("0 of 3 files")

    def look(hidden: bool) -> None:
        page.evaluate(
            "hidden => { Object.defineProperty(document, 'hidden', { get: () => hidden, configurable: true });"
            " document.dispatchEvent(new Event('visibilitychange')); }",
            hidden,
        )

    look(hidden=True)
    wait_for_events(page, lambda: any(url.endswith("/events") for url in failed_urls))
    before = len(requests)
    held()
    address = requests[0].url.removesuffix("/events")
    wait_for(lambda: httpx.get(address, timeout=PATIENCE).json()["state"] == "succeeded")
    look(hidden=False)
    expect_toast(page, incoming.name, "succeeded: 3 added")
    assert [
        request.url for request in requests[before:] if request.url.endswith("/events")
    ] == []  # the list of jobs was enough
    expect(page.locator("#summary")).to_contain_text("3 videos")


def test_a_broken_stream_resumes_and_without_a_stream_the_job_is_polled(
    page: Page, running: Running, collection: str, incoming: Path, held: Callable[[], None]
) -> None:
    pictures(incoming, 2)
    (incoming / "broken.mp4").write_text("no video")
    page.add_init_script("Math.random = () => 0")  # shortest backoff
    page.goto(f"/?collection={collection}")
    answers = ["break", "refuse"]

    def stream(route: Route) -> None:
        answer = answers.pop(0) if answers else "go on"
        if answer == "break":  # after the first event
            body = route.fetch(url=route.request.url.removesuffix("/events"), timeout=PATIENCE_MS).text()
            route.fulfill(content_type="text/event-stream", body=f"id: 1\nevent: state\ndata: {body}\n\n")
        elif answer == "refuse":
            route.fulfill(status=503, headers={"Retry-After": "1"}, json={"detail": "too many streams"})
        else:
            route.continue_()

    page.route("**/events", stream)
    requests = job_requests(page)
    start_job(page, incoming)
    expect(page.locator("#uploads")).to_contain_text("1 of 3 files")
    page.get_by_role("button", name="Details").click()
    expect(page.locator("#panel")).to_contain_text("broken.mp4: the content is text")

    def streams() -> list[Request]:
        return [request for request in requests if request.url.endswith("/events")]

    wait_for_events(page, lambda: len(streams()) >= 3)
    assert [request.headers.get("last-event-id") for request in streams()][:3] == [None, "1", "1"]
    assert any(re.search(r"/jobs/\d+$", request.url) for request in requests)  # polled while there was no stream
    held()
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
    answers = ["busy", "go on", "break", "go on", "hang"]
    pending_routes: list[Route] = []

    def upload(route: Route) -> None:
        answer = answers.pop(0)
        if answer == "busy":
            route.fulfill(status=503, headers={"Retry-After": "1"}, json={"detail": "too much to do"})
        elif answer == "break":
            route.abort()
        elif answer == "hang":
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
    line = {"offline": False, "latency": 0, "downloadThroughput": -1}
    network.send("Network.emulateNetworkConditions", {**line, "uploadThroughput": SLOW})
    page.locator("#files").set_input_files([large, files / "blue.mp4"])
    shown = page.locator("#uploads .upload").filter(has_text="large.png")
    expect(shown).to_contain_text(re.compile(r"\d+\skB of 1\.8\sMB · [\d.]+\skB/s, about \d+\s(s|min) left"))
    expect(page.locator("#uploads .upload").filter(has_text="All files")).to_contain_text("0 of 2 files")
    network.send("Network.emulateNetworkConditions", {**line, "uploadThroughput": -1})
    expect(page.locator("#summary")).to_contain_text("4 videos")


@only_by_chaos
def test_a_collection_is_created_changed_backed_up_and_deleted(
    page: Page, running: Running, collection: str, tmp_path: Path
) -> None:
    page.goto(f"/?collection={collection}")
    page.get_by_role("button", name="Manage").press("Enter")
    expect(page.get_by_role("tab", name="Collections")).to_be_focused()
    page.locator("#panel").get_by_role("button", name="New collection").click()
    made = f"{collection}-made"
    page.get_by_label("Name", exact=True).fill(made)
    page.get_by_text("Advanced").click()
    page.get_by_label("Index type").select_option("flat")
    page.get_by_label("Token encoding (for reranking)").select_option("float16")
    page.get_by_role("button", name="Create").click()
    expect(page.locator("#collections")).to_have_value(made)
    created = running.client.get(f"/v1/collections/{made}").json()
    assert (created["index_kind"], created["token_encoding"]) == ("flat", "float16")

    polls: list[Route] = []
    page.route("**/v1/operations", lambda route: (polls.append(route), route.fulfill(json={"operations": [EXPORT]})))
    page.get_by_role("button", name="Manage").click()
    item = page.get_by_role("article").filter(has=page.get_by_role("heading", name=made, exact=True))
    item.get_by_role("button", name="Index…").hover()
    page.mouse.down()
    before = len(polls)
    wait_for_events(page, lambda: len(polls) >= before + 2)  # each redraws the panel, except a pressed button
    page.mouse.up()
    page.unroute("**/v1/operations")
    page.get_by_label("Index type").last.select_option("hnsw")
    page.get_by_role("button", name="Change").click()
    wait_for(lambda: running.client.get(f"/v1/collections/{made}").json()["index_kind"] == "hnsw")

    film = write_picture(tmp_path / "film.png", solid((1, 2, 3), 48, 48))
    with film.open("rb") as file:
        upload = running.client.post(f"/v1/collections/{made}/videos", files={"file": file})
    assert upload.status_code == 201
    item.get_by_role("button", name="Back up").click()
    expect(item).to_contain_text(re.compile(r"1 media file, [\d.]+\s\w+, not included"))
    with page.expect_download() as saved:
        item.get_by_role("button", name=f"Save {made}.sqlite3").click()
    assert saved.value.suggested_filename == f"{made}.sqlite3"
    assert Path(saved.value.path()).read_bytes().startswith(b"SQLite format 3")
    item.get_by_role("button", name="Remove").click()
    expect(item).not_to_contain_text("Backup")

    item.get_by_role("button", name="Delete…").press("Enter")
    delete = page.locator("#confirm-submit")
    page.get_by_label(f"Type “{made}” to confirm").fill(made[:-1])
    expect(delete).to_be_disabled()
    page.get_by_label(f"Type “{made}” to confirm").fill(made)
    delete.click()
    expect(item).to_have_count(0)
    assert running.client.get(f"/v1/collections/{made}").status_code == 404
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
    own = {"x-api-key": key}
    permissions = httpx.get(f"{guarded.client.base_url}/v1/keys/self", headers=own, timeout=PATIENCE).json()
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
    answer = running.client.post(f"/v1/collections/{collection}/jobs", json={"folder": incoming.name})
    wait_for(lambda: running.client.get(answer.headers["location"]).json()["state"] == "succeeded")
    page.goto(f"/?collection={collection}#jobs")
    reasons = page.get_by_role("list", name="Failure reasons")
    more = page.locator("#panel").get_by_role("button", name="Show more")
    expect(page.locator("#panel")).to_contain_text("5 failed files")
    for shown in (2, 4):  # two on each page, as this service has it
        expect(reasons.get_by_role("listitem")).to_have_count(shown)
        more.press("Enter")
    expect(reasons.get_by_role("listitem")).to_have_text([re.compile(f"^letter-{number}.mp4: ") for number in range(5)])
    expect(more).to_be_hidden()
    expect(reasons).to_be_focused()


@pytest.mark.parametrize("query", ["", "&q=a+yellow+thing"])
def test_a_finished_upload_and_a_finished_job_keep_the_pages_of_show_more(
    page: Page, running: Running, incoming: Path, tmp_path: Path, query: str
) -> None:
    name = f"pages-{len(query)}"
    running.client.post("/v1/collections", json={"name": name}).raise_for_status()
    pictures(tmp_path, 26)
    for picture in sorted(tmp_path.glob("*.png")):
        with picture.open("rb") as file:
            running.client.post(f"/v1/collections/{name}/videos", files={"file": file}).raise_for_status()
    page.goto(f"/?collection={name}{query}")
    cards = page.locator("#results .card")
    expect(cards).to_have_count(24)
    page.get_by_role("button", name="Show more").click()
    expect(cards).to_have_count(26)
    write_picture(tmp_path / "new.png", solid((1, 2, 3), 48, 48))
    page.locator("#files").set_input_files(tmp_path / "new.png")
    expect_toast(page, "new.png", "added, 1 clip")
    expect(cards).to_have_count(27)
    write_picture(incoming / "newer.png", solid((3, 2, 1), 48, 48))
    start_job(page, incoming)
    expect_toast(page, incoming.name, "succeeded: 1 added")
    expect(cards).to_have_count(28)
    running.client.delete(f"/v1/collections/{name}").raise_for_status()


def test_a_panel_that_cannot_be_loaded_shows_the_error_and_can_be_retried(page: Page, collection: str) -> None:
    page.route("**/jobs?*", lambda route: route.abort())
    page.goto(f"/?collection={collection}#jobs")
    expect(page.get_by_role("alert").filter(has_text="Cannot reach")).to_be_visible()
    page.unroute_all()
    page.locator("#panel").get_by_role("button", name="Try again").click()
    expect(page.locator("#panel")).to_contain_text("No jobs yet")
    page.get_by_role("tab", name="Keys").click()
    expect(page.locator("#panel")).to_contain_text("API keys are off")

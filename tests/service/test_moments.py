"""Moments over HTTP, in the clients, in the command and for assistants."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio
import httpx
import pytest
from playwright.sync_api import Browser, expect

from service.inference.models import BULK_BATCH_SIZE
from service.lifespan import MIN_ACCEPTED
from tests.media_files import solid, write_picture, write_video
from tests.service.browsing import PATIENCE_MS
from tests.service.conftest import COLORS, settings_for
from tests.service.running import JSON, Running, problem_of, serving
from tests.service.test_cache import MetricChanges
from tests.service.test_overload import held_indexing, in_progress
from tests.small_bundle import MOMENTS, make_small_bundle
from tests.waiting import wait_for
from vitascope.cli.main import main
from vitascope.client import AsyncClient, Client
from vitascope.errors import EngineError
from vitascope.integrations.mcp.tools import FindMomentsArguments, SearchVideosArguments, search_videos
from vitascope.integrations.mcp.tools import find_moments as call_tool

HOURS = 10 * 3600
TEXTS = ["a red thing", "a blue thing"]
RED_AND_BLUE = [[(0.0, 3.0), (13.5, 15.8)], [(3.0, 13.5)]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_bundle(tmp_path_factory.mktemp("bundle"), tasks=("retrieval", "moments"))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of red, ten of blue, which is longer than a sequence of windows, and two of red."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    frames = [
        solid(COLORS[name], 64, 48) for name, count in (("red", 15), ("blue", 53), ("red", 11)) for _ in range(count)
    ]
    return write_video(path, frames, rate=5)


@pytest.fixture(scope="module")
def finding(bundle: Path, film: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service with the task. Its collections `films` and `short-clips` have the film; a request may be about 100
    windows.
    """
    settings = settings_for(
        bundle,
        tmp_path_factory.mktemp("data"),
        max_moment_windows=100,
        max_captions=5,
        queue_timeout=0.01,
        inference_workers=2,
        decode_processes=2,
        max_video_seconds=HOURS + 60.0,
    )
    with serving(settings) as running:
        assert running.client.post("/v1/collections", json={"name": "films"}).status_code == 201
        upload = {"file": ("film.mp4", film.read_bytes())}
        assert running.client.post("/v1/collections/films/videos", files=upload).status_code == 201
        assert running.client.post("/v1/collections", json={"name": "short-clips"}).status_code == 201
        form = {"segmentation": '{"rule": "windows", "length": 2}'}
        response = running.client.post("/v1/collections/short-clips/videos", files=upload, data=form)
        assert response.status_code == 201
        yield running


def likely(response: JSON) -> list[list[tuple[float, float]]]:
    """Return (start, end) of the moments with a high score, by time, for each text."""
    return [
        sorted(
            (round(moment["start"], 1), round(moment["end"], 1))
            for moment in result["moments"]
            if moment["score"] > 0.5
        )
        for result in response["results"]
    ]


def ask(running: Running, **fields: object) -> httpx.Response:
    body = {"collection": "films", "video_id": "1", "texts": TEXTS, **fields}
    return running.client.post("/v1/moments", json=body)


def test_moments_of_a_stored_video_are_found_and_its_windows_are_decoded_once(finding: Running) -> None:
    response = ask(finding, texts=["a blue thing"], start=1.2, end=4.6).json()
    assert response["video"] == finding.client.get("/v1/collections/films/videos").json()["videos"][0]
    assert (response["start"], response["end"]) == (1.2, 4.6)
    assert likely(response) == [[(3.0, 4.6)]]
    assert (response["times"][0], response["times"][-1]) == (1.35, 4.55)
    saliency = response["results"][0]["saliency"]
    assert [value > 0.5 for value in saliency] == [time > 3 for time in response["times"]]
    whole = ask(finding).json()
    assert [result["text"] for result in whole["results"]] == TEXTS
    assert likely(whole) == RED_AND_BLUE
    changes = MetricChanges(finding)
    assert ask(finding).json() == whole
    assert likely(ask(finding, texts=["a red ball"], top=1, start=10).json()) == [[(13.5, 15.8)]]
    assert changes("vitascope_inference_seconds_count", graph="video") == 0
    assert changes("vitascope_inference_seconds_count", graph="moments") == 2
    assert changes("vitascope_cache_lookups_total", cache="clips", result="miss") == 0


def test_uploads_have_moments_and_are_not_stored(finding: Running, film: Path, tmp_path: Path) -> None:
    form = {"texts": TEXTS, "start": "2"}
    response = finding.client.post("/v1/moments", files={"file": ("a.mp4", film.read_bytes())}, data=form).json()
    assert (response["video"], response["start"]) == (None, 2.0)
    assert likely(response) == [[(2.0, 3.0), (13.5, 15.8)], [(3.0, 13.5)]]
    picture = write_picture(tmp_path / "blue.png", solid(COLORS["blue"]))
    response = finding.client.post("/v1/moments", files={"file": picture.open("rb")}, data={"texts": TEXTS}).json()
    assert (response["times"], likely(response)) == ([0.0], [[], [(0.0, 0.0)]])
    assert list(finding.service.media.uploads.iterdir()) == []


def test_a_request_for_a_film_of_ten_hours_is_limited_and_can_be_cancelled(finding: Running, tmp_path: Path) -> None:
    frames = [solid(COLORS[name], 64, 48) for name in ("red", "blue", "red", "red")]
    path = write_video(tmp_path / "long.mp4", frames, starts=[0.0, HOURS / 2, HOURS / 2 + 5, HOURS])
    content = path.read_bytes()

    def find(headers: dict[str, str] | None = None, **fields: object) -> httpx.Response:
        form = {"texts": TEXTS, **fields}
        return finding.client.post("/v1/moments", files={"file": ("long.mp4", content)}, data=form, headers=headers)

    detail = problem_of(find(), 422, "invalid_input")["detail"]
    assert "7200" in detail
    assert "windows of 0.5 s; at most 50 were expected for as many texts (max_moment_windows)" in detail
    part = find(start=HOURS / 2 - 8, end=HOURS / 2 + 8).json()
    assert likely(part)[1] == [(HOURS / 2, HOURS / 2 + 5)]
    problem_of(find({"X-Request-Timeout": "0.001"}, start=100, end=124), 504, "deadline_exceeded")
    wait_for(lambda: not finding.service.decoding.busy_pids)


def test_a_repeated_request_embeds_only_windows_that_the_failed_one_did_not(
    finding: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = write_video(tmp_path / "long.mp4", [solid(COLORS["green"], 64, 48)] * 40, rate=1).read_bytes()
    engine = finding.service.model._graphs.engine("video")  # type: ignore[attr-defined]
    run, rows = engine.run, list[int]()

    def fail_late(inputs: JSON) -> object:
        rows.append(len(inputs["high"]))
        if sum(rows) == 72:
            raise EngineError("broken")
        return run(inputs)

    def find() -> httpx.Response:
        form = {"texts": ["a green thing"]}
        return finding.client.post("/v1/moments", files={"file": ("long.mp4", content)}, data=form)

    monkeypatch.setattr(engine, "run", fail_late)
    problem_of(find(), 503, "engine_error")
    assert likely(find().json()) == [[(0.0, 40.0)]]
    assert sum(rows) == 72 + 16  # of 80 windows, 64 are decoded and cached at a time


def test_searches_are_answered_while_whole_videos_are_embedded(finding: Running, tmp_path: Path) -> None:
    """The search needs a part of the video that no other request has embedded."""
    frames = [solid(COLORS[name], 64, 48) for name, count in (("green", 42), ("blue", 8)) for _ in range(count)]
    with Client(str(finding.client.base_url)) as client:
        client.create_collection("long")
        client.add_video("long", write_video(tmp_path / "long.mp4", frames, rate=1))
    changes = MetricChanges(finding)
    sends = [partial(ask, finding, collection="long", texts=["a green thing"])] * (MIN_ACCEPTED + 1)
    with in_progress(held_indexing(finding), sends) as (is_held, responses):
        wait_for(lambda: is_held() and finding.service.long_pool.active == len(sends))
        [result] = search(finding, "long", text="a blue thing", refine=True, limit=1).json()["results"]
        assert result["moment"]["start"] == pytest.approx(42, abs=0.5)
        assert not any(response.done() for response in responses)
    assert [likely(response.result().json()) for response in responses] == [[[(0.0, 42.0)]]] * len(sends)
    bulk_runs = changes("vitascope_queue_wait_seconds_count", graph="video", kind="bulk")
    assert bulk_runs * BULK_BATCH_SIZE == 64  # of 100 windows; the search has embedded the others


def search(running: Running, collection: str = "short-clips", **fields: object) -> httpx.Response:
    body = {"group": "clip", "limit": 3, **fields}
    return running.client.post(f"/v1/collections/{collection}/search", json=body)


def test_each_result_of_a_refined_search_has_the_best_moment_in_and_around_it(finding: Running) -> None:
    plain = search(finding, text="a blue thing").json()
    refined = search(finding, text="a blue thing", refine=True).json()
    assert [{**result, "moment": None} for result in refined["results"]] == plain["results"]
    for result in refined["results"]:
        start, end = max(0, result["start"] - 8), min(15.8, result["end"] + 8)
        [expected] = ask(finding, texts=["a blue thing"], top=1, start=start, end=end).json()["results"]
        assert [result["moment"]] == expected["moments"]
        assert result["moment"]["start"] == pytest.approx(max(3, start), abs=0.1)
        assert result["moment"]["end"] == pytest.approx(min(13.5, end), abs=0.1)
    changes = MetricChanges(finding)
    rest = search(finding, text="a blue thing", refine=True, cursor=plain["next_cursor"]).json()["results"]
    assert all(result["moment"] for result in rest)
    assert changes("vitascope_inference_seconds_count", graph="video") == 0


def test_refining_ends_at_the_time_limit_and_a_repeated_request_continues(
    finding: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = write_video(tmp_path / "green.mp4", [solid(COLORS["green"], 64, 48)] * 20, rate=1)
    with Client(str(finding.client.base_url)) as client:
        client.create_collection("green")
        client.add_video("green", film)
    engine = finding.service.model._graphs.engine("video")  # type: ignore[attr-defined]
    run, deadline_passed = engine.run, threading.Event()

    def run_late(inputs: JSON) -> object:
        assert deadline_passed.wait(PATIENCE_MS / 1000)
        return run(inputs)

    monkeypatch.setattr(engine, "run", run_late)
    body = {"text": "a green thing", "refine": True, "group": "video"}
    response = finding.client.post("/v1/collections/green/search", json=body, headers={"X-Request-Timeout": "1"})
    deadline_passed.set()
    problem_of(response, 504, "deadline_exceeded")
    [result] = search(finding, "green", **body).json()["results"]
    assert (result["moment"]["start"], result["moment"]["end"]) == (0, 16)


def test_results_whose_file_is_gone_have_no_moment(finding: Running, film: Path) -> None:
    with Client(str(finding.client.base_url)) as client:
        client.create_collection("gone")
        client.add_video("gone", film)
        collection = finding.service.library.open("gone")
        collection.media_path(collection.get_video(1)).unlink()
        results = client.search("gone", "a red thing", refine=True, group="video")["results"]
        assert [(result["video"]["missing"], result["moment"]) for result in results] == [(True, None)]


def test_a_search_that_cannot_be_refined_is_rejected_with_the_reason(
    finding: Running, running: Running, palette: str
) -> None:
    clip = {"kind": "clip", "value": "1"}
    texts = [{"kind": "text", "value": text} for text in TEXTS]
    for query, count in (([clip], "no texts"), (texts, "2 texts")):
        detail = problem_of(search(finding, query=query, refine=True), 422, "invalid_input")["detail"]
        assert f"refine: true; false was expected, as the query has {count} of positive weight" in detail
    detail = problem_of(search(running, palette, text="a red thing", refine=True), 409, "task_missing")["detail"]
    assert re.match(r"refine: true; false was expected, as bundle .+ has no task 'moments'", detail)
    response = search(finding, text="a red thing", refine=True, limit=8)
    detail = problem_of(response, 422, "invalid_input")["detail"]
    assert re.match(r"limit: 8 results, .+ windows of 0.5 s; at most 100 were expected \(max_moment_windows\)", detail)


@pytest.mark.parametrize(
    ("fields", "code", "word"),
    [
        ({"texts": []}, "validation_failed", "texts"),
        ({"texts": ["a"] * 6}, "invalid_input", "texts: 6"),
        ({"texts": ["a", " "]}, "invalid_text", "texts[1]"),
        ({"top": 0}, "validation_failed", "top"),
        ({"top": 101}, "invalid_input", "top: 101"),
        ({"start": 99}, "invalid_input", "start"),
        ({"start": 2, "end": 1}, "validation_failed", "start"),
    ],
)
def test_invalid_requests_are_rejected(finding: Running, fields: JSON, code: str, word: str) -> None:
    assert word in problem_of(ask(finding, **fields), 422, code)["detail"]


def test_a_model_without_the_task_is_rejected(running: Running, palette: str) -> None:
    response = running.client.post("/v1/moments", json={"collection": palette, "video_id": "1", "texts": TEXTS})
    assert (
        "no graph 'moments', so no moments; the bundle's tasks are"
        in problem_of(response, 409, "task_missing")["detail"]
    )


def test_the_command_the_clients_and_the_tool_agree(
    finding: Running, bundle: Path, film: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = str(finding.client.base_url)
    assert main(["moments", str(film), *TEXTS, "--bundle", str(bundle), "--device", "cpu", "--json"]) == 0
    local = json.loads(capsys.readouterr().out)
    assert likely(local) == RED_AND_BLUE
    assert len(local["times"]) == 32 > MOMENTS["max_windows"]
    assert main(["moments", str(film), *TEXTS, "--server", url, "--json"]) == 0
    remote = json.loads(capsys.readouterr().out)
    assert remote == local
    assert main(["moments", str(film), TEXTS[1], "--server", url, "--top", "1"]) == 0
    shown = capsys.readouterr().out
    assert "a blue thing" in shown
    assert "0:03.0  0:13.5" in shown
    with Client(url) as client:
        stored = client.find_moments(TEXTS, collection="films", video_id="1")
    assert stored["results"] == local["results"]

    async def call() -> str:
        async with AsyncClient(url) as client:
            arguments = FindMomentsArguments(collection="films", video_id="1", texts=TEXTS[1:], top=1)
            return (await call_tool(client, arguments)).to_text()

    assert anyio.run(call).startswith('"a blue thing": 0:03-0:13 (3 to 13.5 s) score ')


def test_the_command_refines_in_a_data_folder_and_through_a_service(
    finding: Running, bundle: Path, film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = ["--data", str(tmp_path / "data"), "--bundle", str(bundle), "--device", "cpu"]
    assert main(["index", str(film), "--collection", "films", *local]) == 0
    moments = []
    for options in (local, ["--server", str(finding.client.base_url)]):
        command = ["search", "a blue thing", "--collection", "films", "--group", "video", "--refine", *options]
        capsys.readouterr()
        assert main([*command, "--json"]) == 0
        moments.append([result["moment"] for result in json.loads(capsys.readouterr().out)["results"]])
        assert main(command) == 0
        assert "0:03-0:13" in capsys.readouterr().out
    assert moments[0] == [{name: pytest.approx(value, abs=1e-4) for name, value in moments[1][0].items()}]

    async def call() -> str:
        async with AsyncClient(str(finding.client.base_url)) as client:
            arguments = SearchVideosArguments(collection="films", text="a blue thing", refine=True, group="video")
            return (await search_videos(client, arguments)).to_text()

    assert " moment 0:03-0:13 (3 to 13.5 s) score " in anyio.run(call)


def test_the_page_lists_moments_below_their_curve_and_plays_them(finding: Running, browser: Browser) -> None:
    page = browser.new_page(base_url=str(finding.client.base_url))
    page.set_default_timeout(PATIENCE_MS)
    at_start = finding.client.get("/v1/models").text.replace('"ready"', '"loading"')
    page.route("**/v1/models", lambda route: route.fulfill(body=at_start))
    page.goto("/?collection=films&q=a+blue+thing&group=clip")
    page.get_by_role("button", name="Options", exact=True).click()
    page.get_by_label("Refine:").check()
    card = page.locator("#results .card").first
    expect(card.locator(".time")).to_have_text(re.compile("^0:03 \N{EN DASH} 0:13 [(]>?9"))
    expect(card.locator("img")).to_have_attribute("src", re.compile(r"thumbnail\?t=8\.2"))  # the middle of the moment
    card.hover()
    expect(card.locator("video")).to_have_attribute("src", re.compile(r"#t=(3|2\.9)"))
    assert "refine=1" in page.url
    page.locator("#results .card").first.click()
    wait_for(lambda: 3 <= page.evaluate("document.querySelector('#clip-screen video')?.currentTime ?? 0") < 8)
    expect(page.get_by_label("Find moments")).to_have_value("a blue thing")
    page.get_by_label("The whole video").check()
    page.get_by_role("button", name="Find", exact=True).click()
    moments = page.locator("#moments button")
    expect(moments).to_have_text([re.compile("0:03 \N{EN DASH} 0:13>?9")])
    position = "document.querySelector('#clip-screen video').currentTime"
    page.evaluate("document.querySelector('#clip-screen video').pause()")
    moments.first.click()
    wait_for(lambda: 3 <= page.evaluate(position) < 13)
    curve = page.get_by_role("img", name=re.compile("Best moment: 0:03 to 0:13, score"))
    curve.click(position={"x": 1, "y": 20})
    wait_for(lambda: page.evaluate(position) < 2.5)
    page.close()

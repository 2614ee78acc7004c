"""Generated captions and chapters over HTTP, in the clients; captions for assistants and on the page."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from service.inference.scheduler import CallContext
from tests.media_files import solid, write_audio, write_picture, write_video
from tests.service.browsing import PATIENCE_MS
from tests.service.conftest import COLORS, settings_for
from tests.service.jobs import finished_job
from tests.service.running import JSON, Running, problem_of, serving
from tests.service.test_browser_access import RULES, duplicate_names, violations
from tests.service.test_cache import MetricChanges
from tests.service.test_operations import start_operation, wait_until_finished
from tests.small_bundle import AUDIO, CAPTIONS, TONES, make_small_bundle
from tests.waiting import PATIENCE, wait_for
from vitascope.cli.main import main
from vitascope.client import AsyncClient, Client
from vitascope.errors import InvalidInput
from vitascope.integrations.mcp.tools import GenerateCaptionsArguments
from vitascope.integrations.mcp.tools import generate_captions as call_tool

RED, BLUE = "the red thing moves", "the blue thing moves"
CLIP = {"collection": "films", "video_id": "1"}
TWO_SECONDS = {"rule": "windows", "length": 2.0}


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds of red, and four of blue."""
    frames = [solid(COLORS[name], 64, 48) for name in ("red", "blue") for _ in range(20)]
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", frames, rate=5)


def write_song(folder: Path) -> Path:
    """Write grey pictures with two seconds of silence, and two of a blue tone."""
    tone = 0.5 * np.sin(2 * np.pi * TONES["blue"] * np.arange(16_000) / 8000).astype(np.float32)
    return write_audio(folder / "song.mkv", np.concatenate([0 * tone, tone])[None], 8000, "flac", with_video=True)


@pytest.fixture(scope="module")
def captioning(film: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service whose model captions pictures and sound, with the film in two clips; requests may be about four."""
    bundle = make_small_bundle(
        tmp_path_factory.mktemp("bundle"),
        tasks=("retrieval", "audio_retrieval", "matching", "captioning"),
        audio={**AUDIO, "fused": True},
    )
    settings = settings_for(
        bundle, tmp_path_factory.mktemp("data"), max_caption_clips=4, max_beams=6, max_video_bytes=9_000_000
    )
    with serving(settings) as running, Client(str(running.client.base_url)) as client:
        client.create_collection("films")
        client.add_video("films", film, segmentation={"rule": "windows", "length": 4})
        yield running


@pytest.fixture(scope="module")
def captioned(captioning: Running) -> Running:
    """The service with the film captioned by an operation."""
    operation = wait_until_finished(captioning.client, start_operation(captioning.client, "caption", "films"))
    assert (operation["state"], operation["videos"]) == ("succeeded", {"recognized": 1, "failed": 0})
    return captioning


def caption(running: Running, **fields: object) -> httpx.Response:
    return running.client.post("/v1/captions", json={**CLIP, **fields})


def texts(response: JSON) -> list[tuple[float, float, str]]:
    """Return start, end and best caption of each clip."""
    return [(clip["start"], clip["end"], clip["captions"][0]["text"]) for clip in response["clips"]]


def test_a_stored_video_is_captioned_as_a_whole_in_parts_and_by_clip(captioning: Running) -> None:
    response = caption(captioning, end=3.5, beams=5, count=3).json()
    assert response["video"] == captioning.client.get("/v1/collections/films/videos").json()["videos"][0]
    [clip] = response["clips"]
    assert (clip["start"], clip["end"], clip["modalities"]) == (0.0, 3.5, ["visual"])
    values = [each["log_probability"] for each in clip["captions"]]
    assert (len(values), values) == (3, sorted(values, reverse=True))
    assert clip["captions"][0]["text"] == RED
    greedy = caption(captioning, end=3.5, beams=1).json()
    assert texts(greedy) == [(0.0, 3.5, "a red thing moves")]
    assert texts(caption(captioning, segmentation="stored").json()) == [(0.0, 4.0, RED), (4.0, 8.0, BLUE)]
    part = caption(captioning, segmentation="stored", start=2, end=6, max_tokens=3).json()
    assert texts(part) == [(2.0, 4.0, "the red thing"), (4.0, 6.0, "the blue thing")]
    by_rule = caption(captioning, segmentation=TWO_SECONDS).json()
    assert texts(by_rule) == [(0.0, 2.0, RED), (2.0, 4.0, RED), (4.0, 6.0, BLUE), (6.0, 8.0, BLUE)]
    samples = [caption(captioning, beams=1, temperature=2, count=6, seed=seed).json()["clips"] for seed in (1, 1, 2)]
    assert samples[0] == samples[1] != samples[2]
    assert {each["match"] for each in clip["captions"]} == {None}
    [reranked] = caption(captioning, end=3.5, beams=5, count=3, rerank=True).json()["clips"]
    scores = [np.log(each["match"]) + 4 * each["log_probability"] for each in reranked["captions"]]
    assert (len(scores), scores) == (3, sorted(scores, reverse=True))


def test_uploads_with_sound_and_pictures_are_captioned_and_not_stored(captioning: Running, tmp_path: Path) -> None:
    song = write_song(tmp_path)
    picture = write_picture(tmp_path / "blue.png", solid(COLORS["blue"]))
    with Client(str(captioning.client.base_url)) as client:
        silent, loud = client.generate_captions_for_file(song, segmentation=TWO_SECONDS)["clips"]  # grey pictures
        still = client.generate_captions_for_file(picture)
    assert (silent["modalities"], loud["modalities"]) == (["visual"], ["visual", "audio"])
    assert loud["captions"][0]["log_probability"] != silent["captions"][0]["log_probability"]
    assert (still["video"], texts(still)) == (None, [(0.0, 0.0, BLUE)])
    assert list(captioning.service.media.uploads.iterdir()) == []


def test_an_error_about_a_stored_upload_has_its_title(captioning: Running, tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * TONES["blue"] * np.arange(8000) / 8000).astype(np.float32)
    song = write_audio(tmp_path / "song.wav", tone[None], 8000, "pcm_s16le")
    with Client(str(captioning.client.base_url)) as client:
        client.create_collection("tones")
        client.add_video("tones", song)
    thumbnail = captioning.client.get("/v1/collections/tones/videos/1/thumbnail")
    for response in (caption(captioning, collection="tones"), thumbnail):
        assert problem_of(response, 415, "media_unsupported")["detail"].startswith("song: ")


def test_stored_clips_are_captioned_by_their_own_stored_sound(
    captioning: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    song = write_song(tmp_path)
    with Client(str(captioning.client.base_url)) as client:
        expected = client.generate_captions_for_file(song, segmentation=TWO_SECONDS)["clips"]
        client.create_collection("songs")
        video = client.add_video("songs", song, segmentation=TWO_SECONDS)
        monkeypatch.setattr("service.inference.embedding.read_audio_tokens", lambda *_: None)
        clips = client.generate_captions(collection="songs", video_id=video["id"], segmentation="stored")["clips"]
        client.delete_collection("songs")
    assert [clip["modalities"] for clip in clips] == [["visual"], ["visual", "audio"]]
    for clip, same in zip(clips, expected, strict=True):
        assert (clip["start"], clip["captions"][0]["text"]) == (same["start"], same["captions"][0]["text"])


def test_the_command_captions_files_by_a_service(
    captioning: Running, film: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = ["--server", str(captioning.client.base_url)]
    assert main(["caption", str(film), "--clips", "4", *server, "--json"]) == 0
    [response] = json.loads(capsys.readouterr().out)["files"]
    assert texts(response) == [(0.0, 4.0, RED), (4.0, 8.0, BLUE)]
    assert main(["caption", str(film), "--clips", "4", "--rerank", *server]) == 0
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split() == ["time", "log-probability", "match", "caption"]
    assert all(0 < float(row.split()[2]) <= 1 for row in rows)
    assert main(["caption", str(film), "--beams", "7", *server]) == 2
    assert "beams: 7; at most 6" in capsys.readouterr().err


def test_a_file_over_a_limit_of_the_service_does_not_stop_captions_of_others(
    captioning: Running, film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = write_picture(tmp_path / "blue.png", solid(COLORS["blue"]))
    large = tmp_path / "large.mp4"
    with large.open("wb") as file:
        file.truncate(captioning.settings.max_video_bytes + 1)
    server = ["--server", str(captioning.client.base_url)]
    assert main(["caption", str(large), str(film), str(picture), "--clips", "1", *server, "--json"]) == 3
    too_large, too_long, captioned = json.loads(capsys.readouterr().out)["files"]
    assert too_large["error"].startswith("large.mp4: file: more than ")
    assert (too_long["file"], too_long["error"]) == (
        str(film),
        "segmentation: 8 clips from 0 to 8 s; at most 4 were expected (max_caption_clips)",
    )
    assert texts(captioned) == [(0.0, 0.0, BLUE)]


@pytest.mark.parametrize(
    ("fields", "code", "word"),
    [
        ({"beams": 0}, "validation_failed", "beams"),
        ({"beams": 7}, "invalid_input", "beams: 7; at most 6"),
        ({"beams": 1, "temperature": 1, "count": 7}, "invalid_input", "count: 7; at most 6"),
        ({"count": 4}, "invalid_input", "count: 4 with 3 beams"),
        ({"temperature": 1}, "invalid_input", "beams: 3 with temperature 1"),
        ({"temperature": -1}, "validation_failed", "temperature"),
        ({"top_p": 0}, "validation_failed", "top_p"),
        ({"seed": 2**63}, "validation_failed", f"seed: {2**63}; Input should be less than or equal to {2**63 - 1}"),
        ({"max_tokens": 99}, "invalid_input", f"max_tokens: 99; at most {CAPTIONS['max_tokens']}"),
        ({"segmentation": "clips"}, "validation_failed", "segmentation"),
        ({"segmentation": {**TWO_SECONDS, "length": 1.0}}, "invalid_input", "8 clips from 0 to 8 s; at most 4 were"),
        ({"start": 9}, "invalid_input", "start"),
    ],
)
def test_invalid_requests_are_rejected(captioning: Running, fields: JSON, code: str, word: str) -> None:
    assert word in problem_of(caption(captioning, **fields), 422, code)["detail"]


def test_a_model_without_the_task_is_rejected_before_decoding(running: Running) -> None:
    response = running.client.post("/v1/captions", files={"file": ("no.mp4", b"no video")})
    detail = problem_of(response, 409, "task_missing")["detail"]
    assert "no captioning; the bundle's tasks are" in detail
    response = running.client.post("/v1/chapters", files={"file": ("no.mp4", b"no video")})
    assert "no captioning; the bundle's tasks are" in problem_of(response, 409, "task_missing")["detail"]


@pytest.mark.parametrize(("task", "options"), [("captions", {}), ("chapters", {"max_chapters": 4})])
def test_requests_end_at_the_time_limit_and_when_the_client_disconnects(
    captioning: Running, task: str, options: JSON, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = captioning.service
    engine = service.model._graphs.engine("caption_step")  # type: ignore[attr-defined]
    run, submit = engine.run, service.scheduler.submit
    steps, contexts, release = list[int](), list[CallContext](), threading.Event()

    def wait_at_second_step(inputs: JSON) -> object:
        steps.append(inputs["past_keys"].shape[3])
        assert len(steps) < 2 or release.wait(PATIENCE)
        return run(inputs)

    def record(graph: str, inputs: JSON, context: CallContext) -> object:
        contexts.append(context)
        return submit(graph, inputs, context)

    async def ask_and_cancel() -> None:
        async with AsyncClient(str(captioning.client.base_url)) as client:
            call = asyncio.create_task(getattr(client, f"generate_{task}")(**CLIP, **options))
            await asyncio.to_thread(wait_for, lambda: len(steps) == 2)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        await asyncio.to_thread(wait_for, contexts[-1].cancelled.is_set)

    def finish() -> None:
        release.set()
        wait_for(lambda: service.concurrency.requests == 0 and not service.scheduler._active)
        assert len(steps) <= 2
        steps.clear()
        release.clear()

    monkeypatch.setattr(engine, "run", wait_at_second_step)
    monkeypatch.setattr(service.scheduler, "submit", record)
    headers = {"X-Request-Timeout": "0.5"}
    response = captioning.client.post(f"/v1/{task}", json={**CLIP, **options}, headers=headers)
    problem_of(response, 504, "deadline_exceeded")
    finish()
    asyncio.run(ask_and_cancel())
    finish()


def test_the_clients_and_the_tool_agree(captioning: Running) -> None:
    url = str(captioning.client.base_url)
    with Client(url) as client:
        stored = client.generate_captions(**CLIP, segmentation="stored", count=2)

    async def call() -> str:
        async with AsyncClient(url) as client:
            assert await client.generate_captions(**CLIP, segmentation="stored", count=2) == stored
            return (await call_tool(client, GenerateCaptionsArguments(**CLIP, per_clip=True, rerank=True))).to_text()

    first, second = asyncio.run(call()).splitlines()
    assert texts(stored) == [(0.0, 4.0, RED), (4.0, 8.0, BLUE)]
    assert first.startswith(f'0:00-0:04 (0 to 4 s) "{RED}" (log probability -')
    assert re.fullmatch(rf'0:04-0:08 \(4 to 8 s\) "{BLUE}" \(log probability -[\d.]+, match 0[\d.]+\)', second)


def test_chapters_of_stored_videos_and_uploads(
    captioning: Running, film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def titled(response: JSON) -> list[tuple[float, float, str]]:
        return [(chapter["start"], chapter["end"], chapter["title"]) for chapter in response["chapters"]]

    url = str(captioning.client.base_url)
    options: JSON = {"min_seconds": 1, "max_chapters": 4}
    with Client(url) as client:
        stored = client.generate_chapters(**CLIP, **options, segmentation={"rule": "shots"})
        windows = client.generate_chapters(**CLIP, **options, segmentation=TWO_SECONDS)
        changes = MetricChanges(captioning)
        assert client.generate_chapters(**CLIP, **options, segmentation=TWO_SECONDS) == windows
        assert changes("vitascope_inference_seconds_count", graph="video") == 0
        part = client.generate_chapters(**CLIP, **options, segmentation="stored", start=1, end=6)
        upload = client.generate_chapters_for_file(film, **options, segmentation=TWO_SECONDS, similarity=0.8)
        short = client.generate_chapters_for_file(film, max_chapters=1)
        with pytest.raises(InvalidInput, match="a picture has none"):
            client.generate_chapters_for_file(write_picture(tmp_path / "blue.png", solid(COLORS["blue"])), **options)
        with pytest.raises(InvalidInput, match="max_chapters: 5; at most 4"):
            client.generate_chapters(**CLIP, max_chapters=5)

    async def call() -> None:
        async with AsyncClient(url) as client:
            assert await client.generate_chapters(**CLIP, **options, segmentation="stored") == stored

    asyncio.run(call())
    assert titled(stored) == titled(windows) == titled(upload) == [(0.0, 4.0, RED), (4.0, 8.0, BLUE)]
    assert titled(part) == [(1.0, 4.0, RED), (4.0, 6.0, BLUE)]
    assert [(chapter["start"], chapter["end"]) for chapter in short["chapters"]] == [(0.0, 8.0)]
    assert main(["chapters", str(film), "--max-chapters", "1", "--format", "vtt", "--server", url]) == 0
    assert capsys.readouterr().out.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:08.000\nthe ")
    assert (upload["video"], stored["chapters"][0]["modalities"]) == (None, ["visual"])
    assert list(captioning.service.media.uploads.iterdir()) == []


def test_a_captioned_collection_is_searched_by_its_captions(
    captioned: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    with Client(str(captioned.client.base_url)) as client:
        result, _ = client.search("films", "blue things", signals=["caption"])["results"]
        assert (result["start"], result["caption"]) == (4.0, BLUE)
        signal = result["signals"]["caption"]
        assert (signal["rank"], [match["text"] for match in signal["matches"]]) == (1, ["blue thing"])
        assert (
            client.search("films", "red", where={"clip": {"caption": {"contains": "blue"}}})["results"][0]["start"] == 4
        )
        assert captioned.client.get("/v1/collections/films/facets").json()["caption"] == 1
        assert [span["caption"] for span in client.get_video("films", "1")["spans"]] == [RED, BLUE]
    assert main(["video", "show", "1", "--collection", "films", "--server", str(captioned.client.base_url)]) == 0
    *_, first, second = capsys.readouterr().out.splitlines()
    assert (first.rstrip().endswith(RED), second.rstrip().endswith(BLUE)) == (True, True)
    command = ["collection", "caption", "films", "--server", str(captioned.client.base_url)]
    assert main(command) == 0  # again: each clip has a caption by this model
    assert "films: 0 videos captioned" in capsys.readouterr().out


def test_uploads_and_jobs_generate_captions_where_the_collection_or_the_request_does(
    captioning: Running, running: Running, tmp_path: Path
) -> None:
    picture = write_picture(tmp_path / "blue.png", solid(COLORS["blue"]))
    with Client(str(captioning.client.base_url)) as client:
        assert client.create_collection("pictures", caption=True)["caption"] is True
        added = client.add_video("pictures", picture)
        job = finished_job(captioning.client, "/v1/collections/pictures/jobs/1")
        assert (job["caption"], job["recognitions"]) == (True, {"caption": {"done": 1, "failed": 0}})
        assert client.get_video("pictures", added["id"])["spans"][0]["caption"] == BLUE
        assert client.update_collection("pictures", caption=False)["caption"] is False
        client.delete_collection("pictures")
    name = running.client.post("/v1/collections", json={"name": "uncaptioned"}).json()["name"]
    for method, path, body in (
        ("POST", "/v1/operations", {"kind": "caption", "collection": name}),
        ("POST", f"/v1/collections/{name}/jobs", {"folder": "films", "caption": True}),
        ("PATCH", f"/v1/collections/{name}", {"caption": True}),
    ):
        detail = problem_of(running.client.request(method, path, json=body), 409, "task_missing")["detail"]
        assert "has no task 'captioning'" in detail
    running.client.delete(f"/v1/collections/{name}")


def test_the_page_captions_a_clip_a_video_and_a_dropped_file(captioned: Running, browser: Browser, film: Path) -> None:
    page = browser.new_page(base_url=str(captioned.client.base_url))
    page.set_default_timeout(PATIENCE_MS)
    page.goto("/?collection=films&q=a+blue+thing")
    match = page.get_by_role("button", name=f"Play 1. film from 0:04, caption: {BLUE}")
    expect(match.locator("mark")).to_have_text("blue thing")
    page.locator("#results .card").first.click()
    expect(page.locator("#clip-texts")).to_have_text(re.compile(f"Caption.*{BLUE}"))
    form = page.get_by_role("form", name="Generate captions")
    form.get_by_role("button", name="Caption", exact=True).click()
    expect(form.locator("#generated-captions")).to_have_text(BLUE)
    page.get_by_label("The whole video").check()
    form.get_by_role("button", name="Caption", exact=True).click()
    captions = form.get_by_role("list", name="Captions").get_by_role("listitem")
    expect(captions).to_have_text([f"0:00 \N{EN DASH} 0:04{RED}", f"0:04 \N{EN DASH} 0:08{BLUE}"])
    page.evaluate(Axe().axe_script)
    assert (violations(page, RULES), duplicate_names(page)) == ([], set())
    page.evaluate("document.querySelector('#clip-screen video').pause()")
    captions.first.get_by_role("button").click()
    wait_for(lambda: page.evaluate("document.querySelector('#clip-screen video').currentTime") < 3)
    page.keyboard.press("Escape")
    page.evaluate(
        """(content) => {
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([bytes], "film.mp4", { type: "video/mp4" }));
            document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
        }""",
        base64.b64encode(film.read_bytes()).decode(),
    )
    dialog = page.get_by_role("dialog", name="film.mp4")
    dialog.get_by_role("button", name="Caption", exact=True).click()
    expect(dialog.locator("#drop-captions")).to_have_text(re.compile("thing moves$"))
    assert (violations(page, RULES), duplicate_names(page)) == ([], set())
    page.close()


def test_the_page_captions_the_first_clips_of_a_long_video(
    captioning: Running, browser: Browser, tmp_path: Path
) -> None:
    """The service allows four clips a request."""
    url = str(captioning.client.base_url)
    frames = [solid(COLORS[name], 64, 48) for name in ("red", "blue", "red")]
    long_film = write_video(tmp_path / "long.mp4", frames, rate=1)
    with Client(url) as client:
        client.create_collection("long")
        client.add_video("long", long_film, segmentation={"rule": "windows", "length": 0.5})
    page = browser.new_page(base_url=url)
    page.set_default_timeout(PATIENCE_MS)
    page.goto("/?collection=long&q=a+red+thing")
    expect(page.locator("#model")).to_be_visible()  # a clip that is opened earlier has no form
    page.locator("#results .card").first.click()
    expect(page.locator("#track")).to_have_attribute("aria-valuemax", "6")
    page.get_by_label("The whole video").check()
    form = page.get_by_role("form", name="Generate captions")
    form.get_by_role("button", name="Caption", exact=True).click()
    expect(form.get_by_text("The first 4 of 6 clips are captioned. Select a later clip")).to_be_visible()
    captions = form.get_by_role("list", name="Captions").get_by_role("listitem")
    expect(captions.last).to_have_text(re.compile(f"{BLUE}$"))
    page.close()

"""Search by signals over HTTP, with the client, the command and an assistant's tools, as in docs/usage.md."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from index.recognitions import store_screen_text, store_speech
from tests.media_files import solid, write_audio, write_color_video, write_picture
from tests.service.browsing import PATIENCE_MS
from tests.service.conftest import COLORS, settings_for
from tests.service.running import Running, problem_of, serving
from tests.small_bundle import TONES, make_small_bundle
from tests.waiting import wait_for
from vitascope.cli.main import main
from vitascope.client import AsyncClient, Client
from vitascope.integrations.mcp.responses import SearchHit
from vitascope.integrations.mcp.tools import TOOLS
from vitascope.screen_text.interface import TextSpan
from vitascope.speech.interface import SpeechSegment, SpokenWord

RATE = 8000
SPOKEN, SHOWN, BOX = "hello fox", "Gare du Nord", (0.1, 0.2, 0.5, 0.3)


def tone(colour: str) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * TONES[colour] * np.arange(2 * RATE) / RATE)).astype(np.float32)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A red picture, a silent green video, and a grey video with the tone that the model associates with blue."""
    folder = tmp_path_factory.mktemp("sounds")
    write_picture(folder / "red.png", solid(COLORS["red"]))
    write_color_video(folder / "green.mp4", COLORS["green"])
    write_audio(folder / "blue.mkv", tone("blue")[None], RATE, "flac", with_video=True)
    return folder


@pytest.fixture(scope="module")
def hearing(sounds: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service of a model with sound, with these files in the collection `films`."""
    root = tmp_path_factory.mktemp("hearing")
    bundle = make_small_bundle(root / "bundle", tasks=("retrieval", "audio_retrieval", "matching"))
    with serving(settings_for(bundle, root / "data")) as running, Client(str(running.client.base_url)) as client:
        client.create_collection("films")
        for file in sorted(sounds.iterdir()):
            client.add_video("films", file)
        with running.service.library.open("films") as films:
            of_title = {video.title: video.id for video in films.videos()}
            words = tuple(SpokenWord(word, 0.4 + n / 2, 0.8 + n / 2) for n, word in enumerate(SPOKEN.split()))
            store_speech(films, of_title["green"], [SpeechSegment(0.4, 1.8, SPOKEN, words=words)])
            store_screen_text(films, of_title["blue"], [TextSpan(SHOWN, 0.5, 1.5, BOX, 0.9)], "a reader")
        yield running


def test_a_sound_is_a_query(
    hearing: Running,
    sounds: Path,
    running: Running,
    palette: str,
    small_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The sound of a file without pictures, and on request that of a video, on every surface."""
    red = write_audio(tmp_path / "tone.ogg", tone("red")[None], RATE, "libopus")
    with Client(str(hearing.client.base_url)) as client:
        first = client.search("films", file=red, limit=1)
        assert first["results"][0]["video"]["title"] == "red"
        second = client.search("films", query=[{"kind": "file"}], limit=1, cursor=first["next_cursor"])
        assert second["results"][0]["video"]["title"] != "red"
        client.create_collection("colours")
        client.add_video("colours", write_picture(tmp_path / "blue.png", solid(COLORS["blue"])))
        client.add_video("colours", write_picture(tmp_path / "grey.png", solid((99, 99, 99))))
        for signal, title in (("visual", "grey"), ("audio", "blue")):
            query = [{"kind": "file", "signal": signal}]
            page = client.search("colours", query=query, file=sounds / "blue.mkv")
            assert page["results"][0]["video"]["title"] == title
    search = ["search", "--collection", "colours", "--like", str(sounds / "blue.mkv"), "--signal", "audio", "--json"]
    for backend in (
        ["--server", str(hearing.client.base_url)],
        ["--data", str(hearing.settings.data_dir), "--bundle", str(hearing.settings.bundle)],
    ):
        assert main([*search, *backend]) == 0
        assert json.loads(capsys.readouterr().out)["results"][0]["video"]["title"] == "blue"
    with red.open("rb") as file:
        response = running.client.post(f"/v1/collections/{palette}/search", files={"file": ("bark.ogg", file)})
    detail = "bark.ogg: sound alone; a file with pictures was expected, as bundle small-colours 1 embeds no sound"
    assert problem_of(response, 422, "invalid_input")["detail"] == detail
    assert (
        main(
            [
                "search",
                "--like",
                str(red),
                "--data",
                str(running.settings.data_dir),
                "--bundle",
                str(small_bundle),
                "--collection",
                palette,
            ]
        )
        == 2
    )
    assert "embeds no sound" in capsys.readouterr().err


def search(running: Running, collection: str = "films", **body: object) -> httpx.Response:
    return running.client.post(f"/v1/collections/{collection}/search", json=body)


def titles(page: Mapping[str, Any]) -> list[str]:
    return [result["video"]["title"] for result in page["results"]]


def test_signals_are_selected_and_weighted_and_each_result_lists_its_signals(
    hearing: Running, sounds: Path, tmp_path: Path
) -> None:
    collection = hearing.client.get("/v1/collections/films").json()
    assert collection["signals"] == ["visual", "audio", "speech", "screen_text", "caption", "name"]
    best = search(hearing, text="fox", signals=["speech"]).json()["results"][0]
    assert (best["video"]["title"], best["text"], best["screen_text"]) == ("green", SPOKEN, "")
    match = {"text": "fox", "start": 0.9, "end": 1.3, "box": None}
    assert list(best["signals"]) == ["speech"]
    assert (best["signals"]["speech"]["rank"], best["signals"]["speech"]["matches"]) == (1, [match])
    shown = search(hearing, text="nord station").json()["results"][0]
    assert (shown["video"]["title"], shown["text"], shown["screen_text"]) == ("blue", "", SHOWN)
    match = {"text": "Nord", "start": 0.5, "end": 1.5, "box": list(BOX)}
    assert shown["signals"]["screen_text"]["matches"] == [match]
    assert {"visual", "audio"} <= set(shown["signals"])
    for signal, title in (("visual", "red"), ("audio", "blue")):  # of two parts, the one that this signal has
        page = search(hearing, text="a red and blue thing", signals={signal: 1, "name": 0.001}).json()
        assert titles(page)[0] == title
    [literal] = search(hearing, text='a thing "hello fox"').json()["results"]
    assert literal["video"]["title"] == "green"
    assert titles(search(hearing, text="Gar*", signals=["screen_text"]).json()) == ["blue"]
    clip = [{"kind": "clip", "value": shown["clip_id"], "signal": "audio"}]
    by_sound = search(hearing, query=clip, signals=["audio"], include_query_clips=True).json()["results"][0]
    assert by_sound["signals"]["audio"]["score"] == pytest.approx(1, abs=1e-4)
    red = write_audio(tmp_path / "tone.wav", tone("red")[None], RATE, "pcm_s16le")
    form = {"text": "hello fox", "signals": '{"visual": 1, "speech": 0.5}', "limit": "3"}
    with red.open("rb") as file:
        mixed = hearing.client.post(
            "/v1/collections/films/search", files={"file": ("tone.wav", file)}, data=form
        ).json()
    assert set(titles(mixed)[:2]) == {"red", "green"}


def test_a_clip_states_whether_it_has_sound(hearing: Running, capsys: pytest.CaptureFixture[str]) -> None:
    url = str(hearing.client.base_url)
    expected = {"red": ["visual"], "green": ["visual"], "blue": ["visual", "audio"]}
    results = search(hearing, text="a thing", signals=["visual"]).json()["results"]  # sound is not compared
    assert {result["video"]["title"]: result["modalities"] for result in results} == expected
    videos = {result["video"]["title"]: result["video"]["id"] for result in results}
    for title, video_id in videos.items():
        [clip] = hearing.client.get(f"/v1/collections/films/videos/{video_id}").json()["spans"]
        assert clip["modalities"] == expected[title]
    grouped = search(hearing, text="a thing", group="video").json()["results"]
    assert {hit["modalities"][-1] for result in grouped for hit in result["clips"]} == {"visual", "audio"}
    for backend in (["--server", url], ["--data", str(hearing.settings.data_dir)]):
        assert main(["video", "show", videos["blue"], "--collection", "films", "--json", *backend]) == 0
        assert json.loads(capsys.readouterr().out)["video"]["spans"][0]["modalities"] == expected["blue"]
        assert main(["video", "show", videos["blue"], "--collection", "films", *backend]) == 0
        heading, clip_row = capsys.readouterr().out.splitlines()[-2:]
        assert heading.split() == ["clip", "id", "text", "screen", "text"]
        assert clip_row.rstrip().endswith(SHOWN)
    with_sound = [result for result in results if "with sound" in SearchHit.model_validate(result).line()]
    assert [result["video"]["title"] for result in with_sound] == ["blue"]  # as an assistant reads it


def test_an_assistant_finds_clips_that_sound_alike_by_sound_alone(hearing: Running) -> None:
    tool = TOOLS["find_similar"]

    async def find_titles(clip_id: str, signal: str) -> set[str]:
        arguments = tool.arguments.model_validate({"collection": "films", "clip_id": clip_id, "signal": signal})
        async with AsyncClient(str(hearing.client.base_url)) as client:
            return {result["title"] for result in (await tool.run(client, arguments)).model_dump()["results"]}

    hits = search(hearing, signals=["audio"], text="a blue thing").json()["results"]
    assert [hit["video"]["title"] for hit in hits] == ["blue"]
    assert asyncio.run(find_titles(hits[0]["clip_id"], "audio")) == set()  # no other has sound
    assert asyncio.run(find_titles(hits[0]["clip_id"], "visual")) == {"red", "green"}


@pytest.mark.parametrize(
    ("signals", "code", "detail"),
    [
        (["smell"], "validation_failed", "signals: 'smell'; Input should be 'visual', 'audio', 'speech'"),
        (["visual", "visual"], "validation_failed", "a signal is repeated"),
        ([], "validation_failed", "a list of signals, or an object"),
        ({"speech": "1"}, "validation_failed", "signals.speech"),
        ({"speech": 1001}, "invalid_input", "signals.speech: 1001.0; a number above 0, at most 1000, was expected"),
    ],
)
def test_invalid_signals_are_rejected(hearing: Running, signals: object, code: str, detail: str) -> None:
    assert detail in problem_of(search(hearing, text="a", signals=signals), 422, code)["detail"]


def test_signals_that_a_collection_lacks_and_cursors_of_others_are_rejected(
    hearing: Running, running: Running, palette: str
) -> None:
    response = search(running, palette, text="red", signals=["visual", "audio"])
    assert "signals: 'audio'; visual was expected in palette" in problem_of(response, 422, "invalid_input")["detail"]
    cursor = search(hearing, text="red", signals=["visual"], limit=1).json()["next_cursor"]
    assert search(hearing, text="red", signals={"visual": 1}, limit=1, cursor=cursor).status_code == 200
    response = search(hearing, text="red", signals=["visual", "name"], limit=1, cursor=cursor)
    assert "cursor: of another search" in problem_of(response, 400, "bad_request")["detail"]


def test_the_command_and_the_client_choose_signals(hearing: Running, capsys: pytest.CaptureFixture[str]) -> None:
    url = str(hearing.client.base_url)
    local = ["--data", str(hearing.settings.data_dir), "--bundle", str(hearing.settings.bundle)]
    command = ["search", "hello fox", "--collection", "films", "--signals", "visual,speech=0.5", "--limit", "1"]
    outputs = []
    for backend in (["--server", url], local):
        assert main([*command, *backend]) == 0
        outputs.append(capsys.readouterr().out)
        assert 'speech "hello fox" 0:00' in " ".join(outputs[-1].split())
        assert main([*command, "--json", *backend]) == 0
        [result] = json.loads(capsys.readouterr().out)["results"]
        [match] = result["signals"]["speech"]["matches"]
        assert (match["text"], match["start"]) == ("hello fox", 0.4)
        assert main(["search", "fox", "--collection", "films", "--signals", "smell", *backend]) == 2
        assert "smell" in capsys.readouterr().err
    with Client(url) as client:
        pages = list(client.iter_search_pages("films", "fox", signals={"speech": 2.0, "visual": 0.1}, limit=1))
        assert titles(pages[0]) == ["green"]
        assert len(pages) > 1


def test_the_page_shows_and_plays_sounds_and_searches_with_them(
    hearing: Running, browser: Browser, sounds: Path, tmp_path: Path
) -> None:
    red = write_audio(tmp_path / "red.wav", tone("red")[None], RATE, "pcm_s16le")
    blue = write_audio(tmp_path / "blue.wav", tone("blue")[None], RATE, "pcm_s16le")
    with Client(str(hearing.client.base_url)) as client:
        client.create_collection("heard")
        for file in (red, sounds / "blue.mkv", sounds / "green.mp4"):
            client.add_video("heard", file)
    page = browser.new_page(base_url=str(hearing.client.base_url))
    page.set_default_timeout(PATIENCE_MS)
    failed: list[str] = []
    page.on("response", lambda response: failed.append(response.url) if response.status >= 400 else None)
    page.goto("/?collection=heard")
    page.locator("#results .card", has=page.locator(".sound")).click()
    wait_for(lambda: page.locator("#clip-screen audio").evaluate("audio => audio.currentTime") > 0)
    expect(page.locator("#clip-facts")).to_have_text(re.compile("^0:00 . 0:02 · sound"))
    expect(page.locator("#clip .ask")).to_be_hidden()  # it has no pictures
    page.locator("#clip-like").click()
    expect(page.locator("#chips")).to_contain_text("Sounds like red, 0:00")
    expect(page.locator("#results .title").first).to_have_text("blue")

    page.get_by_role("button", name="Search by image, video or sound").wait_for()
    page.locator("#like-file").set_input_files(blue)
    expect(page.locator("#chips")).to_contain_text("Similar to blue.wav")
    first = page.locator("#results:not([aria-busy]) .cell").first  # not one of the search before
    expect(first.locator(".title")).to_have_text("blue")
    expect(first.locator(".signals")).to_contain_text("Sound")
    first.locator(".card").click()
    page.get_by_role("button", name="Find similar sound").click()
    expect(page.locator("#chips")).to_contain_text("Sounds like blue, 0:00")
    page.reload()
    expect(page.locator("#chips")).to_contain_text("Sounds like blue, 0:00")
    page.locator("#query").fill("a green thing")
    page.get_by_role("button", name="Remove sounds like blue").click()
    page.locator("#results:not([aria-busy]) .card", has_text="green").click()
    expect(page.locator("#clip-scores")).to_be_visible()
    expect(page.get_by_role("button", name="Find similar sound")).to_be_hidden()  # it has none
    page.goto("/?collection=heard&q=a+green+thing&signals=visual")  # by scores alone, it might have
    page.locator("#results .card", has_text="green").click()
    expect(page.locator("#clip-like")).to_be_visible()
    expect(page.get_by_role("button", name="Find similar sound")).to_be_hidden()
    page.keyboard.press("Escape")
    page.locator("#results .card", has_text="blue").first.click()
    expect(page.get_by_role("button", name="Find similar sound")).to_be_visible()
    page.close()
    assert failed == []

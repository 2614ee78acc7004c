"""Grounding over HTTP, in the clients, for assistants and on the page."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from tests.media_files import solid, write_picture, write_video
from tests.service.browsing import PATIENCE_MS
from tests.service.conftest import COLORS, settings_for
from tests.service.running import Running, problem_of, serving
from tests.service.test_browser_access import RULES, duplicate_names, violations
from tests.small_bundle import make_small_bundle
from vitascope.client import AsyncClient, Client
from vitascope.integrations.mcp.tools import GroundPhrasesArguments, ground_phrases

CLIP = {"collection": "films", "video_id": "1"}


@pytest.fixture(scope="module")
def grounding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service whose model grounds phrases, with a film: four seconds of red, and four of blue."""
    folder = tmp_path_factory.mktemp("grounding")
    frames = [solid(COLORS[name], 64, 48) for name in ("red", "blue") for _ in range(20)]
    film = write_video(folder / "film.mp4", frames, rate=5)
    bundle = make_small_bundle(folder / "bundle", tasks=("retrieval", "grounding"))
    with serving(settings_for(bundle, folder / "data")) as running, Client(str(running.client.base_url)) as client:
        client.create_collection("films")
        client.add_video("films", film, segmentation={"rule": "windows", "length": 4})
        yield running


def test_phrases_about_stored_videos_and_uploads_have_boxes_in_pixels(grounding: Running, tmp_path: Path) -> None:
    url = str(grounding.client.base_url)
    with Client(url) as client:
        response = client.ground(["a red thing", "blue"], collection="films", video_id="1", start=4)
        still = client.ground_file(write_picture(tmp_path / "red.png", solid(COLORS["red"], 64, 48)), ["red"])
    assert (response["start"], response["end"], response["time"]) == (4.0, 8.0, 6.0)
    assert (response["width"], response["height"]) == (64, 48)
    red, blue = response["groundings"]
    assert red["score"] < 0.1 < 0.9 < blue["score"]
    assert blue["pixels"] == {"left": 32, "top": 12, "right": 56, "bottom": 36}
    assert [len(row) for row in blue["heat_map"]] == [4, 4]
    assert max(map(max, blue["heat_map"])) == round(blue["score"], 3)
    assert (still["video"], still["time"]) == (None, 0.0)
    assert still["groundings"][0]["score"] > 0.9

    async def call() -> str:
        async with AsyncClient(url) as client:
            arguments = GroundPhrasesArguments(**CLIP, start=4, phrases=["blue"])
            return (await ground_phrases(client, arguments)).to_text()

    frame, line = asyncio.run(call()).splitlines()
    assert frame == "Frame of 64 x 48 pixels at 0:06 (6 s)."
    assert line.endswith("left 32, top 12, right 56, bottom 36 (pixels)")


def test_requests_without_phrases_or_the_task_are_rejected(grounding: Running, running: Running) -> None:
    for phrases in ([], [" "], ["a"] * 1000):
        problem = grounding.client.post("/v1/groundings", json={**CLIP, "phrases": phrases})
        assert problem.status_code == 422
        assert "phrases" in problem.json()["detail"]
    response = running.client.post("/v1/groundings", data={"phrases": "red"}, files={"file": ("no.mp4", b"no video")})
    assert "no grounding; the bundle's tasks are" in problem_of(response, 409, "task_missing")["detail"]


def test_the_page_draws_the_query_over_the_frame(grounding: Running, browser: Browser) -> None:
    page = browser.new_page(base_url=str(grounding.client.base_url))
    page.set_default_timeout(PATIENCE_MS)
    page.goto("/?collection=films&q=blue")
    page.locator("#results .card").first.click()
    form = page.locator("#grounding-form")
    expect(form.get_by_label("Find in frame")).to_have_value("blue")
    form.get_by_role("button", name="Show").click()
    expect(form.get_by_role("img", name="blue: score")).to_be_visible()
    page.evaluate(Axe().axe_script)
    assert (violations(page, RULES), duplicate_names(page)) == ([], set())
    frame, box = form.locator("img").bounding_box(), form.locator(".box").bounding_box()
    assert frame is not None
    assert box is not None
    assert (box["x"] - frame["x"]) / frame["width"] == pytest.approx(0.5, abs=0.02)
    assert box["height"] / frame["height"] == pytest.approx(0.5, abs=0.05)
    page.close()

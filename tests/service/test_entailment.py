"""Visual entailment over HTTP, in the clients, in the command, for assistants and on the page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import anyio
import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.media_files import solid, write_picture, write_video
from tests.service.browsing import PATIENCE_MS
from tests.service.conftest import COLORS, settings_for
from tests.service.running import Running, problem_of, serving
from tests.small_bundle import make_small_bundle
from vitascope.cli.main import main
from vitascope.client import AsyncClient, Client
from vitascope.integrations.mcp.tools import CheckStatementsArguments, check_statements

TEXTS = ["a red thing", "a blue thing", "a dog"]
CLIP = {"collection": "films", "video_id": "1"}


@pytest.fixture(scope="module")
def classifying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service with the task entailment, a limit of five sentences, and a film: two seconds of red, two of blue."""
    bundle = make_small_bundle(tmp_path_factory.mktemp("bundle"), tasks=("retrieval", "matching", "entailment"))
    frames = [solid(COLORS[name], 64, 48) for name in ("red", "blue") for _ in range(10)]
    film = write_video(tmp_path_factory.mktemp("film") / "film.mp4", frames, rate=5)
    with (
        serving(settings_for(bundle, tmp_path_factory.mktemp("data"), max_captions=5)) as running,
        Client(str(running.client.base_url)) as client,
    ):
        client.create_collection("films")
        client.add_video("films", film)
        yield running


def test_stored_clips_and_uploads_are_classified(
    classifying: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = write_picture(tmp_path / "blue.png", solid(COLORS["blue"]))
    url = str(classifying.client.base_url)
    with Client(url) as client:
        response = client.classify_entailment(TEXTS, **CLIP, end=1.9)
        of_file = client.classify_entailment_of_file(picture, TEXTS)
    assert [each["hypothesis"] for each in response["results"]] == TEXTS
    assert [each["label"] for each in response["results"]] == ["entailed", "contradicted", "neutral"]
    assert (response["start"], response["end"], response["modalities"]) == (0.0, 1.9, ["visual"])
    assert sum(response["results"][0]["probabilities"].values()) == pytest.approx(1.0)
    assert (of_file["video"], [each["label"] for each in of_file["results"]]) == (
        None,
        ["contradicted", "entailed", "neutral"],
    )
    assert main(["entailment", str(picture), *TEXTS, "--server", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"] == of_file["results"]

    async def by_assistant() -> str:
        async with AsyncClient(url) as client:
            arguments = CheckStatementsArguments(**CLIP, statements=TEXTS, end=1.9)
            return (await check_statements(client, arguments)).to_text()

    assert anyio.run(by_assistant).splitlines()[1].startswith('"a blue thing": contradicted (entailed 0.')


def test_requests_that_cannot_be_answered_are_refused(classifying: Running, tmp_path: Path) -> None:
    def post(**fields: object) -> httpx.Response:
        return classifying.client.post("/v1/entailment", json={**CLIP, **fields})

    problem_of(post(hypotheses=[]), 422, "validation_failed")
    problem_of(post(hypotheses=["a"] * 6), 422, "invalid_input")
    problem_of(post(hypotheses=[" "]), 422, "invalid_text")
    with serving(settings_for(make_small_bundle(tmp_path / "bundle"), tmp_path / "data")) as plain:
        upload = {"file": ("red.png", write_picture(tmp_path / "red.png", solid(COLORS["red"])).read_bytes())}
        answer = plain.client.post("/v1/entailment", data={"hypotheses": "a"}, files=upload)
        assert "so no entailment" in problem_of(answer, 409, "task_missing")["detail"]


def test_the_page_shows_the_class_of_a_caption(classifying: Running, browser: Browser) -> None:
    page = browser.new_page(base_url=str(classifying.client.base_url))
    page.set_default_timeout(PATIENCE_MS)
    page.goto("/?collection=films&q=a+blue+thing")
    page.locator("#results .card").first.click()
    page.locator("#captions").fill("a dog")
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator(".score-card .entailment")).to_have_text("Neutral (may be true), >99%")
    page.close()

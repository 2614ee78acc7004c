"""Progress within a long video, in events and on the page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from service import events as service_events
from tests.index.jobs.fixtures import SteppedDecoding, step_decoding
from tests.media_files import write_color_video
from tests.service.event_client import events, stream
from tests.service.running import Running

BATCHES = 4


@pytest.fixture
def decoding(monkeypatch: pytest.MonkeyPatch) -> Iterator[SteppedDecoding]:
    monkeypatch.setattr(service_events, "PROGRESS_SECONDS", 0.0)
    decoding = step_decoding(monkeypatch)
    yield decoding
    decoding.interrupted.set()


@pytest.fixture
def job(running: Running, collection: str, decoding: SteppedDecoding, tmp_path: Path) -> str:
    """The address of a job that indexes 32 clips of an uploaded film, as fast as ``decoding`` allows."""
    film = write_color_video(tmp_path / "film.mp4", (220, 10, 10), seconds=16.0, rate=4)
    answer = running.client.post(
        f"/v1/collections/{collection}/videos",
        files={"file": ("film.mp4", film.read_bytes())},
        data={"segmentation": '{"rule": "windows", "length": 0.5}'},
        headers={"Prefer": "respond-async"},
    )
    assert answer.status_code == 202, answer.text
    return str(answer.headers["location"])


def test_progress_events_are_sent_for_every_part_of_a_file(
    running: Running, job: str, decoding: SteppedDecoding
) -> None:
    parts = [0.0]
    decoding.allowed.release()
    with stream(running.client, job) as response:
        for event in events(response):
            if event.kind == "progress" and event.data["progress"] > parts[-1]:
                parts.append(event.data["progress"])
                assert event.data["done"] == 0
                assert event.data["rate"]["seconds_left"] >= 0
                decoding.allowed.release()
    assert parts[:BATCHES] == [0, 0.25, 0.5, 0.75]
    ended = running.client.get(job).json()
    assert (ended["state"], ended["progress"], ended["done"]) == ("succeeded", 1, 1)


def test_the_page_shows_progress_and_remaining_time(
    page: Page, collection: str, job: str, decoding: SteppedDecoding
) -> None:
    page.goto(f"/?collection={collection}")
    line = page.get_by_role("region", name="Notifications").locator(".upload").filter(has_text="film.mp4")
    decoding.allowed.release(2)
    expect(line).to_contain_text(re.compile(r"0 of 1 file · 50% · .*about .* left"))
    expect(line.locator(".meter i")).to_have_css("--share", "0.5")
    decoding.allowed.release(BATCHES)
    expect(line).to_contain_text("succeeded: 1 added")

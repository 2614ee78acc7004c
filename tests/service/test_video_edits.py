"""Edits of videos over HTTP."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.running import JSON, Running, problem_of

SRT = "1\n00:00:00,500 --> 00:00:01,500\nthe word {word}\n"


@pytest.fixture
def video(running: Running, collection: str, files: Path) -> str:
    """The URL of an uploaded video."""
    with (files / "red.mp4").open("rb") as file:
        form = {"metadata": '{"site": "north", "year": 2024}'}
        response = running.client.post(f"/v1/collections/{collection}/videos", files={"file": file}, data=form)
    assert response.json()["path"] is None  # an upload
    return str(response.headers["location"])


def search(running: Running, collection: str, **body: object) -> list[JSON]:
    results: list[JSON] = running.client.post(f"/v1/collections/{collection}/search", json=body).json()["results"]
    return results


def test_an_edit_is_found_by_searches_and_filters(running: Running, collection: str, video: str) -> None:
    changes = {"title": "A title", "metadata": {"year": 2025, "site": None}, "subtitles": SRT.format(word="quokka")}
    edited = running.client.patch(video, json=changes).json()
    assert (edited["title"], edited["metadata"]) == ("A title", {"year": 2025})
    assert (edited["changes"], edited["notes"]) == (["title", "metadata", "subtitles"], [])
    [result] = search(running, collection, text="quokka", filter={"year": 2025})
    assert (result["text"], result["video"]["title"]) == ("the word quokka", "A title")
    assert search(running, collection, text="quokka", filter={"site": "north"}) == []
    assert running.client.patch(video, json={"subtitles": None}).json()["changes"] == ["subtitles"]
    assert running.client.get(video).json()["spans"][0]["text"] == ""


def test_values_of_the_source_do_not_replace_edits(running: Running, video: str) -> None:
    running.client.patch(video, json={"metadata": {"year": 2025}})
    statement = {"metadata": {"year": 2024, "shelf": "south"}, "from_source": True}
    edited = running.client.patch(video, json=statement).json()
    assert (edited["metadata"], edited["changes"]) == ({"site": "north", "year": 2025, "shelf": "south"}, ["metadata"])
    newer = {"metadata": {"year": 2026}, "from_source": True}
    assert running.client.patch(video, json=newer).json()["metadata"]["year"] == 2026


@pytest.mark.parametrize(
    ("body", "code", "detail"),
    [
        ({"subtitles": "no times"}, "subtitles_corrupt", "subtitles:1: time: 'no times'"),
        ({"metadata": {"duration": 3}}, "invalid_input", "key 'duration' is empty or reserved"),
        ({"path": "/etc/passwd"}, "validation_failed", "path"),
    ],
)
def test_an_invalid_edit_is_rejected(running: Running, video: str, body: JSON, code: str, detail: str) -> None:
    assert detail in problem_of(running.client.patch(video, json=body), 422, code)["detail"]
    assert problem_of(running.client.patch(f"{video}9", json={"title": "a"}), 404, "video_not_found")

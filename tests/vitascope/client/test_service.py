"""The client and the command with a running service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.sockets import reserved_port
from vitascope import errors
from vitascope.client import Client


@pytest.fixture(scope="module")
def service(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """URL of a running service, and the folder that its jobs may index."""
    videos = tmp_path_factory.mktemp("videos")
    for name, color in (("red", (220, 10, 10)), ("blue", (10, 10, 220))):
        Image.fromarray(np.full((64, 64, 3), color, np.uint8)).save(videos / f"{name}.png")
    environment = {
        **os.environ,
        "VITASCOPE_BUNDLE": str(small_bundle),
        "VITASCOPE_DATA_DIR": str(tmp_path_factory.mktemp("data")),
        "VITASCOPE_ALLOWED_ROOTS": json.dumps([str(videos)]),
    }
    with reserved_port() as port:
        command = [sys.executable, "-m", "vitascope", "serve", "--no-keys", "--port", str(port)]
        url = f"http://127.0.0.1:{port}"
        server = subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[3])
        try:
            with Client(url) as client:
                client.wait_until_ready(timeout=120, alive=lambda: server.poll() is None)
            yield url, videos
        finally:
            server.terminate()
            server.wait(timeout=60)


@pytest.fixture
def live(service: tuple[str, Path]) -> Iterator[Client]:
    with Client(service[0]) as client:
        yield client


def test_folder_is_indexed_searched_scored_and_asked_about(live: Client, service: tuple[str, Path]) -> None:
    live.create_collection("folder")
    seen = []
    begun = live.create_job("folder", str(service[1]))
    job = live.wait_for_job("folder", begun["id"], on_change=seen.append)
    assert job["state"] == "succeeded"
    assert (seen[-1], live.get_job("folder", job["id"])) == (job, job)
    events = list(live.iter_job_events("folder", job["id"], after=0))
    assert [event["id"] for event in events] == [str(number) for number in range(1, len(events) + 1)]
    assert events[-1]["data"] == job
    assert {Path(item["path"]).name for item in live.list_job_items("folder", job["id"])["items"]} == {
        "red.png",
        "blue.png",
    }
    best = live.search("folder", "a red thing", limit=1, rerank=2)["results"][0]
    assert best["video"]["title"] == "red"
    of_red = {"collection": "folder", "video_id": best["video"]["id"]}
    scores = live.score(["a blue thing", "a red thing"], **of_red)["scores"]
    assert scores[1]["fused"] > scores[0]["fused"]
    assert live.ask("what color is it?", **of_red, top=2)["answers"][0]["text"] == "red"


def test_video_is_uploaded_filtered_listed_and_deleted(live: Client, service: tuple[str, Path]) -> None:
    live.create_collection("uploads")
    video = live.add_video("uploads", service[1] / "red.png", title="Red", metadata={"year": 2024})
    assert live.get_video("uploads", video["id"])["title"] == "Red"
    assert live.search("uploads", "a red thing", where={"year": 2024})["results"]
    assert live.search("uploads", "a red thing", where={"year": 2023})["results"] == []
    assert [v["id"] for v in live.iter_videos("uploads")] == [video["id"]]
    live.delete_video("uploads", video["id"])
    assert list(live.iter_videos("uploads")) == []
    with pytest.raises(errors.VideoNotFound):
        live.get_video("uploads", video["id"])
    live.delete_collection("uploads")
    assert "uploads" not in [c["name"] for c in live.list_collections()["collections"]]


def test_errors_of_the_service_are_raised_by_class(live: Client, tmp_path: Path) -> None:
    with pytest.raises(errors.CollectionNotFound):
        live.search("nowhere", "a dog")
    live.create_collection("twice")
    with pytest.raises(errors.CollectionExists):
        live.create_collection("twice")
    (tmp_path / "text.mp4").write_text("no video at all")
    with pytest.raises(errors.MediaUnsupported):
        live.add_video("twice", tmp_path / "text.mp4")
    with pytest.raises(errors.FilterError):
        live.search("twice", "a dog", where={"year": {"about": 2024}})


def test_file_is_scored_and_asked_about_without_being_stored(live: Client, service: tuple[str, Path]) -> None:
    before = live.list_collections()
    scores = live.score_file(service[1] / "blue.png", ["a blue thing", "a red thing"])["scores"]
    assert scores[0]["fused"] > scores[1]["fused"]
    answers = live.ask_file(service[1] / "blue.png", "what color is it?", top=3)["answers"]
    assert answers[0]["text"] == "blue"
    assert live.list_collections() == before


def test_texts_and_files_are_embedded_and_documents_reranked(live: Client, service: tuple[str, Path]) -> None:
    live.create_collection("rerank")
    ids = {name: live.add_video("rerank", service[1] / f"{name}.png")["id"] for name in ("red", "blue")}
    documents = [{"video_id": ids["red"]}, {"video_id": ids["blue"]}]
    results = live.rerank("a blue thing", documents, collection="rerank")["results"]
    assert [result["index"] for result in results] == [1, 0]
    results = live.rerank(documents[0], ["blue", "red", "green"], collection="rerank", top_n=1)["results"]
    assert [result["index"] for result in results] == [1]
    texts = [np.array(entry["embedding"]) for entry in live.embed_texts(["a blue thing", "a red thing"])["data"]]
    picture = np.array(live.embed_file(service[1] / "blue.png")["data"][0]["embedding"])
    assert picture @ texts[0] > 0.9 > picture @ texts[1]

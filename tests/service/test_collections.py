"""Collections over HTTP: made, listed, dropped, and kept apart by the model that fills them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.conftest import settings_for
from tests.service.running import Running, problem_of, serving
from tests.small_bundle import make_small_bundle


def test_a_collection_is_made_and_found_where_the_answer_says(running: Running) -> None:
    made = running.client.post("/v1/collections", json={"name": "made"})
    assert made.status_code == 201
    found = running.client.get(made.headers["location"]).json()
    assert found == made.json()
    assert (found["name"], found["videos"], found["clips"], found["compatible"]) == ("made", 0, 0, True)
    assert found["fingerprint"] == running.client.get("/v1/models").json()["models"][0]["fingerprint"]
    assert "made" in [each["name"] for each in running.client.get("/v1/collections").json()["collections"]]


def test_a_collection_is_made_once(running: Running, collection: str) -> None:
    problem = problem_of(running.client.post("/v1/collections", json={"name": collection}), 409, "collection_exists")
    assert collection in problem["detail"]


@pytest.mark.parametrize("name", ["", "Upper", "a/b", "..", "a" * 64, "-a", "a b", "é"])
def test_an_impossible_name_is_refused(running: Running, name: str) -> None:
    problem = problem_of(running.client.post("/v1/collections", json={"name": name}), 422, "invalid_input")
    assert repr(name) in problem["detail"]


@pytest.mark.parametrize("name", ["nothing", "%2e%2e", "Upper", "a" * 70])
@pytest.mark.parametrize(
    "rest", ["", "/videos", "/videos/1", "/videos/1/media", "/videos/1/thumbnail", "/jobs", "/jobs/1"]
)
def test_an_unknown_collection_is_not_found_anywhere(running: Running, name: str, rest: str) -> None:
    problem_of(running.client.get(f"/v1/collections/{name}{rest}"), 404, "collection_not_found")


def test_an_unknown_collection_is_not_found_by_what_changes_or_searches_it(running: Running, files: Path) -> None:
    client, path = running.client, "/v1/collections/nothing"
    problem_of(client.delete(path), 404, "collection_not_found")
    problem_of(client.post(f"{path}/search", json={"text": "a"}), 404, "collection_not_found")
    problem_of(client.post(f"{path}/jobs", json={"folder": "."}), 404, "collection_not_found")
    body = {"collection": "nothing", "video_id": "1", "captions": ["a"]}
    problem_of(client.post("/v1/caption-scores", json=body), 404, "collection_not_found")
    upload = {"file": ("red.mp4", (files / "red.mp4").read_bytes())}
    problem_of(client.post(f"{path}/videos", files=upload), 404, "collection_not_found")


def test_dropping_a_collection_removes_what_was_uploaded_to_it(running: Running, colors: str) -> None:
    folder = running.settings.data_dir / "media" / colors
    assert len(list(folder.iterdir())) == 3
    assert running.client.delete(f"/v1/collections/{colors}").status_code == 204
    assert not folder.exists()
    problem_of(running.client.get(f"/v1/collections/{colors}"), 404, "collection_not_found")
    assert running.client.post("/v1/collections", json={"name": colors}).json()["videos"] == 0


def test_a_collection_of_another_bundle_is_kept_and_refused(small_bundle: Path, tmp_path: Path, files: Path) -> None:
    other = make_small_bundle(tmp_path / "other", seed=7)
    red = (files / "red.mp4").read_bytes()
    with serving(settings_for(other, tmp_path / "data")) as first:
        first.client.post("/v1/collections", json={"name": "old"})
        first.client.post("/v1/collections/old/videos", files={"file": ("red.mp4", red)})
    with serving(settings_for(small_bundle, tmp_path / "data")) as second:
        client = second.client
        for answer in (
            client.post("/v1/collections/old/search", json={"text": "a red thing"}),
            client.post("/v1/collections/old/videos", files={"file": ("red.mp4", red)}),
            client.post("/v1/collections/old/jobs", json={"folder": "."}),
        ):
            assert "small-colours" in problem_of(answer, 409, "fingerprint_mismatch")["detail"]
        found = client.get("/v1/collections/old").json()
        assert (found["compatible"], found["videos"]) == (False, 1)
        assert client.get("/v1/collections/old/videos/1/media").content == red
        # What does not touch the vectors works with any model.
        body = {"collection": "old", "video_id": "1", "question": "what color is it?", "top": 1}
        assert client.post("/v1/answers", json=body).json()["answers"][0]["text"] == "red"
        assert client.delete("/v1/collections/old/videos/1").status_code == 204

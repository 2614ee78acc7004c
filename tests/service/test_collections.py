"""Collections over HTTP: made, listed, dropped, and kept apart by the model that fills them."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from index.vectors import faiss_index, faiss_kinds
from index.vectors.faiss_kinds import INDEX_KINDS
from service.schemas import library
from tests.index.milvus_server import MilvusUnderTest
from tests.index.sample_data import use_kinds_when_small
from tests.service.conftest import settings_for
from tests.service.running import Running, problem_of, serving
from tests.service.test_search import fill
from tests.small_bundle import make_small_bundle
from tests.waiting import wait_for
from vitascope.visual_token_codec import TokenEncoding


def test_a_collection_is_made_and_found_where_the_answer_says(running: Running) -> None:
    made = running.client.post("/v1/collections", json={"name": "made"})
    assert made.status_code == 201
    found = running.client.get(made.headers["location"]).json()
    assert found == made.json()
    assert (found["name"], found["videos"], found["clips"], found["model_loaded"]) == ("made", 0, 0, True)
    assert found["fingerprint"] == running.client.get("/v1/models").json()["models"][0]["fingerprint"]
    assert "made" in [each["name"] for each in running.client.get("/v1/collections").json()["collections"]]


def test_the_index_is_chosen_when_it_is_made_and_later(running: Running) -> None:
    client = running.client
    made = client.post("/v1/collections", json={"name": "chosen", "index_kind": "flat", "token_encoding": "float16"})
    assert made.status_code == 201
    assert (made.json()["index_kind"], made.json()["token_encoding"]) == ("flat", "float16")
    assert made.json()["index"] == {"serving": "flat", "changed": 0}
    changed = client.patch("/v1/collections/chosen", json={"index_kind": "hnsw"})
    assert changed.status_code == 200
    assert changed.json()["index_kind"] == client.get("/v1/collections/chosen").json()["index_kind"] == "hnsw"
    assert (
        client.get("/v1/collections/chosen").json()["index"]["serving"] == "flat"
    )  # until there is enough for a graph
    plain = client.post("/v1/collections", json={"name": "plain"}).json()
    assert (plain["index_kind"], plain["token_encoding"]) == ("auto", "int8")


def test_another_index_is_built_and_taken_up_while_it_runs(
    running: Running, collection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_kinds_when_small(monkeypatch)
    monkeypatch.setattr(faiss_index, "MIN_CLIPS", faiss_kinds.MIN_CLIPS)
    monkeypatch.setattr(faiss_index, "MIN_CHANGED", 50)  # so 90 clips are enough
    fill(running, collection, 30)
    path = f"/v1/collections/{collection}"
    assert running.client.get(path).json()["index"]["serving"] == "flat"
    assert running.client.patch(path, json={"index_kind": "hnsw"}).status_code == 200
    wait_for(lambda: running.client.get(path).json()["index"] == {"serving": "hnsw", "changed": 0})
    assert running.client.post(f"{path}/search", json={"text": "red", "limit": 3}).status_code == 200
    fill(running, collection, 1, first=30)
    assert running.client.get(path).json()["index"] == {"serving": "hnsw", "changed": 3}


def test_looking_at_collections_loads_no_index(
    running: Running, collection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(running, collection, 2)

    def fail(*args: object) -> None:
        raise AssertionError("the vectors were read")

    monkeypatch.setattr("index.vectors.faiss_index.SegmentedVectors.from_catalogue", fail)
    monkeypatch.setattr("index.vectors.faiss_index.SegmentedVectors.from_snapshot", fail)
    listed = running.client.get("/v1/collections").json()["collections"]
    [found] = [each for each in listed if each["name"] == collection]
    assert found["index"]["changed"] == found["clips"] == 6
    assert found["bytes"] > 1000


@pytest.mark.parametrize("body", [{}, {"index_kind": "tree"}, {"name": "other", "index_kind": "flat"}])
def test_a_change_that_makes_no_sense_is_named(running: Running, collection: str, body: dict[str, str]) -> None:
    problem = problem_of(running.client.patch(f"/v1/collections/{collection}", json=body), 422, "validation_failed")
    assert problem["errors"][0]["field"] in ("index_kind", "name")
    assert running.client.get(f"/v1/collections/{collection}").json()["index_kind"] == "auto"


def test_the_interface_names_every_kind_of_index_and_encoding() -> None:
    assert get_args(get_args(library.IndexKind)[0]) == INDEX_KINDS
    assert set(get_args(get_args(library.TokenEncoding)[0])) == set(get_args(TokenEncoding))


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
    told = problem_of(running.client.get(f"/v1/collections/{name}{rest}"), 404, "collection_not_found")
    assert "there is no collection of this name" in told["detail"]
    assert str(running.settings.data_dir) not in told["detail"]


def test_an_unknown_collection_is_not_found_by_what_changes_or_searches_it(running: Running, files: Path) -> None:
    client, path = running.client, "/v1/collections/nothing"
    problem_of(client.delete(path), 404, "collection_not_found")
    problem_of(client.patch(path, json={"index_kind": "flat"}), 404, "collection_not_found")
    problem_of(
        client.post("/v1/operations", json={"kind": "backup", "collection": "nothing"}), 404, "collection_not_found"
    )
    problem_of(client.post(f"{path}/search", json={"text": "a"}), 404, "collection_not_found")
    problem_of(client.post(f"{path}/jobs", json={"folder": "."}), 404, "collection_not_found")
    body = {"collection": "nothing", "video_id": "1", "captions": ["a"]}
    problem_of(client.post("/v1/caption-scores", json=body), 404, "collection_not_found")
    upload = {"file": ("red.mp4", (files / "red.mp4").read_bytes())}
    problem_of(client.post(f"{path}/videos", files=upload), 404, "collection_not_found")


def test_dropping_a_collection_removes_what_was_uploaded_to_it(running: Running, colors: str) -> None:
    folder = running.settings.data_dir / "collections" / colors / "media"
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
        assert (found["model_loaded"], found["videos"]) == (False, 1)
        assert client.get("/v1/collections/old/videos/1/media").content == red
        # What does not touch the vectors works with any model.
        body = {"collection": "old", "video_id": "1", "question": "what color is it?", "top": 1}
        assert client.post("/v1/answers", json=body).json()["answers"][0]["text"] == "red"
        assert client.delete("/v1/collections/old/videos/1").status_code == 204


def test_vectors_in_milvus_are_searched_while_it_answers(small_bundle: Path, tmp_path: Path) -> None:
    milvus = MilvusUnderTest(tmp_path / "milvus")
    try:
        with serving(settings_for(small_bundle, tmp_path / "data", vector_store=milvus.url)) as service:
            assert service.client.post("/v1/collections", json={"name": "colors"}).status_code == 201
            fill(service, "colors", 3)
            query = {"text": "a red thing", "limit": 1}
            found = service.client.post("/v1/collections/colors/search", json=query).json()
            assert len(found["results"]) == 1
            milvus.stop()
            answer = service.client.post("/v1/collections/colors/search", json=query)
            problem_of(answer, 503, "vectors_unavailable")
            assert answer.headers["retry-after"] == "1"
            assert milvus.url not in answer.text
            assert len(service.client.get("/v1/collections/colors/videos").json()["videos"]) == 3
            (listed,) = service.client.get("/v1/collections").json()["collections"]
            assert (listed["videos"], listed["index"]) == (3, {"serving": "flat", "changed": 0})
            assert service.client.delete("/v1/collections/colors").status_code == 204
    finally:
        milvus.end()

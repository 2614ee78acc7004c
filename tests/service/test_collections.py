"""Collections over HTTP: created, listed, changed and dropped, also during requests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest

from index.jobs import jobs as index_jobs
from index.vectors import faiss_index, faiss_kinds
from index.vectors.faiss_kinds import INDEX_KINDS
from service.schemas import library
from tests.index.milvus_server import MilvusUnderTest
from tests.index.sample_data import use_kinds_when_small
from tests.service.conftest import settings_for
from tests.service.running import Running, problem_of, serving
from tests.service.test_search import fill
from tests.small_bundle import make_small_bundle
from tests.waiting import PATIENCE, wait_for
from vitascope.client import Client
from vitascope.visual_token_codec import TokenEncoding


def test_a_collection_is_created_once_at_the_location_of_the_response(running: Running) -> None:
    created = running.client.post("/v1/collections", json={"name": "made"})
    assert created.status_code == 201
    body = running.client.get(created.headers["location"]).json()
    assert body == created.json()
    assert (body["name"], body["videos"], body["clips"], body["model_loaded"]) == ("made", 0, 0, True)
    assert (body["index_kind"], body["token_encoding"], body["dimensions"]) == ("auto", "int8", 16)
    assert body["fingerprint"] == running.client.get("/v1/models").json()["models"][0]["fingerprint"]
    assert "made" in [each["name"] for each in running.client.get("/v1/collections").json()["collections"]]
    problem = problem_of(running.client.post("/v1/collections", json={"name": "made"}), 409, "collection_exists")
    assert "made" in problem["detail"]


def test_the_kind_of_index_can_be_set_and_changed(running: Running) -> None:
    client = running.client
    body = {"name": "chosen", "index_kind": "flat", "token_encoding": "float16"}
    created = client.post("/v1/collections", json=body).json()
    assert (created["index_kind"], created["token_encoding"]) == ("flat", "float16")
    assert created["index"] == {"serving": "flat", "changed": 0}
    changed = client.patch("/v1/collections/chosen", json={"index_kind": "hnsw"})
    assert changed.json() == client.get("/v1/collections/chosen").json()
    assert changed.json()["index_kind"] == "hnsw"
    assert changed.json()["index"]["serving"] == "flat"  # until there are enough clips for a graph


def test_the_stemming_can_be_set_and_changed(running: Running) -> None:
    client = running.client
    created = client.post("/v1/collections", json={"name": "gespraeche", "stemming": "none"})
    assert created.json()["stemming"] == "none"
    changed = client.patch("/v1/collections/gespraeche", json={"stemming": "english"})
    assert changed.json() == client.get("/v1/collections/gespraeche").json()
    assert changed.json()["stemming"] == "english"


def test_another_index_is_built_and_used_without_a_restart(
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


def test_listing_collections_loads_no_index(running: Running, collection: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(running, collection, 2)

    def fail(*args: object) -> None:
        raise AssertionError("the vectors were read")

    monkeypatch.setattr("index.vectors.faiss_index.SegmentedVectors.from_catalogue", fail)
    monkeypatch.setattr("index.vectors.faiss_index.SegmentedVectors.from_snapshot", fail)
    listed = running.client.get("/v1/collections").json()["collections"]
    [body] = [each for each in listed if each["name"] == collection]
    assert body["index"]["changed"] == body["clips"] == 6
    assert body["bytes"] > 1000


@pytest.mark.parametrize("body", [{}, {"index_kind": "tree"}, {"name": "other", "index_kind": "flat"}])
def test_an_invalid_change_is_rejected(running: Running, collection: str, body: dict[str, str]) -> None:
    problem = problem_of(running.client.patch(f"/v1/collections/{collection}", json=body), 422, "validation_failed")
    assert problem["errors"][0]["field"] in ("body", "index_kind", "name")
    assert running.client.get(f"/v1/collections/{collection}").json()["index_kind"] == "auto"


def test_the_schema_has_every_kind_of_index_and_encoding() -> None:
    assert get_args(get_args(library.IndexKind)[0]) == INDEX_KINDS
    assert set(get_args(get_args(library.TokenEncoding)[0])) == set(get_args(TokenEncoding))


@pytest.mark.parametrize("name", ["", "Upper", "a/b", "..", "a" * 64, "-a", "a b", "é"])
def test_an_invalid_name_is_rejected(running: Running, name: str) -> None:
    problem = problem_of(running.client.post("/v1/collections", json={"name": name}), 422, "invalid_input")
    assert repr(name) in problem["detail"]


@pytest.mark.parametrize("name", ["nothing", "%2e%2e", "Upper", "a" * 70])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("GET", "/videos/1", None),
        ("GET", "/videos/1/media", None),
        ("GET", "/jobs/1", None),
        ("DELETE", "", None),
        ("PATCH", "", {"index_kind": "flat"}),
        ("POST", "/search", {"text": "a"}),
        ("POST", "/jobs", {"folder": "."}),
    ],
)
def test_an_unknown_collection_is_not_found(
    running: Running, name: str, method: str, path: str, body: dict[str, str] | None
) -> None:
    response = running.client.request(method, f"/v1/collections/{name}{path}", json=body)
    problem = problem_of(response, 404, "collection_not_found")
    assert "there is no collection of this name" in problem["detail"]
    assert str(running.settings.data_dir) not in problem["detail"]


def test_an_unknown_collection_in_a_body_is_not_found(running: Running) -> None:
    for path, body in (
        ("/v1/operations", {"kind": "backup", "collection": "nothing"}),
        ("/v1/caption-scores", {"collection": "nothing", "video_id": "1", "captions": ["a"]}),
    ):
        problem_of(running.client.post(path, json=body), 404, "collection_not_found")


def test_dropping_a_collection_removes_its_uploads(running: Running, colors: str) -> None:
    folder = running.settings.data_dir / "collections" / colors / "media"
    assert len(list(folder.iterdir())) == 3
    assert running.client.delete(f"/v1/collections/{colors}").status_code == 204
    assert not folder.exists()
    problem_of(running.client.get(f"/v1/collections/{colors}"), 404, "collection_not_found")
    assert running.client.post("/v1/collections", json={"name": colors}).json()["videos"] == 0


def test_a_damaged_collection_can_be_dropped(running: Running) -> None:
    running.client.post("/v1/collections", json={"name": "broken"})
    catalogue = running.settings.data_dir / "collections" / "broken" / "catalogue.sqlite3"
    catalogue.write_bytes(b"no database" * 1000)
    assert running.client.delete("/v1/collections/broken").status_code == 204
    problem_of(running.client.get("/v1/collections/broken"), 404, "collection_not_found")


def test_a_collection_of_another_bundle_cannot_be_searched(small_bundle: Path, tmp_path: Path, files: Path) -> None:
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
        body = client.get("/v1/collections/old").json()
        assert (body["model_loaded"], body["videos"]) == (False, 1)
        assert client.get("/v1/collections/old/videos/1/media").content == red
        # Requests that need no vectors work with any model.
        body = {"collection": "old", "video_id": "1", "question": "what color is it?", "top": 1}
        assert client.post("/v1/answers", json=body).json()["answers"][0]["text"] == "red"
        assert client.delete("/v1/collections/old/videos/1").status_code == 204


def test_vectors_in_milvus_are_unavailable_while_it_is(small_bundle: Path, tmp_path: Path) -> None:
    milvus = MilvusUnderTest(tmp_path / "milvus")
    try:
        with serving(settings_for(small_bundle, tmp_path / "data", vector_store=milvus.url)) as service:
            assert service.client.post("/v1/collections", json={"name": "colors"}).status_code == 201
            fill(service, "colors", 3)
            query = {"text": "a red thing", "limit": 1}
            body = service.client.post("/v1/collections/colors/search", json=query).json()
            assert len(body["results"]) == 1
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


ASYNC = {"Prefer": "respond-async"}


class BlockedCall:
    """A function whose call number ``last``, from 1, waits until it is released."""

    def __init__(self, function: Callable[..., Any], last: int) -> None:
        self.reached, self.released = threading.Event(), threading.Event()
        self._function, self._last, self._calls = function, last, 0

    def __call__(self, *args: object, **options: object) -> object:
        self._calls += 1
        if self._calls == self._last:
            self.reached.set()
            assert self.released.wait(PATIENCE)
        return self._function(*args, **options)


@pytest.fixture(params=[False, True], ids=["dropped", "dropped and made again"])
def drop(request: pytest.FixtureRequest, running: Running, collection: str) -> Iterator[Callable[[], None]]:
    """A function that drops the collection, and may create another one of its name."""

    def drop() -> None:
        assert running.client.delete(f"/v1/collections/{collection}").status_code == 204
        if request.param:
            assert running.client.post("/v1/collections", json={"name": collection}).status_code == 201

    yield drop
    if request.param:
        assert running.client.get(f"/v1/collections/{collection}").json()["videos"] == 0
    folder = running.settings.data_dir / "collections" / collection
    assert folder.exists() == request.param
    assert not any((folder / "media").glob("*"))
    assert list(running.service.media.uploads.iterdir()) == []


@pytest.mark.parametrize(("headers", "step"), [({}, 1), ({}, 2), (ASYNC, 1)], ids=["probe", "decode", "job"])
def test_an_upload_that_is_decoded_during_the_drop_gets_404(
    running: Running,
    collection: str,
    files: Path,
    drop: Callable[[], None],
    headers: dict[str, str],
    step: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoding = running.service.decoding
    blocked = BlockedCall(decoding.run, step)
    monkeypatch.setattr(decoding, "run", blocked)
    response = during(blocked, drop, lambda: upload(running, collection, files / "red.mp4", headers))
    problem_of(response, 404, "collection_not_found")
    wait_for(lambda: not list(running.service.media.uploads.iterdir()))


def test_an_upload_whose_file_is_moved_during_the_drop_is_stored_or_gets_404(
    running: Running, collection: str, files: Path, drop: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    media = running.service.collection(collection).media
    blocked = BlockedCall(media._make_folder, 1)
    monkeypatch.setattr(media, "_make_folder", blocked)
    dropping = threading.Thread(target=drop)

    def begin_to_drop() -> None:
        dropping.start()  # it waits for the transaction that the file is moved in

    response = during(blocked, begin_to_drop, lambda: upload(running, collection, files / "red.mp4", {}))
    dropping.join(PATIENCE)
    assert response.status_code in (201, 404)  # whichever came first
    wait_for(lambda: not list(running.service.media.uploads.iterdir()))


def test_a_job_that_is_created_during_the_drop_gets_404(
    running: Running, collection: str, incoming: Path, drop: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = BlockedCall(index_jobs.check_source, 1)
    monkeypatch.setattr(index_jobs, "check_source", blocked)
    path = f"/v1/collections/{collection}/jobs"
    response = during(blocked, drop, lambda: running.client.post(path, json={"folder": str(incoming)}))
    problem_of(response, 404, "collection_not_found")


@pytest.mark.parametrize(
    ("method", "rest", "function"),
    [
        ("GET", "", "list_jobs"),
        ("GET", "/1", "get_job"),
        ("GET", "/1/items", "list_items"),
        ("DELETE", "/1", "cancel"),
        ("POST", "/1/pause", "pause"),
        ("POST", "/1/resume", "resume"),
        ("POST", "/1/retry", "retry"),
    ],
)
def test_a_job_that_is_read_or_changed_during_the_drop_gets_404(
    running: Running,
    collection: str,
    drop: Callable[[], None],
    method: str,
    rest: str,
    function: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    blocked = BlockedCall(getattr(index_jobs, function), 1)
    monkeypatch.setattr(index_jobs, function, blocked)
    path = f"/v1/collections/{collection}/jobs{rest}"
    response = during(blocked, drop, lambda: running.client.request(method, path))
    problem_of(response, 404, "collection_not_found")


def upload(running: Running, collection: str, file: Path, headers: dict[str, str]) -> httpx.Response:
    path = f"/v1/collections/{collection}/videos"
    return running.client.post(path, files={"file": (file.name, file.read_bytes())}, headers=headers)


def during(blocked: BlockedCall, act: Callable[[], None], request: Callable[[], httpx.Response]) -> httpx.Response:
    """Return the response to a request that is blocked while ``act`` runs."""
    with ThreadPoolExecutor(1) as thread:
        response = thread.submit(request)
        try:
            assert blocked.reached.wait(PATIENCE)
            act()
        finally:
            blocked.released.set()
        return response.result()


def test_facets_are_filters_with_numbers_of_videos(running: Running, colors: str) -> None:
    facets = running.client.get(f"/v1/collections/{colors}/facets").json()
    assert [(facet["field"], facet["videos"]) for facet in facets["metadata"]] == [("color", 3), ("number", 3)]
    [added], [duration] = facets["added"], facets["durations"]
    day = {"added_at": {"gte": added["start"], "lt": added["end"]}}
    length = {"duration": {"gt": duration["min"], "lt": duration["max"]}}
    with Client(str(running.client.base_url)) as client:
        assert facets == client.get_facets(colors)
        matching = list(client.iter_videos(colors, where={**day, **length}))
    assert len(matching) == added["videos"] == duration["videos"] == 3
    assert (facets["folders"], facets["speech"]) == ([], 0)

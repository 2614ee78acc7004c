"""The data folder of a service of version 0.2.0, its backups and exports, opened by this version."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.service.conftest import settings_for
from tests.service.running import Running, problem_of, serving
from tests.upgrade.archives import JSON, unpack, vitascope

ADMIN_KEY = "the-admin-key-of-the-0.2.0-fixture"
SOURCE_TYPES = {"films": "flat", "hnsw": "hnsw", "ivfpq": "ivfpq"}
TOLERANCE = 1e-4


class Stored:
    """The unpacked archive."""

    def __init__(self, folder: Path) -> None:
        self.recorded = unpack("service", folder)
        self.folder, self.data, self.bundle = folder, folder / "data", folder / "bundles" / "colours"
        for models in folder.rglob("models.json"):  # the bundle that it names has moved
            models.write_text(models.read_text().replace(self.recorded["place"], str(folder)))
        with closing(sqlite3.connect(self.data / "answers.sqlite3")) as connection, connection:
            connection.execute("UPDATE answers SET kept_at = ?", (time.time(),))  # they are kept for a day

    @contextmanager
    def serving(self) -> Iterator[Running]:
        settings = settings_for(
            self.bundle,
            self.data,
            allow_unauthenticated=False,
            admin_key=ADMIN_KEY,
            allowed_roots=[self.recorded["place"]],
            bundles_root=self.folder / "bundles",
            webhooks="on",
        )
        with serving(settings) as running:
            running.client.headers["Authorization"] = f"Bearer {ADMIN_KEY}"
            yield running


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """The archive that `client` serves."""
    return Stored(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def recorded(served: Stored) -> JSON:
    return served.recorded


@pytest.fixture(scope="module")
def client(served: Stored) -> Iterator[httpx.Client]:
    """A client with the admin key."""
    with served.serving() as running:
        yield running.client


def get(client: httpx.Client, path: str) -> JSON:
    answer: JSON = client.get(path).raise_for_status().json()
    return answer


def webhooks_of(recorded: JSON) -> JSON:
    """Return the recorded webhooks with the present names of their fields."""
    renamed = {"former_secret_until": "previous_secret_until"}
    webhooks = recorded["answers"]["/v1/webhooks"]["webhooks"]
    return {"webhooks": [{renamed.get(name, name): value for name, value in each.items()} for each in webhooks]}


def search(client: httpx.Client, collection: str, text: str) -> dict[int, float]:
    """Similarities of the five clips nearest to a text, by clip."""
    answer = client.post(f"/v1/collections/{collection}/search", json={"text": text, "limit": 5, "rerank": 0})
    return {int(hit["clip_id"]): hit["similarity"] for hit in answer.raise_for_status().json()["results"]}


def check_searches(client: httpx.Client, recorded: JSON, collection: str, original: str) -> None:
    """Every recorded search of the original finds the same in the collection."""
    for text in recorded["queries"]:
        expected = dict(recorded["searches"][original][text])
        assert search(client, collection, text) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize(("collection", "kind"), SOURCE_TYPES.items())
def test_a_snapshot_is_used_as_it_is(
    client: httpx.Client,
    served: Stored,
    recorded: JSON,
    collection: str,
    kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    snapshot = served.data / "collections" / collection / "vectors.faiss"
    before = snapshot.read_bytes()
    with caplog.at_level(logging.WARNING):
        check_searches(client, recorded, collection, collection)
    # An index that was rebuilt from the catalogue is flat, and all of its vectors are newer than any snapshot.
    assert get(client, f"/v1/collections/{collection}")["index"] == {"serving": kind, "changed": 0}
    assert "rebuil" not in caplog.text
    assert snapshot.read_bytes() == before


def test_a_damaged_snapshot_would_be_noticed(stored: Stored) -> None:
    """The check of the test above tells a snapshot in use from one that is not."""
    snapshot = stored.data / "collections" / "ivfpq" / "vectors.faiss"
    content = bytearray(snapshot.read_bytes())
    content[100] ^= 1
    snapshot.write_bytes(content)
    with stored.serving() as running:
        check_searches(running.client, stored.recorded, "ivfpq", "ivfpq")
        assert get(running.client, "/v1/collections/ivfpq")["index"] != {"serving": "ivfpq", "changed": 0}


def test_videos_are_what_they_were(client: httpx.Client, recorded: JSON) -> None:
    names = ("id", "title", "duration", "width", "height", "media_type", "content_sha256", "metadata")
    videos, expected = (
        [{name: video[name] for name in names} for video in answer["videos"]]
        for answer in (
            get(client, "/v1/collections/films/videos"),
            recorded["answers"]["/v1/collections/films/videos"],
        )
    )
    assert videos == expected


def test_uploads_play_and_have_thumbnails(client: httpx.Client) -> None:
    for video in get(client, "/v1/collections/films/videos")["videos"][:2]:
        content = client.get(video["media_url"]).raise_for_status().content
        assert hashlib.sha256(content).hexdigest() == video["content_sha256"]
        picture = client.get(video["thumbnail_url"]).raise_for_status()
        assert picture.headers["content-type"] == "image/jpeg"


def test_subtitles_are_found_by_their_words(client: httpx.Client) -> None:
    body = {"text": "sky", "limit": 1}
    (hit,) = client.post("/v1/collections/films/search", json=body).raise_for_status().json()["results"]
    assert hit["text"] == "and so is the sky"


def test_keys_still_authenticate(client: httpx.Client, recorded: JSON) -> None:
    def ask(name: str, path: str) -> httpx.Response:
        return client.get(path, headers={"Authorization": f"Bearer {recorded['keys'][name]['key']}"})

    assert ask("reader", "/v1/collections/films").status_code == 200
    problem_of(ask("reader", "/v1/collections/hnsw"), 403, "collection_not_allowed")
    assert ask("writer", "/v1/collections/hnsw").status_code == 200
    assert ask("writer", "/v1/keys").status_code == 403
    for name in ("revoked", "expired"):
        problem_of(ask(name, "/v1/collections/films"), 401, "key_invalid")


def test_keys_are_listed(client: httpx.Client, recorded: JSON) -> None:
    keys, expected = (
        [{name: value for name, value in key.items() if name != "last_used_at"} for key in answer["keys"]]
        for answer in (get(client, "/v1/keys"), recorded["answers"]["/v1/keys"])
    )
    assert keys == expected


def test_webhooks_and_their_deliveries_are_listed(client: httpx.Client, recorded: JSON) -> None:
    assert get(client, "/v1/webhooks") == webhooks_of(recorded)
    known = recorded["webhooks"]
    deliveries = get(client, f"/v1/webhooks/{known['id']}/deliveries")["deliveries"]
    assert {each["id"]: (each["state"], each["status"]) for each in deliveries} == {
        known["pending"]: ("pending", 503),
        known["delivered"]: ("delivered", 204),
    }


def test_a_request_that_was_answered_gets_the_same_answer(client: httpx.Client, recorded: JSON) -> None:
    known = recorded["idempotent"]
    again = client.post("/v1/collections", json=known["json"], headers={"Idempotency-Key": known["key"]})
    assert again.headers["idempotency-replayed"] == "true"
    assert (again.status_code, again.json()) == (201, known["answer"])


def test_an_added_model_is_still_the_default(client: httpx.Client, recorded: JSON) -> None:
    models, expected = (
        [(model["name"], model["version"], model["fingerprint"], model["default"]) for model in answer["models"]]
        for answer in (get(client, "/v1/models"), recorded["answers"]["/v1/models"])
    )
    assert models == expected


def test_files_of_operations_are_still_there(client: httpx.Client, recorded: JSON) -> None:
    operations, expected = (
        {operation["id"]: operation for operation in answer["operations"]}
        for answer in (get(client, "/v1/operations"), recorded["answers"]["/v1/operations"])
    )
    assert operations.keys() == expected.keys()
    for key, operation in operations.items():
        assert (operation["state"], operation["kind"]) == (expected[key]["state"], expected[key]["kind"])
        for file in operation["files"]:
            assert len(client.get(file["url"]).raise_for_status().content) == file["bytes"]
    assert sum(len(operation["files"]) for operation in operations.values()) == 3


def test_jobs_are_listed_with_what_failed(stored: Stored) -> None:
    jobs = vitascope("jobs", "list", "--collection", "films", "--data", stored.data)["jobs"]
    assert [(job["id"], job["state"], job["source"]["kind"]) for job in jobs] == [
        ("4", "queued", "files"),
        ("3", "cancelled", "files"),
        ("2", "succeeded", "list"),
        ("1", "succeeded", "folder"),
    ]
    for job, expected in zip(jobs[2:], stored.recorded["jobs"], strict=True):
        for name in ("metadata", "created_at", "finished_at"):
            assert job[name] == expected[name]
        assert job["counts"] == {**expected["counts"], "refreshed": 0}
    shown = vitascope("jobs", "show", "1", "--collection", "films", "--data", stored.data)
    assert [Path(failure["file"]).name for failure in shown["failures"]] == ["broken.mp4"]


def test_backups_and_exports_become_collections_again(stored: Stored) -> None:
    roots = ("--root", stored.recorded["place"], "--data", stored.data)
    vitascope("collection", "restore", stored.folder / "films.sqlite3", "restored", *roots)
    vitascope("collection", "import", stored.folder / "films.parquet", "imported", *roots, "--bundle", stored.bundle)
    with stored.serving() as running:
        for name in ("restored", "imported"):
            check_searches(running.client, stored.recorded, name, "films")
            titles, expected = (
                [video["title"] for video in get(running.client, f"/v1/collections/{each}/videos")["videos"]]
                for each in (name, "films")
            )
            assert titles == expected


def test_a_copy_of_the_data_folder_is_restored(stored: Stored, tmp_path: Path) -> None:
    (copy,) = (stored.folder / "copies").glob("2*")
    stored.data = tmp_path / "restored"
    result = vitascope("backup", "--restore", copy, "--data", stored.data, "--root", stored.recorded["place"])
    assert (result["collections"], result["missing"]) == (["films"], 0)
    with stored.serving() as running:
        check_searches(running.client, stored.recorded, "films", "films")
        assert len(get(running.client, "/v1/keys")["keys"]) == len(stored.recorded["keys"])
        assert get(running.client, "/v1/webhooks") == webhooks_of(stored.recorded)
        for video in get(running.client, "/v1/collections/films/videos")["videos"][:2]:
            content = running.client.get(video["media_url"]).raise_for_status().content
            assert hashlib.sha256(content).hexdigest() == video["content_sha256"]

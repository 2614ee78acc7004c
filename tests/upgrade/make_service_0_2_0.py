"""Write ``service_0_2_0.tar.xz``: the data folder of a service, with backups and exports, as version 0.2.0 left it.

Run it with the code of that version (commit 325bd06), with this file and its folder put into it:
``python -m tests.upgrade.make_service_0_2_0``. Imports are those of that version and stay so. All paths
in it are below ``PLACE``. Contents of the archive:

    bundles/{colours,added}           bundles; the first filled every collection
    data/collections/films            uploads, a folder with subtitles, a file list; ended and waiting jobs
    data/collections/{hnsw,ivfpq}     vectors by chance, with a built index of that kind
    data/{keys,webhooks,answers}.sqlite3, data/models.json, data/operations
    films.sqlite3, films.parquet/     backup and export of the collection `films`
    copies/                           a copy of the data folder
    recorded.json                     what version 0.2.0 answered
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.jobs.jobs import cancel, create_job
from index.jobs.sources.description import FilesSource
from index.library import CollectionStore
from index.nearest import kinds, live
from index.records import NewClip, NewVideo
from service.settings import Settings
from service.webhooks.message import Message
from service.webhooks.store import WebhookStore
from tests.index.sample_data import use_kinds_when_small
from tests.media_files import solid, write_color_video, write_picture
from tests.service.running import serving
from tests.small_bundle import make_small_bundle
from tests.upgrade.make_models_0_2_0 import write_archive
from tests.waiting import wait_for
from vitascope.command import main as vitascope
from vitascope.model import Model

PLACE = Path("/tmp/vitascope-0.2.0")
ARCHIVE = Path(__file__).with_name("service_0_2_0.tar.xz")
ADMIN_KEY = "the-admin-key-of-the-0.2.0-fixture"
QUERIES = ["a red thing", "a blue video", "a yellow picture"]
FILMS = {"red": (220, 10, 10), "green": (10, 200, 10)}
SIZES = {"hnsw": 40, "ivfpq": 260}
SUBTITLES = """\
1
00:00:00,000 --> 00:00:01,000
the sea is blue

2
00:00:01,000 --> 00:00:02,000
and so is the sky
"""


def make() -> dict[str, Any]:
    """Fill ``PLACE``; returns what is recorded."""
    films = PLACE / "films"
    films.mkdir()
    for name, color in FILMS.items():
        write_color_video(PLACE / f"{name}.mp4", color, 1.0)
    write_color_video(films / "blue.mp4", (10, 10, 220), 2.0)
    (films / "blue.en.srt").write_text(SUBTITLES)
    write_picture(films / "yellow.png", solid((200, 200, 10), 32, 32))
    (films / "broken.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(40))
    write_picture(PLACE / "cyan.png", solid((10, 200, 200), 32, 32))
    (PLACE / "list.csv").write_text("path,title,year\ncyan.png,the cyan one,1999\n")
    bundle = make_small_bundle(PLACE / "bundles" / "colours")
    added = make_small_bundle(PLACE / "bundles" / "added", seed=1, version="2")
    data = PLACE / "data"
    settings = Settings(
        bundle=bundle,
        data_dir=data,
        threads=1,
        device="cpu",
        port=0,
        admin_key=ADMIN_KEY,
        allowed_roots=[PLACE],
        bundles_root=PLACE / "bundles",
        webhooks="on",
        decoding_processes=1,
    )
    recorded: dict[str, Any] = {"place": str(PLACE), "queries": QUERIES}
    with serving(settings) as running:
        client = running.client
        client.headers["Authorization"] = f"Bearer {ADMIN_KEY}"
        body = {"name": "films"}
        made = client.post("/v1/collections", json=body, headers={"Idempotency-Key": "make-films"})
        assert made.status_code == 201, made.text
        recorded["idempotent"] = {"key": "make-films", "json": body, "answer": made.json()}
        for name in FILMS:
            form = {"file": (f"{name}.mp4", (PLACE / f"{name}.mp4").read_bytes())}
            fields = {"title": f"the {name} one", "metadata": json.dumps({"color": name, "year": 2001})}
            uploaded = client.post("/v1/collections/films/videos", files=form, data=fields)
            assert uploaded.status_code == 201, uploaded.text
        subtitles = {"rule": "subtitles", "shortest": 0.5, "language": "en"}
        for job in (
            {"folder": str(films), "metadata": {"camera": "north"}, "segmentation": subtitles},
            {"source": {"kind": "list", "file": str(PLACE / "list.csv")}},
        ):
            begun = client.post("/v1/collections/films/jobs", json=job)
            assert begun.status_code == 202, begun.text
            wait_for(lambda at=begun.headers["location"]: client.get(at).json()["finished_at"] is not None)
        recorded["keys"] = make_keys(client)
        for kind in ("backup", "export"):
            begun = client.post("/v1/operations", json={"kind": kind, "collection": "films"})
            wait_for(lambda at=begun.headers["location"]: client.get(at).json()["state"] == "succeeded")
        begun = client.post("/v1/models", json={"folder": str(added)})
        assert begun.is_success, begun.text
        wait_for(lambda: client.get(begun.headers["location"]).json()["state"] == "ready")
        assert client.post(f"{begun.headers['location']}/default").is_success
        recorded["jobs"] = client.get("/v1/collections/films/jobs").json()["jobs"]
    with CollectionStore(data / "collections") as library:
        collection = library.open("films")
        cancel(collection, create_job(collection, FilesSource((str(films / "yellow.png"),))).id)
        # As a watched folder leaves it behind when its process is killed.
        create_job(collection, FilesSource((str(films / "blue.mp4"), str(films / "yellow.png"))))
    recorded["webhooks"] = make_webhooks(data)  # after all jobs have ended, so that it is told of none
    for command in (
        ["collection", "backup", "films", str(PLACE / "films.sqlite3")],
        ["collection", "export", "films", str(PLACE / "films.parquet"), "--tokens", "--thumbnails"],
    ):
        assert vitascope([*command, "--data", str(data)]) == 0
    (PLACE / "copies").mkdir()
    assert vitascope(["backup", str(PLACE / "copies"), "--data", str(data)]) == 0
    # Last: whatever closes these collections later replaces their snapshots, as so few vectors need no such index.
    fill_kinds(data, bundle)
    copy = shutil.copytree(data, PLACE / "copy")  # in which a service may run the waiting job
    recorded["searches"] = searches(copy, bundle)
    recorded["answers"] = answers(settings.model_copy(update={"data_dir": copy}))
    shutil.rmtree(copy)
    for left in (*PLACE.glob("*.mp4"), PLACE / "list.csv", PLACE / "cyan.png", films):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    for database in data.rglob("*.sqlite3"):
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return recorded


def make_keys(client: Any) -> dict[str, Any]:
    """Keys by what they are for: id and text."""
    made = {}
    for name, given in {
        "reader": {"scopes": ["read"], "collections": ["films"], "rate": 50.0, "concurrency": 4},
        "writer": {"scopes": ["read", "write"], "expires_in": 1e9},
        "revoked": {"scopes": ["read", "write", "admin"]},
        "expired": {"scopes": ["read"], "expires_in": 0.001},
    }.items():
        answer = client.post("/v1/keys", json={"name": name, **given})
        assert answer.status_code == 201, answer.text
        made[name] = answer.json()
    assert client.delete(f"/v1/keys/{made['revoked']['id']}").is_success
    return made


def make_webhooks(data: Path) -> dict[str, Any]:
    """An endpoint with a former secret, and a message that was not taken yet and one that was."""
    store = WebhookStore(data)
    endpoint = store.create("https://hooks.example/jobs", ["job.cancelled"])
    store.rotate(endpoint.id)
    store.add([Message(f"msg_{n}", endpoint.id, "job.cancelled", b'{"type": "job.cancelled"}') for n in (1, 2)])
    pending, delivered = store.deliveries(endpoint.id, 10)
    far = pending.created_at + 1e9
    store.note(replace(delivered, state="delivered", tries=1, next_at=None, last_at=far, status=204))
    store.note(replace(pending, tries=1, next_at=far, last_at=pending.created_at, status=503, error="answered 503"))
    store.close()
    return {"id": endpoint.id, "url": endpoint.url, "delivered": delivered.id, "pending": pending.id}


def fill_kinds(data: Path, bundle: Path) -> None:
    """A collection for each kind of index that is not built for few vectors otherwise."""
    manifest = Model.open(bundle, threads=1, device="cpu").bundle.manifest
    with pytest.MonkeyPatch.context() as patch, CollectionStore(data / "collections") as library:
        use_kinds_when_small(patch)
        patch.setattr(live, "LEAST", kinds.LEAST)
        patch.setattr(live, "LEAST_CHANGED", 1)
        for kind, count in SIZES.items():
            collection = library.create(kind, manifest, index_kind=kind)
            rng = np.random.default_rng(count)
            vectors = rng.standard_normal((count, manifest.vector_width)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            tokens = np.zeros((manifest.visual_tokens, manifest.visual_width), np.float32)
            clips = [NewClip(float(i), i + 1.0, vector, tokens) for i, vector in enumerate(vectors)]
            collection.add_video(
                NewVideo(f"{count:064x}", str(PLACE / f"{kind}.mp4"), kind, float(count), 64, 48), clips
            )
            collection.search(vectors[0], 1)
            collection.set_index_kind(kind)
            collection.wait_for_index()
            assert (collection.index_state().kind, collection.index_state().changed) == (kind, 0)
        for name in SIZES:
            library.open(name).close()


def searches(data: Path, bundle: Path) -> dict[str, Any]:
    """The clips that each collection finds, with their similarities, by collection and query."""
    model = Model.open(bundle, threads=1, device="cpu")
    vectors = model.embed_text(QUERIES)
    with CollectionStore(data / "collections") as library:
        return {
            name: {
                query: [[hit.clip_id, hit.similarity] for hit in library.open(name).search(vector, 5)]
                for query, vector in zip(QUERIES, vectors, strict=True)
            }
            for name in library.names()
        }


def answers(settings: Settings) -> dict[str, Any]:
    """Answers of a service that has the data folder, by path."""
    paths = [
        "/v1/collections",
        "/v1/collections/films/videos",
        "/v1/keys",
        "/v1/webhooks",
        "/v1/models",
        "/v1/operations",
    ]
    with serving(settings, ready=False) as running:
        running.client.headers["Authorization"] = f"Bearer {ADMIN_KEY}"
        return {path: running.client.get(path).raise_for_status().json() for path in paths}


if __name__ == "__main__":
    PLACE.mkdir()
    try:
        recorded = make()
        (PLACE / "recorded.json").write_text(json.dumps(recorded, indent=1))
        write_archive(PLACE, ARCHIVE)
    finally:
        shutil.rmtree(PLACE)

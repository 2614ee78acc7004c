"""Write ``data_0_2_0.tar.xz``: a data folder as version 0.2.0 left it.

Run it with the code of that version (commit 325bd06), with this file and its folder put into it:
``python -m tests.upgrade.make_data_0_2_0``. All paths in it are below ``PLACE``, which exists nowhere;
``tests/upgrade/data_0_2_0.py`` unpacks it to any other. Imports are those of version 0.2.0 and stay so.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

from index.jobs.jobs import JobOptions, create_job, create_upload_job, run_job
from index.jobs.sources.description import FolderSource, ShardsSource
from index.library import CollectionStore
from index.transfer.backup import back_up, restore
from service.settings import Settings
from tests.media_files import solid, write_color_video, write_picture
from tests.service.running import serving
from tests.small_bundle import make_small_bundle
from tests.upgrade.data_0_2_0 import ARCHIVE, PLACE, settle_at
from tests.waiting import wait_for
from vitascope.model import Model


def make(place: Path) -> None:
    """Fill ``place/data``, and ``place/films`` with a file that is indexed where it lies."""
    data, films, source = place / "data", place / "films", place / "source"
    films.mkdir()
    source.mkdir()
    for name, color in {"red": (220, 10, 10), "green": (10, 200, 10), "blue": (10, 10, 220)}.items():
        write_color_video(source / f"{name}.mp4", color, 0.4)
    write_picture(films / "yellow.png", solid((200, 200, 10), 16, 16))
    with tarfile.open(source / "shard.tar", "w") as shard:
        for name, color in {"cyan.png": (10, 200, 200), "magenta.png": (200, 10, 200)}.items():
            shard.add(write_picture(source / name, solid(color, 16, 16)), name)
    bundle = make_small_bundle(source / "bundle")
    settings = Settings(bundle=bundle, data_dir=data, threads=1, device="cpu", port=0, allow_unauthenticated=True)
    with serving(settings) as running:
        client = running.client
        for name in ("videos", "another"):
            assert client.post("/v1/collections", json={"name": name}).status_code == 201
            form = {"file": ("red.mp4", (source / "red.mp4").read_bytes())}
            assert client.post(f"/v1/collections/{name}/videos", files=form).status_code == 201
        form = {"file": ("green.mp4", (source / "green.mp4").read_bytes())}
        begun = client.post("/v1/collections/videos/videos", files=form, headers={"Prefer": "respond-async"})
        wait_for(lambda: client.get(begun.headers["location"]).json()["state"] == "succeeded")
    model = Model.open(bundle, threads=1, device="cpu")
    with CollectionStore(data / "collections") as library:
        videos = library.open("videos")
        for given in (ShardsSource((str(source / "shard.tar"),)), FolderSource(str(films))):
            assert run_job(videos, model, create_job(videos, given).id).counts.succeeded > 0
        blue = shutil.copy(source / "blue.mp4", place / "blue.mp4")
        create_upload_job(videos, Path(blue), "mp4", name="blue.mp4", title="blue", options=JobOptions(confined=True))
        back_up(videos, place / "videos.sqlite3")
        restore(library, place / "videos.sqlite3", "again")
    leave_half_done(data)
    shutil.rmtree(source)
    (place / "videos.sqlite3").unlink()


def leave_half_done(data: Path) -> None:
    """What two kills leave: between a file, its intent and its row, and between a file and its job."""
    half = data / "media" / "videos" / f"{'0' * 64}.mp4"
    half.write_bytes(b"a file that has no row")
    note = {"collection": "videos", "path": str(half), "sha256": "0" * 64}
    (data / "intents" / f"{'1' * 32}.json").write_text(json.dumps(note))
    (data / "collections" / "videos" / "media" / f"upload-{'2' * 32}.mp4").write_bytes(b"a file that has no job")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        at = Path(os.path.realpath(folder))
        make(at)
        settle_at(at / "data", PLACE, str(at))
        with tarfile.open(ARCHIVE, "w:xz") as archive:
            for name in ("data", "films"):
                archive.add(at / name, name)
    print(ARCHIVE, ARCHIVE.stat().st_size, "bytes")

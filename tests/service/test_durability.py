"""Durability of acknowledged writes: synchronised before the response, rejected with 507 while the disk is full."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import pytest

from index.collection_store import CollectionStore
from tests.chaos import is_chaos, rounds
from tests.media_files import solid, write_picture
from tests.service.conftest import settings_for
from tests.service.running import problem_of, process, serving
from tests.service.uploading import picture, sha256, stored_hashes, stored_videos, upload
from tests.waiting import wait_for


class UnsyncedFiles:
    """Names that a power failure would lose, since their folder was not synchronised."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.names: set[Path] = set()
        self.synced: set[Path] = set()
        """Files and folders that were synchronised."""
        for name in ("mkdir", "rename", "replace"):
            patch.setattr(os, name, self._record(getattr(os, name)))
        self._fsync = os.fsync
        patch.setattr(os, "fsync", self._sync)

    def _record(self, call: Callable[..., None]) -> Callable[..., None]:
        def record(*arguments: object, **options: object) -> None:
            call(*arguments, **options)
            self.names.add([Path(argument) for argument in arguments if isinstance(argument, str | Path)][-1])

        return record

    def _sync(self, descriptor: int) -> None:
        self._fsync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        self.synced.add(path)
        self.names = {name for name in self.names if name.parent != path}


def test_acknowledged_uploads_survive_a_power_failure(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "new" / "data"
    unsynced = UnsyncedFiles(monkeypatch)

    def lost() -> list[Path]:
        return sorted(path for path in unsynced.names if path.is_relative_to(tmp_path) and path.exists())

    with serving(settings_for(small_bundle, data)) as running:
        assert running.client.post("/v1/collections", json={"name": "videos"}).status_code == 201
        assert lost() == []
        for number, (by_job, status) in enumerate([(False, 201), (True, 202)]):
            assert upload(running.client, "videos", picture(tmp_path, number), by_job=by_job).status_code == status
            assert lost() == []
        assert len(list((data / "collections" / "videos" / "media").iterdir())) == 2
        # Contents are synchronised under the names that they have while they are received.
        assert len([path for path in unsynced.synced if path.parent == data / "uploads"]) == 2


SIZE = "10m"
ROUNDS = rounds(2, 30)
"""Times that the disk is filled and freed."""
MAX_FREE_BYTES = 300_000
"""Less than ten uploads take."""


@pytest.fixture(scope="module")
def small_disk() -> Sequence[str]:
    """Start of a command that mounts a small disk at the path that is its next argument, and runs the rest."""
    mount = f'mount -t tmpfs -o size={SIZE} tmpfs "$0" && exec "$@"'
    for unshare in (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]):
        command = [*unshare, "sh", "-c", mount]
        if shutil.which("unshare") and not subprocess.run([*command, "/mnt", "true"], check=False).returncode:
            return command
    message = "no tmpfs can be mounted (unshare --mount)"
    if os.environ.get("CI") and os.geteuid() == 0:
        pytest.fail(f"{message}; in CI root must be able to")
    pytest.skip(message)


class SmallDisk:
    """The small disk, as this process sees it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, free_bytes: int) -> None:
        with self._ballast.open("wb") as file:
            while True:
                status = os.statvfs(self.folder)
                try:
                    os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - free_bytes)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    continue  # the service wrote something meanwhile
                return

    def free(self) -> None:
        self._ballast.unlink()


def is_rejected(response: httpx.Response) -> bool:
    """Whether a write was rejected since storage failed; otherwise it must have succeeded."""
    if response.status_code == 507:
        problem_of(response, 507, "storage_error")
        return True
    assert response.is_success, response.text
    return False


def test_a_full_disk_rejects_writes_keeps_reads_and_recovers_by_itself(
    small_disk: Sequence[str], small_bundle: Path, tmp_path: Path
) -> None:
    pictures, indexed, data = (tmp_path / name for name in ("pictures", "indexed", "data"))
    for folder in (pictures, indexed, data):
        folder.mkdir()
    for number in range(3):
        write_picture(indexed / f"{number}.png", solid((number, 100, 200), 16, 16))
    settings = settings_for(small_bundle, data, allowed_roots=[indexed], min_free_bytes=0)
    numbers, draw = itertools.count(), random.Random(None if is_chaos() else 0)
    acknowledged: dict[str, str] = {}
    queued: list[str] = []
    service = ("tests.service.altered_service", "retrying")
    with process(settings, *service, within=[*small_disk, str(data)]) as (client, server):
        disk = SmallDisk(Path(f"/proc/{server.pid}/root{data}"))
        assert client.post("/v1/collections", json={"name": "videos"}).status_code == 201

        def add() -> bool:
            content = picture(pictures, next(numbers))
            response = upload(client, "videos", content)
            if is_rejected(response):
                return False
            acknowledged[response.json()["id"]] = sha256(content)
            return True

        def start_jobs() -> list[httpx.Response]:
            content = picture(pictures, next(numbers))
            by_job = upload(client, "videos", content, by_job=True)
            if not is_rejected(by_job):
                queued.append(sha256(content))
            return [by_job, client.post("/v1/collections/videos/jobs", json={"folder": str(indexed)})]

        def wait_for_jobs(responses: list[httpx.Response]) -> None:
            for response in responses:
                if not is_rejected(response):
                    wait_for(lambda url=response.headers["location"]: client.get(url).json()["state"] == "succeeded")

        for _ in range(5):
            assert add()
        for number in range(ROUNDS):
            # First not enough for the end of an upload, then for any part of it.
            disk.fill(free_bytes=draw.randrange(MAX_FREE_BYTES) if number else 24576)
            assert any(not add() for _ in range(100)), "the disk is full, and no upload was rejected"
            jobs = start_jobs()
            is_rejected(client.post("/v1/collections", json={"name": f"other-{number}"}))
            oldest = min(acknowledged, key=int)
            if not is_rejected(client.delete(f"/v1/collections/videos/videos/{oldest}")):
                del acknowledged[oldest]
            assert acknowledged.items() <= stored_videos(client, "videos").items()
            disk.free()
            assert add()
            wait_for_jobs(jobs)
            assert client.get("/readyz").status_code == 200
        wait_for_jobs(start_jobs())
        videos = stored_videos(client, "videos")
        of_jobs = {video: content for video, content in videos.items() if video not in acknowledged}
        assert sorted(of_jobs.values()) == sorted([sha256(file.read_bytes()) for file in indexed.iterdir()] + queued)
        assert acknowledged.items() <= videos.items()
        # Nothing is left of rejected uploads.
        assert list((disk.folder / "uploads").iterdir()) == []
        assert stored_hashes(disk.folder / "collections" / "videos") == sorted([*queued, *acknowledged.values()])
        # SQLite cannot open files through the link to the root of another process.
        with CollectionStore(Path(shutil.copytree(disk.folder / "collections", tmp_path / "copy"))) as library:
            assert library.open("videos").catalogue.integrity_errors() == []

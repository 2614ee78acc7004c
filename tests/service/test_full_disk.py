"""A full disk, a real one: writes are refused with 507, reads go on, and it recovers without a restart."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from index.collection_store import CollectionStore
from tests.chaos import rounds
from tests.media_files import solid, write_picture
from tests.service.conftest import settings_for
from tests.service.running import problem_of, process
from tests.service.uploading import picture, sha256, stored_hashes, stored_videos, upload
from tests.waiting import wait_for

SIZE = "10m"
FILLED = rounds(2, 30)
"""How often the disk is filled and freed."""
ROOM = 300_000
"""Bytes that are left at most: less than ten uploads take."""


@pytest.fixture(scope="module")
def own_disk() -> Sequence[str]:
    """What starts a command with a small disk of its own at the path that comes first among its arguments."""
    mount = f'mount -t tmpfs -o size={SIZE} tmpfs "$0" && exec "$@"'
    for unshare in (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]):
        command = [*unshare, "sh", "-c", mount]
        if shutil.which("unshare") and not subprocess.run([*command, "/mnt", "true"], check=False).returncode:
            return command
    message = "no tmpfs can be mounted (unshare --mount)"
    if os.environ.get("CI") and os.geteuid() == 0:
        pytest.fail(f"{message}, and in CI root skips nothing for that")
    pytest.skip(message)


class Disk:
    """The small disk, as this process sees it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, leave: int) -> None:
        """Take all room but for ``leave`` bytes."""
        with self._ballast.open("wb") as file:
            while True:
                status = os.statvfs(self.folder)
                try:
                    os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - leave)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    continue  # the service wrote something meanwhile
                return

    def free(self) -> None:
        self._ballast.unlink()


def refused(answer: httpx.Response) -> bool:
    """Whether a write was refused because storage failed; it is one or the other."""
    if answer.status_code == 507:
        problem_of(answer, 507, "storage_error")
        return True
    assert answer.is_success, answer.text
    return False


def test_a_full_disk_refuses_writes_keeps_reads_and_recovers_by_itself(
    own_disk: Sequence[str], small_bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    indexed = tmp_path / "indexed"
    indexed.mkdir()
    for number in range(3):
        write_picture(indexed / f"{number}.png", solid((number, 100, 200), 16, 16))
    data = tmp_path / "data"
    data.mkdir()
    settings = settings_for(small_bundle, data, allowed_roots=[indexed])
    numbers = iter(range(10_000))
    room = random.Random()
    with process(settings, "tests.service.impatient", within=[*own_disk, str(data)]) as (client, server):
        disk = Disk(Path(f"/proc/{server.pid}/root{data}"))
        assert client.post("/v1/collections", json={"name": "videos"}).status_code == 201
        acknowledged: dict[str, str] = {}
        promised: list[str] = []

        def add() -> bool:
            content = picture(folder, next(numbers))
            answer = upload(client, "videos", content)
            if refused(answer):
                return False
            assert answer.json()["content_sha256"] == sha256(content)
            acknowledged[answer.json()["id"]] = sha256(content)
            return True

        for _ in range(5):
            assert add()
        for filled in range(FILLED):
            # First too little for the last bytes of an upload's file, then for whatever it may be.
            disk.fill(leave=room.randrange(ROOM) if filled else 24576)
            for _ in range(100):
                if not add():
                    break
            else:
                pytest.fail("the disk is full, and nothing was refused")
            # As long as it lasts: writes of all kinds are refused or done, what is acknowledged is there and found.
            job = client.post("/v1/collections/videos/jobs", json={"folder": str(indexed)})
            refused(job)
            refused(client.post("/v1/collections", json={"name": f"other-{filled}"}))
            victim = min(acknowledged, key=int)
            if not refused(client.delete(f"/v1/collections/videos/videos/{victim}")):
                del acknowledged[victim]
            listed = stored_videos(client, "videos")
            assert acknowledged.items() <= listed.items()
            content = picture(folder, next(numbers))
            by_job = upload(client, "videos", content, by_job=True)
            if not refused(by_job):
                promised.append(sha256(content))
            disk.free()
            assert add()
            for begun in (job, by_job):
                if begun.is_success:
                    address = begun.headers["location"]
                    wait_for(lambda address=address: client.get(address).json()["state"] == "succeeded")
            assert client.get("/readyz").status_code == 200
        content = picture(folder, next(numbers))
        promised.append(sha256(content))
        by_job = upload(client, "videos", content, by_job=True)
        answer = client.post("/v1/collections/videos/jobs", json={"folder": str(indexed)})
        for begun in (by_job, answer):  # of either kind the last one, after which none is left
            wait_for(lambda begun=begun: client.get(begun.headers["location"]).json()["state"] == "succeeded")
        listed = stored_videos(client, "videos")
        of_jobs = {video: content for video, content in listed.items() if video not in acknowledged}
        assert sorted(of_jobs.values()) == sorted([sha256(file.read_bytes()) for file in indexed.iterdir()] + promised)
        assert acknowledged.items() <= listed.items()
        # Nothing is left of what was refused.
        assert list((disk.folder / "uploads").iterdir()) == []
        assert stored_hashes(disk.folder / "collections" / "videos") == sorted([*promised, *acknowledged.values()])
        # SQLite follows links itself, and this one leads out of here.
        with CollectionStore(Path(shutil.copytree(disk.folder / "collections", tmp_path / "copy"))) as library:
            assert library.open("videos").catalogue.integrity_errors() == []

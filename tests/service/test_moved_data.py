"""kill -9 while films come and go, and a data folder that is moved, linked, copied and restored between the kills.

Every film that was acknowledged is there, by its content, what was deleted is not, and no file is left over.
"""

from __future__ import annotations

import itertools
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from index.collection_store import CollectionStore
from index.transfer.backup import backup_collection, restore_collection
from index.transfer.data_backup import backup_data, list_backups, restore_data
from index.transfer.media import AllowedPaths
from tests.chaos import is_chaos, rounds
from tests.service.conftest import settings_for
from tests.service.killing import Told, join_writers, present, start_writers
from tests.service.running import process, serving
from tests.waiting import wait_for

LONGEST = 1.5 if is_chaos() else 0.3
"""Seconds from the first upload to the kill, at most."""


class Place:
    """Where a data folder is by now. Each method lets something happen to it, while no service runs."""

    def __init__(self, root: Path, room: random.Random) -> None:
        self.root, self.room = root, room
        self.data = root / "data"
        self._numbers = itertools.count()

    def stay(self) -> None:
        """Nothing happens."""

    def link(self) -> None:
        """It is started by a symbolic link, to it or to a folder above it."""
        link, above = self._new("link"), self.room.random() < 0.5
        link.symlink_to(self.data.parent if above else self.data)
        self.data = link / self.data.name if above else link

    def resolve(self) -> None:
        """It is started by its real path."""
        self.data = self.data.resolve()

    def move(self) -> None:
        """It is moved away."""
        self.data = Path(shutil.move(self.data.resolve(), self._new("moved")))

    def copy(self) -> None:
        """A copy of it is used from now on; the original is still there, or has gone."""
        copy, original = self._new("copy"), self.data.resolve()
        subprocess.run(["cp", "-a", original, copy], check=True)
        if self.room.random() < 0.5:
            shutil.rmtree(original)
        self.data = copy

    def restore(self) -> None:
        """A copy that `vitascope backup` made is restored elsewhere, and used from now on."""
        folder, restored = self._new("copies"), self._new("restored")
        folder.mkdir()
        assert backup_data(self.data, folder, keep=1).failures == []
        if self.room.random() < 0.5:
            shutil.rmtree(self.data.resolve())
        restore_data(list_backups(folder)[-1], restored, AllowedPaths([], restored))
        shutil.rmtree(folder)
        self.data = restored

    def replace_collection(self) -> None:
        """The collection is backed up, restored under another name, dropped, and gets its name back."""
        with CollectionStore(self.data / "collections") as library:
            backup = self._new("backup")
            backup_collection(library.open("videos"), backup)
            restore_collection(library, backup, "videos-again", allowed=AllowedPaths([], self.data))
            library.drop("videos")
            if self.room.random() < 0.5:
                library.rename("videos-again", "videos")
            else:
                restore_collection(library, backup, "videos", allowed=AllowedPaths([], self.data))
                library.drop("videos-again")

    def share_collection(self) -> None:
        """The collection is restored under another name, and the copy is emptied and dropped."""
        with CollectionStore(self.data / "collections") as library:
            backup = self._new("backup")
            backup_collection(library.open("videos"), backup)
            copy = restore_collection(library, backup, "videos-again", allowed=AllowedPaths([], self.data))
            for video in copy.videos(10_000):
                copy.delete_video(video.id)
            library.drop("videos-again")

    def _new(self, name: str) -> Path:
        return self.root / f"{name}-{next(self._numbers)}"


Happening = Callable[[Place], None]
HAPPENINGS: list[Happening] = [
    Place.stay,
    Place.link,
    Place.resolve,
    Place.move,
    Place.copy,
    Place.restore,
    Place.replace_collection,
    Place.share_collection,
]
FEW: list[tuple[Happening, ...]] = [
    (Place.stay,),
    (Place.link, Place.share_collection),
    (Place.resolve,),
    (Place.move, Place.replace_collection),
    (Place.copy, Place.restore),
]
"""What happens before each start of the service where not all can be tried."""


@pytest.mark.parametrize("seed", range(rounds(1, 4)))
def test_films_survive_what_happens_to_their_data_folder(small_bundle: Path, tmp_path: Path, seed: int) -> None:
    room = random.Random(seed)
    happenings = FEW
    if is_chaos():
        happenings = [(Place.stay,), *((happening,) for happening in room.sample(HAPPENINGS, len(HAPPENINGS)))]
        happenings += [tuple(room.choices(HAPPENINGS, k=room.randint(1, 3))) for _ in range(12)]
    place, moment, numbers, told = Place(tmp_path, room), random.Random(), itertools.count(), Told()
    place.data.mkdir()
    for start, happened in enumerate(happenings):
        for happening in happened:
            happening(place)
        with process(settings_for(small_bundle, place.data)) as (client, server):
            if not start:
                assert client.post("/v1/collections", json={"name": "videos"}).status_code == 201
            told = Told(present=resumed(client, place.data, told))
            writers = start_writers(client, tmp_path, numbers, told)
            if not start:
                wait_for(lambda told=told: told.present and told.promised)
            time.sleep(moment.uniform(0.0, LONGEST))  # the instant is what is random here; nothing waits for anything
            server.send_signal(signal.SIGKILL)
            join_writers(writers, told)
    with serving(settings_for(small_bundle, place.data)) as running:
        resumed(running.client, place.data, told)


def resumed(client: httpx.Client, data: Path, told: Told) -> dict[str, str]:
    """Content by id of the videos that are there, once jobs that rest since a restoration have been resumed."""
    jobs = client.get("/v1/collections/videos/jobs", params={"state": "paused", "limit": 100}).json()["jobs"]
    for job in jobs:
        client.post(f"/v1/collections/videos/jobs/{job['id']}/resume").raise_for_status()
    return present(client, data, told)

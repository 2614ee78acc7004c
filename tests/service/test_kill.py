"""kill -9 during uploads, and a data folder that is moved, linked, copied and restored between the kills.

Every acknowledged video is there, by its content, deleted ones are not, and no file is left over.
"""

from __future__ import annotations

import itertools
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from index.collection_store import CollectionStore
from index.transfer.backup import backup_collection, restore_collection
from index.transfer.data_backup import backup_data, list_backups, restore_data
from index.transfer.media import AllowedPaths
from tests.chaos import is_chaos, rounds
from tests.service.conftest import settings_for
from tests.service.running import JSON, process, serving
from tests.service.uploading import picture, sha256, stored_hashes, stored_videos, upload
from tests.waiting import PATIENCE, wait_for

WRITERS = 3


@dataclass
class ClientState:
    """State that clients know from responses; contents are SHA-256."""

    present: dict[str, str] = field(default_factory=dict)
    """Contents of acknowledged videos by id."""
    uploading: set[str] = field(default_factory=set)
    """Contents of uploads without a response."""
    queued: set[str] = field(default_factory=set)
    """Contents of uploads that continue as a job."""
    deleting: set[str] = field(default_factory=set)
    """Ids of videos whose deletion has no response."""
    errors: list[str] = field(default_factory=list)
    """Unexpected responses."""


def write_until_killed(client: httpx.Client, folder: Path, numbers: Iterator[int], state: ClientState) -> None:
    """Upload one picture after the other, and delete some, until the service no longer responds."""
    folder.mkdir(exist_ok=True)
    own: list[str] = []
    try:
        for by_job in itertools.cycle([False, False, True]):
            content = picture(folder, next(numbers))
            state.uploading.add(sha256(content))
            response = upload(client, "videos", content, by_job=by_job)
            if by_job and response.status_code == 202:
                state.queued.add(sha256(content))
                continue
            if response.status_code != 201:
                state.errors.append(response.text)
                return
            video_id = response.json()["id"]
            state.present[video_id] = sha256(content)
            state.uploading.discard(sha256(content))
            own.append(video_id)
            if len(own) % 4 == 3:
                deleted = own.pop(0)
                state.deleting.add(deleted)
                client.delete(f"/v1/collections/videos/videos/{deleted}").raise_for_status()
                del state.present[deleted]
                state.deleting.discard(deleted)
    except httpx.TransportError:
        return
    except httpx.HTTPStatusError as error:
        state.errors.append(error.response.text)


def jobs_in(client: httpx.Client, *states: str) -> list[JSON]:
    path = "/v1/collections/videos/jobs"
    return [job for state in states for job in client.get(path, params={"state": state, "limit": 100}).json()["jobs"]]


def check_videos(client: httpx.Client, data: Path, state: ClientState) -> dict[str, str]:
    """Return contents by id of the videos once all jobs are finished, after comparing them with ``state``."""
    for job in jobs_in(client, "paused"):  # as after a restoration
        client.post(f"/v1/collections/videos/jobs/{job['id']}/resume").raise_for_status()
    wait_for(lambda: not jobs_in(client, "queued", "running"))
    videos = stored_videos(client, "videos")
    certain = {video: content for video, content in state.present.items() if video not in state.deleting}
    assert certain.items() <= videos.items(), "an acknowledged upload is lost, or has other content"
    assert state.queued <= set(videos.values()), "a file that a job was to continue with is lost"
    unknown = set(videos.values()) - set(state.present.values()) - state.queued - state.uploading
    assert unknown == set(), "a video that was never uploaded, or was deleted"
    assert stored_hashes(data / "collections" / "videos") == sorted(videos.values())
    return videos


@contextmanager
def writers(client: httpx.Client, folder: Path, numbers: Iterator[int], state: ClientState) -> Iterator[None]:
    """Upload pictures in threads; the service must have been killed at the end of the context."""
    with ThreadPoolExecutor(WRITERS) as threads:
        arguments = [(client, folder / str(number), numbers, state) for number in range(WRITERS)]
        futures = [threads.submit(write_until_killed, *each) for each in arguments]
        yield
        for future in futures:
            future.result(PATIENCE)
    assert state.errors == []


MAX_SECONDS = 1.5 if is_chaos() else 0.3
"""From the first upload to the kill."""


class DataFolder:
    """The path of a data folder. Each method is an event while no service runs."""

    def __init__(self, root: Path, draw: random.Random) -> None:
        self.root, self.draw = root, draw
        self.data = root / "data"
        self._numbers = itertools.count()

    def keep(self) -> None:
        """Nothing happens."""

    def link(self) -> None:
        """The service is started with a symbolic link, to the folder or to its parent."""
        link, is_parent = self._new("link"), self.draw.random() < 0.5
        link.symlink_to(self.data.parent if is_parent else self.data)
        self.data = link / self.data.name if is_parent else link

    def resolve(self) -> None:
        """The service is started with the real path."""
        self.data = self.data.resolve()

    def move(self) -> None:
        """The folder is moved."""
        self.data = Path(shutil.move(self.data.resolve(), self._new("moved")))

    def copy(self) -> None:
        """A copy is used from now on; the original may be deleted."""
        copy, original = self._new("copy"), self.data.resolve()
        subprocess.run(["cp", "-a", original, copy], check=True)
        if self.draw.random() < 0.5:
            shutil.rmtree(original)
        self.data = copy

    def restore(self) -> None:
        """A backup is restored elsewhere, and used from now on."""
        folder, restored = self._new("copies"), self._new("restored")
        folder.mkdir()
        assert backup_data(self.data, folder, keep=1).failures == []
        if self.draw.random() < 0.5:
            shutil.rmtree(self.data.resolve())
        restore_data(list_backups(folder)[-1], restored, AllowedPaths([], restored))
        shutil.rmtree(folder)
        self.data = restored

    def replace_collection(self) -> None:
        """The collection is backed up, restored under another name, dropped, and renamed back."""
        with CollectionStore(self.data / "collections") as library:
            backup = self._new("backup")
            backup_collection(library.open("videos"), backup)
            restore_collection(library, backup, "videos-again", allowed=AllowedPaths([], self.data))
            library.drop("videos")
            if self.draw.random() < 0.5:
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


EVENTS: list[Callable[[DataFolder], None]] = [
    DataFolder.keep,
    DataFolder.link,
    DataFolder.resolve,
    DataFolder.move,
    DataFolder.copy,
    DataFolder.restore,
    DataFolder.replace_collection,
    DataFolder.share_collection,
]
FEW_STARTS = [
    EVENTS[:1],
    [DataFolder.link, DataFolder.share_collection, DataFolder.move],
    [DataFolder.replace_collection, DataFolder.copy, DataFolder.restore],
]
"""Events before each start of the service, where not all are tested."""


@pytest.mark.parametrize("seed", range(rounds(1, 4)))
def test_acknowledged_uploads_survive_kills_and_moves_of_the_data_folder(
    small_bundle: Path, tmp_path: Path, seed: int
) -> None:
    draw = random.Random(seed)
    starts = FEW_STARTS
    if is_chaos():
        starts = [EVENTS[:1], *([event] for event in draw.sample(EVENTS, len(EVENTS)))]
        starts += [draw.choices(EVENTS, k=draw.randint(1, 3)) for _ in range(12)]
    folder, moment, numbers, state = DataFolder(tmp_path, draw), random.Random(), itertools.count(), ClientState()
    folder.data.mkdir()
    for start, events in enumerate(starts):
        for event in events:
            event(folder)
        with process(settings_for(small_bundle, folder.data)) as (client, server):
            if not start:
                assert client.post("/v1/collections", json={"name": "videos"}).status_code == 201
            state = ClientState(present=check_videos(client, folder.data, state))
            with writers(client, tmp_path, numbers, state):
                if not start:
                    wait_for(lambda state=state: state.present and state.queued)
                time.sleep(moment.uniform(0.0, MAX_SECONDS))  # the instant of the kill is random
                server.send_signal(signal.SIGKILL)
        with CollectionStore(folder.data / "collections") as library:
            assert library.open("videos").catalogue.integrity_errors() == []
    with serving(settings_for(small_bundle, folder.data)) as running:
        check_videos(running.client, folder.data, state)

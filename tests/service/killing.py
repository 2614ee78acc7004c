"""Clients that upload and delete until the service is killed, and what must be there when it is started again."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.service.running import JSON
from tests.service.uploading import picture, sha256, stored_hashes, stored_videos, upload
from tests.waiting import PATIENCE, wait_for

UPLOADING = 3
"""Threads that send uploads."""


@dataclass
class Told:
    """What a client knows: videos (content by id) that are there, and content of which it got no answer."""

    present: dict[str, str] = field(default_factory=dict)
    coming: set[str] = field(default_factory=set)
    promised: set[str] = field(default_factory=set)
    """Content that a job was begun with."""
    going: set[str] = field(default_factory=set)
    """Ids of videos that may have been deleted."""
    wrong: list[str] = field(default_factory=list)
    """Answers that should not have come."""


def write_until_killed(client: httpx.Client, folder: Path, numbers: Iterator[int], told: Told) -> None:
    """Upload one after the other, delete some, until the service no longer answers."""
    folder.mkdir(exist_ok=True)
    mine: list[str] = []
    turns = itertools.cycle([False, False, True])
    try:
        while True:
            content = picture(folder, next(numbers))
            told.coming.add(sha256(content))
            by_job = next(turns)
            answer = upload(client, "videos", content, by_job=by_job)
            if by_job and answer.status_code == 202:
                told.promised.add(sha256(content))
                continue
            if answer.status_code != 201:
                told.wrong.append(answer.text)
                return
            told.present[answer.json()["id"]] = sha256(content)
            told.coming.discard(sha256(content))
            mine.append(answer.json()["id"])
            if len(mine) % 4 == 3:
                victim = mine.pop(0)
                told.going.add(victim)
                client.delete(f"/v1/collections/videos/videos/{victim}").raise_for_status()
                del told.present[victim]
                told.going.discard(victim)
    except httpx.TransportError:
        return
    except httpx.HTTPStatusError as error:
        told.wrong.append(error.response.text)


def unfinished(client: httpx.Client) -> list[JSON]:
    """Jobs that are not done."""
    path = "/v1/collections/videos/jobs"
    return [job for state in ("queued", "running") for job in client.get(path, params={"state": state}).json()["jobs"]]


def present(client: httpx.Client, data: Path, told: Told) -> dict[str, str]:
    """Content by id of the videos that are there, after checking that they are what was told."""
    wait_for(lambda: not unfinished(client))
    there = stored_videos(client, "videos")
    sure = {video: content for video, content in told.present.items() if video not in told.going}
    assert sure.items() <= there.items(), "an acknowledged upload is lost, or has other content"
    assert told.promised <= set(there.values()), "a file that a job was to go on with is lost"
    phantoms = set(there.values()) - set(told.present.values()) - told.promised - told.coming
    assert phantoms == set(), "a video that nobody uploaded, or that was deleted"
    assert stored_hashes(data / "collections" / "videos") == sorted(there.values())
    return there


def start_writers(client: httpx.Client, folder: Path, numbers: Iterator[int], told: Told) -> list[threading.Thread]:
    """Threads that upload pictures, of the next ``numbers``, until the service is killed."""
    arguments = [(client, folder / str(number), numbers, told) for number in range(UPLOADING)]
    writers = [threading.Thread(target=write_until_killed, args=given) for given in arguments]
    for writer in writers:
        writer.start()
    return writers


def join_writers(writers: list[threading.Thread], told: Told) -> None:
    """Wait for the end of the writers of a service that was killed; no answer was one that should not have come."""
    for writer in writers:
        writer.join(PATIENCE)
        assert not writer.is_alive()
    assert told.wrong == []

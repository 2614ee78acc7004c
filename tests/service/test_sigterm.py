"""SIGTERM under load: whoever was let in is answered, nobody is cut off, and what was not finished goes on later."""

from __future__ import annotations

import itertools
import signal
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from index.collection_store import CollectionStore
from index.jobs.jobs import list_jobs
from tests.chaos import is_chaos, rounds
from tests.media_files import solid, write_picture
from tests.service.conftest import settings_for
from tests.service.running import process, serving
from tests.service.stopping import FREE_FILES
from tests.service.uploading import kept, picture, sha256, upload
from tests.waiting import PATIENCE, wait_for

STOPS = rounds(1, 20)
MANY = rounds(20, 200)
"""Files of the job: some more than are indexed before the last time that the service is told to stop."""
SEEN = "seen"
"""The file that tells the service that enough was seen of its being not ready."""
EXIT_SECONDS = 30.0
READY_SECONDS = 1.0
"""In which it must be known that the service stops. Both are asserted by `make chaos` only, on a quiet machine."""


@dataclass
class Seen:
    """What the clients of a service that stops saw."""

    answers: Counter[int] = field(default_factory=Counter)
    uploaded: set[str] = field(default_factory=set)
    """SHA-256 of what was acknowledged."""
    cut_off: list[str] = field(default_factory=list)
    not_ready: list[float] = field(default_factory=list)
    """When `/readyz` said so."""


def ask_until_nobody_listens(address: str, path: str, body: dict[str, object], seen: Seen) -> None:
    with httpx.Client(base_url=address, timeout=PATIENCE) as client:
        while True:
            try:
                seen.answers[client.post(path, json=body).status_code] += 1
            except httpx.ConnectError:
                return
            except httpx.TransportError as error:
                seen.cut_off.append(f"{path}: {error!r}")


def upload_until_nobody_listens(address: str, folder: Path, numbers: itertools.count[int], seen: Seen) -> None:
    folder.mkdir()
    with httpx.Client(base_url=address, timeout=PATIENCE) as client:
        while True:
            content = picture(folder, next(numbers))
            try:
                answer = upload(client, "uploads", content)
            except httpx.ConnectError:
                return
            except httpx.TransportError as error:
                seen.cut_off.append(f"upload: {error!r}")
                continue
            seen.answers[answer.status_code] += 1
            if answer.status_code == 201:
                seen.uploaded.add(sha256(content))


def watch_until_nobody_listens(address: str, seen: Seen) -> None:
    while True:
        try:
            answer = httpx.get(f"{address}/readyz", timeout=PATIENCE)
        except httpx.ConnectError:
            return
        except httpx.TransportError as error:
            seen.cut_off.append(f"/readyz: {error!r}")
            continue
        if answer.status_code == 503:
            seen.not_ready.append(time.monotonic())


def stop_under_load(
    address: str, server: subprocess.Popen[str], folder: Path, numbers: itertools.count[int]
) -> set[str]:
    """What was uploaded, after checking how the service stopped while many asked it for things."""
    seen = Seen()
    search = ("/v1/collections/many/search", {"text": "a red thing"})
    embed = ("/v1/embeddings", {"input": ["a red thing", "a green ball"]})
    loads = [
        *(threading.Thread(target=ask_until_nobody_listens, args=(address, *ask, seen)) for ask in [search, embed] * 2),
        *(
            threading.Thread(target=upload_until_nobody_listens, args=(address, folder / str(number), numbers, seen))
            for number in range(2)
        ),
        threading.Thread(target=watch_until_nobody_listens, args=(address, seen)),
    ]
    for load in loads:
        load.start()
    wait_for(lambda: seen.answers[200] > 20 and seen.answers[201] > 1)
    told = time.monotonic()
    server.send_signal(signal.SIGTERM)
    wait_for(lambda: seen.not_ready)
    (folder / SEEN).touch()
    assert server.wait(PATIENCE) == 0
    took = time.monotonic() - told
    for load in loads:
        load.join(PATIENCE)
        assert not load.is_alive()
    assert seen.cut_off == []
    assert set(seen.answers) == {200, 201}, seen.answers
    if is_chaos():
        assert took < EXIT_SECONDS
        assert seen.not_ready[0] - told < READY_SECONDS
    return seen.uploaded


def start_job(client: httpx.Client, films: Path) -> str:
    """Where the job is, once it stands still; there is a collection for uploads, too."""
    for name in ("many", "uploads"):
        client.post("/v1/collections", json={"name": name}).raise_for_status()
    job = client.post("/v1/collections/many/jobs", json={"folder": str(films)}).headers["location"]
    wait_for(lambda: client.get(job).json()["done"] == FREE_FILES)
    return job


def test_everybody_is_answered_and_the_job_goes_on_without_doing_anything_twice(
    small_bundle: Path, tmp_path: Path
) -> None:
    films = tmp_path / "many"
    films.mkdir()
    for number in range(MANY):
        write_picture(films / f"{number:03}.png", solid((number % 256, number // 256, 90), 48, 48))
    settings = settings_for(
        small_bundle, tmp_path / "data", allowed_roots=[films], job_concurrency=1, shutdown_delay=0.1
    )
    numbers = itertools.count()
    uploaded: set[str] = set()
    for stop in range(STOPS):
        folder = tmp_path / str(stop)
        folder.mkdir()
        with process(settings, "tests.service.stopping", str(folder / SEEN)) as (client, server):
            if stop == 0:
                job = start_job(client, films)
            client.close()  # its connection would be waited for
            uploaded |= stop_under_load(str(client.base_url), server, folder, numbers)
        if stop == 0:
            with CollectionStore(settings.data_dir / "collections") as library:
                (left,) = list_jobs(library.open("many"), 10)
                assert left.state in ("queued", "running")
                assert FREE_FILES <= left.counts.succeeded < MANY
    with serving(settings) as running:
        client = running.client
        wait_for(lambda: client.get(job).json()["state"] == "succeeded")
        counts = client.get(job).json()["counts"]
        assert (counts["succeeded"], counts["skipped"], counts["failed"]) == (MANY, 0, 0)
        assert client.get("/v1/collections/many").json()["videos"] == MANY
        assert uploaded <= set(kept(client, "uploads").values())

"""kill -9 at random instants while videos come in over HTTP: what was acknowledged is there, once, and nothing else."""

from __future__ import annotations

import itertools
import random
import signal
import time
from pathlib import Path

from index.collection_store import CollectionStore
from tests.chaos import is_chaos, rounds
from tests.service.conftest import settings_for
from tests.service.killing import Told, join_writers, present, start_writers
from tests.service.running import process, serving
from tests.waiting import wait_for

KILLS = rounds(2, 30)
READY_SECONDS = 10.0
"""On a machine that is quiet."""
LONGEST = 1.5 if is_chaos() else 0.5
"""Seconds from the first upload to the kill, at most."""


def test_acknowledged_uploads_survive_the_service_being_killed(small_bundle: Path, tmp_path: Path) -> None:
    settings = settings_for(small_bundle, tmp_path / "data")
    moment = random.Random()
    numbers = itertools.count()
    told = Told()
    for kill in range(KILLS):
        began = time.monotonic()
        with process(settings) as (client, server):
            if is_chaos():
                assert time.monotonic() - began < READY_SECONDS
            if kill == 0:
                assert client.post("/v1/collections", json={"name": "videos"}).status_code == 201
            told = Told(present=present(client, settings.data_dir, told))
            writers = start_writers(client, tmp_path, numbers, told)
            if kill == KILLS - 1:
                wait_for(lambda told=told: told.present)  # else nothing at all may have been acknowledged
            time.sleep(moment.uniform(0.0, LONGEST))  # the instant is what is random here; nothing waits for anything
            server.send_signal(signal.SIGKILL)
            join_writers(writers, told)
        with CollectionStore(settings.data_dir / "collections") as library:
            assert library.open("videos").catalogue.integrity_errors() == []
    with serving(settings) as running:
        present(running.client, settings.data_dir, told)

"""Replacing indexes under load: no request fails, and each response reflects exactly one state of the collection."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest

from index.collection import Collection, NewClip, NewVideo
from index.collection_store import CollectionStore
from index.vectors import faiss_index, faiss_kinds, snapshot
from index.vectors.faiss_kinds import FLAT, HNSW
from tests.chaos import is_chaos, rounds
from tests.index.sample_data import content, use_kinds_when_small
from tests.service.conftest import settings_for
from tests.service.running import process
from tests.waiting import wait_for
from vitascope.model import Model

SWAPS = rounds(12, 500)
PER_SECOND = 50
CLIENTS = 4
WINDOW = 20
"""Videos of the collection: number N is added, number N - WINDOW deleted."""
TEXT = "a red thing"


@dataclass
class History:
    """States of the collection: titles of its videos in the order of a search.

    A state is recorded before its write, and acknowledged after it.
    """

    states: list[list[str]] = field(default_factory=lambda: [[]])
    acknowledged: int = 0

    def matches(self, titles: list[str], first: int) -> int:
        """Return the number of states from ``first`` on with these titles."""
        return sum(state == titles for state in self.states[first:])


class Writer:
    """Process that adds and deletes videos of the collection that the service searches."""

    def __init__(self, collection: Collection, model: Model) -> None:
        self.history = History()
        self._collection = collection
        self._query = model.embed_text([TEXT])[0]
        self._shape = (model.bundle.manifest.visual_tokens, model.bundle.manifest.visual_width)
        self._similarity: dict[str, float] = {}
        self._ids: list[int] = []

    def step(self) -> None:
        """Add a video, and delete the oldest if there are more than ``WINDOW``."""
        number = len(self._similarity)
        random = np.random.default_rng(number)
        vector = random.standard_normal(len(self._query)).astype(np.float32) + self._query
        vector /= np.linalg.norm(vector)
        title = f"number {number}"
        self._similarity[title] = float(vector @ self._query)
        video = NewVideo(content(number), f"/videos/{number}.mp4", title, 1.0, 320, 180, {})
        clips = [NewClip(0.0, 1.0, vector, np.zeros(self._shape, np.float16))]
        with self._changing_to([*self.history.states[-1], title]):
            self._ids.append(self._collection.add_video(video, clips).id)
        if len(self._ids) > WINDOW:
            deleted = f"number {number - WINDOW}"
            with self._changing_to([each for each in self.history.states[-1] if each != deleted]):
                self._collection.delete_video(self._ids.pop(0))

    @contextmanager
    def _changing_to(self, titles: list[str]) -> Iterator[None]:
        self.history.states.append(sorted(titles, key=self._similarity.__getitem__, reverse=True))
        yield
        self.history.acknowledged = len(self.history.states) - 1


@dataclass
class Load:
    """Searches at ``PER_SECOND``, and errors in the responses."""

    client: httpx.Client
    history: History
    responses: int = 0
    errors: list[str] = field(default_factory=list)
    _ended: bool = False

    def run(self) -> float:
        """Search until ``end``; return the responses per second."""
        began = time.monotonic()
        numbers = itertools.count()
        threads = [threading.Thread(target=self._search, args=(began, numbers)) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self.responses / (time.monotonic() - began)

    def end(self) -> None:
        self._ended = True

    def _search(self, began: float, numbers: Iterator[int]) -> None:
        while not self._ended:
            time.sleep(max(0.0, began + next(numbers) / PER_SECOND - time.monotonic()))
            first = self.history.acknowledged
            response = self.client.post("/v1/collections/videos/search", json={"text": TEXT, "limit": 100, "rerank": 0})
            self.responses += 1
            if response.status_code != 200:
                self.errors.append(response.text)
                continue
            titles = [result["video"]["title"] for result in response.json()["results"]]
            if (count := self.history.matches(titles, first)) != 1:
                self.errors.append(f"{count} states from {first} to {len(self.history.states) - 1} have {titles}")


@pytest.fixture
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rebuild indexes of any size, like the service under test."""
    use_kinds_when_small(monkeypatch)
    monkeypatch.setattr(faiss_index, "MIN_CLIPS", faiss_kinds.MIN_CLIPS)
    monkeypatch.setattr(faiss_index, "MIN_CHANGED", 1)
    monkeypatch.setattr(snapshot, "_POLL_SECONDS", 0.01)


@pytest.mark.usefixtures("small_sizes")
def test_every_answer_is_of_one_state_while_indexes_are_swapped(
    small_bundle: Path, small_model: Model, tmp_path: Path
) -> None:
    swaps = tmp_path / "swaps"
    swaps.touch()
    settings = settings_for(small_bundle, tmp_path / "data")
    with process(settings, "tests.service.altered_service", "swapping", str(swaps)) as (client, _):
        assert client.post("/v1/collections", json={"name": "videos"}).status_code == 201
        with CollectionStore(tmp_path / "data" / "collections") as library:
            collection = library.open("videos")
            writer = Writer(collection, small_model)
            load = Load(client, writer.history)
            rates: list[float] = []
            loading = threading.Thread(target=lambda: rates.append(load.run()))
            loading.start()
            try:
                wait_for(lambda: load.responses)  # loads the first index
                for kind in itertools.cycle((FLAT, HNSW)):
                    before, responses = swaps.stat().st_size, load.responses
                    if before >= SWAPS:
                        break
                    for _ in range(3):
                        writer.step()
                    collection.set_index_kind(kind)
                    collection.wait_for_index()
                    wait_for(lambda swapped=before: load.errors or swaps.stat().st_size > swapped)
                    wait_for(lambda earlier=responses: load.responses > earlier)
                    assert load.errors == []
            finally:
                load.end()
                loading.join()
    assert load.errors == []
    if is_chaos():
        assert load.responses > SWAPS
        assert rates[0] >= 0.9 * PER_SECOND

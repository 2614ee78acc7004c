"""What the machines of a cluster do, without a cluster: the desk, a worker's way with a file, bundles that travel."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.integrations.ray.bundle_transfer import bundle_files, model_of
from index.integrations.ray.connect import connected
from index.integrations.ray.dispatcher import Desk, Drawn, Loss, content_key
from index.integrations.ray.executor import RayCluster, shared_folders
from index.integrations.ray.worker import Embedded, Known, Order, Result, check_folders, check_version, embed, packed
from index.jobs.ingest import content_sha256
from index.jobs.records import JobItem, JobOptions
from index.jobs.sources.access_policy import UNRESTRICTED, AccessPolicy
from index.jobs.sources.source_types import FilesSource, FolderSource, ListSource
from tests.media_files import solid, write_picture
from vitascope.bundle.manifest import MANIFEST_NAME
from vitascope.errors import BundleCorrupt, ClusterError, InvalidInput, MediaError
from vitascope.media.limits import DEFAULT_LIMITS
from vitascope.model import Model


def item(position: int, path: str = "/films/a.mp4") -> JobItem:
    return JobItem(1, position, path, "running", None, None, 1)


class Actor:
    """As much of an actor's handle as the desk uses; it dies when told so."""

    def __init__(self) -> None:
        self.dead = asyncio.Event()
        self.__ray_ready__ = self

    def options(self, **_: Any) -> Actor:
        return self

    async def remote(self) -> None:
        await self.dead.wait()
        raise ConnectionError("it is gone")


def test_of_a_dead_workers_files_only_the_one_in_work_is_blamed() -> None:
    async def play() -> None:
        desk, good, bad = Desk([]), Actor(), Actor()
        for position in range(4):
            await desk.put(item(position))
        assert await desk.draw("bad", bad) == Drawn(item(0), False)
        assert await desk.draw("bad", bad) == Drawn(item(1), False)
        assert await desk.draw("bad", bad) == Drawn(item(2), False)
        assert await desk.draw("good", good) == Drawn(item(3), False)
        await desk.received(0)
        bad.dead.set()
        assert await desk.losses() == [Loss(1, False), Loss(2, True)]  # the result of 1 was still on its way
        await desk.received(3)
        good.dead.set()
        waiting = asyncio.create_task(desk.losses())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await desk.close()
        assert await waiting is None

    asyncio.run(play())


def test_a_worker_that_waits_when_it_dies_takes_no_file_with_it() -> None:
    async def play() -> None:
        desk, dead, living = Desk([]), Actor(), Actor()
        waiting = asyncio.create_task(desk.draw("dead", dead))
        await asyncio.sleep(0.01)
        dead.dead.set()
        with pytest.raises(ConnectionError, match="taken for dead"):
            await waiting
        await desk.put(item(7), again=True)
        assert await desk.draw("living", living) == Drawn(item(7), True)
        await desk.close()
        assert await desk.draw("living", living) is None

    asyncio.run(play())


def test_the_desk_learns_what_the_collection_has() -> None:
    async def play() -> None:
        one, other = "1" * 64, "2" * 64
        desk = Desk([content_key(one)])
        assert (await desk.knows(one), await desk.knows(other)) == (True, False)
        await desk.learn(other)
        assert await desk.knows(other)

    asyncio.run(play())


def order(policy: AccessPolicy = UNRESTRICTED) -> Order:
    return Order("", None, (), JobOptions(metadata={"site": "north"}), policy, DEFAULT_LIMITS, 1, "cpu")


def test_a_worker_embeds_a_file_and_keeps_within_reach(tmp_path: Path, small_model: Model) -> None:
    picture = tmp_path / "red.png"
    write_picture(picture, solid((255, 0, 0)))
    done = embed(small_model, order(), item(0, str(picture)), None)
    assert isinstance(done, Embedded)
    assert (done.description.title, done.description.metadata) == ("red", {"site": "north"})
    np.testing.assert_allclose(done.clips[0].vector, small_model.embed_file(picture).vectors[0], atol=1e-6)
    digest = content_sha256(picture)
    assert embed(small_model, order(), item(0, str(picture)), Known) == Known(digest)
    refused = embed(small_model, order(AccessPolicy(roots=(tmp_path / "other",))), item(0, str(picture)), None)
    assert isinstance(refused, MediaError)
    assert "outside the folders" in str(refused)


def test_an_error_that_cannot_travel_is_told_in_words() -> None:
    class Local(Exception):
        """No other process could load it."""

    told = pickle.loads(packed(Result(3, Local("it broke"))))
    assert told.position == 3
    assert str(told.outcome).startswith("Local: it broke")
    same = pickle.loads(packed(Result(3, MediaError("a.mp4: broken"))))
    assert (type(same.outcome), str(same.outcome)) == (MediaError, "a.mp4: broken")


def test_a_bundle_that_travelled_gives_the_same_vectors_and_is_checked(small_model: Model) -> None:
    files = bundle_files(small_model.bundle)
    travelled = model_of(files, 1, "cpu")
    assert travelled.bundle.fingerprint == small_model.bundle.fingerprint
    assert not travelled.bundle.folder.exists()
    streams = {
        s.name: np.random.default_rng(0).integers(0, 256, (2, 1, s.frames, s.height, s.width, 3), np.uint8)
        for s in small_model.streams
    }
    np.testing.assert_allclose(
        travelled.embed_video(streams).vectors, small_model.embed_video(streams).vectors, atol=1e-6
    )
    graph = next(name for name in files if name.endswith(".onnx"))
    with pytest.raises(BundleCorrupt, match="SHA-256"):
        model_of({**files, graph: files[graph][:-1] + b"?"}, 1, "cpu")
    assert MANIFEST_NAME in files


def test_what_a_machine_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"0\.0\.0-never"):
        check_version("0.0.0-never")
    check_folders([str(tmp_path)])
    with pytest.raises(ClusterError, match="does not see /nowhere/films"):
        check_folders([str(tmp_path), "/nowhere/films"])
    assert shared_folders(FolderSource("/mnt/films")) == ("/mnt/films",)
    assert shared_folders(FilesSource(("/b/1.mp4", "/a/2.mp4", "/a/3.mp4"))) == ("/a", "/b")
    assert shared_folders(ListSource("/mnt/list.csv")) == ()


def test_workers_fit_where_there_is_room_and_what_cannot_be_a_cluster_is_named() -> None:
    with pytest.raises(InvalidInput, match="actors: -1"):
        RayCluster(actors=-1)
    one = {"CPU": 6.0, "GPU": 2.0}
    assert [RayCluster(threads=n).room(one) for n in (1, 4, 7)] == [6, 1, 0]
    assert RayCluster(device="cuda").room(one) == 2
    assert RayCluster(device="cuda").room({"CPU": 6.0}) == 0
    with pytest.raises(InvalidInput, match="for Ray clients"), connected("ray://127.0.0.1:10001"):
        pass

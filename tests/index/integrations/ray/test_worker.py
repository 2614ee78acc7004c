"""Ray workers without a cluster: hashing, embedding, and the transfer of bundles."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.integrations.ray.executor import RayCluster, connect, shared_folders
from index.integrations.ray.worker import (
    FOLDER_PREFIX,
    EmbeddedFile,
    Worker,
    WorkerConfig,
    bundle_files,
    check_folders,
    check_version,
    load_model,
    portable_error,
    temporary_folder,
)
from index.jobs.ingest import content_sha256
from index.jobs.records import JobItem, JobOptions
from index.jobs.sources.access_policy import UNRESTRICTED, AccessPolicy
from index.jobs.sources.source_types import FilesSource, FolderSource, ListSource
from tests.media_files import solid, write_picture
from vitascope.bundle.manifest import MANIFEST_NAME
from vitascope.errors import BundleCorrupt, ClusterError, InvalidInput, MediaError
from vitascope.file_lock import file_lock
from vitascope.media.limits import DEFAULT_LIMITS
from vitascope.model import Model


def item(path: Path) -> JobItem:
    return JobItem(1, 0, str(path), "running", None, None, 1)


def new_worker(model: Model, policy: AccessPolicy = UNRESTRICTED) -> Worker:
    options = JobOptions(metadata={"site": "north"})
    worker = Worker(WorkerConfig("", None, (), options, policy, DEFAULT_LIMITS, 1, "cpu", ("visual",)))
    worker._model = model
    return worker


def test_a_worker_hashes_and_embeds_a_file(tmp_path: Path, small_model: Model) -> None:
    picture = write_picture(tmp_path / "red.png", solid((255, 0, 0)))
    worker = new_worker(small_model)
    assert worker.hash(item(picture)) == content_sha256(picture)
    result = worker.embed()
    assert isinstance(result, EmbeddedFile)
    assert (result.description.title, result.description.metadata) == ("red", {"site": "north"})
    np.testing.assert_allclose(result.clips[0].embedding, small_model.embed_video_file(picture).vectors[0], atol=1e-6)


def test_a_worker_keeps_to_the_access_policy(tmp_path: Path, small_model: Model) -> None:
    picture = write_picture(tmp_path / "red.png", solid((255, 0, 0)))
    error = new_worker(small_model, AccessPolicy(roots=(tmp_path / "other",))).hash(item(picture))
    assert isinstance(error, MediaError)
    assert "outside the folders" in str(error)


def test_temporary_folders_of_killed_workers_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    new, abandoned, other = (tmp_path / name for name in (f"{FOLDER_PREFIX}new", f"{FOLDER_PREFIX}old", "other"))
    for folder in (new, abandoned, other):
        (folder / "files").mkdir(parents=True)
    with temporary_folder() as used:
        for folder in (abandoned, other, used.parent):
            os.utime(folder, (0, 0))
        with temporary_folder() as second:
            assert set(tmp_path.iterdir()) == {new, other, used.parent, second.parent}
    assert set(tmp_path.iterdir()) == {new, other}


def test_a_temporary_folder_is_locked_until_it_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    locked: list[bool] = []

    def remove(folder: str, *args: Any, **options: Any) -> None:
        with file_lock(Path(folder) / "lock") as is_free:
            locked.append(not is_free)
        rmtree(folder, *args, **options)

    with temporary_folder() as files:
        rmtree = shutil.rmtree
        monkeypatch.setattr("shutil.rmtree", remove)
    assert (locked, files.parent.exists()) == ([True], False)


def test_an_error_that_cannot_be_pickled_travels_as_its_message() -> None:
    class Local(Exception):
        """No other process can load it."""

    assert str(pickle.loads(pickle.dumps(portable_error(Local("it broke"))))).startswith("Local: it broke")
    error = portable_error(MediaError("a.mp4: broken"))
    assert (type(error), str(error)) == (MediaError, "a.mp4: broken")


def test_a_transferred_bundle_gives_the_same_embeddings_and_is_verified(small_model: Model) -> None:
    files = bundle_files(small_model.bundle)
    travelled = load_model(files, 1, "cpu")
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
        load_model({**files, graph: files[graph][:-1] + b"?"}, 1, "cpu")
    assert MANIFEST_NAME in files


def test_a_missing_folder_or_another_version_on_a_machine_is_named(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"0\.0\.0-never"):
        check_version("0.0.0-never")
    check_folders([str(tmp_path)])
    with pytest.raises(ClusterError, match="does not see /nowhere/films"):
        check_folders([str(tmp_path), "/nowhere/films"])
    assert shared_folders(FolderSource("/mnt/films")) == ("/mnt/films",)
    assert shared_folders(FilesSource(("/b/1.mp4", "/a/2.mp4", "/a/3.mp4"))) == ("/a", "/b")
    assert shared_folders(ListSource("/mnt/list.csv")) == ()


def test_cluster_capacity_and_invalid_settings() -> None:
    with pytest.raises(InvalidInput, match="actors: -1"):
        RayCluster(actors=-1)
    machine = {"CPU": 6.0, "GPU": 2.0}
    assert [RayCluster(threads=n).capacity(machine) for n in (1, 4, 7)] == [6, 1, 0]
    assert RayCluster(device="cuda").capacity(machine) == 2
    assert RayCluster(device="cuda").capacity({"CPU": 6.0}) == 0
    with pytest.raises(InvalidInput, match="for Ray clients"), connect("ray://127.0.0.1:10001"):
        pass

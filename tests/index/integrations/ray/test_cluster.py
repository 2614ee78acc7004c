"""Jobs on a Ray cluster of a head and machines, which are processes that really are killed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.clips.rules import Rule, Segmentation
from index.collection import Collection
from index.collection_store import CollectionStore
from index.integrations.ray.executor import LOOPBACK_ONLY, connect
from index.jobs.jobs import create_job, get_job, list_items, pause, resume
from index.jobs.recognition import JobRecognition
from index.jobs.records import Job, JobOptions
from index.jobs.runner import run_job
from index.jobs.sources.source_types import FolderSource, ShardsSource
from index.recognitions import load_recognitions, load_screen_text, load_speech
from tests.chaos import is_chaos, only_by_chaos
from tests.index.jobs.fixtures import create_folder_job, make_pictures, outcomes
from tests.index.jobs.recognition_worker import recognizers
from tests.media_files import solid, write_color_video, write_picture
from tests.tools import need_ray
from tests.waiting import wait_for
from vitascope.cli.main import EXIT_PARTIAL, EXIT_USER_ERROR, main
from vitascope.errors import StorageError
from vitascope.media.file import MediaFile
from vitascope.model import Model
from vitascope.sandbox.recognition import Recognizer

ROOT = Path(__file__).parents[4]
MACHINE = {"object_store_memory": 80 * 1024**2, "include_log_monitor": False}
MACHINES, CPUS = (2, 1) if is_chaos() else (1, 2)
"""Machines, and CPUs of each: two workers in any case. A machine takes seconds to start."""
PATIENCE = 900.0
"""Seconds after which a run is given up."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that does no work, machines, and this process connected to them."""
    need_ray()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(*LOOPBACK_ONLY)  # read when ray is imported, here and in the processes of the cluster
        environment.setenv("RAY_memory_monitor_refresh_ms", "0")  # kill no worker for what other tests fill
        yield from connected_to(started())


def started() -> Any:
    """Start the cluster, in up to three attempts: Ray gives each machine only half a minute to start."""
    from ray.cluster_utils import Cluster

    for is_last in (False, False, True):
        cluster = Cluster()
        try:
            cluster.add_node(num_cpus=0, include_dashboard=False, **MACHINE)
            for _ in range(MACHINES):
                cluster.add_node(num_cpus=CPUS, **MACHINE)
        except Exception:  # Ray's own has no name
            cluster.shutdown()
            if is_last:
                raise
        else:
            return cluster
    raise AssertionError


def connected_to(cluster: Any) -> Iterator[Any]:
    import ray

    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        with connect(cluster.address):
            assert signal.getsignal(signal.SIGTERM) == on_terminate
            yield cluster
        assert not ray.is_initialized()
    finally:
        cluster.shutdown()


def run_on_cluster(collection: Collection, model: Model, job: Job, **options: Any) -> Job:
    from index.integrations.ray.executor import RayCluster

    backend = RayCluster(device="cpu")
    end = time.monotonic() + PATIENCE
    config = options.pop("config", None) or backend.config()
    done = run_job(
        collection,
        model,
        job.id,
        backend=backend,
        config=config,
        should_abort=lambda: time.monotonic() > end,
        **options,
    )
    assert time.monotonic() < end, f"not done in {PATIENCE} s: {list_items(collection, job.id)}"
    return done


def employ(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Use a worker class of ``ray_workers``."""
    from index.integrations.ray import executor
    from tests.index.integrations.ray import ray_workers

    monkeypatch.setattr(executor, "Worker", getattr(ray_workers, name))


def content(collection: Collection) -> dict[str, Any]:
    """All that a collection holds, by path, without what depends on the order of adding."""
    videos = {}
    for video in collection.videos(10_000):
        clips = collection.clips(video.id)
        ids = [clip.id for clip in clips]
        with collection.catalogue.read() as connection:
            rows = connection.execute(
                "SELECT vector FROM vectors WHERE clip_id BETWEEN ? AND ? ORDER BY clip_id", (ids[0], ids[-1])
            ).fetchall()
        videos[video.path] = (
            replace(video, id=0, added_at=0.0),
            [replace(clip, id=0, video_id=0) for clip in clips],
            [collection.thumbnail(i) for i in ids],
            np.stack([np.frombuffer(row[0], "<f4") for row in rows]),
            collection.visual_tokens(ids),
        )
    return videos


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Videos of several clips, one with a subtitle file, a picture, a duplicate, and files that fail."""
    folder = tmp_path / "films"
    folder.mkdir()
    for number, color in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255)]):
        write_color_video(folder / f"{number}.mp4", color, seconds=3.0 + number)
    (folder / "0.srt").write_text("1\n00:00:00,500 --> 00:00:01,500\nIt is red\n", "utf-8")
    write_picture(folder / "still.png", solid((9, 90, 200)))
    shutil.copy(folder / "1.mp4", folder / "zz same.mp4")
    (folder / "text.mp4").write_text("words " * 100)
    (folder / "notes.txt").write_text("words")
    return folder


def test_the_command_adds_what_the_local_job_adds(
    tmp_path: Path,
    cluster: Any,
    films: Path,
    small_bundle: Path,
    small_model: Model,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["index", str(films), "--clip-length", "1", "--metadata", "site=north", "--json", "--device", "cpu"]
    arguments += ["--bundle", str(small_bundle), "--data", str(tmp_path / "data")]
    assert main([*arguments, "--ray", cluster.address, "--threads", "3"]) == EXIT_USER_ERROR
    assert "at least 3 and 0 on one of them" in capsys.readouterr().err
    assert main([*arguments, "--ray", cluster.address, "--ray-actors", "1"]) == EXIT_PARTIAL
    summary = json.loads(capsys.readouterr().out)
    assert (summary["files"], summary["added"], summary["skipped"], summary["failed"]) == (8, 4, 3, 1)
    with CollectionStore(tmp_path / "data" / "collections") as library, CollectionStore(tmp_path / "other") as other:
        local, same = other.create("videos", small_model), library.open("videos")
        rule = Segmentation(length=1.0)
        job = create_folder_job(local, films, segmentation=rule, metadata={"site": "north"})
        run_job(local, small_model, job.id)
        expected, videos = content(local), content(same)
        # Either of two equal files may be added first.
        duplicates = {str(films / "1.mp4"), str(films / "zz same.mp4")}
        assert set(expected) - duplicates == set(videos) - duplicates
        assert len(expected) == len(videos) == 4
        for path in set(expected) - duplicates:
            assert videos[path][:3] == expected[path][:3]
            np.testing.assert_allclose(videos[path][3], expected[path][3], atol=1e-6)
            np.testing.assert_allclose(videos[path][4], expected[path][4], atol=2e-3)  # stored as float16
        for name in ("text.mp4", "notes.txt"):
            assert outcomes(same, int(summary["job"]))[name] == outcomes(local, job.id)[name]
    (films / "2.srt").write_text("1\n00:00:00,500 --> 00:00:01,500\nIt is blue\n", "utf-8")
    assert main([*arguments, "--ray", cluster.address, "--ray-actors", "1"]) == EXIT_PARTIAL
    again = json.loads(capsys.readouterr().out)
    assert (again["added"], again["refreshed"], again["skipped"], again["failed"]) == (0, 1, 7, 1)
    assert again["notes"] == [{"file": str(films / "2.mp4"), "note": "refreshed: subtitles"}]


@only_by_chaos
def test_an_error_while_a_result_is_handled_ends_the_run(
    tmp_path: Path, cluster: Any, collection: Collection, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(content_sha256: str) -> None:
        raise StorageError("disk I/O error")

    monkeypatch.setattr(collection, "find_by_hash", fail)
    job = create_folder_job(collection, make_pictures(tmp_path / "pictures", 1))
    with pytest.raises(StorageError, match="disk I/O error"):
        run_on_cluster(collection, small_model, job)


def test_a_job_whose_driver_is_killed_is_resumed_without_a_cluster(
    tmp_path: Path, cluster: Any, collection: Collection, small_bundle: Path, small_model: Model
) -> None:
    job = create_folder_job(collection, make_pictures(tmp_path / "pictures", 20))
    arguments = [str(tmp_path / "library"), str(small_bundle), str(job.id), cluster.address]
    command = [sys.executable, "-m", "tests.index.integrations.ray.ray_job", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        lines = [process.stdout.readline() for _ in range(5)]
        process.kill()
        lines += process.stdout.readlines()
        watchdog.cancel()
    acknowledged = {line.split()[1] for line in lines if line.endswith("\n")}
    assert get_job(collection, job.id).state == "queued"
    assert 5 <= len(acknowledged) <= 10
    done = run_job(collection, small_model, job.id)
    assert (done.state, done.counts.succeeded, done.counts.skipped) == ("succeeded", 20, 0)
    paths = [video.path for video in collection.videos()]
    assert len(paths) == len(set(paths)) == 20
    assert acknowledged <= set(paths)
    # The process that was killed had decoded none of them.
    assert all(item.crashes == 0 for item in list_items(collection, job.id))


@only_by_chaos
@pytest.mark.parametrize("rule", ["windows", "subtitles"])
def test_speech_and_screen_text_are_recognised_as_in_a_job_without_a_cluster(
    tmp_path: Path, cluster: Any, small_model: Model, talks: Path, rule: Rule
) -> None:
    """A pause interrupts recognition, and the resumed job goes on."""
    for name, seconds in (("plain", 12.0), ("unheard", 16.0)):
        write_color_video(talks / f"{name}.mp4", (220, 10, 10), seconds, rate=2, sound_seconds=seconds)
    slow = tmp_path / "slow"
    slow.touch()
    options = JobOptions(Segmentation(rule=rule), transcribe="default", read_text=1.0)
    with CollectionStore(tmp_path / "collections") as library, recognizers(f"while:{slow}") as used:
        collection, local = library.create("on-cluster", small_model), library.create("local", small_model)
        job, local_job = (create_job(each, FolderSource(str(talks)), options) for each in (collection, local))
        recognition = JobRecognition(used)
        with ThreadPoolExecutor(1) as thread:
            running = thread.submit(run_on_cluster, collection, small_model, job, recognition=recognition)
            wait_for(lambda: used.all() and used.all()[0]._pool.busy_pids, PATIENCE)
            pause(collection, job.id)
            assert running.result().state == "paused"
        assert (len(collection.videos()) > 2) == (rule == "windows")
        slow.unlink()
        resume(collection, job.id)
        done = run_on_cluster(collection, small_model, job, recognition=recognition)
        expected = run_job(local, small_model, local_job.id, recognition=recognition)
        assert (done.state, done.counts, done.recognitions) == ("succeeded", expected.counts, expected.recognitions)
        assert outcomes(collection, job.id) == outcomes(local, local_job.id)
        assert spoken_and_shown(collection) == spoken_and_shown(local)


def test_of_equal_files_in_one_job_the_first_is_transcribed(
    cluster: Any, collection: Collection, small_model: Model, talks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(talks / "plain.mp4", talks / "same.mp4")
    transcribed: list[str] = []
    transcribe = Recognizer.transcribe

    def record(recognizer: Recognizer, request: Any, media: MediaFile, *rest: Any) -> Any:
        transcribed.append(media.name)
        return transcribe(recognizer, request, media, *rest)

    monkeypatch.setattr(Recognizer, "transcribe", record)
    job = create_job(
        collection, FolderSource(str(talks)), JobOptions(Segmentation(rule="subtitles"), transcribe="default")
    )
    with recognizers() as used:
        done = run_on_cluster(collection, small_model, job, recognition=JobRecognition(used))
    assert (done.state, done.counts.succeeded, transcribed) == ("succeeded", 3, ["plain.mp4"])
    assert outcomes(collection, job.id)["same.mp4"][0] == "skipped"


def spoken_and_shown(collection: Collection) -> dict[str, Any]:
    """Clips, speech and screen text of all videos by title, and which model recognised it."""
    return {
        video.title: (
            [(clip.start, clip.end, clip.text, clip.screen_text) for clip in collection.clips(video.id)],
            load_speech(collection, video.id),
            load_screen_text(collection, video.id),
            {kind: replace(each, at=0.0) for kind, each in load_recognitions(collection, video.id).items()},
        )
        for video in collection.videos()
    }


@only_by_chaos
def test_a_job_over_a_shard_is_paused_and_resumed(
    tmp_path: Path, cluster: Any, collection: Collection, small_model: Model
) -> None:
    folder = make_pictures(tmp_path / "pictures", 40)
    shard = tmp_path / "shard.tar"
    with tarfile.open(shard, "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name)
    job = create_job(collection, ShardsSource((str(shard),)))

    def pause_job(item: Any, done: int, total: int) -> None:
        if done == 3:
            pause(collection, job.id)

    paused = run_on_cluster(collection, small_model, job, on_item=pause_job)
    assert paused.state == "paused"
    assert 3 <= paused.counts.succeeded < 40  # far more than can be in work
    assert paused.counts.succeeded == collection.stats().videos
    resume(collection, job.id)
    assert run_job(collection, small_model, job.id).counts.succeeded == 40  # the rest by this machine alone
    shard.unlink()
    for video in collection.videos():
        assert video.path.startswith(f"media/job-{job.id}/")
        assert collection.media_path(video).read_bytes() == (folder / video.title).with_suffix(".png").read_bytes()


@only_by_chaos
def test_a_killed_machine_and_a_file_that_kills_its_worker_affect_no_other_file(
    tmp_path: Path, cluster: Any, collection: Collection, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Last in this module: the machine stays stopped."""
    from tests.index.integrations.ray.ray_workers import HELD, POISON, marker

    while len(cluster.worker_nodes) < MACHINES:
        cluster.add_node(num_cpus=CPUS, **MACHINE)
    employ(monkeypatch, "TroubledWorker")
    folder = make_pictures(tmp_path / "pictures", 30)
    write_picture(folder / HELD, solid((1, 2, 3)))
    job = create_folder_job(collection, folder)
    killed: list[str] = []

    def kill() -> None:
        """Kill the machine whose worker is decoding a file."""
        node_file = marker(folder / HELD)
        while not node_file.exists():
            time.sleep(0.05)
        node_id = node_file.read_text()
        cluster.remove_node(next(n for n in cluster.worker_nodes if n.node_id == node_id), allow_graceful=False)
        killed.append(node_id)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        done = run_on_cluster(collection, small_model, job, max_crashes=2)
    finally:
        killer.join(PATIENCE)
    assert len(killed) == 1
    assert (done.state, done.counts.succeeded, done.counts.quarantined) == ("succeeded", 30, 1)
    paths = [video.path for video in collection.videos()]
    assert len(paths) == len(set(paths)) == 30
    assert collection.catalogue.integrity_errors() == []
    reason = "the process that was indexing it died 2 times; a retry of the job tries it again"
    assert outcomes(collection, job.id)[POISON] == ("quarantined", reason)
    # The killed machine was working on no other file, and no other file counts as crashed.
    again = {
        Path(i.path).name: (i.attempts, i.crashes)
        for i in list_items(collection, job.id)
        if i.attempts > 1 or i.crashes
    }
    assert again == {HELD: (2, 1), POISON: (2, 2)}

"""Stages that add media files to a collection, one by one and concurrently."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.clips.rules import Segmentation
from index.collection import Collection
from index.jobs import execution, pipeline
from index.jobs.ingest import content_sha256
from index.jobs.jobs import list_items
from index.jobs.pipeline import PipelineConfig
from index.jobs.pipeline_stages import StageTimer
from index.jobs.runner import run_job
from tests.index.jobs.fixtures import create_folder_job, ingest_file, make_pictures
from tests.media_files import (
    solid,
    write_animation,
    write_color_video,
    write_picture,
    write_video,
)
from vitascope.errors import (
    MediaCorrupt,
    MediaError,
    VitascopeError,
)
from vitascope.model import Model

PATIENCE = 120.0
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def test_the_clips_of_a_video_are_found_by_what_they_show(
    tmp_path: Path, collection: Collection, small_model: Model
) -> None:
    frames = [solid(color) for color in (RED, GREEN, BLUE) for _ in range(20)]
    path = write_video(tmp_path / "three colors.mp4", frames, rate=10)
    ingested = ingest_file(collection, small_model, path, segmentation=Segmentation(length=2.0))
    video = ingested.video
    assert ingested.created
    assert (video.title, video.path) == ("three colors", str(path))
    assert (video.width, video.height, video.clip_count) == (96, 64, 3)
    assert video.duration == pytest.approx(6.0, abs=0.01)
    assert video.content_sha256 == content_sha256(path)
    for start, color in ((0.0, "red"), (2.0, "green"), (4.0, "blue")):
        best = collection.search(small_model.embed_text([f"a {color} thing"])[0], 1)[0]
        assert (best.start, best.video_id) == (start, video.id)


def test_the_stored_visual_tokens_are_those_of_the_clip(
    tmp_path: Path, collection: Collection, small_model: Model
) -> None:
    path = write_color_video(tmp_path / "red.mp4", RED)
    video = ingest_file(collection, small_model, path).video
    stored = collection.visual_tokens([clip.id for clip in collection.clips(video.id)])
    embedded = small_model.embed_video_file(path).visual_tokens
    np.testing.assert_allclose(stored, embedded, atol=float(np.abs(embedded).max()) / 200)  # stored in eight bits


def test_a_picture_is_one_clip_without_length_and_an_animation_is_cut_like_a_video(
    tmp_path: Path, collection: Collection, small_model: Model
) -> None:
    video = ingest_file(collection, small_model, write_picture(tmp_path / "p.png", solid(BLUE))).video
    assert video.duration == 0
    assert [(clip.start, clip.end) for clip in collection.clips(video.id)] == [(0.0, 0.0)]
    assert collection.search(small_model.embed_text(["blue"])[0], 1)[0].similarity > 0.9
    path = write_animation(tmp_path / "a.webp", [solid(RED), solid(GREEN)], [2000, 2000])
    video = ingest_file(collection, small_model, path, segmentation=Segmentation(length=2.0)).video
    assert [(clip.start, clip.end) for clip in collection.clips(video.id)] == [(0.0, 2.0), (2.0, 4.0)]


def test_a_file_that_changes_while_it_is_read_is_not_added(
    tmp_path: Path, collection: Collection, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_color_video(tmp_path / "red.mp4", RED)
    embed = small_model.embed_video

    def embed_and_touch(*arguments: object) -> object:
        result = embed(*arguments)  # type: ignore[arg-type]
        os.utime(path, ns=(1, 1))
        return result

    monkeypatch.setattr(small_model, "embed_video", embed_and_touch)
    with pytest.raises(MediaError, match=r"red.mp4: changed while"):
        ingest_file(collection, small_model, path)
    assert collection.stats().videos == 0


@pytest.mark.parametrize("failure", [MediaCorrupt("half way"), MemoryError()])
def test_a_failure_half_way_adds_nothing(
    tmp_path: Path,
    collection: Collection,
    small_model: Model,
    monkeypatch: pytest.MonkeyPatch,
    failure: VitascopeError | MemoryError,
) -> None:
    path = write_color_video(tmp_path / "red.mp4", RED, seconds=12.0)
    embed = small_model.embed_video
    calls = []

    def fail_later(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) > 1:
            raise failure
        return embed(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(small_model, "embed_video", fail_later)
    with pytest.raises(type(failure)):
        ingest_file(collection, small_model, path, segmentation=Segmentation(length=1.0))
    assert len(calls) == 2
    assert collection.stats().videos == collection.stats().clips == 0


# Concurrent stages


def test_the_next_file_is_decoded_while_the_model_is_at_work(
    tmp_path: Path, collection: Collection, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = threading.Semaphore(0)
    decode, embed = pipeline.decode_clips, small_model.embed_video

    def decode_and_count(*arguments: Any, **options: Any) -> Any:
        frames = decode(*arguments, **options)
        decoded.release()
        return frames

    def embed_and_count(streams: Any) -> Any:
        for _ in range(3):  # this file's, and two more meanwhile
            assert decoded.acquire(timeout=PATIENCE)
        monkeypatch.undo()
        return embed(streams)

    monkeypatch.setattr(pipeline, "decode_clips", decode_and_count)
    monkeypatch.setattr(small_model, "embed_video", embed_and_count)
    job = create_folder_job(collection, make_pictures(tmp_path / "pictures", 6))
    timer = StageTimer()
    assert run_job(collection, small_model, job.id, timer=timer).counts.succeeded == 6
    assert set(timer.seconds()) == {"prepare", "decode", "embed", "store"}
    assert all(seconds > 0 for seconds in timer.seconds().values())


def test_a_long_video_never_has_more_than_a_few_batches_in_memory(
    tmp_path: Path, collection: Collection, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = threading.Lock()
    alive = peak = 0
    decode, embed = pipeline.decode_clips, small_model.embed_video

    def decode_and_count(*arguments: Any, **options: Any) -> Any:
        nonlocal alive, peak
        decoded = decode(*arguments, **options)
        with lock:
            alive += len(decoded.frames["high"])
            peak = max(peak, alive)
        return decoded

    def embed_and_count(streams: Any) -> Any:
        nonlocal alive
        result = embed(streams)
        with lock:
            alive -= len(streams["high"])
        return result

    monkeypatch.setattr(pipeline, "decode_clips", decode_and_count)
    monkeypatch.setattr(small_model, "embed_video", embed_and_count)
    folder = tmp_path / "films"
    folder.mkdir()
    write_color_video(folder / "long.mp4", (255, 0, 0), seconds=64.0, rate=2)
    job = create_folder_job(collection, folder, segmentation=Segmentation(length=1.0))
    job = run_job(collection, small_model, job.id, config=PipelineConfig(decoders=2))
    assert job.counts.succeeded == 1
    assert collection.stats().clips == 64
    assert [clip.start for clip in collection.clips(1)] == [float(second) for second in range(64)]
    max_batches = 2 + pipeline.MAX_DECODED_BATCHES + -(-small_model.batch_size // 8)
    assert peak <= max_batches * 8


def test_files_in_flight_are_bounded(
    tmp_path: Path, collection: Collection, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = create_folder_job(collection, make_pictures(tmp_path / "pictures", 12))
    running = []
    store = execution.store_video

    def store_and_count(*arguments: Any) -> Any:
        running.append(len(list_items(collection, job.id, "running")))
        return store(*arguments)

    monkeypatch.setattr(execution, "store_video", store_and_count)
    assert run_job(collection, small_model, job.id, config=PipelineConfig(in_flight=3)).counts.succeeded == 12
    assert 1 < max(running) <= 3


def test_a_file_that_fails_in_a_common_batch_fails_alone(
    tmp_path: Path, collection: Collection, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = small_model.embed_video

    def fail_on_one(streams: Any) -> Any:
        if (streams["high"][:, 0, 0, 0, 0, 0] == 3).any():  # the picture with number 3
            raise MediaCorrupt("damaged")
        return embed(streams)

    monkeypatch.setattr(small_model, "embed_video", fail_on_one)
    job = create_folder_job(collection, make_pictures(tmp_path / "pictures", 8))
    job = run_job(collection, small_model, job.id)
    assert (job.counts.succeeded, job.counts.failed) == (7, 1)
    assert Path(list_items(collection, job.id, "failed")[0].path).name == "003.png"

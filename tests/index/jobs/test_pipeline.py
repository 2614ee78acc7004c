"""The concurrent pipeline: stages overlap, and memory is bounded."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from index.clips.segmentation import Segmentation
from index.collection import Collection
from index.jobs import pipeline
from index.jobs.jobs import list_items
from index.jobs.pipeline import ClosableQueue, PipelineConfig, StageTimer
from index.jobs.runner import run_job
from tests.index.jobs.fixtures import create_folder_job, make_pictures
from tests.media_files import write_color_video
from vitascope.errors import InvalidInput, MediaCorrupt
from vitascope.model import Model

PATIENCE = 120.0


def test_the_next_file_is_decoded_while_the_model_is_at_work(
    tmp_path: Path, collection: Collection, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = threading.Semaphore(0)
    decode, embed = pipeline.decode_clips, small_model.embed_video

    def decoding(*arguments: Any, **options: Any) -> Any:
        frames = decode(*arguments, **options)
        decoded.release()
        return frames

    def embedding(streams: Any) -> Any:
        for _ in range(3):  # this file's, and two more meanwhile
            assert decoded.acquire(timeout=PATIENCE)
        monkeypatch.undo()
        return embed(streams)

    monkeypatch.setattr(pipeline, "decode_clips", decoding)
    monkeypatch.setattr(small_model, "embed_video", embedding)
    job = create_folder_job(collection, make_pictures(tmp_path / "pictures", 6))
    assert run_job(collection, small_model, job.id).counts.succeeded == 6


def test_a_long_video_never_has_more_than_a_few_batches_in_memory(
    tmp_path: Path, collection: Collection, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = threading.Lock()
    alive = most = 0
    decode, embed = pipeline.decode_clips, small_model.embed_video

    def decoding(*arguments: Any, **options: Any) -> Any:
        nonlocal alive, most
        decoded = decode(*arguments, **options)
        with lock:
            alive += len(decoded.frames["high"])
            most = max(most, alive)
        return decoded

    def embedding(streams: Any) -> Any:
        nonlocal alive
        result = embed(streams)
        with lock:
            alive -= len(streams["high"])
        return result

    monkeypatch.setattr(pipeline, "decode_clips", decoding)
    monkeypatch.setattr(small_model, "embed_video", embedding)
    folder = tmp_path / "films"
    folder.mkdir()
    write_color_video(folder / "long.mp4", (255, 0, 0), seconds=64.0, rate=2)
    job = create_folder_job(collection, folder, segmentation=Segmentation(length=1.0))
    done = run_job(collection, small_model, job.id, config=PipelineConfig(decoders=2))
    assert done.counts.succeeded == 1
    assert collection.stats().clips == 64
    assert [clip.start for clip in collection.clips(1)] == [float(second) for second in range(64)]
    batches_in_work = 2 + pipeline.MAX_DECODED_BATCHES + -(-small_model.batch_size // 8)
    assert most <= batches_in_work * 8


def test_files_in_flight_are_bounded(
    tmp_path: Path, collection: Collection, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = create_folder_job(collection, make_pictures(tmp_path / "pictures", 12))
    running = []
    store = pipeline.store_video

    def counting(*arguments: Any) -> Any:
        running.append(len(list_items(collection, job.id, "running")))
        return store(*arguments)

    monkeypatch.setattr(pipeline, "store_video", counting)
    assert run_job(collection, small_model, job.id, config=PipelineConfig(in_flight=3)).counts.succeeded == 12
    assert 1 < max(running) <= 3


def test_a_file_that_fails_in_a_common_batch_fails_alone(
    tmp_path: Path, collection: Collection, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = small_model.embed_video

    def picky(streams: Any) -> Any:
        if (streams["high"][:, 0, 0, 0, 0, 0] == 3).any():  # the picture with number 3
            raise MediaCorrupt("the third is poison")
        return embed(streams)

    monkeypatch.setattr(small_model, "embed_video", picky)
    job = create_folder_job(collection, make_pictures(tmp_path / "pictures", 8))
    done = run_job(collection, small_model, job.id)
    assert (done.counts.succeeded, done.counts.failed) == (7, 1)
    assert Path(list_items(collection, job.id, "failed")[0].path).name == "003.png"


def test_the_timer_adds_up_the_seconds_of_each_stage(
    tmp_path: Path, collection: Collection, small_model: Model
) -> None:
    timer = StageTimer()
    run_job(collection, small_model, create_folder_job(collection, make_pictures(tmp_path / "p", 3)).id, timer=timer)
    assert set(timer.seconds()) == {"prepare", "decode", "embed", "store"}
    assert all(seconds > 0 for seconds in timer.seconds().values())


@pytest.mark.parametrize("name", ["in_flight", "openers", "decoders", "decoder_threads"])
def test_a_pipeline_setting_below_one_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"{name}: 0"):
        PipelineConfig(**{name: 0})


def test_closing_a_queue_wakes_waiting_threads() -> None:
    channel: ClosableQueue[int] = ClosableQueue(1)
    assert channel.put(1)
    refused: list[bool] = []
    waiting = threading.Thread(target=lambda: refused.append(channel.put(2)))
    waiting.start()
    channel.close()
    waiting.join(PATIENCE)
    assert refused == [False]
    assert channel.get() is None

"""Jobs: every file of a source gets a final state with the reason, and jobs and files are listed."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest.mock import create_autospec

import pytest

from index.clips.rules import Segmentation
from index.collection import Collection
from index.jobs import ingest, pipeline
from index.jobs.execution import Executor, RunContext
from index.jobs.jobs import cancel, create_job, current_job_event, get_job, list_items, pause, resume, retry
from index.jobs.pipeline import ItemResult, PipelineConfig
from index.jobs.records import JobItem, JobOptions
from index.jobs.runner import run_job
from index.jobs.sources.fetcher import Fetcher
from index.jobs.sources.source_types import FolderSource
from index.storage.filters import parse_filter
from tests.index.jobs.fixtures import SEQUENTIAL, create_folder_job, outcomes
from tests.index.sample_data import new_collection
from tests.media_files import solid, write_color_video, write_picture, write_truncated
from vitascope.errors import BundleCorrupt, FingerprintMismatch, InvalidInput, JobNotFound
from vitascope.media.file import MediaFile
from vitascope.model import Model


def test_every_file_of_a_mixed_folder_ends_with_its_reason(
    tmp_path: Path, collection: Collection, small_model: Model
) -> None:
    folder = tmp_path / "mixed"
    (folder / "deep").mkdir(parents=True)
    write_color_video(folder / "a.mp4", (255, 0, 0))
    write_picture(folder / "deep" / "b.png", solid((0, 255, 0)))
    shutil.copy(folder / "a.mp4", folder / "deep" / "same as a.mp4")
    write_truncated(folder / "a.mp4", folder / "cut.mp4", 0.5)
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("words " * 100)
    (folder / "notes.txt").write_text("words")
    job = create_folder_job(collection, folder, metadata={"source": "mixed"})
    assert (job.state, job.counts.total, job.source) == ("queued", 0, FolderSource(str(folder)))

    reports: list[tuple[str, int, int]] = []
    job = run_job(
        collection, small_model, job.id, on_item=lambda i, n, total: reports.append((Path(i.path).name, n, total))
    )

    assert (job.state, job.error) == ("succeeded", None)
    assert (job.counts.succeeded, job.counts.failed, job.counts.skipped, job.counts.total) == (2, 3, 2, 7)
    states = outcomes(collection, job.id)
    assert list(states) == ["a.mp4", "cut.mp4", "b.png", "same as a.mp4", "empty.mp4", "notes.txt", "text.mp4"]
    video = next(video for video in collection.videos() if video.path == str(folder / "a.mp4"))
    assert states["a.mp4"] == states["b.png"] == ("succeeded", None)
    known = f"the collection has this content already: video {video.id}, {folder / 'a.mp4'}"
    assert states["same as a.mp4"] == ("skipped", known)
    assert states["notes.txt"] == ("skipped", "not a media file (.txt)")
    for name, reason in (("cut.mp4", "cut.mp4: "), ("empty.mp4", "0 bytes"), ("text.mp4", "the content is text")):
        assert states[name][0] == "failed"
        assert reason in (states[name][1] or "")
    assert sorted(name for name, _, _ in reports) == sorted(set(states) - {"notes.txt"})
    assert [(number, total) for _, number, total in reports] == [(number, 7) for number in range(2, 8)]
    assert len(collection.videos(where=parse_filter({"source": "mixed"}))) == 2


def test_files_of_one_content_are_one_video(tmp_path: Path, collection: Collection, small_model: Model) -> None:
    for name in "abcdef":
        write_picture(tmp_path / f"{name}.png", solid((9, 9, 9)))
    job = run_job(collection, small_model, create_folder_job(collection, tmp_path, recursive=False).id)
    assert (job.counts.succeeded, job.counts.skipped) == (1, 5)
    assert outcomes(collection, job.id)["a.png"] == ("succeeded", None)


def test_a_second_job_skips_known_content_and_adds_the_rest(
    collection: Collection, pictures: Path, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_job(collection, small_model, create_folder_job(collection, pictures).id)
    (pictures / "003.png").rename(pictures / "renamed.png")
    write_picture(pictures / "new.png", solid((1, 2, 3)))
    assert run_job(collection, small_model, first.id) == first  # a finished job is not run again
    decoded = []
    decode = pipeline.decode_clips
    monkeypatch.setattr(pipeline, "decode_clips", lambda *args, **kw: decoded.append(args) or decode(*args, **kw))
    second = run_job(collection, small_model, create_folder_job(collection, pictures).id)
    assert len(decoded) == 1
    assert (second.counts.skipped, second.counts.refreshed, second.counts.succeeded) == (9, 1, 1)
    assert collection.stats().videos == 11


def test_options_apply_to_the_clips_and_are_stored(tmp_path: Path, collection: Collection, small_model: Model) -> None:
    folder = tmp_path / "v"
    (folder / "deep").mkdir(parents=True)
    write_color_video(folder / "a.mp4", (255, 0, 0), seconds=4.0)
    write_color_video(folder / "deep" / "b.mp4", (0, 0, 255))
    options = JobOptions(Segmentation(length=1.0, overlap=0.5), {"year": 2020, "ok": True})
    job = create_job(collection, FolderSource(str(folder), recursive=False), options)
    assert get_job(collection, job.id).options == options
    assert get_job(collection, job.id).source == FolderSource(str(folder), recursive=False)
    run_job(collection, small_model, job.id)
    (video,) = collection.videos()
    assert video.metadata == {"year": 2020, "ok": True}
    assert [clip.start for clip in collection.clips(video.id)][:3] == [0.0, 0.5, 1.0]


def test_a_job_whose_folder_is_missing_fails_and_can_be_retried(
    collection: Collection, pictures: Path, small_model: Model
) -> None:
    job = create_folder_job(collection, pictures)
    moved = pictures.rename(pictures.with_name("moved"))
    job = run_job(collection, small_model, job.id)
    assert (job.state, job.error) == (
        "failed",
        f"folder {pictures}: cannot be listed: No such file or directory",
    )
    moved.rename(pictures)
    assert retry(collection, job.id).error is None
    assert run_job(collection, small_model, job.id).counts.succeeded == 10


def test_a_folder_that_vanishes_during_the_run_fails_the_job(
    collection: Collection, pictures: Path, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = create_folder_job(collection, pictures)
    fetch = Fetcher.fetch

    def fetch_until_the_fourth(self: Fetcher, uri: str, position: int) -> MediaFile:
        if uri.endswith("003.png"):
            shutil.rmtree(pictures)
        return fetch(self, uri, position)

    monkeypatch.setattr(Fetcher, "fetch", fetch_until_the_fourth)
    job = run_job(collection, small_model, job.id, config=SEQUENTIAL)
    assert (job.state, job.error) == ("failed", f"folder {pictures}: does not exist any more")
    assert (job.counts.succeeded, job.counts.failed) == (3, 7)
    assert outcomes(collection, job.id)["003.png"] == ("failed", "003.png: no such file; a readable file was expected")
    assert outcomes(collection, job.id)["009.png"] == ("failed", f"not tried: {job.error}")


def test_a_defect_in_one_file_does_not_end_the_job(
    collection: Collection, pictures: Path, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = ingest.prepare_file

    def fail_on_one(source: ingest.HashedFile, *arguments: object, **options: object) -> object:
        if source.media.name == "004.png":
            raise ZeroDivisionError("of no use")
        return prepare(source, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ingest, "prepare_file", fail_on_one)
    job = run_job(collection, small_model, create_folder_job(collection, pictures).id)
    assert (job.state, job.counts.succeeded, job.counts.failed) == ("succeeded", 9, 1)
    assert outcomes(collection, job.id)["004.png"] == ("failed", "unexpected ZeroDivisionError: of no use")


def test_a_bundle_that_cannot_be_used_fails_the_job(
    collection: Collection, pictures: Path, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> object:
        raise BundleCorrupt("video.onnx: SHA-256 is not what the manifest states")

    monkeypatch.setattr(small_model, "embed_video", fail)
    job = run_job(collection, small_model, create_folder_job(collection, pictures).id)
    assert (job.state, job.error) == ("failed", "video.onnx: SHA-256 is not what the manifest states")
    assert job.counts.failed == 10


def test_a_job_fails_where_an_error_of_the_bundle_concerns_several_files_at_once(
    collection: Collection, pictures: Path, small_model: Model
) -> None:
    error = BundleCorrupt("video.onnx: SHA-256 is not what the manifest states")

    class FailingBackend:
        """Reports the error of one file, and those of the others when it is stopped."""

        is_local = True

        def executor(self, _: RunContext) -> Executor:
            executor = create_autospec(Executor, instance=True)
            executor.__enter__.return_value = executor
            executor.submit.side_effect = lambda item: results.append(ItemResult(item, None, error))
            executor.results.side_effect = lambda _: [results.pop()]
            executor.cancel.side_effect = lambda: results
            return executor

    results: list[ItemResult[JobItem]] = []
    job = run_job(collection, small_model, create_folder_job(collection, pictures).id, backend=FailingBackend())
    assert len(results) == PipelineConfig().in_flight - 1
    assert (job.state, job.error, job.counts.failed) == ("failed", str(error), 10)


def test_an_unknown_job_and_invalid_arguments_are_named(
    tmp_path: Path, collection: Collection, pictures: Path, small_model: Model
) -> None:
    for operation in (get_job, list_items, cancel, pause, resume, retry, current_job_event):
        for job_id in (99, -1, 2**70):
            with pytest.raises(JobNotFound, match="no job"):
                operation(collection, job_id)
    with pytest.raises(JobNotFound, match="no job"):
        run_job(collection, small_model, 99)
    with pytest.raises(InvalidInput, match="metadata: key 'path'"):
        create_folder_job(collection, pictures, metadata={"path": 1})
    with pytest.raises(FingerprintMismatch), new_collection(tmp_path / "others") as others:
        run_job(others, small_model, create_folder_job(others, pictures).id)


def test_the_rate_counts_files_and_seconds_of_video(tmp_path: Path, collection: Collection, small_model: Model) -> None:
    for number, color in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255)]):
        write_color_video(tmp_path / f"{number}.mp4", color, seconds=2.0)
    job = create_folder_job(collection, tmp_path, recursive=False)
    assert job.rate is None
    rates = []

    def record_rate(item: JobItem, done: int, total: int) -> None:
        rates.append(get_job(collection, job.id).rate)

    rate = run_job(collection, small_model, job.id, on_item=record_rate, config=SEQUENTIAL).rate
    assert rates[0] is not None
    assert rates[0].seconds_left == pytest.approx(2 / rates[0].items, rel=0.01)
    assert rate is not None
    assert rate.seconds_left is None
    assert rate.video_seconds == pytest.approx(2 * rate.items, rel=0.05)
    assert get_job(collection, job.id).rate == rate  # fixed once the job is finished

"""Folder jobs: every file gets a final state with the reason."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from index.clips.segmentation import Segmentation
from index.collection import Collection
from index.jobs import execution as job_work
from index.jobs.jobs import cancel, get_job, list_items, list_jobs
from index.jobs.records import JobOptions
from index.jobs.runner import run_job
from index.jobs.sources.fetcher import Fetcher
from index.jobs.sources.source_types import FolderSource
from index.storage.filters import parse_filter
from tests.index.jobs.folder_jobs import ONE, create_folder_job, outcomes
from tests.index.numbered import new_collection
from tests.media_files import solid, write_color_video, write_picture, write_truncated
from vitascope.errors import (
    BundleCorrupt,
    FingerprintMismatch,
    InvalidInput,
    JobNotFound,
)
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

    seen: list[tuple[str, int, int]] = []
    done = run_job(
        collection, small_model, job.id, on_item=lambda i, n, total: seen.append((Path(i.path).name, n, total))
    )

    assert (done.state, done.error) == ("succeeded", None)
    assert (done.counts.succeeded, done.counts.failed, done.counts.skipped, done.counts.total) == (2, 3, 2, 7)
    found = outcomes(collection, job.id)
    assert list(found) == ["a.mp4", "cut.mp4", "b.png", "same as a.mp4", "empty.mp4", "notes.txt", "text.mp4"]
    video = next(video for video in collection.videos() if video.path == str(folder / "a.mp4"))
    assert found["a.mp4"] == found["b.png"] == ("succeeded", None)
    assert found["same as a.mp4"] == (
        "skipped",
        f"the collection has this content already: video {video.id}, {folder / 'a.mp4'}",
    )
    assert found["notes.txt"] == ("skipped", "not a media file (.txt)")
    for name, reason in (("cut.mp4", "cut.mp4: "), ("empty.mp4", "0 bytes"), ("text.mp4", "the content is text")):
        state, text = found[name]
        assert state == "failed"
        assert reason in (text or "")
    assert sorted(name for name, _, _ in seen) == sorted(set(found) - {"notes.txt"})
    assert [(n, total) for _, n, total in seen] == [(n, 7) for n in range(2, 8)]
    assert len(collection.videos(where=parse_filter({"source": "mixed"}))) == 2


def test_a_second_job_skips_what_the_collection_has_and_adds_the_rest(
    collection: Collection, pictures: Path, small_model: Model
) -> None:
    run_job(collection, small_model, create_folder_job(collection, pictures).id)
    (pictures / "003.png").rename(pictures / "renamed.png")
    write_picture(pictures / "new.png", solid((1, 2, 3)))
    again = run_job(collection, small_model, create_folder_job(collection, pictures).id)
    assert (again.counts.skipped, again.counts.succeeded) == (10, 1)
    assert collection.stats().videos == 11


def test_options_apply_to_the_clips_and_are_stored(tmp_path: Path, collection: Collection, small_model: Model) -> None:
    (tmp_path / "v" / "deep").mkdir(parents=True)
    write_color_video(tmp_path / "v" / "a.mp4", (255, 0, 0), seconds=4.0)
    write_color_video(tmp_path / "v" / "deep" / "b.mp4", (0, 0, 255))
    options = JobOptions(Segmentation(length=1.0, overlap=0.5), {"year": 2020, "ok": True})
    job = create_folder_job(
        collection,
        tmp_path / "v",
        recursive=False,
        segmentation=options.segmentation,
        metadata=options.metadata,
    )
    assert get_job(collection, job.id).options == options
    assert get_job(collection, job.id).source == FolderSource(str(tmp_path / "v"), recursive=False)
    run_job(collection, small_model, job.id)
    (video,) = collection.videos()
    assert video.metadata == {"year": 2020, "ok": True}
    assert [clip.start for clip in collection.clips(video.id)][:3] == [0.0, 0.5, 1.0]


def test_jobs_are_listed_newest_first_and_items_in_pages(
    collection: Collection, pictures: Path, small_model: Model
) -> None:
    job = [create_folder_job(collection, pictures) for _ in range(3)]
    assert [j.id for j in list_jobs(collection)] == [j.id for j in reversed(job)]
    assert [j.id for j in list_jobs(collection, limit=1, before_id=job[2].id)] == [job[1].id]
    run_job(collection, small_model, job[0].id)
    first = list_items(collection, job[0].id, limit=4)
    rest = list_items(collection, job[0].id, "succeeded", after_position=first[-1].position)
    assert [Path(i.path).name for i in first + rest] == [f"{n:03}.png" for n in range(10)]
    assert list_items(collection, job[0].id, "failed") == []


def test_a_finished_job_is_not_run_again(collection: Collection, pictures: Path, small_model: Model) -> None:
    job = create_folder_job(collection, pictures)
    done = run_job(collection, small_model, job.id)
    write_picture(pictures / "later.png", solid((1, 2, 3)))
    assert run_job(collection, small_model, job.id) == done
    assert collection.stats().videos == 10


def test_a_folder_that_vanished_before_the_start_fails_the_job(
    collection: Collection, pictures: Path, small_model: Model
) -> None:
    job = create_folder_job(collection, pictures)
    shutil.rmtree(pictures)
    done = run_job(collection, small_model, job.id)
    assert done.state == "failed"
    assert done.error == f"folder {pictures}: cannot be listed: No such file or directory"


def test_a_folder_that_vanishes_during_the_run_fails_the_job(
    collection: Collection, pictures: Path, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = create_folder_job(collection, pictures)
    # The fourth file is begun as the third is noted: at that moment the folder goes.
    real = Fetcher.fetch

    def gone(self: Fetcher, uri: str, position: int) -> MediaFile:
        if uri.endswith("003.png"):
            shutil.rmtree(pictures)
        return real(self, uri, position)

    monkeypatch.setattr(Fetcher, "fetch", gone)
    done = run_job(collection, small_model, job.id, config=ONE)
    assert (done.state, done.error) == ("failed", f"folder {pictures}: does not exist any more")
    assert (done.counts.succeeded, done.counts.failed) == (3, 7)
    assert outcomes(collection, job.id)["003.png"] == ("failed", "003.png: no such file; a readable file was expected")
    assert outcomes(collection, job.id)["009.png"] == ("failed", f"not tried: {done.error}")


def test_a_defect_in_one_file_does_not_end_the_job(
    collection: Collection, pictures: Path, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = job_work.prepare_file

    def defect(source: MediaFile, *arguments: object, **options: object) -> object:
        if source.media.name == "004.png":
            raise ZeroDivisionError("of no use")
        return real(source, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(job_work, "prepare_file", defect)
    job = create_folder_job(collection, pictures)
    done = run_job(collection, small_model, job.id)
    assert (done.state, done.counts.succeeded, done.counts.failed) == ("succeeded", 9, 1)
    assert outcomes(collection, job.id)["004.png"] == ("failed", "unexpected ZeroDivisionError: of no use")


def test_a_bundle_that_cannot_be_used_fails_the_job(
    collection: Collection, pictures: Path, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> object:
        raise BundleCorrupt("video.onnx: SHA-256 is not what the manifest states")

    monkeypatch.setattr(small_model, "embed_video", broken)
    job = create_folder_job(collection, pictures)
    done = run_job(collection, small_model, job.id)
    assert (done.state, done.error) == ("failed", "video.onnx: SHA-256 is not what the manifest states")
    assert done.counts.failed == 10


def test_an_unknown_job_and_invalid_arguments_are_named(
    tmp_path: Path, collection: Collection, pictures: Path, small_model: Model
) -> None:
    for use in (
        lambda: get_job(collection, 99),
        lambda: list_items(collection, 99),
        lambda: cancel(collection, 99),
        lambda: run_job(collection, small_model, 99),
        lambda: get_job(collection, 2**70),
    ):
        with pytest.raises(JobNotFound, match="no job"):
            use()
    for folder in (tmp_path / "nowhere", pictures / "001.png"):
        with pytest.raises(InvalidInput, match=f"folder: '{folder}' is not a folder"):
            create_folder_job(collection, folder)
    with pytest.raises(InvalidInput, match="metadata: key 'path'"):
        create_folder_job(collection, pictures, metadata={"path": 1})
    with pytest.raises(FingerprintMismatch), new_collection(tmp_path / "others") as others:
        run_job(others, small_model, create_folder_job(others, pictures).id)

"""Speech and screen text are recognised once a video is stored; failures, stops and kills lose neither."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from index.clips.rules import Rule, Segmentation
from index.collection import Collection
from index.collection_store import CollectionStore
from index.jobs import execution
from index.jobs.ingest import PreparedFile
from index.jobs.jobs import cancel, create_job, get_job, list_items, pause, resume
from index.jobs.recognition import JobRecognition, VideoRecognition, recognize_collection
from index.jobs.recognition_settings import (
    RecognitionSettings,
    merge_settings,
    read_recognition_settings,
    write_recognition_settings,
)
from index.jobs.records import Job, JobOptions, RecognitionCounts
from index.jobs.runner import run_job
from index.jobs.sources.source_types import FilesSource, FolderSource
from index.recognitions import load_recognitions, load_screen_text, load_speech
from index.records import Video
from index.transfer.backup import backup_collection, restore_collection
from tests.index.jobs.fixtures import ingest_file
from tests.index.jobs.recognition_worker import MODULE, recognizers
from tests.index.sample_data import allowed
from tests.media_files import write_color_video
from tests.waiting import wait_for
from vitascope.errors import DecodingUnavailable, InvalidInput
from vitascope.model import Model
from vitascope.sandbox.recognition import Recognizer
from vitascope.sandbox.recognizers import Recognizers

ROOT = Path(__file__).parents[3]
RED, BLUE = (220, 10, 10), (10, 10, 220)


@pytest.fixture
def quick() -> Iterator[Recognizers]:
    with recognizers() as opened:
        yield opened


def create(
    collection: Collection,
    folder: Path,
    transcribe: str | None = "default",
    read_text: float | None = None,
    rule: Rule = "windows",
) -> Job:
    options = JobOptions(Segmentation(rule=rule), transcribe=transcribe, read_text=read_text)
    return create_job(collection, FolderSource(str(folder)), options)


def run(collection: Collection, model: Model, job: Job, used: Recognizers) -> Job:
    return run_job(collection, model, job.id, recognition=JobRecognition(used))


def videos(collection: Collection) -> dict[str, Video]:
    return {video.title: video for video in collection.videos()}


def states(collection: Collection, job: Job) -> dict[str, tuple[str, str | None]]:
    return {Path(item.path).stem: (item.state, item.reason) for item in list_items(collection, job.id)}


def test_a_job_recognises_what_it_stores_and_repeats_nothing(
    collection: Collection, small_model: Model, talks: Path, quick: Recognizers
) -> None:
    """Videos with subtitles are not transcribed, and pictures have text on screen."""
    first = create(collection, talks, read_text=0.5)
    done = run(collection, small_model, first, quick)
    assert states(collection, first)["slide"] == ("succeeded", "screen text: too many lines")
    assert (done.state, done.counts.succeeded) == ("succeeded", 3)
    assert done.recognitions == {"speech": RecognitionCounts(1, 0), "screen_text": RecognitionCounts(3, 0)}
    plain, subtitled, slide = (videos(collection)[name] for name in ("plain", "subtitled", "slide"))
    [segment] = load_speech(collection, plain.id)
    assert (segment.text, segment.language, segment.words[1].text) == ("brown foxes", "en", "foxes")
    assert [clip.text for clip in collection.clips(plain.id)] == ["brown foxes"]
    assert [each.text for each in load_speech(collection, subtitled.id)] == ["as it is written"]
    assert load_recognitions(collection, subtitled.id).keys() == {"screen_text"}
    [span] = load_screen_text(collection, plain.id)
    assert (span.text, span.start, span.end) == ("RED", 0.0, pytest.approx(2.0))
    assert [(line.text, line.end) for line in load_screen_text(collection, slide.id)] == [("BLUE", 0.0)]
    again = create(collection, talks, read_text=0.5)
    run(collection, small_model, again, quick)
    assert {state for state, _ in states(collection, again).values()} == {"skipped"}
    subtitled_too = VideoRecognition(collection, quick, "speech", includes_subtitled=True)
    assert recognize_collection(subtitled_too).recognized == 1
    assert [clip.text for clip in collection.clips(subtitled.id)] == ["as it is written"]
    assert [each.text for each in load_speech(collection, subtitled.id, "transcript")] == ["brown foxes"]


def test_videos_without_subtitles_are_cut_by_the_sentences_of_their_transcript(
    collection: Collection, small_model: Model, talks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each content is transcribed once, before it is stored. Stop requests interrupt that; a failure leaves windows."""
    for name, seconds in (("plain.mp4", 12.0), ("unheard.mp4", 16.0)):
        write_color_video(talks / name, RED, seconds, rate=2, sound_seconds=seconds)
    (talks / "slide.png").unlink()
    shutil.copy(talks / "plain.mp4", talks / "same.mp4")
    slow = tmp_path / "slow"
    slow.touch()
    runs: list[object] = []
    run_recognizer = Recognizer.run
    monkeypatch.setattr(Recognizer, "run", lambda *values: runs.append(values) or run_recognizer(*values))
    job = create(collection, talks, rule="subtitles")
    with recognizers(f"while:{slow}") as used, ThreadPoolExecutor(1) as thread:
        running = thread.submit(run, collection, small_model, job, used)
        wait_for(lambda: runs)
        pause(collection, job.id)
        assert (running.result().state, running.result().counts.queued) == ("paused", 3)
        assert videos(collection).keys() == {"subtitled"}
        slow.unlink()
        runs.clear()
        resume(collection, job.id)
        done = run(collection, small_model, job, used)
    assert (done.state, done.recognitions["speech"], len(runs)) == ("succeeded", RecognitionCounts(1, 1), 2)
    assert states(collection, job)["plain"] == ("succeeded", None)
    reason = "no subtitles; cut into windows of 8 s; no speech: fake: out of ideas"
    assert states(collection, job)["unheard"] == ("succeeded", reason)
    plain = videos(collection)["plain"]
    clips = [(clip.start, clip.end, clip.text) for clip in collection.clips(plain.id)]
    assert clips == [(0.0, pytest.approx(5.4), "Brown foxes jump."), (pytest.approx(5.4), 12.0, "They rest.")]
    assert [part.end for part in load_speech(collection, plain.id, "transcript")] == [4.8, 11.0]
    assert load_speech(collection, plain.id, "subtitles") == []
    recognition = load_recognitions(collection, plain.id)["speech"]
    assert (recognition.model, recognition.state) == ("fake/slow", "done")


def test_a_file_whose_equal_is_stored_while_it_is_prepared_is_not_transcribed(
    collection: Collection, small_model: Model, talks: Path, quick: Recognizers, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(talks / "plain.mp4", talks / "same.mp4")
    prepare, run_recognizer, runs = execution.prepare_item, Recognizer.run, []

    def prepare_late(*values: Any) -> PreparedFile:
        if values[1].path.endswith("same.mp4"):
            wait_for(lambda: states(collection, job)["plain"][0] == "succeeded")
        return prepare(*values)

    monkeypatch.setattr(execution, "prepare_item", prepare_late)
    monkeypatch.setattr(Recognizer, "run", lambda *values: runs.append(values) or run_recognizer(*values))
    job = create(collection, talks, rule="subtitles")
    run(collection, small_model, job, quick)
    assert (states(collection, job)["same"][0], len(runs)) == ("skipped", 1)


def test_a_file_that_another_job_stores_while_it_is_prepared_is_recognised(
    collection: Collection, small_model: Model, talks: Path, quick: Recognizers, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, path = execution.prepare_item, talks / "plain.mp4"

    def store_meanwhile(*values: Any) -> PreparedFile:
        monkeypatch.setattr(execution, "prepare_item", prepare)
        prepared = prepare(*values)
        ingest_file(collection, small_model, path)
        return prepared

    monkeypatch.setattr(execution, "prepare_item", store_meanwhile)
    job = create_job(collection, FilesSource((str(path),)), JobOptions(read_text=1.0))
    run(collection, small_model, job, quick)
    assert states(collection, job)["plain"][0] == "refreshed"
    assert load_recognitions(collection, 1)["screen_text"].state == "done"


def test_a_failure_is_stored_and_what_is_indexed_is_tried_again(
    collection: Collection, small_model: Model, talks: Path, quick: Recognizers
) -> None:
    for name in ("subtitled.mp4", "subtitled.srt"):
        (talks / name).unlink()
    job = create(collection, talks)
    with recognizers("crash") as crashing:
        done = run(collection, small_model, job, crashing)
    assert (done.state, done.counts.succeeded) == ("succeeded", 2)
    assert done.recognitions == {"speech": RecognitionCounts(0, 1)}
    reason = "plain.mp4: the speech recogniser crashed on it (exit status 3)"
    assert states(collection, job) == {"plain": ("succeeded", f"no speech: {reason}"), "slide": ("succeeded", None)}
    plain = videos(collection)["plain"]
    recognition = load_recognitions(collection, plain.id)["speech"]
    assert (recognition.model, recognition.state, recognition.reason) == ("fake/crash", "failed", reason)
    with recognizers("fail") as failing:
        result = recognize_collection(VideoRecognition(collection, failing, "speech"))
    assert result == (0, [(plain, "fake: out of ideas")])
    missing = "missing: model: 'missing'; a folder with a model was expected"
    with recognizers("missing") as none, pytest.raises(DecodingUnavailable, match=missing):
        recognize_collection(VideoRecognition(collection, none, "speech"))
    titles: list[str] = []
    operation = VideoRecognition(collection, quick, "speech")
    result = recognize_collection(operation, lambda done, total, title: titles.append(title))
    assert (result.recognized, result.failed, set(titles)) == (1, [], {"plain"})
    assert [clip.text for clip in collection.clips(plain.id)] == ["brown foxes"]
    assert recognize_collection(operation) == (0, [])


def test_a_stop_request_interrupts_recognition_and_a_resumed_job_goes_on(
    collection: Collection, small_model: Model, talks: Path, tmp_path: Path, quick: Recognizers
) -> None:
    slow = tmp_path / "slow"
    slow.touch()
    (talks / "subtitled.mp4").unlink()
    job = create(collection, talks)
    with recognizers(f"while:{slow}") as used, ThreadPoolExecutor(1) as thread:
        for stop, state in ((pause, "paused"), (cancel, "cancelled")):
            running = thread.submit(run, collection, small_model, job, used)
            wait_for(lambda: "plain" in videos(collection) and get_job(collection, job.id).counts.running == 1)
            assert collection.clips(videos(collection)["plain"].id)  # searchable by now
            stop(collection, job.id)
            stopped = running.result()
            assert stopped.state == state
            if state == "paused":
                assert (stopped.counts.queued, stopped.counts.failed) == (1, 0)
                resume(collection, job.id)
    assert states(collection, job)["plain"] == ("succeeded", "not all recognised: the job was cancelled")
    assert load_recognitions(collection, videos(collection)["plain"].id) == {}


def test_a_job_that_is_killed_while_it_recognises_catches_up(
    collection: Collection, small_bundle: Path, small_model: Model, talks: Path, tmp_path: Path, quick: Recognizers
) -> None:
    slow = tmp_path / "slow"
    slow.touch()
    job = create(collection, talks, f"while:{slow}")
    command = [sys.executable, "-m", "tests.index.jobs.job_process", str(tmp_path / "library"), str(small_bundle)]
    with subprocess.Popen([*command, str(job.id), "--recognition", MODULE], cwd=ROOT) as process:
        wait_for(lambda: any(item.video_id for item in list_items(collection, job.id, "running")))
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert get_job(collection, job.id).state == "queued"
    slow.unlink()
    done = run(collection, small_model, job, quick)
    assert (done.state, done.counts.succeeded) == ("succeeded", 3)
    assert {item.crashes for item in list_items(collection, job.id) if item.path.endswith("plain.mp4")} == {0}
    assert [clip.text for clip in collection.clips(videos(collection)["plain"].id)] == ["brown foxes"]


def test_settings_of_a_collection_survive_a_backup(collection: Collection, tmp_path: Path) -> None:
    settings = merge_settings(RecognitionSettings(), transcribe=True, read_text=2, caption=True)
    write_recognition_settings(collection, settings)
    backup_collection(collection, tmp_path / "backup")
    with CollectionStore(tmp_path / "elsewhere") as library:
        restored = restore_collection(library, tmp_path / "backup", "again", allowed=allowed(library))
        assert read_recognition_settings(restored) == settings == ("default", 2.0, True)
    with pytest.raises(InvalidInput, match=r"read_text: 0\.01; 0\.1 to 3600 seconds"):
        merge_settings(settings, transcribe=False, read_text=0.01)
    write_recognition_settings(collection, merge_settings(settings, transcribe=False, read_text=False, caption=False))
    assert read_recognition_settings(collection) == (None, None, False)

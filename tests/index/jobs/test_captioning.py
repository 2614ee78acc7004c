"""Captions of the clips of stored videos: by jobs and for what is indexed, from stored tokens or the files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.collection import Collection
from index.collection_store import CollectionStore
from index.jobs.captioning import VideoCaptioning
from index.jobs.jobs import create_job, pause, resume
from index.jobs.recognition import recognize_collection
from index.jobs.records import Job, JobOptions, RecognitionCounts
from index.jobs.runner import run_job
from index.jobs.sources.source_types import FolderSource
from index.recognitions import load_recognitions
from tests.index.test_collection_command import run_json
from tests.media_files import solid, write_audio, write_color_video, write_picture
from tests.small_bundle import AUDIO, TONES, make_small_bundle
from tests.waiting import wait_for
from vitascope.cli.main import main
from vitascope.errors import TaskMissing
from vitascope.model import Model

COLORS = {"red": (220, 10, 10), "blue": (10, 10, 220)}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that captions pictures and sound."""
    tasks = ("retrieval", "audio_retrieval", "captioning")
    return make_small_bundle(tmp_path_factory.mktemp("bundle"), tasks=tasks, audio={**AUDIO, "fused": True})


@pytest.fixture(scope="module")
def model(bundle: Path) -> Model:
    return Model.open(bundle, threads=1, device="cpu")


@pytest.fixture
def collection(tmp_path: Path, model: Model) -> Iterator[Collection]:
    with CollectionStore(tmp_path / "library") as library:
        yield library.create("videos", model)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A red video and a blue picture."""
    folder = tmp_path / "films"
    folder.mkdir()
    write_color_video(folder / "red.mp4", COLORS["red"], 2.0, rate=5)
    write_picture(folder / "blue.png", solid(COLORS["blue"]))
    return folder


def create(collection: Collection, folder: Path, *, caption: bool = True) -> Job:
    return create_job(collection, FolderSource(str(folder)), JobOptions(caption=caption))


def write_tone(folder: Path, color: str) -> None:
    """Write a sound file with the tone of a colour."""
    tone = 0.5 * np.sin(2 * np.pi * TONES[color] * np.arange(8000) / 8000).astype(np.float32)
    write_audio(folder / f"{color}.flac", tone[None], 8000, "flac")


def captions(collection: Collection) -> dict[str, list[str]]:
    return {video.title: [clip.caption for clip in collection.clips(video.id)] for video in collection.videos()}


def test_a_job_captions_what_it_stores_and_repeats_nothing(collection: Collection, model: Model, folder: Path) -> None:
    write_tone(folder, "green")
    done = run_job(collection, model, create(collection, folder).id)
    assert (done.counts.succeeded, done.recognitions) == (3, {"caption": RecognitionCounts(3, 0)})
    expected = {name: [f"the {name} thing moves"] for name in ("red", "blue", "green")}
    assert captions(collection) == expected
    [video] = [video for video in collection.videos() if video.title == "red"]
    recognition = load_recognitions(collection, video.id)["caption"]
    assert (recognition.model.partition(":")[0], recognition.state) == ("small-colours@1", "done")
    again = create(collection, folder)
    assert run_job(collection, model, again.id).counts.skipped == 3


def test_a_paused_job_continues_with_the_video_that_it_was_captioning(
    collection: Collection, model: Model, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, generate, calls = create(collection, folder), Model.generate_captions, []

    def pause_at_the_second(*values: Any, is_cancelled: Any) -> Any:
        calls.append(values)
        if len(calls) == 2:
            pause(collection, job.id)
            wait_for(is_cancelled)
        return generate(*values, is_cancelled=is_cancelled)

    monkeypatch.setattr(Model, "generate_captions", pause_at_the_second)
    assert run_job(collection, model, job.id).state == "paused"
    assert sorted(text for own in captions(collection).values() for text in own)[0] == ""
    resume(collection, job.id)
    done = run_job(collection, model, job.id)
    assert (done.state, done.recognitions, len(calls)) == ("succeeded", {"caption": RecognitionCounts(2, 0)}, 3)


def test_stored_tokens_need_no_file_and_those_of_another_model_do(
    collection: Collection, model: Model, folder: Path, tmp_path: Path, small_model: Model
) -> None:
    write_tone(folder, "green")
    run_job(collection, model, create(collection, folder, caption=False).id)
    for name in ("red.mp4", "green.flac"):
        (folder / name).unlink()
    assert recognize_collection(VideoCaptioning(collection, model)) == (3, [])
    before = captions(collection)
    assert before == {name: [f"the {name} thing moves"] for name in ("red", "blue", "green")}
    other = Model.open(make_small_bundle(tmp_path / "other", seed=1, tasks=("retrieval", "captioning")), threads=1)
    result = recognize_collection(VideoCaptioning(collection, other))
    [(video, reason)] = result.failed
    assert (result.recognized, video.title, captions(collection)) == (1, "red", before)
    assert "red.mp4" in reason
    with pytest.raises(TaskMissing, match="caption: bundle small-colours has no task 'captioning'"):
        recognize_collection(VideoCaptioning(collection, small_model))


def test_the_commands_caption_and_search_captions(
    bundle: Path,
    small_bundle: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("VITASCOPE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("VITASCOPE_BUNDLE", str(small_bundle))
    # The commands of docs/captions.md about a collection.
    assert main(["index", str(folder), "--caption"]) == 2
    assert "caption: bundle small-colours has no task 'captioning'" in capsys.readouterr().err
    monkeypatch.setenv("VITASCOPE_BUNDLE", str(bundle))
    assert run_json(capsys, "index", str(folder / "red.mp4"))["added"] == 1
    assert run_json(capsys, "collection", "caption", "videos")["recognized"] == 1
    assert run_json(capsys, "collection", "set", "videos", "--caption")["caption"] is True
    assert run_json(capsys, "index", str(folder))["added"] == 1
    [result, _] = run_json(capsys, "search", "red thing moves", "--signals", "caption", "--group", "clip")["results"]
    assert (result["video"]["title"], result["caption"]) == ("red", "the red thing moves")
    assert result["signals"]["caption"]["matches"][0]["text"] == "red thing moves"

"""`vitascope jobs` and `vitascope video` in a data folder."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from index.cli import local_backend
from index.collection_store import CollectionStore
from index.jobs.jobs import create_job, pause, resume
from index.jobs.records import JobOptions
from index.jobs.sources.source_types import FolderSource
from tests.media_files import solid, write_picture
from vitascope.cli.main import main
from vitascope.model import Model

FOLLOW = ["jobs", "follow", "1", "--json"]


@pytest.fixture
def library(tmp_path: Path, small_bundle: Path, small_model: Model, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("VITASCOPE_BUNDLE", str(small_bundle))
    monkeypatch.setenv("VITASCOPE_DATA_DIR", str(tmp_path))
    (tmp_path / "pictures").mkdir()
    write_picture(tmp_path / "pictures" / "red.png", solid((220, 10, 10)))
    with CollectionStore(tmp_path / "collections") as library:
        library.create("videos", small_model)
        yield library


def test_follow_runs_a_queued_job(library: CollectionStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create_job(library.open("videos"), FolderSource(str(tmp_path / "pictures")))
    assert main(FOLLOW) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["job"]["state"], result["job"]["counts"]["succeeded"], result["failed"]) == ("succeeded", 1, 0)
    assert main(FOLLOW) == 0  # finished already
    assert json.loads(capsys.readouterr().out) == result


def test_all_failed_files_are_listed(
    library: CollectionStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f",{number}" for number in range(1100)]  # without a path
    films = tmp_path / "films.csv"
    films.write_text("\n".join(["path,title", *rows]))
    assert main(["index", str(films), "--json"]) == 3
    indexed = json.loads(capsys.readouterr().out)
    assert main(["jobs", "show", "1", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    for result in (indexed, shown):
        files = [failure["file"] for failure in result["failures"]]
        assert (len(files), len(set(files)), files[-1]) == (1100, 1100, "films.csv, line 1101")
    assert main(["jobs", "show", "1"]) == 0
    assert "and 1080 more; --json lists all" in capsys.readouterr().out


def test_follow_waits_for_a_paused_job(
    library: CollectionStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = library.open("videos")
    job = create_job(collection, FolderSource(str(tmp_path / "pictures")))
    pause(collection, job.id)
    intervals: list[float] = []

    def sleep(seconds: float) -> None:
        intervals.append(seconds)
        if len(intervals) == 3:
            resume(collection, job.id)

    monkeypatch.setattr(local_backend, "time", SimpleNamespace(sleep=sleep))
    assert main(FOLLOW) == 0
    assert intervals == [local_backend.POLL_SECONDS] * 3
    assert json.loads(capsys.readouterr().out)["job"]["state"] == "succeeded"


def test_follow_does_not_run_jobs_of_a_service(
    library: CollectionStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the service knows its allowed roots."""
    create_job(library.open("videos"), FolderSource(str(tmp_path / "pictures")), JobOptions(confined=True))
    assert main(FOLLOW) == 2
    assert "job 1: belongs to a service" in capsys.readouterr().err
    assert main(["jobs", "cancel", "1"]) == 0
    assert main(FOLLOW) == 2
    assert capsys.readouterr().err.endswith(f"job 1 of {tmp_path / 'pictures'}: cancelled\n")


def test_deleting_a_video_of_a_shard_deletes_its_copy(
    library: CollectionStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        shard.add(tmp_path / "pictures" / "red.png", "red.png")
    monkeypatch.chdir(tmp_path)
    assert main(["index", "shard.tar", "--data", "."]) == 0
    videos = library.open("videos")
    copy = videos.media_path(videos.get_video(1))
    assert copy.is_relative_to(tmp_path / "collections")
    assert main(["video", "delete", "1", "--yes", "--data", "."]) == 0
    assert "video 1 (red) deleted: 1 clips" in capsys.readouterr().out
    assert not copy.exists()

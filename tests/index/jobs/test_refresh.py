"""Indexing again refreshes paths, titles, metadata and subtitles, without embedding; edits stay."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from index.clips.rules import Segmentation
from index.collection import Collection
from index.edits import edit_video
from index.jobs import pipeline
from index.jobs.jobs import create_job, retry
from index.jobs.records import Job, JobOptions
from index.jobs.runner import run_job
from index.jobs.sources.source_types import ListSource
from index.records import Scalar
from index.serializers import video_dicts
from index.storage.filters import parse_filter
from tests.index.jobs.fixtures import create_folder_job, ingest_upload, outcomes
from tests.index.jobs.watched import Watched, nothing
from tests.media_files import solid, write_color_video, write_picture
from vitascope.errors import Conflict, MediaError
from vitascope.model import Model

SRT = "1\n00:00:00,000 --> 00:00:00,900\n{first}\n\n2\n00:00:01,000 --> 00:00:01,900\n{second}\n"


@pytest.fixture
def games(tmp_path: Path) -> Path:
    folder = tmp_path / "games"
    folder.mkdir()
    write_color_video(folder / "game.mp4", (200, 10, 10))
    return folder


class Indexer:
    """Indexes a folder or list in clips of a second."""

    def __init__(self, collection: Collection, model: Model) -> None:
        self.collection, self.model = collection, model

    def __call__(self, source: Path, **metadata: Scalar) -> Job:
        options = JobOptions(Segmentation(length=1.0), metadata)
        if source.is_dir():
            job = create_folder_job(
                self.collection, source, segmentation=options.segmentation, metadata=options.metadata
            )
        else:
            job = create_job(self.collection, ListSource(str(source)), options)
        return run_job(self.collection, self.model, job.id)

    @property
    def texts(self) -> list[str]:
        return [clip.text for clip in self.collection.clips(1)]


@pytest.fixture
def index(collection: Collection, small_model: Model, games: Path, monkeypatch: pytest.MonkeyPatch) -> Indexer:
    """An indexer that has indexed the folder, and embeds nothing any more."""
    indexer = Indexer(collection, small_model)
    indexer(games)

    def fail(*_: object) -> None:
        raise AssertionError("embedded again")

    monkeypatch.setattr(pipeline, "embed_clips", fail)
    return indexer


def test_new_subtitles_and_metadata_are_refreshed_without_embedding(index: Indexer, games: Path) -> None:
    (games / "game.srt").write_text(SRT.format(first="the whistle blows", second="a penalty"))
    job = index(games, shelf="south")
    assert (job.counts.succeeded, job.counts.refreshed, job.counts.skipped) == (0, 1, 1)
    assert outcomes(index.collection, job.id)["game.mp4"] == ("refreshed", "refreshed: metadata, subtitles")
    assert index.texts == ["the whistle blows", "a penalty"]
    [video] = index.collection.videos(where=parse_filter({"shelf": "south"}))
    assert video.metadata == {"shelf": "south"}
    again = index(games, shelf="south")
    assert (again.counts.refreshed, again.counts.skipped) == (0, 2)
    assert "already: video 1" in (outcomes(index.collection, again.id)["game.mp4"][1] or "")


def test_what_a_source_no_longer_states_stays(index: Indexer, games: Path) -> None:
    (games / "game.srt").write_text(SRT.format(first="one", second="two"))
    index(games, shelf="south")
    (games / "game.srt").unlink()
    assert index(games).counts.refreshed == 0
    assert (index.texts, index.collection.get_video(1).metadata) == (["one", "two"], {"shelf": "south"})


def test_a_list_gives_titles_that_a_folder_does_not_take_away(index: Indexer, games: Path, tmp_path: Path) -> None:
    films = tmp_path / "films.csv"
    films.write_text(f"path,title,year\n{games / 'game.mp4'},The final,2024\n")
    assert index(films).counts.refreshed == 1
    assert index(games).counts.refreshed == 0
    video = index.collection.get_video(1)
    assert (video.title, video.metadata) == ("The final", {"year": 2024})


def test_an_edit_stays_until_its_source_states_something_new(index: Indexer, games: Path, tmp_path: Path) -> None:
    films = tmp_path / "films.csv"
    films.write_text(f"path,title,year,site\n{games / 'game.mp4'},The final,2024,north\n")
    (games / "game.srt").write_text(SRT.format(first="one", second="two"))
    index(films)
    edit_video(
        index.collection,
        1,
        title="My title",
        metadata={"year": 2025, "site": None, "mine": True},
        subtitles=SRT.format(first="hand", second="written"),
    )
    assert index(films).counts.refreshed == 0
    video = index.collection.get_video(1)
    assert (video.title, video.metadata, index.texts) == (
        "My title",
        {"year": 2025, "mine": True},
        ["hand", "written"],
    )
    (games / "game.srt").write_text(SRT.format(first="three", second="four"))
    films.write_text(f"path,title,year,site\n{games / 'game.mp4'},Another title,2024,south\n")
    assert index(films).counts.refreshed == 1
    video = index.collection.get_video(1)
    assert (video.title, video.metadata, index.texts) == (
        "Another title",
        {"year": 2025, "mine": True, "site": "south"},
        ["three", "four"],
    )


def test_a_moved_file_is_found_again(index: Indexer, games: Path, tmp_path: Path) -> None:
    away = tmp_path / "away"
    games.rename(away)
    (away / "game.mp4").rename(away / "final.mp4")
    assert index.collection.media.is_missing(index.collection.get_video(1).path)
    job = index(away)
    moved = f"moved from {games / 'game.mp4'}; refreshed: title"
    assert outcomes(index.collection, job.id)["final.mp4"] == ("refreshed", moved)
    [video] = index.collection.videos()
    assert (video.path, video.title) == (str(away / "final.mp4"), "final")


def test_files_that_swap_their_names_are_found_again(collection: Collection, small_model: Model, games: Path) -> None:
    game, other, between = games / "game.mp4", games / "other.mp4", games / "between"
    write_color_video(other, (10, 10, 200), seconds=3)
    index = Indexer(collection, small_model)
    index(games)
    paths = {video.id: video.path for video in collection.videos()}
    game.rename(between)
    other.rename(game)
    between.rename(other)
    assert index(games).counts.refreshed == 2
    swapped = {str(game): str(other), str(other): str(game)}
    assert {video.id: video.path for video in collection.videos()} == {
        video_id: swapped[path] for video_id, path in paths.items()
    }


def test_a_video_whose_file_was_replaced_is_missing_until_the_file_is_restored(
    collection: Collection, small_model: Model, games: Path, tmp_path: Path
) -> None:
    def missing() -> dict[str, bool]:
        return {video["id"]: video["missing"] for video in video_dicts(collection, list(collection.videos()))}

    index, game, former = Indexer(collection, small_model), games / "game.mp4", tmp_path / "former.mp4"
    index(games)
    shutil.copy(game, former)
    write_color_video(game, (10, 10, 200), seconds=3)
    assert missing() == {"1": True}
    assert outcomes(collection, index(games).id)["game.mp4"] == ("succeeded", "replaced the file of video 1")
    assert missing() == {"1": True, "2": False}
    with pytest.raises(MediaError, match=r"game\.mp4: has other content than when it was indexed"):
        collection.media.open(collection.get_video(1))
    shutil.copy(former, game)
    assert index(games).counts.succeeded == 0
    assert missing() == {"1": False, "2": True}
    collection.media.open(collection.get_video(1)).close()


def test_a_missing_upload_plays_from_a_file_that_is_indexed(
    collection: Collection, small_model: Model, games: Path, tmp_path: Path
) -> None:
    shutil.copy(games / "game.mp4", tmp_path / "upload.mp4")
    upload = ingest_upload(collection, small_model, tmp_path / "upload.mp4", title="My upload")
    assert collection.location(upload) is None
    with pytest.raises(Conflict, match=f"its file is video {upload.id}; nothing to retry"):
        retry(collection, 1)
    collection.media_path(upload).unlink()
    run_job(collection, small_model, create_folder_job(collection, games).id)
    [video] = collection.videos()
    assert (video.id, video.title, video.path) == (upload.id, "My upload", str(games / "game.mp4"))
    assert collection.location(video) == video.path


def test_another_copy_of_a_file_is_a_duplicate(index: Indexer, games: Path, tmp_path: Path) -> None:
    shutil.copytree(games, tmp_path / "copy")
    (tmp_path / "copy" / "game.srt").write_text(SRT.format(first="other", second="words"))
    job = index(tmp_path / "copy", shelf="south")
    assert (job.counts.refreshed, job.duplicates) == (0, 1)
    video = index.collection.get_video(1)
    assert (video.path, video.metadata, index.texts) == (str(games / "game.mp4"), {}, ["", ""])


def test_a_watched_folder_refreshes_a_video_whose_subtitles_changed(watched: Watched, folder: Path) -> None:
    write_color_video(folder / "game.mp4", (200, 10, 10))
    write_picture(folder / "other.png", solid((0, 9, 0)))
    totals = watched(
        nothing,
        nothing,
        lambda: (folder / "game.en.srt").write_text(SRT.format(first="one", second="two")),
        nothing,
        nothing,
    )
    assert watched.events[2:] == [("refreshed", "game.mp4")]
    assert (totals.added, totals.refreshed) == (2, 1)
    [video] = watched.collection.videos(where=parse_filter({"title": "game"}))
    assert [clip.text for clip in watched.collection.clips(video.id)] == ["one two"]

"""Files that a collection owns: they come and go with the rows that need them, whenever a process dies."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from index.collection import Collection
from index.collection_store import CollectionStore
from index.jobs.jobs import cancel, list_jobs
from index.jobs.records import Job
from index.jobs.sources.source_types import UploadSource
from index.records import Video
from index.storage.removals import listed_removals
from tests.chaos import is_chaos
from tests.index.numbered import content, manifest, new_collection, new_video
from tests.index.owning import CONTENT, GIVEN, add, delete, hold
from tests.index.transfer.switching import DIED
from tests.waiting import PATIENCE
from vitascope.errors import CollectionNotFound, InvalidInput, StorageError

ROOT = Path(__file__).parents[2]
PATH = f"media/{content(1)}.mp4"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A library with an empty collection, `videos`, and a file that is handed over beside it."""
    root = tmp_path / "library"
    new_collection(root).close()
    give(root)
    return root


def give(root: Path) -> Path:
    file = root.parent / GIVEN
    file.write_bytes(CONTENT)
    return file


def files(collection: Collection) -> list[Path]:
    """All files in the collection's folder of media."""
    return [path for path in collection.media.folder.rglob("*") if path.is_file()]


def needed(collection: Collection) -> list[Path]:
    """The files that videos and unfinished jobs of the collection need."""
    sources = [job.source for job in list_jobs(collection) if job.state not in ("cancelled", "failed")]
    uploads = [collection.media.file(source.stored_path) for source in sources if isinstance(source, UploadSource)]
    return [collection.media_path(video) for video in collection.videos()] + uploads


@pytest.mark.parametrize(
    ("before", "action", "done"),
    [
        ([], "add", lambda collection: len(collection.videos()) == 1),
        ([add], "delete", lambda collection: not collection.videos()),
        ([], "hold", lambda collection: len(list_jobs(collection)) == 1),
        ([hold], "end", lambda collection: list_jobs(collection)[0].state == "cancelled"),
    ],
)
def test_a_kill_at_any_step_leaves_no_file_over_and_none_missing(
    root: Path,
    tmp_path: Path,
    before: list[Callable[[Collection], None]],
    action: str,
    done: Callable[[Collection], bool],
) -> None:
    with CollectionStore(root) as library:
        for prepare in before:
            prepare(library.open("videos"))
    give(root)
    command = [sys.executable, "-m", "tests.index.owning"]
    seen = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as starter:
        assert starter.stdin is not None
        assert starter.stdout is not None
        for step in itertools.count(0, 1 if is_chaos() else 3):
            copy = tmp_path / str(step) / "library"
            shutil.copytree(root, copy)
            give(copy)
            starter.stdin.write(f"{copy} {action} {step}\n")
            starter.stdin.flush()
            status = int(starter.stdout.readline())
            assert status in (0, DIED)
            with CollectionStore(copy) as library:
                collection = library.open("videos")
                seen.append(done(collection))
                assert files(collection) == needed(collection)
                assert all(file.read_bytes() == CONTENT for file in files(collection))
                with collection.catalogue.read() as connection:
                    assert listed_removals(connection) == []
            if status == 0:
                break
        starter.stdin.close()
    assert seen == sorted(seen)
    assert set(seen) == {False, True}
    assert step > 5


def test_concurrent_uploads_and_deletion_of_one_content_leave_video_and_file_or_neither(root: Path) -> None:
    """Every pair of an upload and a deletion, whichever of them comes first at each step."""
    with CollectionStore(root) as library:
        collection = library.open("videos")
        going = threading.Barrier(4)
        problems: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for turn in range(20):
                    going.wait(PATIENCE)
                    if number == 0:
                        for video in collection.videos():
                            collection.delete_video(video.id)
                    else:
                        file = root.parent / f"{number}-{turn}.mp4"
                        file.write_bytes(CONTENT)
                        video, clips = new_video(1)
                        collection.add_if_new(replace(video, path=PATH), clips, file)
                    going.wait(PATIENCE)
                    assert files(collection) == needed(collection)
                    going.wait(PATIENCE)
            except BaseException as error:
                problems.append(error)
                going.abort()

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert problems == []


def test_a_file_deleted_between_the_steps_of_an_upload_is_written_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload lists its file before it moves it in; a deletion of the same content takes it off the list again."""
    with CollectionStore(root) as library:
        collection = library.open("videos")
        add(collection)
        given = give(root)
        (first,) = collection.videos()
        write = collection.catalogue.write
        calls = itertools.count()

        def interrupted() -> object:
            if next(calls) == 1:  # between the two steps
                collection.delete_video(first.id)
            return write()

        monkeypatch.setattr(collection.catalogue, "write", interrupted)
        video, clips = new_video(1)
        added, is_new = collection.add_if_new(replace(video, path=PATH), clips, given)
        assert is_new
        assert collection.media_path(added).read_bytes() == CONTENT
        assert files(collection) == needed(collection)


@pytest.mark.parametrize(
    ("path", "start", "error"), [(PATH, -1.0, InvalidInput), ("media/../../../x.mp4", 0.0, StorageError)]
)
def test_a_video_that_is_not_added_leaves_its_file_where_it_was(
    root: Path, path: str, start: float, error: type[Exception]
) -> None:
    with CollectionStore(root) as library:
        collection = library.open("videos")
        video, clips = new_video(1)
        with pytest.raises(error):
            collection.add_if_new(replace(video, path=path), [replace(clips[0], start=start)], root.parent / GIVEN)
        assert (root.parent / GIVEN).read_bytes() == CONTENT
        assert files(collection) == collection.videos() == []


def test_external_files_stay_whatever_their_videos_do(root: Path) -> None:
    external = root.parent / "films" / "a.mp4"
    external.parent.mkdir()
    external.write_bytes(CONTENT)
    with CollectionStore(root) as library:
        collection = library.open("videos")
        video, clips = new_video(1)
        added = collection.add_video(replace(video, path=str(external)), clips)
        assert not collection.owns(added)
        assert collection.media_path(added) == external
        collection.delete_video(added.id)
        collection.add_video(replace(video, path=str(external)), clips)
        library.drop("videos")
    assert external.read_bytes() == CONTENT


@pytest.mark.parametrize("path", ["media/../catalogue.sqlite3", "media//etc", "media", "elsewhere/a.mp4", "../a.mp4"])
def test_a_path_out_of_the_folder_is_not_owned(root: Path, path: str) -> None:
    with CollectionStore(root) as library:
        collection = library.open("videos")
        video = Video(1, content(1), path, "a", 1.0, 8, 8, {}, 1.0, 1)
        assert not collection.owns(video)
        with pytest.raises(StorageError, match="an absolute one, or one below media/, was expected"):
            collection.media_path(video)


def test_a_collection_is_moved_with_its_files_while_it_is_closed(root: Path, tmp_path: Path) -> None:
    with CollectionStore(root) as library:
        add(library.open("videos"))
        library.rename("videos", "films")
    moved = Path(shutil.move(root, tmp_path / "moved"))
    (tmp_path / "link").symlink_to(moved)
    for place in (moved, tmp_path / "link"):
        with CollectionStore(place) as library:
            collection = library.open("films")
            (video,) = collection.videos()
            assert (video.path, collection.media_path(video).read_bytes()) == (PATH, CONTENT)
    with CollectionStore(moved) as library:
        delete(library.open("films"))
        assert files(library.open("films")) == []


def test_files_of_unfinished_jobs_stay(root: Path) -> None:
    with CollectionStore(root) as library:
        collection = library.open("videos")
        hold(collection)
        (file,) = needed(collection)
        collection.media.remove_listed(collection.media.path_of(file))
        assert file.read_bytes() == CONTENT
        ended: Job = cancel(collection, 1)
        assert ended.state == "cancelled"
        assert not file.exists()


def test_a_late_file_does_not_create_a_dropped_collection_again(root: Path) -> None:
    with CollectionStore(root) as library, CollectionStore(root) as elsewhere:
        late = library.open("videos")
        elsewhere.drop("videos")
        for action in (add, hold):
            with pytest.raises(CollectionNotFound):
                action(late)
        assert not (root / "videos").exists()
        elsewhere.create("videos", manifest())
        with pytest.raises(CollectionNotFound):
            add(late)
        assert files(elsewhere.open("videos")) == []
    assert (root.parent / GIVEN).read_bytes() == CONTENT

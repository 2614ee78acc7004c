"""Files that a collection owns: they come and go with the rows that need them, and no other file is removed."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from index import media_files
from index.collection import Collection
from index.collection_store import CollectionStore
from index.jobs.jobs import cancel, list_jobs
from index.jobs.sources.source_types import UploadSource
from index.media_files import find_missing
from index.records import Video
from index.storage.removals import list_removal, listed_removals
from tests.chaos import is_chaos
from tests.index.killed_processes import UPLOAD, add_upload, delete_first, killed_processes, queue_upload
from tests.index.sample_data import add, add_file, content, manifest, new_collection, new_video, owned_path
from tests.waiting import PATIENCE, wait_for
from vitascope.errors import CollectionNotFound, StorageError

CONTENT = b"a film"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with an empty collection `videos`, and an uploaded file beside it."""
    root = tmp_path / "library"
    new_collection(root).close()
    write_upload(root)
    return root


@pytest.fixture
def collection(root: Path) -> Iterator[Collection]:
    with CollectionStore(root) as library:
        yield library.open("videos")


def write_upload(root: Path) -> None:
    (root.parent / UPLOAD).write_bytes(CONTENT)


def files(collection: Collection) -> list[Path]:
    """All files in the collection's media folder."""
    return [path for path in collection.media.folder.rglob("*") if path.is_file()]


def needed(collection: Collection) -> list[Path]:
    """The files that videos and unfinished jobs of the collection need."""
    sources = [job.source for job in list_jobs(collection) if job.state not in ("cancelled", "failed")]
    uploads = [collection.media.file(source.stored_path) for source in sources if isinstance(source, UploadSource)]
    return [collection.media_path(video) for video in collection.videos()] + uploads


@pytest.mark.parametrize(
    ("prepare", "action", "is_done"),
    [
        (None, "add", lambda collection: len(collection.videos()) == 1),
        (add_upload, "delete", lambda collection: not collection.videos()),
        (None, "queue", lambda collection: len(list_jobs(collection)) == 1),
        (queue_upload, "cancel", lambda collection: list_jobs(collection)[0].state == "cancelled"),
    ],
    ids=["add", "delete", "queue", "cancel"],
)
def test_a_kill_at_any_step_leaves_exactly_the_needed_files(
    root: Path,
    tmp_path: Path,
    prepare: Callable[[Collection], None] | None,
    action: str,
    is_done: Callable[[Collection], bool],
) -> None:
    if prepare is not None:
        with CollectionStore(root) as library:
            prepare(library.open("videos"))
    states = []
    with killed_processes() as processes:
        for step in itertools.count(0, 1 if is_chaos() else 3):
            copy = tmp_path / str(step) / "library"
            shutil.copytree(root, copy)
            write_upload(copy)
            is_complete = processes.run(action, copy, step)
            with CollectionStore(copy) as library:
                collection = library.open("videos")
                states.append(is_done(collection))
                assert files(collection) == needed(collection)
                assert all(file.read_bytes() == CONTENT for file in files(collection))
                with collection.catalogue.read() as connection:
                    assert listed_removals(connection) == []
            if is_complete:
                break
    assert states == sorted(states)
    assert set(states) == {False, True}
    assert step > 5


def test_concurrent_adding_and_deletion_of_one_content_leave_video_and_file_or_neither(collection: Collection) -> None:
    start = threading.Barrier(4)
    problems: list[BaseException] = []

    def work(number: int) -> None:
        file = collection.folder.parents[1] / f"{number}.mp4"
        file.write_bytes(CONTENT)
        try:
            for _ in range(20):
                start.wait(PATIENCE)
                if number == 0:
                    for video in collection.videos():
                        collection.delete_video(video.id)
                else:
                    add_file(collection, 1, file)
                start.wait(PATIENCE)
                assert files(collection) == needed(collection)
                start.wait(PATIENCE)
        except BaseException as error:
            problems.append(error)
            start.abort()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert problems == []


def test_external_files_stay(root: Path) -> None:
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
def test_a_path_out_of_the_folder_is_not_owned(collection: Collection, path: str) -> None:
    video = Video(1, content(1), path, "a", 1.0, 8, 8, {}, 1.0, 1)
    assert not collection.owns(video)
    with pytest.raises(StorageError, match="an absolute one, or one below media/, was expected"):
        collection.media_path(video)


def test_a_closed_collection_can_be_moved_with_its_files(root: Path, tmp_path: Path) -> None:
    with CollectionStore(root) as library:
        add_upload(library.open("videos"))
        library.rename("videos", "films")
    moved = Path(shutil.move(root, tmp_path / "moved"))
    (tmp_path / "link").symlink_to(moved)
    for folder in (moved, tmp_path / "link"):
        with CollectionStore(folder) as library:
            collection = library.open("films")
            (video,) = collection.videos()
            assert (video.path, collection.media_path(video).read_bytes()) == (owned_path(1), CONTENT)
    with CollectionStore(moved) as library:
        delete_first(library.open("films"))
        assert files(library.open("films")) == []


def test_files_of_unfinished_jobs_stay(collection: Collection) -> None:
    queue_upload(collection)
    (file,) = needed(collection)
    collection.media.remove_listed(collection.media.path_of(file))
    assert file.read_bytes() == CONTENT
    assert cancel(collection, 1).state == "cancelled"
    assert not file.exists()


def test_a_late_file_does_not_create_a_dropped_collection_again(root: Path) -> None:
    with CollectionStore(root) as library, CollectionStore(root) as elsewhere:
        late = library.open("videos")
        elsewhere.drop("videos")
        for action in (add_upload, queue_upload):
            with pytest.raises(CollectionNotFound):
                action(late)
        assert not (root / "videos").exists()
        elsewhere.create("videos", manifest())
        with pytest.raises(CollectionNotFound):
            add_upload(late)
        assert files(elsewhere.open("videos")) == []
    assert (root.parent / UPLOAD).read_bytes() == CONTENT


@pytest.fixture
def linked(collection: Collection, tmp_path: Path) -> Collection:
    """A collection with video 1, whose media folder has a file, and a link to a folder with another."""
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "film.mp4").write_bytes(CONTENT)
    add(collection, 0)
    (collection.media.folder / "job-1").symlink_to(tmp_path / "others")
    (collection.media.folder / "own.mp4").write_bytes(b"own")
    return collection


def set_path(collection: Collection, path: str) -> None:
    with collection.catalogue.write() as connection:
        connection.execute("UPDATE videos SET path = ? WHERE id = 1", (path,))


@pytest.mark.parametrize(
    "path",
    [
        "{folder}/others/film.mp4",
        "media/job-1/film.mp4",
        "media/../../../others/film.mp4",
        "{folder}/library/videos/media/own.mp4",
    ],
)
def test_deleting_a_video_removes_no_file_elsewhere(tmp_path: Path, linked: Collection, path: str) -> None:
    set_path(linked, path.format(folder=tmp_path))
    linked.delete_video(1)
    assert (tmp_path / "others" / "film.mp4").read_bytes() == CONTENT
    assert (linked.media.folder / "own.mp4").exists()
    with linked.catalogue.read() as connection:
        assert listed_removals(connection) == []


def test_files_in_a_linked_folder_stay(tmp_path: Path, linked: Collection) -> None:
    with linked.catalogue.write() as connection:
        list_removal(connection, "media/job-1/")
    linked.media.remove_listed()
    assert (tmp_path / "others" / "film.mp4").read_bytes() == CONTENT


def test_owned_files_are_removed_where_the_media_folder_is_a_link(tmp_path: Path, linked: Collection) -> None:
    shutil.move(linked.media.folder, tmp_path / "disk")
    linked.media.folder.symlink_to(tmp_path / "disk")
    set_path(linked, "media/own.mp4")
    linked.delete_video(1)
    assert not (tmp_path / "disk" / "own.mp4").exists()


def test_a_drive_that_does_not_answer_delays_no_page_of_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, drive_answers = threading.Event(), threading.Event()
    stat, join = media_files.is_missing, threading.Thread.join

    def slow_stat(file: Path, size: int | None) -> bool:
        if file.parent.name == "drive":
            reached.set()
            drive_answers.wait(PATIENCE)
        return stat(file, size)

    def join_late(thread: threading.Thread, timeout: float) -> None:
        assert reached.wait(PATIENCE)  # before its time begins, however slow the thread is
        join(thread, timeout)

    monkeypatch.setattr(media_files, "is_missing", slow_stat)
    monkeypatch.setattr(media_files, "_checks", threading.BoundedSemaphore(1))
    (tmp_path / "here.mp4").touch()
    files = [(tmp_path / name, None) for name in ("gone.mp4", "here.mp4", "drive/film.mp4")]
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "join", join_late)
        assert find_missing(files, timeout=0.05) == {files[0]}, "what is known so far"
    assert find_missing(files, timeout=PATIENCE) == set(), "no second check beside the one that hangs"
    drive_answers.set()
    wait_for(lambda: find_missing(files, timeout=PATIENCE) == {files[0], files[2]})


def test_missing_files_are_reported_again_once_threads_can_start_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(media_files, "_checks", threading.BoundedSemaphore(1))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        assert find_missing([(tmp_path / "gone.mp4", None)]) == set(), "nothing is known"
    assert find_missing([(tmp_path / "gone.mp4", 1)], timeout=PATIENCE) == {(tmp_path / "gone.mp4", 1)}

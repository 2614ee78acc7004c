"""Confined jobs read only what their access policy allows, whenever a file is exchanged for a link."""

from __future__ import annotations

import json
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pytest

from index.collection import Collection
from index.collection_store import CollectionStore
from index.jobs import execution, pipeline
from index.jobs.jobs import cancel, create_job, get_job, list_items, resume, retry
from index.jobs.records import JobOptions
from index.jobs.runner import run_job
from index.jobs.source_items import list_source
from index.jobs.sources.access_policy import AccessPolicy
from index.jobs.sources.fetcher import FetchInterrupted
from index.jobs.sources.source_types import (
    FilesSource,
    FolderSource,
    ListSource,
    ShardsSource,
    Source,
    UrlSource,
    check_source,
)
from index.transfer.backup import backup_collection, restore_collection
from index.transfer.media import AllowedPaths
from tests.chaos import rounds
from tests.file_system import exchanging, open_below
from tests.media_files import mean_color, solid, write_color_video, write_picture
from tests.sockets import record_connections
from vitascope.errors import Conflict, InvalidInput
from vitascope.model import Model

PATIENCE = 120.0
RED, BLUE = (220, 10, 10), (10, 10, 220)
SECRET = "classified"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("simplecache::file:///etc/passwd", "is no URL"),
        ("tar://a::s3://b/c.tar", "chains file systems"),
        ("https://me:secret@host/a.mp4", "holds a name or password"),
        ("s3://bucket/videos/../secret", "'..'"),
        ("https://media.exa\tmple/a.mp4", "control characters"),
        ("s3://bucket/videos/%2e%2e/secret", "'..'"),
        ("nothing", "is no URL"),
        ("file://other/a.mp4", "names the machine 'other'"),
        ("file://", "has no path"),
    ],
)
def test_invalid_urls_are_refused(url: str, message: str) -> None:
    with pytest.raises(InvalidInput, match="url: ") as raised:
        check_source(UrlSource(url))
    assert message in str(raised.value)
    assert "secret@" not in str(raised.value)


def test_allowed_urls_are_compared_part_by_part() -> None:
    policy = AccessPolicy((), ("https://media.example/films", "s3://bucket/"))
    for url in ("https://media.example/films", "https://media.example/films/a.mp4", "s3://bucket/a/b.mp4"):
        assert policy.url_error(url) is None
    for url in (
        "https://media.example.evil/films/a.mp4",
        "https://media.example/filmsecrets",
        "http://media.example/films/a.mp4",
        "https://media.example:81/films/a.mp4",
        "s3://bucket2/a.mp4",
        "memory://bucket/a",
    ):
        assert "outside the URLs" in (policy.url_error(url) or ""), url


def test_public_urls_are_distinguished_from_allowed_ones() -> None:
    policy = AccessPolicy((), ("https://media.example/films",), public_urls=True)
    assert policy.is_public_url("https://media.example/other/a.mp4")
    assert policy.is_public_url("HTTP://10.0.0.1/a.mp4")  # whether its address is public is checked when it is fetched
    assert not policy.is_public_url("https://media.example/films/a.mp4")
    assert not policy.is_public_url("s3://bucket/a.mp4")
    assert "outside the URLs" in (policy.url_error("s3://bucket/a.mp4") or "")
    assert not AccessPolicy().is_public_url("https://media.example/a.mp4")
    assert "VITASCOPE_URL_FETCH=on" in (AccessPolicy((), ()).url_error("https://media.example/a.mp4") or "")


def test_public_urls_are_fetched_only_with_a_url_fetcher(
    films: Path, collection: Collection, small_model: Model
) -> None:
    content = (films / "red.png").read_bytes()
    requested_urls = []

    def fetch(url: str, file: BinaryIO, should_stop: Callable[[], bool]) -> None:
        requested_urls.append(url)
        file.write(content)

    policy = AccessPolicy((films,), (), public_urls=True)
    job = create_job(collection, UrlSource("https://media.example/a.png", "A"), JobOptions(confined=True), policy)
    with record_connections() as seen:
        off = run_job(collection, small_model, job.id, policy=AccessPolicy((films,), ()), url_fetcher=fetch)
    assert (off.state, requested_urls, seen) == ("failed", [], [])
    assert "VITASCOPE_URL_FETCH=on" in (off.error or "")
    retry(collection, job.id)
    run_job(collection, small_model, job.id, policy=policy)
    assert "public URLs are not fetched" in (list_items(collection, job.id)[0].reason or "")
    retry(collection, job.id)
    run_job(collection, small_model, job.id, policy=policy, url_fetcher=fetch)
    assert [(item.state, item.title) for item in list_items(collection, job.id)] == [("succeeded", "A")]
    assert requested_urls == ["https://media.example/a.png"]
    assert collection.media_path(collection.get_video(1)).read_bytes() == content


def test_cancelling_a_job_interrupts_its_download(collection: Collection, small_model: Model) -> None:
    policy = AccessPolicy((), (), public_urls=True)
    job = create_job(collection, UrlSource("https://media.example/a.png"), JobOptions(confined=True), policy)

    def fetch(url: str, file: BinaryIO, should_stop: Callable[[], bool]) -> None:
        cancel(collection, job.id)
        deadline = time.monotonic() + PATIENCE
        while not should_stop():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        raise FetchInterrupted(url)

    done = run_job(collection, small_model, job.id, policy=policy, url_fetcher=fetch)
    assert (done.state, done.counts.cancelled) == ("cancelled", 1)
    assert not (collection.folder / "media" / f"job-{job.id}").exists()


def test_items_of_a_list_outside_the_allowed_folders_fail(tmp_path: Path, films: Path) -> None:
    secret = write_picture(tmp_path / "secret.png", solid((1, 2, 3)))
    (films / "link.png").symlink_to(secret)
    (films / "list.csv").write_text(
        f"path\nred.png\n../secret.png\n{secret}\nlink.png\n{secret.as_uri()}\nmemory://a/b\n"
    )
    policy = AccessPolicy((films,), ())
    items = list(list_source(ListSource(str(films / "list.csv")), policy))
    assert [item.state for item in items] == ["queued", *["failed"] * 5]
    assert all("is outside the" in (item.reason or "") for item in items[1:])
    with pytest.raises(InvalidInput, match=r"files: .*secret.png' is outside"):
        check_source(FilesSource((str(secret),)), policy)


def test_a_confined_job_checks_its_policy_again_when_it_reads(
    tmp_path: Path, films: Path, collection: Collection, small_model: Model
) -> None:
    secret = write_picture(tmp_path / "secret.png", solid((1, 2, 3)))
    policy = AccessPolicy((films,), ())
    source = FilesSource((str(films / "red.png"), str(films / "blue.png")))
    job = create_job(collection, source, JobOptions(confined=True), policy)
    (films / "red.png").unlink()
    (films / "red.png").symlink_to(secret)
    with pytest.raises(Conflict, match="belongs to a service"):
        run_job(collection, small_model, job.id)
    assert get_job(collection, job.id).state == "queued"
    done = run_job(collection, small_model, job.id, policy=policy)
    assert (done.counts.succeeded, done.counts.failed) == (1, 1)
    assert "outside the folders" in (list_items(collection, job.id, "failed")[0].reason or "")


def test_a_job_of_a_backup_reads_only_what_the_service_allows(
    tmp_path: Path, films: Path, collection: Collection, small_model: Model
) -> None:
    (tmp_path / "secrets").mkdir()
    secret = write_picture(tmp_path / "secrets" / "secret.png", solid((1, 2, 3)))
    (films / "list.csv").write_text(f"path\n{films / 'red.png'}\n{secret}\n")
    sources = FilesSource((str(secret),)), FolderSource(str(secret.parent)), ListSource(str(films / "list.csv"))
    job_ids = [create_job(collection, source).id for source in sources]
    with collection.catalogue.write() as connection:
        connection.execute("UPDATE jobs SET listed = 1 WHERE id = ?", (job_ids[0],))
        row = (job_ids[0], 0, str(secret), "queued")
        connection.execute("INSERT INTO job_items (job_id, position, path, state) VALUES (?, ?, ?, ?)", row)
    backup_collection(collection, tmp_path / "backup")
    policy = AccessPolicy((films,), ())
    with CollectionStore(tmp_path / "elsewhere") as library:
        copy = restore_collection(
            library, tmp_path / "backup", "copy", allowed=AllowedPaths([], tmp_path / "elsewhere")
        )
        for job_id in job_ids:
            resume(copy, job_id)
            with pytest.raises(Conflict, match="belongs to a service, or came with a backup"):
                run_job(copy, small_model, job_id)
            done = run_job(copy, small_model, job_id, policy=policy)
            reasons = [done.error or "", *(item.reason or "" for item in list_items(copy, job_id))]
            assert any("outside the folders" in reason for reason in reasons)
        assert [video.title for video in copy.videos()] == ["red"]


# Files that are exchanged for links


class Exchanged(NamedTuple):
    """A source, and the link for which one of its files is exchanged."""

    source: Source
    own: Path
    link: Path
    word: str = ""
    """Occurs in the report of a job that has read the job's own files, not those outside."""


def linked(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


def a_file(inside: Path, outside: Path) -> Exchanged:
    own = write_picture(inside / "own.png", solid(RED))
    link = linked(inside / ".link", write_picture(outside / "own.png", solid(BLUE)))
    return Exchanged(FilesSource((str(own),)), own, link)


def a_file_of_a_folder(inside: Path, outside: Path) -> Exchanged:
    return a_file(inside, outside)._replace(source=FolderSource(str(inside)))


def a_folder(inside: Path, outside: Path) -> Exchanged:
    (inside / "deep").mkdir()
    write_picture(inside / "deep" / "own.png", solid(RED))
    for name in ("own.png", f"{SECRET}.png"):
        write_picture(outside / name, solid(BLUE))
    return Exchanged(FolderSource(str(inside / "deep")), inside / "deep", linked(inside / ".link", outside))


def a_folder_in_a_folder(inside: Path, outside: Path) -> Exchanged:
    return a_folder(inside, outside)._replace(source=FolderSource(str(inside)))


def a_file_list(inside: Path, outside: Path) -> Exchanged:
    write_picture(inside / "own.png", solid(RED))
    (inside / "list.csv").write_text("path,words\nown.png,open\n")
    (outside / "list.csv").write_text(f"path,words,{SECRET}\nown.png,{SECRET},x\n{SECRET},{SECRET}\n")
    link = linked(inside / ".link", outside / "list.csv")
    return Exchanged(ListSource(str(inside / "list.csv")), inside / "list.csv", link, "open")


def a_shard(inside: Path, outside: Path) -> Exchanged:
    for folder, color, member in ((inside, RED, "own.png"), (outside, BLUE, f"{SECRET}.png")):
        with tarfile.open(folder / "shard.tar", "w") as archive:
            archive.add(write_picture(outside / "member.png", solid(color)), member)
    link = linked(inside / ".link", outside / "shard.tar")
    return Exchanged(ShardsSource((str(inside / "shard.tar"),)), inside / "shard.tar", link)


def subtitles(inside: Path, outside: Path) -> Exchanged:
    film = write_color_video(inside / "film.mp4", RED, 0.4)
    for folder, word in ((inside, "open"), (outside, SECRET)):
        (folder / "film.srt").write_text(f"1\n00:00:00,000 --> 00:00:00,300\n{word}\n")
    link = linked(inside / ".link", outside / "film.srt")
    return Exchanged(FilesSource((str(film),)), inside / "film.srt", link, "open")


KINDS = (a_file, a_file_of_a_folder, a_folder, a_folder_in_a_folder, a_file_list, a_shard, subtitles)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_exchanged_for_a_link_is_neither_indexed_nor_revealed(
    tmp_path: Path, collection: Collection, small_model: Model, kind: Callable[[Path, Path], Exchanged]
) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    exchanged = kind(inside, outside)
    (tmp_path / "root").symlink_to(inside)
    policy = AccessPolicy((tmp_path / "root",), ())
    counts: Counter[str] = Counter()
    with exchanging(exchanged.own, exchanged.link):
        while counts.total() < rounds(8, 500):
            counts[outcome(collection, small_model, exchanged, policy)] += 1
    assert not counts["secret"], counts


def test_the_file_that_was_hashed_is_the_one_that_is_decoded(
    tmp_path: Path, collection: Collection, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another file has its name while it is decoded."""
    own = write_picture(tmp_path / "own.png", solid(RED))
    other = write_picture(tmp_path / ".other.png", solid(BLUE))
    prepare, embed = execution.prepare_item, pipeline.embed_clips

    def exchange() -> None:
        own.rename(tmp_path / "aside")
        other.rename(own)
        (tmp_path / "aside").rename(other)

    def hashed(*arguments: Any) -> Any:
        exchange()
        return prepare(*arguments)

    def decoded(*arguments: Any) -> Any:
        exchange()
        return embed(*arguments)

    monkeypatch.setattr(execution, "prepare_item", hashed)
    monkeypatch.setattr(pipeline, "embed_clips", decoded)
    done = run_job(collection, small_model, create_job(collection, FilesSource((str(own),))).id)
    assert done.counts.succeeded == 1
    [clip] = collection.clips(1)
    jpeg = collection.thumbnail(clip.id)
    assert jpeg is not None
    assert mean_color(jpeg)[0] > 200


def test_no_file_stays_open_after_a_job(
    tmp_path: Path, collection: Collection, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
    for kind in (a_file, a_folder, a_file_list, a_shard, subtitles):
        run_job(collection, small_model, create_job(collection, kind(inside, outside).source).id)
        (inside / ".link").unlink()
    (inside / "broken.mp4").write_bytes(b"no video")
    (inside / "again.png").write_bytes((inside / "own.png").read_bytes())
    collection.delete_video(1)
    job = create_job(collection, FolderSource(str(inside)))
    monkeypatch.setattr(pipeline, "decode_clips", lambda *arguments, **options: 1 / 0)
    run_job(collection, small_model, job.id)
    assert open_below(tmp_path / "inside") == []
    monkeypatch.setattr(pipeline, "decode_clips", lambda *arguments, **options: exit())
    with pytest.raises(SystemExit):
        run_job(collection, small_model, retry(collection, job.id).id)
    assert open_below(tmp_path / "inside") == []


def outcome(collection: Collection, model: Model, exchanged: Exchanged, policy: AccessPolicy) -> str:
    """Run a job and empty the collection; return the files that it has read: own, secret or nothing."""
    try:
        job = create_job(collection, exchanged.source, JobOptions(confined=True), policy)
    except InvalidInput as error:
        return "secret" if SECRET in str(error) else "nothing"
    done = run_job(collection, model, job.id, policy=policy)
    report = json.dumps([done.error, [(item.path, item.reason) for item in list_items(collection, job.id)]])
    read = "nothing"
    for video in collection.videos(100):
        clips = collection.clips(video.id)
        report += json.dumps([video.path, video.title, video.metadata, [clip.text for clip in clips]])
        jpeg = collection.thumbnail(clips[0].id)
        assert jpeg is not None
        red, _, blue = mean_color(jpeg)
        read = "secret" if blue > red else "own"
        collection.delete_video(video.id)
    if SECRET in report:
        return "secret"
    return read if exchanged.word in report else "nothing"

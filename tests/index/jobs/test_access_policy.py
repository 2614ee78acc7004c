"""Sources as data, and the access policy of jobs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from index.collection import Collection
from index.collection_store import CollectionStore
from index.jobs.jobs import cancel, create_job, get_job, list_items, resume, retry
from index.jobs.records import JobOptions
from index.jobs.runner import run_job
from index.jobs.sources.access_policy import AccessPolicy
from index.jobs.sources.fetcher import FetchInterrupted
from index.jobs.sources.iterate_source import list_source
from index.jobs.sources.source_types import (
    FilesSource,
    FolderSource,
    ListSource,
    ShardsSource,
    Source,
    UrlSource,
    check_source,
    parse_source,
    read_source,
    source_json,
)
from index.transfer.backup import backup_collection, restore_collection
from index.transfer.media import AllowedPaths
from tests.connections import connections
from tests.media_files import solid, write_color_video, write_picture
from vitascope.errors import Conflict, InvalidInput
from vitascope.model import Model

PATIENCE = 120.0


def test_a_local_url_is_the_file_itself(films: Path) -> None:
    assert check_source(UrlSource(films.as_uri())) == FolderSource(str(films))
    assert check_source(UrlSource((films / "red.png").as_uri())) == FilesSource((str(films / "red.png"),))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("simplecache::file:///etc/passwd", "is no URL"),
        ("tar://a::s3://b/c.tar", "chains file systems"),
        ("https://me:secret@host/a.mp4", "holds a name or password"),
        ("s3://bucket/videos/../secret", "'..'"),
        ("https://media.exa\tmple/a.mp4", "control characters"),
        ("s3://bucket/videos/%2e%2e/secret", "'..'"),
        ("nothing", "is no URL"),
        ("file://other/a.mp4", "names the machine 'other'"),
    ],
)
def test_invalid_urls_are_refused(url: str, words: str) -> None:
    with pytest.raises(InvalidInput, match="url: ") as raised:
        check_source(UrlSource(url))
    assert words in str(raised.value)
    assert "secret@" not in str(raised.value)


# How far a source may policy


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
    assert policy.is_public_url("HTTP://10.0.0.1/a.mp4")  # whether that is fetched is not told here
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
    with connections() as seen:
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
    found = list(list_source(ListSource(str(films / "list.csv")), policy))
    assert [item.state for item in found] == ["queued", *["failed"] * 5]
    assert all("is outside the" in (item.reason or "") for item in found[1:])
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
    job = [create_job(collection, source).id for source in sources]
    with collection.catalogue.write() as connection:
        connection.execute("UPDATE jobs SET listed = 1 WHERE id = ?", (job[0],))
        row = (job[0], 0, str(secret), "queued")
        connection.execute("INSERT INTO job_items (job_id, position, path, state) VALUES (?, ?, ?, ?)", row)
    backup_collection(collection, tmp_path / "backup")
    policy = AccessPolicy((films,), ())
    with CollectionStore(tmp_path / "elsewhere") as library:
        copy = restore_collection(
            library, tmp_path / "backup", "copy", allowed=AllowedPaths([], tmp_path / "elsewhere")
        )
        for job_id in job:
            resume(copy, job_id)
            with pytest.raises(Conflict, match="belongs to a service, or came with a backup"):
                run_job(copy, small_model, job_id)
            done = run_job(copy, small_model, job_id, policy=policy)
            reasons = [done.error or "", *(item.reason or "" for item in list_items(copy, job_id))]
            assert any("outside the folders" in words for words in reasons)
        assert [video.title for video in copy.videos()] == ["red"]


# Descriptions


def test_arguments_are_parsed_to_sources(tmp_path: Path, films: Path) -> None:
    (films / "list.CSV").write_text("path\n")
    (films / "a.tar").touch()
    write_color_video(films / "a.mp4", (1, 2, 3))
    name = str(films)
    assert parse_source([name], recursive=False) == FolderSource(name, recursive=False)
    assert parse_source([f"{name}/list.CSV"]) == ListSource(f"{name}/list.CSV")
    assert parse_source([f"{name}/a.tar"]) == ShardsSource((f"{name}/a.tar",))
    assert parse_source([f"{name}/a.mp4", f"{name}/red.png"]) == FilesSource((f"{name}/a.mp4", f"{name}/red.png"))
    assert parse_source(["s3://bucket/a/"]) == UrlSource("s3://bucket/a/")
    with pytest.raises(InvalidInput, match="together with others"):
        parse_source([name, f"{name}/a.mp4"])
    with pytest.raises(InvalidInput, match=r"source: 'nowhere.mp4' does not exist"):
        parse_source(["nowhere.mp4"])


def test_a_stored_source_is_read_back(tmp_path: Path) -> None:
    for source in (
        FolderSource("/a", recursive=False),
        FilesSource(("/a", "/b")),
        ListSource("/a.csv", "x", "y"),
        ShardsSource(("/a.tar",)),
        UrlSource("s3://a/b"),
    ):
        assert read_source(source_json(source)) == source


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (FolderSource("/no/where"), "folder: '/no/where' is not a folder"),
        (FilesSource(()), "files: 0 given"),
        (FilesSource(("/no/where",)), "files: '/no/where' is not a file"),
        (ListSource(__file__), "file: .*a name ending in .csv"),
        (ShardsSource((__file__,)), "shards: .*a name ending in .tar"),
    ],
)
def test_a_source_that_does_not_exist_is_named(source: Source, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        check_source(source)

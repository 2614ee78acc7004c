"""Confined jobs read nothing outside of their folders, whenever a file is exchanged for a link."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from index.collection import Collection
from index.jobs import pipeline
from index.jobs.jobs import create_job, list_items, retry
from index.jobs.records import JobOptions
from index.jobs.runner import run_job
from index.jobs.sources.access_policy import AccessPolicy
from index.jobs.sources.source_types import FilesSource, FolderSource, ListSource, ShardsSource, Source
from index.records import Video
from tests.chaos import rounds
from tests.descriptors import open_below
from tests.exchanging import exchanging
from tests.media_files import mean_color, solid, write_color_video, write_picture
from vitascope.errors import InvalidInput
from vitascope.model import Model

RED, BLUE = (220, 10, 10), (10, 10, 220)
SECRET = "classified"


class Exchanged(NamedTuple):
    """The files of a job, and what one of them is exchanged for."""

    source: Source
    own: Path
    link: Path
    word: str = ""
    """That is report of what is to be read, and not of what was exchanged."""


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
    for folder in (inside, outside):
        folder.mkdir()
    exchanged = kind(inside, outside)
    (tmp_path / "root").symlink_to(inside)
    policy = AccessPolicy((tmp_path / "root",), ())
    counts: Counter[str] = Counter()
    with exchanging(exchanged.own, exchanged.link):
        while counts.total() < rounds(8, 500):
            counts[outcome(collection, small_model, exchanged, policy)] += 1
    print(f"\n{kind.__name__}: {dict(counts)}")
    assert not counts["secret"], counts


def test_the_file_that_was_hashed_is_the_one_that_is_decoded(
    tmp_path: Path, collection: Collection, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another file has its name while it is decoded."""
    own = write_picture(tmp_path / "own.png", solid(RED))
    other = write_picture(tmp_path / ".other.png", solid(BLUE))
    find, embed = collection.find_by_hash, pipeline.embed_clips

    def exchange() -> None:
        own.rename(tmp_path / "aside")
        other.rename(own)
        (tmp_path / "aside").rename(other)

    def hashed(content_sha256: str) -> Video | None:
        exchange()
        return find(content_sha256)

    def decoded(*arguments: Any) -> Any:
        exchange()
        return embed(*arguments)

    monkeypatch.setattr(collection, "find_by_hash", hashed)
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
    """Return what a job has read: own, secret or nothing, and empty the collection."""
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

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.data.corpus_files import picture, write_shard, write_tar
from training.data.errors import CorpusError
from training.data.webdataset import read_shard, shard_paths, tar_members


def test_every_key_comes_with_its_picture_and_its_annotation(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "train-00000.tar", {"a": (picture(), {"n": 1}), "b": (picture(), {"n": 2})})
    samples = list(read_shard(shard))
    assert [(s.key, s.record, s.media.name) for s in samples] == [
        ("a", {"n": 1}, "a.jpg"),
        ("b", {"n": 2}, "b.jpg"),
    ]
    assert samples[0].media.data == picture()


def test_hidden_members_have_no_key(tmp_path: Path) -> None:
    members = {"._a.jpg": b"of a file manager", "a.jpg": picture(), ".DS_Store": b"of the same", "a.json": b"{}"}
    assert [sample.key for sample in read_shard(write_tar(tmp_path / "train-00000.tar", members))] == ["a"]


def test_shards_are_found_in_order_and_by_split(tmp_path: Path) -> None:
    for name in ("train-00001.tar", "train-00000.tar", "test-00000.tar", "train-notes.tar"):
        (tmp_path / name).touch()
    assert [path.name for path in shard_paths(tmp_path, "train")] == ["train-00000.tar", "train-00001.tar"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.jpg": b"x"}, r"a\.json: missing"),
        ({"a.json": b"{}"}, "a: has .*json.*; one of .*'jpg'"),
        ({"a.jpg": b"x", "a.json": b"{"}, r"a\.json: not JSON"),
        ({"a.jpg": b"x", "a.json": b"[]"}, r"a\.json: list; a JSON object"),
    ],
)
def test_an_incomplete_key_is_named_with_its_shard(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    shard = write_tar(tmp_path / "val-00000.tar", members)
    with pytest.raises(CorpusError, match=rf"val-00000\.tar: {message}"):
        list(read_shard(shard))


def test_only_wanted_members_of_a_gzipped_archive_are_read(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a.tgz", {"package/a.txt": b"A", "package/b.png": b"B"})
    assert list(tar_members(archive, lambda name: name.endswith(".png"))) == [("package/b.png", b"B")]


def test_a_truncated_or_missing_archive_is_named(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a.tgz", {"package/a.bin": bytes(range(256)) * 40})
    archive.write_bytes(archive.read_bytes()[:100])
    with pytest.raises(CorpusError, match=r"a\.tgz: .*a readable tar archive was expected"):
        list(tar_members(archive, lambda _: True))
    with pytest.raises(CorpusError, match=r"none\.tar: .*No such file"):
        list(tar_members(tmp_path / "none.tar", lambda _: True))

"""Shards of labelled pictures, and of captioned pictures and videos."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from tests.training.data.corpus_files import BLUE, GREEN, RED, movie, picture, write_shard, write_tar
from training.data.corpus import CorpusError, split_of
from training.data.packed import STILL_STREAMS, VIDEO_STREAMS, EncodedMedia, open_packed, write_packed
from training.data.webdataset import (
    IMAGE_SHARDS_ORIGIN,
    VIDEO_SHARDS_ORIGIN,
    image_shards,
    read_shard,
    shard_paths,
    tar_members,
    video_shards,
)


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


def test_files_of_the_same_name_in_two_folders_have_two_keys(tmp_path: Path) -> None:
    members = {
        f"./{folder}/1.{suffix}": content for folder in "ab" for suffix, content in (("jpg", b""), ("json", b"{}"))
    }
    assert [sample.key for sample in read_shard(write_tar(tmp_path / "train-00000.tar", members))] == ["a/1", "b/1"]


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


def test_a_cut_or_damaged_header_is_no_end_of_an_archive(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a.tar", {f"{key}.bin": bytes(512) for key in "abc"})
    whole, third = archive.read_bytes(), 2 * 1024
    for content in (whole[: third + 100], whole[: third + 700], whole[:third] + b"\1" + whole[third + 1 :]):
        archive.write_bytes(content)
        with pytest.raises(CorpusError, match=r"a\.tar: .*a readable tar archive was expected"):
            list(tar_members(archive, lambda _: True))
    archive.write_bytes(whole[: third + 1024])  # without the blocks that mark the end
    assert [name for name, _ in tar_members(archive, lambda _: True)] == ["a.bin", "b.bin", "c.bin"]


PICTURE_KEYS, VAL, TEST = ("000000001", "000000004", "000000006"), "000000005", "000000012"


def entry(key: str, text: str | None, suffix: str = "jpg", content: bytes | None = None) -> dict[str, bytes]:
    """The members of one key as img2dataset writes them."""
    record = {
        "url": f"https://pictures.example/{key}.jpg",
        "caption": text,
        "key": key,
        "status": "success",
        "error_message": None,
        "width": 48,
        "height": 36,
        "exif": "{}",
    }
    return {
        f"{key}.{suffix}": picture() if content is None else content,
        f"{key}.json": json.dumps(record, indent=4).encode(),
        f"{key}.txt": (text or "").encode(),
    }


def test_the_split_is_by_rule_and_over_all_shards(tmp_path: Path) -> None:
    write_tar(tmp_path / "00010.tar", entry(PICTURE_KEYS[1], "second") | entry(TEST, "a test"))
    write_tar(tmp_path / "00009.tar", entry(PICTURE_KEYS[0], " first\n", "webp") | entry(VAL, "to validate on"))
    write_tar(tmp_path / "train-00000.tar", entry("other", "of another corpus"))
    actual = {split: list(image_shards(tmp_path, split)) for split in ("train", "val", "test")}
    assert {split: [(e.key, e.captions) for e, _ in items] for split, items in actual.items()} == {
        "train": [(PICTURE_KEYS[0], ("first",)), (PICTURE_KEYS[1], ("second",))],
        "val": [(VAL, ("to validate on",))],
        "test": [(TEST, ("a test",))],
    }
    assert actual["train"][0][1] == EncodedMedia(f"{PICTURE_KEYS[0]}.webp", picture())
    assert all(example.still for items in actual.values() for example, _ in items)


@pytest.mark.parametrize("text", [None, b" \n"])
def test_the_caption_of_the_json_stands_in_for_that_of_the_text(tmp_path: Path, text: bytes | None) -> None:
    members = entry(VAL, "a red thing")
    if text is None:
        del members[f"{VAL}.txt"]
    else:
        members[f"{VAL}.txt"] = text
    write_tar(tmp_path / "00000.tar", members)
    ((example, _),) = image_shards(tmp_path, "val")
    assert example.captions == ("a red thing",)


def test_pictures_without_a_caption_are_omitted_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bare = {f"{PICTURE_KEYS[2]}.jpg": picture()}
    write_tar(tmp_path / "00000.tar", entry(PICTURE_KEYS[0], None) | entry(PICTURE_KEYS[1], "a red thing") | bare)
    with caplog.at_level(logging.WARNING):
        assert [example.key for example, _ in image_shards(tmp_path, "train")] == [PICTURE_KEYS[1]]
    assert f"train: 2 without a caption are left out: {PICTURE_KEYS[0]}, {PICTURE_KEYS[2]}" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"txt": b"", "json": b'{"caption": 3}'}, "KEY.json: caption: 3; a sentence"),
        ({"txt": None, "json": b"[]"}, r"KEY.json: \[\]; a JSON object was expected"),
        ({"txt": None, "json": b"{"}, r"KEY.json: not JSON \("),
        ({"txt": b"caf\xe9"}, "KEY.txt: .*; UTF-8 was expected"),
        ({"txt": b"", "json": b'{"caption": "a \\ud83d"}'}, "KEY.json: caption: .* is an unpaired surrogate"),
    ],
)
def test_a_malformed_entry_is_named_with_its_shard(
    tmp_path: Path, changes: dict[str, bytes | None], message: str
) -> None:
    members: dict[str, bytes | None] = {**entry(VAL, "a red thing")}
    members.update({f"{VAL}.{suffix}": content for suffix, content in changes.items()})
    write_tar(tmp_path / "00003.tar", {name: content for name, content in members.items() if content is not None})
    with pytest.raises(CorpusError, match=rf"00003\.tar: {message.replace('KEY', VAL)}"):
        list(image_shards(tmp_path, "val"))


def test_a_key_that_occurs_twice_is_named_with_its_shard(tmp_path: Path) -> None:
    for name in ("00000.tar", "00001.tar"):
        write_tar(tmp_path / name, entry(VAL, "a red thing"))
    with pytest.raises(CorpusError, match=rf"00001\.tar: {VAL}: occurs twice; unique keys were expected"):
        list(image_shards(tmp_path, "val"))


def test_a_packed_split_names_the_pictures_that_cannot_be_used(tmp_path: Path) -> None:
    without = entry("000000003", "not there")
    del without["000000003.jpg"]
    members = entry(PICTURE_KEYS[0], "a green thing", "JPG", picture(GREEN)) | without
    write_tar(tmp_path / "00000.tar", members | entry("000000002", "broken", content=picture()[:120]))
    write_tar(tmp_path / "00001.tar", entry("000010000", "a blue thing", "png", picture(BLUE, "PNG")))
    out = tmp_path / "packed" / "train"
    info = write_packed(out, STILL_STREAMS, image_shards(tmp_path, "train"), IMAGE_SHARDS_ORIGIN, max_skipped=0.5)
    assert [skipped["key"] for skipped in info["skipped"]] == ["000000003", "000000002"]
    assert "empty (0 bytes)" in info["skipped"][0]["reason"]
    packed = open_packed(out)
    assert [example.captions for example in packed.examples] == [("a green thing",), ("a blue thing",)]
    for row, color in enumerate((GREEN, BLUE)):
        np.testing.assert_allclose(packed.arrays["high"][row, 0].mean(axis=(0, 1)), color, atol=6)


def test_a_folder_without_numbered_shards_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-00000.tar", entry(PICTURE_KEYS[0], "a red thing"))
    with pytest.raises(CorpusError, match=r"no shard; 00000\.tar, 00001\.tar and so on were expected"):
        list(image_shards(tmp_path, "train"))
    with pytest.raises(CorpusError, match=r"split: 'all'; one of"):
        list(image_shards(tmp_path, "all"))


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "00000.tar", entry(PICTURE_KEYS[0], "a red thing"))
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(CorpusError, match=r"00000\.tar: .*a readable tar archive was expected"):
        list(image_shards(tmp_path, "train"))


VIDEO_KEYS = [key for key in (f"{n:09}" for n in range(20)) if split_of(key) == "train"]


def sample(key: str, text: str | None, **record: object) -> dict[str, bytes]:
    """The members of one key."""
    members = {f"{key}.mp4": key.encode(), f"{key}.json": json.dumps({"key": key, **record}).encode()}
    return members if text is None else members | {f"{key}.txt": text.encode()}


def test_captions_are_the_text_or_else_that_of_the_record(tmp_path: Path) -> None:
    first, two, three = VIDEO_KEYS[:3]
    write_tar(
        tmp_path / "00000.tar",
        sample(first, "a cat\n", caption="other", url="https://a/b") | sample(two, None, caption="dogs"),
    )
    write_tar(tmp_path / "00001.tar", {f"{three}.m4a": b"sound"} | sample(three, "", caption="birds"))
    read = list(video_shards(tmp_path, "train"))
    assert [(example.key, example.captions) for example, _ in read] == [
        (first, ("a cat",)),
        (two, ("dogs",)),
        (three, ("birds",)),
    ]
    assert [media for _, media in read] == [EncodedMedia(f"{key}.mp4", key.encode()) for key in (first, two, three)]
    assert read[0][0].attributes == {"url": "https://a/b"}


def test_all_clips_of_a_video_are_in_one_split(tmp_path: Path) -> None:
    keys = [f"{video:09}_{clip:05}" for video in range(60) for clip in range(3)]
    members: dict[str, bytes] = {}
    for key in keys:
        members |= sample(key, "words", clips=[["00:00:01.000", "00:00:02.000"]])
    write_tar(tmp_path / "00000.tar", members)
    seen = {
        split: [e.key.split("_")[0] for e, _ in video_shards(tmp_path, split)] for split in ("train", "val", "test")
    }
    assert sum(len(actual) for actual in seen.values()) == len(keys)
    assert all(actual and len(set(actual)) * 3 == len(actual) for actual in seen.values())


def test_shards_of_real_videos_can_be_packed(tmp_path: Path) -> None:
    movie(tmp_path / "a.mp4", [RED, GREEN])
    content = (tmp_path / "a.mp4").read_bytes()
    write_tar(tmp_path / "00000.tar", {f"{VIDEO_KEYS[0]}.mp4": content, f"{VIDEO_KEYS[0]}.txt": b"two colors"})
    write_packed(tmp_path / "out", VIDEO_STREAMS, video_shards(tmp_path, "train"), VIDEO_SHARDS_ORIGIN)
    packed = open_packed(tmp_path / "out")
    assert packed.examples[0].captions == ("two colors",)
    means = packed.arrays["low"][0].mean(axis=(1, 2))
    np.testing.assert_allclose(means, [RED] * 3 + [GREEN] * 3, atol=12)

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from tests.training.data.corpus_files import BLUE, GREEN, picture, write_tar
from training.data.errors import CorpusError
from training.data.image_shards import ORIGIN, image_shards
from training.data.packed import STILL_STREAMS, open_packed, write_packed
from training.data.webdataset import EncodedMedia

TRAIN, VAL, TEST = ("000000001", "000000004", "000000006"), "000000005", "000000012"


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
    write_tar(tmp_path / "00010.tar", entry(TRAIN[1], "second") | entry(TEST, "a test"))
    write_tar(tmp_path / "00009.tar", entry(TRAIN[0], " first\n", "webp") | entry(VAL, "to validate on"))
    write_tar(tmp_path / "train-00000.tar", entry("other", "of another corpus"))
    found = {split: list(image_shards(tmp_path, split)) for split in ("train", "val", "test")}
    assert {split: [(e.key, e.captions) for e, _ in items] for split, items in found.items()} == {
        "train": [(TRAIN[0], ("first",)), (TRAIN[1], ("second",))],
        "val": [(VAL, ("to validate on",))],
        "test": [(TEST, ("a test",))],
    }
    assert found["train"][0][1] == EncodedMedia(f"{TRAIN[0]}.webp", picture())
    assert all(example.still for items in found.values() for example, _ in items)


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


def test_pictures_without_a_caption_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bare = {f"{TRAIN[2]}.jpg": picture()}
    write_tar(tmp_path / "00000.tar", entry(TRAIN[0], None) | entry(TRAIN[1], "a red thing") | bare)
    with caplog.at_level(logging.WARNING):
        assert [example.key for example, _ in image_shards(tmp_path, "train")] == [TRAIN[1]]
    assert f"train: 2 without a caption are left out: {TRAIN[0]}, {TRAIN[2]}" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"txt": b"", "json": b'{"caption": 3}'}, "KEY.json: caption: 3; a sentence"),
        ({"txt": None, "json": b"[]"}, r"KEY.json: \[\]; a JSON object was expected"),
        ({"txt": None, "json": b"{"}, r"KEY.json: not JSON \("),
        ({"txt": b"caf\xe9"}, "KEY.txt: .*; UTF-8 was expected"),
        ({"txt": b"", "json": b'{"caption": "a \\ud83d"}'}, "KEY.json: caption: .* is half a character"),
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
    with pytest.raises(CorpusError, match=rf"00001\.tar: {VAL}: one that has not occurred before was expected"):
        list(image_shards(tmp_path, "val"))


def test_a_packed_split_names_the_pictures_that_cannot_be_used(tmp_path: Path) -> None:
    without = entry("000000003", "not there")
    del without["000000003.jpg"]
    members = entry(TRAIN[0], "a green thing", "JPG", picture(GREEN)) | without
    write_tar(tmp_path / "00000.tar", members | entry("000000002", "broken", content=picture()[:120]))
    write_tar(tmp_path / "00001.tar", entry("000010000", "a blue thing", "png", picture(BLUE, "PNG")))
    out = tmp_path / "packed" / "train"
    info = write_packed(out, STILL_STREAMS, image_shards(tmp_path, "train"), ORIGIN, max_skipped=0.5)
    assert [skipped["key"] for skipped in info["skipped"]] == ["000000003", "000000002"]
    assert "empty (0 bytes)" in info["skipped"][0]["reason"]
    packed = open_packed(out)
    assert [example.captions for example in packed.examples] == [("a green thing",), ("a blue thing",)]
    for row, color in enumerate((GREEN, BLUE)):
        np.testing.assert_allclose(packed.arrays["high"][row, 0].mean(axis=(0, 1)), color, atol=6)


def test_a_folder_without_numbered_shards_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-00000.tar", entry(TRAIN[0], "a red thing"))
    with pytest.raises(CorpusError, match=r"no shard; 00000\.tar, 00001\.tar and so on were expected"):
        list(image_shards(tmp_path, "train"))
    with pytest.raises(CorpusError, match=r"split: 'all'; one of"):
        list(image_shards(tmp_path, "all"))


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "00000.tar", entry(TRAIN[0], "a red thing"))
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(CorpusError, match=r"00000\.tar: .*a readable tar archive was expected"):
        list(image_shards(tmp_path, "train"))

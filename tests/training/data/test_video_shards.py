from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from tests.training.data.corpus_files import GREEN, RED, movie, write_tar
from training.data.errors import CorpusError
from training.data.hash_split import split_of
from training.data.packed import VIDEO_STREAMS, open_packed, write_packed
from training.data.video_shards import ORIGIN, video_shards
from training.data.webdataset import EncodedMedia

TRAIN = [key for key in (f"{n:09}" for n in range(20)) if split_of(key) == "train"]


def sample(key: str, text: str | None, **record: object) -> dict[str, bytes]:
    """The members of one key."""
    members = {f"{key}.mp4": key.encode(), f"{key}.json": json.dumps({"key": key, **record}).encode()}
    return members if text is None else members | {f"{key}.txt": text.encode()}


def test_captions_are_the_text_or_else_that_of_the_record(tmp_path: Path) -> None:
    one, two, three = TRAIN[:3]
    write_tar(
        tmp_path / "00000.tar",
        sample(one, "a cat\n", caption="other", url="https://a/b") | sample(two, None, caption="dogs"),
    )
    write_tar(tmp_path / "00001.tar", {f"{three}.m4a": b"sound"} | sample(three, "", caption="birds"))
    read = list(video_shards(tmp_path, "train"))
    assert [(example.key, example.captions) for example, _ in read] == [
        (one, ("a cat",)),
        (two, ("dogs",)),
        (three, ("birds",)),
    ]
    assert [media for _, media in read] == [EncodedMedia(f"{key}.mp4", key.encode()) for key in (one, two, three)]
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
    assert sum(len(found) for found in seen.values()) == len(keys)
    assert all(found and len(set(found)) * 3 == len(found) for found in seen.values())


def test_videos_without_a_caption_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tar(tmp_path / "00000.tar", sample(TRAIN[0], "", caption=None) | sample(TRAIN[1], "words"))
    with caplog.at_level(logging.WARNING):
        assert [example.key for example, _ in video_shards(tmp_path, "train")] == [TRAIN[1]]
    assert f"1 without a caption are left out: {TRAIN[0]}" in caplog.text


def test_shards_of_real_videos_can_be_packed(tmp_path: Path) -> None:
    movie(tmp_path / "a.mp4", [RED, GREEN])
    content = (tmp_path / "a.mp4").read_bytes()
    write_tar(tmp_path / "00000.tar", {f"{TRAIN[0]}.mp4": content, f"{TRAIN[0]}.txt": b"two colors"})
    write_packed(tmp_path / "out", VIDEO_STREAMS, video_shards(tmp_path, "train"), ORIGIN)
    packed = open_packed(tmp_path / "out")
    assert packed.examples[0].captions == ("two colors",)
    means = packed.arrays["low"][0].mean(axis=(1, 2))
    np.testing.assert_allclose(means, [RED] * 3 + [GREEN] * 3, atol=12)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"K.mp4": b"", "K.json": b"{"}, r"00000\.tar: K\.json: not JSON"),
        ({"K.mp4": b"", "K.json": b"[]"}, r"00000\.tar: K\.json: \[\]; a JSON object"),
        ({"K.mp4": b"", "K.json": b'{"caption": 3}'}, r"00000\.tar: K\.json: caption: 3; a sentence"),
        ({"K.mp4": b"", "K.txt": b"caf\xe9"}, r"00000\.tar: K\.txt: .*UTF-8 was expected"),
    ],
)
def test_a_malformed_member_is_named(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    key = TRAIN[0]
    write_tar(tmp_path / "00000.tar", {name.replace("K", key): content for name, content in members.items()})
    with pytest.raises(CorpusError, match=message.replace("K", key)):
        list(video_shards(tmp_path, "train"))


def test_a_broken_shard_and_a_folder_without_shards_are_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"no shard; 00000\.tar"):
        list(video_shards(tmp_path, "train"))
    (tmp_path / "00000.tar").write_bytes(b"not a tar archive" * 100)
    with pytest.raises(CorpusError, match=r"00000\.tar: .*a readable tar archive was expected"):
        list(video_shards(tmp_path, "train"))

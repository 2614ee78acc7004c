"""WebDataset shards of videos as video2dataset writes them: 00000.tar, 00001.tar, ... in a folder.

A key has KEY.mp4 (or .webm, .mkv, .avi, .mov), KEY.txt with its caption and KEY.json with what else is known:
the caption is that of KEY.txt, or "caption" of KEY.json where the text is missing or empty. A video without
any is left out; how many is logged as a warning. Other members (audio, subtitles) are passed over.

A key 000000012_00003 is clip 3, cut out of video 000000012 before it was stored: "clips" of its JSON says where
it was in that video, so the stored file is used whole. The names tell no split; it is by the key of the video,
so that all clips of a video are in one.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from training.data.example import Example
from training.data.hash_split import check_split, split_of, split_rule
from training.data.json_file import short
from training.data.packed import Media, Origin
from training.data.webdataset import CorpusError, EncodedMedia, tar_members

ORIGIN = Origin(
    source="video shards of a user, in video2dataset's layout",
    licence="that of the videos",
    split_rule=split_rule("the key, without the number of a clip"),
)
VIDEOS = ("mp4", "webm", "mkv", "avi", "mov")
WANTED = (*VIDEOS, "txt", "json")
_CLIP_KEY = re.compile(r"(\d+)_\d+")
_logger = logging.getLogger(__name__)


def video_shards(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Every captioned video of a split, in the order of the shards. Raises CorpusError naming shard and member."""
    check_split(split)
    shards = sorted(folder.glob("[0-9]*.tar"))
    if not shards:
        raise CorpusError(f"{folder}: no shard; 00000.tar, 00001.tar, ... were expected")
    without_caption: list[str] = []
    for shard in shards:
        members = tar_members(shard, lambda name: _is_wanted(name, split))
        for key, group in groupby(members, key=lambda member: _parted(member[0])[0]):
            parts = {_parted(name)[1]: content for name, content in group}
            video = next((extension for extension in VIDEOS if extension in parts), None)
            if video is None:
                raise CorpusError(f"{shard}: {key}: has {sorted(parts)}; one of {VIDEOS} was expected")
            record = _record(shard, key, parts.get("json", b"{}"))
            caption = _caption(shard, key, parts.get("txt", b""), record)
            if not caption:
                without_caption.append(key)
                continue
            attributes = {name: record[name] for name in ("url", "clips") if name in record}
            yield Example(key, (caption,), attributes=attributes), EncodedMedia(f"{key}.{video}", parts[video])
    if without_caption:
        named = ", ".join(without_caption[:5]) + (", ..." if len(without_caption) > 5 else "")
        _logger.warning("%s: %s: %d without a caption are left out: %s", folder, split, len(without_caption), named)


def _parted(name: str) -> tuple[str, str]:
    """(key, extension): the key ends at the first dot of the file name, as WebDataset defines it."""
    key, _, extension = PurePosixPath(name).name.partition(".")
    return key, extension.lower()


def _is_wanted(name: str, split: str) -> bool:
    # Decided by the name alone: the content of the other splits need not be read.
    key, extension = _parted(name)
    clip = _CLIP_KEY.fullmatch(key)
    return extension in WANTED and split_of(clip[1] if clip else key) == split


def _record(shard: Path, key: str, content: bytes) -> dict[str, Any]:
    try:
        record = json.loads(content)
    except ValueError as error:
        raise CorpusError(f"{shard}: {key}.json: not JSON ({error})") from None
    if not isinstance(record, dict):
        raise CorpusError(f"{shard}: {key}.json: {short(record)}; a JSON object was expected")
    return record


def _caption(shard: Path, key: str, text: bytes, record: Mapping[str, Any]) -> str:
    try:
        caption = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{shard}: {key}.txt: {error}; UTF-8 was expected") from None
    if not caption.strip():
        caption = record.get("caption") or ""
        if not isinstance(caption, str):
            raise CorpusError(f"{shard}: {key}.json: caption: {short(caption)}; a string was expected")
    return " ".join(caption.split())

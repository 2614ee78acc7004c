"""HD-VILA-100M: transcribed clips of web videos, as far as the videos are present.

Xue et al.: Advancing high-resolution video-language representation with large-scale video transcriptions,
CVPR 2022. The authors distribute metadata, not videos.

FOLDER/ (also in metafiles/, metadata/, text/)
    *.jsonl of metadata: {"video_id": "QMi8x8o55Ns", "url": ..., "clip": [{"clip_id": "QMi8x8o55Ns.1.mp4",
        "span": ["00:00:17.759", "00:00:23.279"]}, ...]}, one video per line
    *.jsonl of text: {"clip_id": "QMi8x8o55Ns.1.mp4", "text": "..."}, one clip per line
    ID.mp4, .mkv or .webm in download_videos/, videos/ or FOLDER: whole videos; or else clips that were cut
        before, named as clip_id, in video_clips/ID/, video_clips/, clips/ID/, clips/, videos/ or FOLDER

A whole video is preferred, and cut at exactly the stated frames: the authors' tool copies the stream, so that its clips
begin at the key frame before. One example per clip, with its text as caption. Clips without text are left out, and
counted in a warning. A clip whose video is missing has the path where the video would be: packing lists it under
"skipped", and fails when too many are missing; missing videos are logged as well.

Texts are held in memory: provide the metadata and texts of the videos present, not of all 3.3 million.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from training.data.corpus import (
    CorpusError,
    Record,
    check_split,
    media_path,
    present_folders,
    read_json_lines,
    records_of,
    split_of,
    split_rule,
    text_of,
    text_or_blank,
    unexpected,
    warn_of,
)
from training.data.example import Example
from training.data.packed import Media, MediaSpan, Origin

ORIGIN = Origin(
    source="HD-VILA-100M (Xue et al., CVPR 2022)",
    licence="Research Use of Data Agreement v1.0 (non-commercial research); the videos belong to their authors",
    split_rule=split_rule("video_id"),
)
ANNOTATION_FOLDERS = (".", "metafiles", "metadata", "text")
WHOLE_FOLDERS = ("download_videos", "videos", ".")
CLIP_FOLDERS = ("video_clips/{}", "video_clips", "clips/{}", "clips", "videos", ".")
SUFFIXES = (".mp4", ".mkv", ".webm")
_TIME = re.compile(r"(\d+):([0-5]\d):([0-5]\d(?:\.\d+)?)")


def hdvila100m(folder: Path, split: str) -> Iterator[tuple[Example, Media]]:
    """Yield every clip of a split that has text, in the order of the metadata. Raises CorpusError."""
    check_split(split)
    metadata, texts = _annotation(folder)
    without_text: list[str] = []
    missing: list[str] = []
    keys: set[str] = set()
    whole_folders = present_folders(folder, WHOLE_FOLDERS, "videos")
    for path in metadata:
        for record in read_json_lines(path):
            video = text_of(record, "video_id", "the name of a video")
            if split_of(video) != split:
                continue
            whole = media_path(whole_folders, video, SUFFIXES)
            clip_folders = [] if whole.is_file() else _clip_folders(folder, video)
            is_missing = False
            for clip in records_of(record, "clip"):
                key = _key(clip)
                if key in keys:
                    raise unexpected(clip, "clip_id", "a unique value")
                keys.add(key)
                start, end = _span(clip)
                if not texts.get(key):
                    without_text.append(key)
                    continue
                media = _media(whole, clip_folders, key, start, end)
                is_missing |= isinstance(media, MediaSpan) and bool(clip_folders)
                attributes = {"video": video, "start": start, "end": end}
                yield Example(key, (texts[key],), attributes=attributes), media
            if is_missing:
                missing.append(video)
    warn_of(folder, split, "clips without text are left out", without_text)
    warn_of(folder, split, "videos are missing", missing)


def _annotation(folder: Path) -> tuple[list[Path], Mapping[str, str]]:
    """Return the metadata files and {key: text} of the text files. The first line of a file decides its type."""
    metadata: list[Path] = []
    texts: dict[str, str] = {}
    paths = sorted(path for name in ANNOTATION_FOLDERS for path in (folder / name).glob("*.jsonl"))
    has_texts = False
    for path in paths:
        for number, record in enumerate(read_json_lines(path)):
            if number == 0 and "clip" in record.fields:
                metadata.append(path)
                break
            has_texts = True
            text = text_or_blank(record, "text", "a string (or the metadata of clips)")
            if texts.setdefault(_key(record), text) != text:
                raise unexpected(record, "clip_id", "a unique id, or the same text as before,")
    for files, what in ((metadata, "metadata ({video_id, clip})"), (has_texts, "texts ({clip_id, text})")):
        if not files:
            raise CorpusError(f"{folder}: no .jsonl of {what} in any of {ANNOTATION_FOLDERS}; one was expected")
    return metadata, texts


def _media(whole: Path, clip_folders: Sequence[Path], key: str, start: float, end: float) -> Media:
    if clip_folders:
        cut = media_path(clip_folders, key, SUFFIXES)
        if cut.is_file():
            return cut
    return MediaSpan(whole, start, end)


def _clip_folders(folder: Path, video: str) -> list[Path]:
    return present_folders(folder, [name.format(video) for name in CLIP_FOLDERS], "clips")


def _key(record: Record) -> str:
    return text_of(record, "clip_id", "the name of a clip").removesuffix(".mp4")


def _span(clip: Record) -> tuple[float, float]:
    """Return (start, end) in seconds of the whole video."""
    span = clip.fields.get("span")
    times = [_seconds(time) for time in span] if isinstance(span, list) else []
    if len(times) != 2 or None in times:
        raise unexpected(clip, "span", "[HH:MM:SS.mmm, HH:MM:SS.mmm]")
    start, end = (time for time in times if time is not None)
    if end < start:
        raise unexpected(clip, "span", "an end after the start")
    return start, end


def _seconds(time: object) -> float | None:
    match = _TIME.fullmatch(time) if isinstance(time, str) else None
    if match is None:
        return None
    return round(int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]), 6)

"""Sentences with their moments in videos: public corpora in the layouts of their authors.

qvhighlights (Lei, Berg, Bansal, NeurIPS 2021), and scenes drawn by `training.moments.scenes`:
    FOLDER/highlight_{train,val,test}_release.jsonl, a line per sentence:
        {"qid": 9, "query": "...", "duration": 150, "vid": "NAME", "relevant_windows": [[start, end], ...],
         "relevant_clip_ids": [0, ...], "saliency_scores": [[4, 1, 2], ...]}
    FOLDER/videos/NAME.mp4. The last two fields are optional: clips of 2 s, and their ratings (0 to 4) by three people.
    An empty list of windows: nothing in the video fits. The released test split has no windows and cannot be read.
charades_sta (Gao, Sun, Yang, Nevatia, ICCV 2017):
    FOLDER/charades_sta_{train,test}.txt, a line per sentence: NAME start end##sentence
    FOLDER/Charades_v1_480/, Charades_v1/ or videos/. Validation: training videos chosen by their names.
didemo (Hendricks et al., ICCV 2017):
    FOLDER/{train,val,test}_data.json: [{"annotation_id": 1, "description": "...", "video": "NAME.mov",
        "times": [[first, last], ...]}, ...], segments of 5 s from 0, one pair per annotator. The most frequent pair is
        used.
    FOLDER/videos/
activitynet_captions (Krishna et al., ICCV 2017):
    FOLDER/{train,val_1,val_2}.json: {"v_ID": {"duration": 82.7, "timestamps": [[start, end], ...],
        "sentences": ["...", ...]}, ...}; val_1 validates and val_2 tests, as is usual in localisation.
    FOLDER/videos/

Times are seconds of the video. Moments of length 0, of which Charades-STA and ActivityNet Captions have a few, are left
out with a warning.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data.corpus import (
    VALIDATION_BYTES,
    CorpusError,
    Record,
    check_split,
    first_byte,
    media_path,
    number_of,
    numbered_lines,
    present_folders,
    read_json_lines,
    read_object,
    read_objects,
    text_of,
    texts_of,
    unexpected,
    warn_of,
)
from training.data.packed import Origin
from training.data.subtitled import VIDEO_SUFFIXES
from vitascope.moments import Span

HIGHLIGHT_SECONDS, VERY_GOOD = 2.0, 4
"""Length in seconds of the clips that people rated in QVHighlights, and the highest rating."""
DIDEMO_SECONDS = 5.0
_SPAN = "[start, end] in seconds with 0 <= start < end"
_CHARADES_LINE = re.compile(r"(\S+)\s+(\d+(?:\.\d+)?)\s+(\d+(?:\.\d+)?)\s*##\s*(\S.*)")


@dataclass(frozen=True)
class MomentQuery:
    """A sentence and its moments in one video.

    spans: In seconds, ascending; empty for a sentence that fits nothing in the video. highlights: Spans that HIT@1
    accepts; None: `spans`.
    """

    key: str
    text: str
    spans: tuple[Span, ...]
    highlights: tuple[Span, ...] | None = None


@dataclass(frozen=True)
class MomentVideo:
    """A video file with its sentences."""

    key: str
    path: Path
    queries: tuple[MomentQuery, ...]


@dataclass(frozen=True)
class MomentReader:
    """Reader of the videos of a split, in file order, and the origin of the corpus."""

    read: Callable[[Path, str], Iterator[MomentVideo]]
    origin: Origin


def qvhighlights(folder: Path, split: str) -> Iterator[MomentVideo]:
    """Yield the videos of a split. Raises CorpusError naming file, line and field."""
    check_split(split)
    path = folder / f"highlight_{split}_release.jsonl"
    rows = []
    for record in read_json_lines(path):
        if record.fields.get("relevant_windows") is None and split == "test":
            raise unexpected(
                record, "relevant_windows", f"a list of {_SPAN} (the released test split has none: use val)"
            )
        spans = _spans(record, "relevant_windows")
        text = text_of(record, "query", "a sentence")
        query = MomentQuery(str(number_of(record, "qid")), text, spans, _highlights(record))
        rows.append((text_of(record, "vid", "the name of a video"), query))
    yield from _videos(folder, ("videos",), rows)


def charades_sta(folder: Path, split: str) -> Iterator[MomentVideo]:
    """Yield the videos of a split. Raises CorpusError naming file, line and what was expected."""
    check_split(split)
    path = folder / f"charades_sta_{'test' if split == 'test' else 'train'}.txt"
    rows, empty = [], []
    for number, line in numbered_lines(path):
        match = _CHARADES_LINE.fullmatch(line.strip())
        if match is None:
            raise CorpusError(f"{path}:{number}: {line[:80]!r}; VIDEO START END##SENTENCE was expected")
        name, start, end, text = match[1], float(match[2]), float(match[3]), match[4].strip()
        if split != "test" and (first_byte(name) < VALIDATION_BYTES) != (split == "val"):
            continue
        if start >= end:
            empty.append(f"{path.name}:{number}")
        else:
            rows.append((name, MomentQuery(str(number), text, ((start, end),))))
    warn_of(folder, split, "sentences have a moment without length", empty)
    yield from _videos(folder, ("Charades_v1_480", "Charades_v1", "videos"), rows)


def didemo(folder: Path, split: str) -> Iterator[MomentVideo]:
    """Yield the videos of a split. Raises CorpusError naming file, element and field."""
    check_split(split)
    rows = []
    for record in read_objects(folder / f"{split}_data.json"):
        times = record.fields.get("times")
        if not isinstance(times, list) or not times or not all(_is_segments(pair) for pair in times):
            raise unexpected(record, "times", "a list of [first, last] segments with 0 <= first <= last")
        first, last = Counter(map(tuple, times)).most_common(1)[0][0]
        span = (first * DIDEMO_SECONDS, (last + 1) * DIDEMO_SECONDS)
        text = text_of(record, "description", "a sentence")
        query = MomentQuery(str(number_of(record, "annotation_id")), text, (span,))
        rows.append((text_of(record, "video", "the name of a video"), query))
    yield from _videos(folder, ("videos",), rows)


def activitynet_captions(folder: Path, split: str) -> Iterator[MomentVideo]:
    """Yield the videos of a split. Raises CorpusError naming file, video and field."""
    check_split(split)
    path = folder / f"{ {'train': 'train', 'val': 'val_1', 'test': 'val_2'}[split] }.json"
    content = read_object(path)
    rows, empty = [], []
    for name in content.fields:
        if not isinstance(content.fields[name], dict):
            raise unexpected(content, name, "an object with timestamps and sentences")
        record = Record(f"{path}: {name}.", content.fields[name])
        sentences = texts_of(record, "sentences", "a sentence")
        spans = record.fields.get("timestamps")
        if not isinstance(spans, list) or len(spans) != len(sentences):
            raise unexpected(record, "timestamps", f"a list of {len(sentences)} {_SPAN}, one per sentence,")
        for index, (span, text) in enumerate(zip(spans, sentences, strict=True)):
            if _is_pair(span) and span[0] >= span[1]:
                empty.append(f"{name}[{index}]")
                continue
            query = MomentQuery(f"{name}#{index}", text, (_span(f"{record.where}timestamps[{index}]", span),))
            rows.append((name, query))
    warn_of(folder, split, "sentences have a moment without length", empty)
    yield from _videos(folder, ("videos",), rows)


def _videos(folder: Path, folders: tuple[str, ...], rows: Iterable[tuple[str, MomentQuery]]) -> Iterator[MomentVideo]:
    """Yield each video with its sentences. rows: (name of the video, sentence) in file order."""
    by_name: dict[str, list[MomentQuery]] = {}
    for name, query in rows:
        by_name.setdefault(name, []).append(query)
    present = present_folders(folder, folders, "videos")
    for name, queries in by_name.items():
        suffix = Path(name).suffix.lower()
        stem, own = (name[: -len(suffix)], (suffix,)) if suffix in VIDEO_SUFFIXES else (name, ())
        yield MomentVideo(name, media_path(present, stem, (*own, *VIDEO_SUFFIXES)), tuple(queries))


def _spans(record: Record, name: str) -> tuple[Span, ...]:
    values = record.fields.get(name)
    if not isinstance(values, list):
        raise unexpected(record, name, f"a list of {_SPAN}")
    return tuple(sorted(_span(f"{record.where}{name}[{index}]", value) for index, value in enumerate(values)))


def _span(where: str, value: Any) -> Span:
    if not _is_pair(value) or not 0 <= value[0] < value[1]:
        raise CorpusError(f"{where}: {value!r}; {_SPAN} was expected")
    return float(value[0]), float(value[1])


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(x, int | float) and not isinstance(x, bool) for x in value)
    )


def _is_segments(value: Any) -> bool:
    return _is_pair(value) and all(isinstance(x, int) for x in value) and 0 <= value[0] <= value[1]


def _highlights(record: Record) -> tuple[Span, ...] | None:
    """Return the clips that any annotator rated as very good, which HIT@1 accepts; None without ratings."""
    if "saliency_scores" not in record.fields:
        return None
    clips, marks = record.fields.get("relevant_clip_ids"), record.fields["saliency_scores"]
    if not isinstance(clips, list) or not all(isinstance(clip, int) and clip >= 0 for clip in clips):
        raise unexpected(record, "relevant_clip_ids", "a list of numbers of clips")
    if not isinstance(marks, list) or len(marks) != len(clips) or not all(_is_marks(row) for row in marks):
        raise unexpected(record, "saliency_scores", f"{len(clips)} lists of marks from 0 to {VERY_GOOD}, one per clip,")
    return tuple(
        (clip * HIGHLIGHT_SECONDS, (clip + 1) * HIGHLIGHT_SECONDS)
        for clip, row in zip(clips, marks, strict=True)
        if max(row) >= VERY_GOOD
    )


def _is_marks(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(x, int) and 0 <= x <= VERY_GOOD for x in value)


READERS: Mapping[str, MomentReader] = {
    "moment_scenes": MomentReader(
        qvhighlights,
        Origin(
            source="training.moments.scenes, the generator of this project",
            licence="CC0: no rights reserved",
            split_rule="by the generator: some combinations of colour, shape and motion occur in the test split alone",
        ),
    ),
    "qvhighlights": MomentReader(
        qvhighlights,
        Origin(
            source="QVHighlights (Lei, Berg, Bansal, NeurIPS 2021)",
            licence="CC BY-NC-SA 4.0; the videos belong to their authors on YouTube",
            split_rule="official; the test split has no public annotation",
        ),
    ),
    "charades_sta": MomentReader(
        charades_sta,
        Origin(
            source="Charades-STA (Gao, Sun, Yang, Nevatia, ICCV 2017) on Charades (Sigurdsson et al., ECCV 2016)",
            licence="non-commercial research, by the licence of Charades",
            split_rule=f"official; training videos validate when the first byte of the SHA-1 of their name is below "
            f"{VALIDATION_BYTES}",
        ),
    ),
    "didemo": MomentReader(
        didemo,
        Origin(
            source="DiDeMo (Hendricks, Wang, Shechtman, Sivic, Darrell, Russell, ICCV 2017)",
            licence="BSD-2-Clause; the videos belong to their authors on Flickr",
            split_rule="official",
        ),
    ),
    "activitynet_captions": MomentReader(
        activitynet_captions,
        Origin(
            source="ActivityNet Captions (Krishna, Hata, Ren, Fei-Fei, Niebles, ICCV 2017)",
            licence="research; the videos belong to their authors on YouTube",
            split_rule="official: train; val_1 validates, val_2 tests",
        ),
    ),
}

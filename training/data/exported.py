"""Videos of an exported collection (`vitascope collection export`), with their subtitles or transcripts.

EXPORT/videos.parquet has one row per video. Its columns subtitles and transcript are JSON lists of cues: start, end
(seconds) and text. The transcript is used only if a video has no subtitles, as in searches.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.data.corpus import CorpusError, first_names
from training.data.example import Utterance
from training.data.subtitled import SpokenVideo

VIDEOS_NAME = "videos.parquet"
_SOURCES = ("subtitles", "transcript")
_COLUMNS = ("path", "width", *_SOURCES)


def exported_videos(folder: Path, media: Path | None = None) -> tuple[list[SpokenVideo], str]:
    """Return the videos that have words and whose files exist, and a summary of used and unused videos.

    Args:
        folder: Folder of the export.
        media: Folder of the collection, for files that the collection owns; None: such videos count as missing.

    Raises:
        CorpusError: The file is damaged, or was exported by an earlier version.
    """
    spoken: dict[str, SpokenVideo] = {}
    silent, missing, owned = [], [], []
    for number, row in enumerate(_read_rows(folder / VIDEOS_NAME), 1):
        path = Path(row["path"])
        source, utterances = _read_utterances(f"{folder / VIDEOS_NAME}: row {number}", row)
        if not utterances or not row["width"]:
            silent.append(row["path"])
        elif media is None and not path.is_absolute():
            owned.append(row["path"])
        elif not (file := (media or folder) / path).is_file():
            missing.append(row["path"])
        else:
            # If two videos have the same path, the file has the content of the later one.
            spoken[row["path"]] = SpokenVideo(row["path"], file, source, utterances)
    counts = [sum(video.subtitles == source for video in spoken.values()) for source in _SOURCES]
    parts = [f"{counts[0]} videos with subtitles, {counts[1]} with transcripts"]
    for label, paths in (
        ("videos without words", silent),
        ("videos whose files are missing", missing),
        ("videos that the collection owns, for which --media was expected", owned),
    ):
        if paths:
            parts.append(f"{len(paths)} {label} ({first_names(paths)})")
    return list(spoken.values()), "; ".join(parts)


def _read_rows(file: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        absent = [name for name in _COLUMNS if name not in pq.read_schema(file).names]
        if absent:
            raise CorpusError(f"{file}: no column {absent[0]}; a collection exported by this version was expected")
        rows: list[dict[str, Any]] = pq.read_table(file, columns=list(_COLUMNS)).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(f"{file}: {error}; an exported collection was expected") from error
    return rows


def _read_utterances(name: str, row: Mapping[str, Any]) -> tuple[str, list[Utterance]]:
    """Return the name of the column that has the words of a video, and its utterances."""
    source = next((column for column in _SOURCES if row[column]), _SOURCES[0])
    try:
        cues = [(float(cue["start"]), float(cue["end"]), str(cue["text"])) for cue in json.loads(row[source] or "[]")]
    except (ValueError, TypeError, KeyError) as error:
        raise CorpusError(f"{name}: {source}: {error!r}; a list with start, end and text was expected") from error
    return source, [Utterance(*cue) for cue in sorted(cues) if cue[1] > cue[0]]

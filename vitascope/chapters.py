"""Chapters of a video: similar neighbouring shots or windows are merged, and each chapter gets a caption as title.

Shape letters: C clips, D embedding dim.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitascope.captions import caption_file
from vitascope.errors import InvalidInput, TaskMissing
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.modalities import Modality
from vitascope.moments import Span, embed_windows
from vitascope.speech.interface import SpeechSegment
from vitascope.speech.transcript_formats import format_vtt
from vitascope.text_format import format_time

if TYPE_CHECKING:
    from vitascope.media.file import MediaSource
    from vitascope.model import Model

MAX_DEFAULT_SIMILARITY = 0.9
"""Upper limit of the default similarity, so that small differences do not begin a chapter in a uniform video."""
YOUTUBE_SECONDS, YOUTUBE_CHAPTERS = 10, 3
"""Minimum number and length of chapters on YouTube (https://support.google.com/youtube/answer/9884579)."""


@dataclass(frozen=True)
class ChapterOptions:
    """Options of the division of a video into chapters.

    Attributes:
        min_seconds: A shorter chapter is merged with a neighbour, even if they differ.
        similarity: Least cosine of neighbours that are merged, -1 to 1. None: halfway between 1 and the mean cosine of
            all pairs of the video's clips, at most ``MAX_DEFAULT_SIMILARITY``, since cosines of models differ.
        max_chapters: Neighbours are merged until there are at most this many chapters.
    """

    min_seconds: float = 10.0
    similarity: float | None = None
    max_chapters: int = 20

    def __post_init__(self) -> None:
        if not 0 <= self.min_seconds < math.inf:
            raise InvalidInput(f"min_seconds: {self.min_seconds}; a finite number of seconds, 0 or more, was expected")
        if self.similarity is not None and not -1 <= self.similarity <= 1:
            raise InvalidInput(f"similarity: {self.similarity}; -1 to 1 was expected")
        if self.max_chapters < 1:
            raise InvalidInput(f"max_chapters: {self.max_chapters}; at least 1 was expected")


DEFAULT_OPTIONS = ChapterOptions()


class ChapterSpan(NamedTuple):
    """A chapter from ``start`` to ``end`` (s), and its most typical clip, whose caption becomes the title."""

    start: float
    end: float
    clip: Span


@dataclass(frozen=True)
class Chapter:
    """A chapter from ``start`` to ``end`` (s); its title is a caption, with ``log_probability`` and ``modalities``."""

    start: float
    end: float
    title: str
    log_probability: float
    modalities: tuple[Modality, ...]


def chapter_file(
    model: Model,
    file: str | os.PathLike[str],
    clips: Sequence[Span],
    options: ChapterOptions = DEFAULT_OPTIONS,
    limits: MediaLimits = DEFAULT_LIMITS,
) -> list[Chapter]:
    """Divide a video file into chapters.

    Args:
        model: Model with the tasks "retrieval" and "captioning".
        file: Video file.
        clips: Clips that cover the file, in order, as (start, end) in s; chapters begin where clips do.
        options: Options of the division.
        limits: Limits of the decoder.

    Returns:
        Chapters in order; each ends where the next begins.

    Raises:
        MediaError: The file cannot be decoded, or has no pictures.
        InvalidInput: A clip is outside the file, or the file is a picture.
        TaskMissing: The bundle has no embeddings or captions.
        EngineError: A run failed.
    """
    _ = model.caption_decoder  # before anything is decoded
    spans = find_chapters(model, file, clips, options, limits)
    captioned = caption_file(model, file, [span.clip for span in spans], limits=limits)
    return [
        Chapter(span.start, span.end, clip.captions[0].text, clip.captions[0].log_probability, clip.modalities)
        for span, clip in zip(spans, captioned, strict=True)
    ]


def find_chapters(
    model: Model,
    file: MediaSource,
    clips: Sequence[Span],
    options: ChapterOptions = DEFAULT_OPTIONS,
    limits: MediaLimits = DEFAULT_LIMITS,
    embeddings: Mapping[Span, NDArray[np.float32]] | None = None,
) -> list[ChapterSpan]:
    """Embed the clips of a video and merge them into chapters.

    ``embeddings``: known embeddings (D,) by span, which are not computed again. Other arguments and errors as in
    ``chapter_file``.
    """
    manifest = model.bundle.manifest
    if not manifest.vector_width:
        raise TaskMissing(f"{manifest.name}: no embeddings, so no chapters; its tasks are {', '.join(manifest.tasks)}")
    if clips[-1][1] <= clips[0][0]:
        raise InvalidInput("chapters: a picture has none; a video was expected")
    vectors = dict(embeddings or {})
    if missing := [span for span in clips if span not in vectors]:
        vectors |= zip(missing, embed_windows(model, file, missing, limits), strict=True)
    return merge_clips(np.stack([vectors[span] for span in clips]), clips, options)


def merge_clips(
    embeddings: NDArray[np.floating], clips: Sequence[Span], options: ChapterOptions = DEFAULT_OPTIONS
) -> list[ChapterSpan]:
    """Merge neighbouring clips into chapters.

    This is agglomerative clustering with Ward's criterion in which only neighbours can merge (the connectivity of
    scikit-learn's ``AgglomerativeClustering``). The cost of merging two chapters is their distance times the harmonic
    mean of their durations; the distance is 1 - cosine of their embeddings, which are sums weighted by duration. The
    cheapest pair is merged first, among pairs that are similar enough or too short; among all pairs while there are too
    many chapters.

    Args:
        embeddings: Embeddings of length 1, (C, D).
        clips: C spans in order; each ends where the next begins, or later.
        options: Options of the division.
    """
    starts = [start for start, _ in clips]
    bounds = [*starts, clips[-1][1]]
    rows = np.asarray(embeddings, np.float64)
    weighted = np.diff(bounds)[:, None] * rows
    similarity = options.similarity
    if similarity is None:
        mean = float(np.square(weighted.sum(axis=0) / (bounds[-1] - bounds[0])).sum())
        similarity = min((1 + mean) / 2, MAX_DEFAULT_SIMILARITY)
    firsts, sums, seconds = list(range(len(clips))), list(weighted), np.diff(bounds)
    distances = np.array([_distance(*sums[pair : pair + 2]) for pair in range(len(sums) - 1)])
    while len(distances):
        left, right = seconds[:-1], seconds[1:]
        may_merge = (distances <= 1 - similarity) | (np.minimum(left, right) < options.min_seconds)
        may_merge |= len(seconds) > options.max_chapters
        if not may_merge.any():
            break
        pair = int(np.argmin(np.where(may_merge, distances * left * right / (left + right), np.inf)))
        sums[pair] = sums[pair] + sums.pop(pair + 1)
        seconds[pair] += seconds[pair + 1]
        firsts.pop(pair + 1)
        seconds, distances = np.delete(seconds, pair + 1), np.delete(distances, pair)
        for changed in range(max(0, pair - 1), min(pair + 1, len(distances))):
            distances[changed] = _distance(*sums[changed : changed + 2])
    chapters = []
    for first, last, total in zip(firsts, [*firsts[1:], len(clips)], sums, strict=True):
        typical = first + int(np.argmax(rows[first:last] @ total))
        chapters.append(ChapterSpan(bounds[first], bounds[last], clips[typical]))
    return chapters


def _distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return 1 - cosine, clamped to 0 against rounding errors."""
    return max(0.0, 1 - float(a @ b) / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))


def format_text(chapters: Sequence[Chapter]) -> str:
    """Return a line ``m:ss title`` for each chapter."""
    return "".join(f"{format_time(chapter.start)} {title}\n" for chapter, title in _titled(chapters))


def format_youtube(chapters: Sequence[Chapter]) -> str:
    """Return lines for the description of a video on YouTube. Raises InvalidInput if YouTube would ignore them."""
    shortest = round(min(chapter.end - chapter.start for chapter in chapters), 3)
    if chapters[0].start > 0 or len(chapters) < YOUTUBE_CHAPTERS or shortest < YOUTUBE_SECONDS:
        raise InvalidInput(
            f"youtube: {len(chapters)} chapters from {format_time(chapters[0].start)}, the shortest of {shortest:g} s; "
            f"at least {YOUTUBE_CHAPTERS} from 0:00 were expected, each of at least {YOUTUBE_SECONDS} s"
        )
    return format_text(chapters)


def format_webvtt(chapters: Sequence[Chapter]) -> str:
    """Return a WebVTT file for ``<track kind="chapters">``."""
    return format_vtt(SpeechSegment(chapter.start, chapter.end, title) for chapter, title in _titled(chapters))


def format_ffmetadata(chapters: Sequence[Chapter]) -> str:
    """Return a metadata file of FFmpeg (https://ffmpeg.org/ffmpeg-formats.html#Metadata-2)."""
    sections = (
        f"[CHAPTER]\nTIMEBASE=1/1000\nSTART={round(1000 * chapter.start)}\nEND={round(1000 * chapter.end)}\n"
        + "title="
        + re.sub(r"[=;#\\]", r"\\\g<0>", title)
        + "\n"
        for chapter, title in _titled(chapters)
    )
    return ";FFMETADATA1\n" + "".join(sections)


def format_json(chapters: Sequence[Chapter]) -> str:
    """Return chapters as indented JSON."""
    return json.dumps({"chapters": [asdict(each) for each in chapters]}, indent=2, ensure_ascii=False) + "\n"


FORMATTERS: dict[str, Callable[[Sequence[Chapter]], str]] = {
    "text": format_text,
    "vtt": format_webvtt,
    "json": format_json,
    "youtube": format_youtube,
    "ffmetadata": format_ffmetadata,
}


def _titled(chapters: Sequence[Chapter]) -> list[tuple[Chapter, str]]:
    """Return chapters with their titles on one line; a number replaces an empty one."""
    return [(each, " ".join(each.title.split()) or f"Chapter {n}") for n, each in enumerate(chapters, 1)]

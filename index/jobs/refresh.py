"""Refresh of a video whose file is indexed again: update path, title, metadata and subtitles, without embedding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from index.clips.subtitles import Subtitles, find_subtitles
from index.clips.timed_text import text_per_span
from index.jobs.ingest import IngestResult
from index.jobs.records import JobItem
from index.jobs.sources.fetcher import file_name
from index.jobs.sources.source_types import UploadSource
from index.records import Video
from index.storage.edits import SourceStatement
from index.video_text import speech_segments
from vitascope.media.file import MediaFile

if TYPE_CHECKING:
    from index.jobs.execution import RunContext


def refresh_known(context: RunContext, item: JobItem, media: MediaFile, video: Video) -> IngestResult:
    """Refresh the video of an item whose content the collection already has.

    Title, metadata and subtitles are updated only if the item is the video's source. Any other file with the same
    content is a duplicate, unless the file of the video is missing or replaced: then the item's file takes its place.

    Args:
        context: dependencies of the run.
        item: the item of the job.
        media: the open file of the item.
        video: the video with the same content.

    Raises:
        InvalidInput, StorageError, VideoNotFound.
    """
    collection, options = context.collection, context.job.options
    path, source_uri = collection.media.path_of(media.path), context.fetcher.source_uri(item.path)
    size = media.status().st_size
    is_moved = path != video.path and collection.media.is_missing(video.path, size)
    if not (is_moved or path == video.path or (source_uri is not None and source_uri == video.source_uri)):
        return IngestResult(video, created=False)
    notes: tuple[str, ...] = ()
    if isinstance(context.job.source, UploadSource):
        statement = SourceStatement(path=path if is_moved else None, file_size=size)
    else:
        texts, subtitles = _read_texts(context, item, media, video)
        notes = subtitles.notes
        statement = SourceStatement(
            title=item.title or _title_of_file(item, video),
            metadata={**options.metadata, **item.metadata},
            texts=texts,
            subtitles=speech_segments(subtitles.cues),
            path=path if is_moved else None,
            source_uri=source_uri,
            file_size=size,
        )
    refreshed, changes = collection.refresh_video(video, statement)
    return IngestResult(refreshed, created=False, notes=notes, changes=_describe(changes, collection.location(video)))


def _read_texts(context: RunContext, item: JobItem, media: MediaFile, video: Video) -> tuple[Sequence[str], Subtitles]:
    """Return the spoken words of each clip, and the subtitles that contain them."""
    if not video.duration:
        return (), Subtitles([])
    language, fetcher = context.job.options.segmentation.language, context.fetcher
    policy = fetcher.policy if fetcher.is_external(item.path) else None
    subtitles = find_subtitles(media, video.duration, language, context.limits, context.model.decoder, policy)
    spans = [(clip.start, clip.end) for clip in context.collection.clips(video.id)]
    return text_per_span(subtitles.cues, spans), subtitles


def _title_of_file(item: JobItem, video: Video) -> str | None:
    """Return the title derived from a file's name; None if the video's title was not derived from its former name."""
    former, present = (PurePosixPath(file_name(name)).stem for name in (video.source_uri or video.path, item.path))
    return present if video.title == former else None


def _describe(changes: Sequence[str], former: str | None) -> tuple[str, ...]:
    """Describe changes for the user. ``former``: former path of the video's file."""
    fields = [name for name in changes if name != "path"]
    moved = "its file was missing" if former is None else f"moved from {former}"
    return (*[moved] * ("path" in changes), *[f"refreshed: {', '.join(fields)}"] * bool(fields))

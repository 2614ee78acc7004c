"""Serialization of records of the index as JSON schemas, with the URLs of their media."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from urllib.parse import quote

from pydantic import TypeAdapter

from index.collection import Collection
from index.jobs.recognition_settings import read_recognition_settings
from index.jobs.records import Job, JobItem
from index.jobs.sources.source_types import source_dict
from index.records import Clip, Video
from index.search.search import RankedHit, SearchResult, search_signals
from index.storage.facets import Facets
from service.schemas import jobs as job_schemas
from service.schemas import library as schemas
from service.schemas import search as search_schemas
from service.schemas.jobs import JobSource
from vitascope.media.formats import media_type

_SOURCE: TypeAdapter[JobSource] = TypeAdapter(JobSource)


def serialize_collection(collection: Collection, model_loaded: bool, default_rerank: int) -> schemas.Collection:
    """Serialize a collection. Raises StorageError."""
    stats, index = collection.stats(), collection.index_state()
    recognition = read_recognition_settings(collection)
    return schemas.Collection(
        name=collection.name,
        videos=stats.videos,
        clips=stats.clips,
        bundle=collection.bundle_name,
        fingerprint=collection.fingerprint,
        model_loaded=model_loaded,
        default_rerank=default_rerank,
        created_at=collection.created_at,
        token_encoding=collection.token_encoding,
        dimensions=collection.embed_dim,
        signals=list(search_signals(collection)),
        index_kind=index.requested,
        index=schemas.IndexState(serving=index.serving, changed=index.changed),
        stemming=collection.stemming(),
        transcribe=recognition.transcribe,
        read_text=recognition.read_text,
        caption=recognition.caption,
        bytes=collection.size(),
    )


def serialize_facets(facets: Facets) -> schemas.Facets:
    """Serialize the facets of a collection."""
    return schemas.Facets.model_validate(asdict(facets))


def serialize_videos(collection: Collection, videos: Sequence[Video]) -> list[schemas.Video]:
    """Serialize videos of the collection."""
    missing = collection.media.find_missing(video.path for video in videos)
    return [_serialize_video(collection, video, is_missing=video.path in missing) for video in videos]


def serialize_video(collection: Collection, video: Video) -> schemas.Video:
    """Serialize a video of the collection."""
    return serialize_videos(collection, [video])[0]


def _serialize_video(collection: Collection, video: Video, *, is_missing: bool) -> schemas.Video:
    return schemas.Video(
        id=str(video.id),
        title=video.title,
        duration=video.duration,
        width=video.width,
        height=video.height,
        media_type=media_type(video.path),
        content_sha256=video.content_sha256,
        metadata=video.metadata,
        clips=video.clip_count,
        added_at=video.added_at,
        path=collection.location(video),
        missing=is_missing,
        media_url=media_url(collection.name, video),
        thumbnail_url=thumbnail_url(collection.name, video, 0.0, video.duration),
    )


def serialize_video_with_clips(collection: Collection, video: Video, clips: list[Clip]) -> schemas.VideoWithClips:
    """Serialize a video and its clips."""
    spans = [
        schemas.ClipSpan(
            id=str(clip.id),
            start=clip.start,
            end=clip.end,
            text=clip.text,
            screen_text=clip.screen_text,
            caption=clip.caption,
            modalities=collection.modalities(video, clip),
            media_url=media_url(collection.name, video, clip.start, clip.end),
            thumbnail_url=thumbnail_url(collection.name, video, clip.start, clip.end),
        )
        for clip in clips
    ]
    return schemas.VideoWithClips(**dict(serialize_video(collection, video)), spans=spans)


def serialize_results(collection: Collection, results: Sequence[SearchResult]) -> Iterator[search_schemas.SearchResult]:
    """Serialize search results: clips, events or videos."""
    videos = serialize_videos(collection, [result.best.hit.video for result in results])
    return map(partial(_serialize_result, collection), results, videos)


def _serialize_result(
    collection: Collection, result: SearchResult, serialized: schemas.Video
) -> search_schemas.SearchResult:
    video = result.best.hit.video
    is_clip = not result.clips
    clips = [_serialize_clip(collection, clip) for clip in result.clips]
    whole = {
        "start": result.start,
        "end": result.end,
        "media_url": media_url(collection.name, video, result.start, result.end),
    }
    return search_schemas.SearchResult(
        **{**dict(_serialize_clip(collection, result.best)), **whole},
        video=serialized,
        clips=None if is_clip else clips,
        clip_count=None if is_clip else result.clip_count,
        moment=None if result.moment is None else schemas.Moment(**vars(result.moment)),
    )


def _serialize_clip(collection: Collection, ranked: RankedHit) -> search_schemas.ClipHit:
    hit = ranked.hit
    return search_schemas.ClipHit(
        clip_id=str(hit.clip_id),
        start=hit.start,
        end=hit.end,
        text=hit.text,
        screen_text=hit.screen_text,
        caption=hit.caption,
        modalities=collection.modalities(hit.video, hit),
        relevance=ranked.relevance,
        conditions=[search_schemas.Condition(**asdict(c)) for c in ranked.conditions or ()] or None,
        similarity=ranked.similarity,
        match=ranked.match,
        fused=ranked.fused,
        signals={
            signal: search_schemas.SignalScore.model_validate(asdict(score)) for signal, score in ranked.signals.items()
        },
        media_url=media_url(collection.name, hit.video, hit.start, hit.end),
        thumbnail_url=thumbnail_url(collection.name, hit.video, hit.start, hit.end),
    )


def media_url(collection: str, video: Video, start: float = 0.0, end: float = 0.0) -> str:
    """Return the URL of the file; with a span, it is played from start to end (a media fragment)."""
    fragment = f"#t={start:.6g},{end:.6g}" if end > start else ""
    return f"{_video_url(collection, video)}/media{fragment}"


def thumbnail_url(collection: str, video: Video, start: float, end: float) -> str:
    """Return the URL of the frame in the middle of a span."""
    return f"{_video_url(collection, video)}/thumbnail?t={(start + end) / 2:.6g}"


def _video_url(collection: str, video: Video) -> str:
    return f"/v1/collections/{quote(collection, safe='')}/videos/{video.id}"


def serialize_job(job: Job) -> job_schemas.Job:
    """Serialize a job."""
    counts = job.counts
    return job_schemas.Job(
        id=str(job.id),
        source=_SOURCE.validate_python(source_dict(job.source)),
        metadata=dict(job.options.metadata),
        state=job.state,
        error=job.error,
        requested=job.requested,
        total=counts.total,
        done=counts.done,
        progress=job.progress,
        counts=job_schemas.JobCounts(**asdict(counts)),
        duplicates=job.duplicates,
        transcribe=job.options.transcribe,
        read_text=job.options.read_text,
        caption=job.options.caption,
        recognitions={
            kind: job_schemas.RecognitionCounts(**asdict(counts)) for kind, counts in job.recognitions.items()
        },
        rate=None if job.rate is None else job_schemas.JobRate(**asdict(job.rate)),
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
    )


def serialize_item(item: JobItem) -> job_schemas.JobItem:
    """Serialize a file of a job."""
    return job_schemas.JobItem(
        path=item.path,
        state=item.state,
        reason=item.reason,
        video_id=None if item.video_id is None else str(item.video_id),
        title=item.title,
        metadata=dict(item.metadata),
        tries=item.attempts,
        crashes=item.crashes,
    )

"""Conversion of index records to response schemas. It adds the URLs of media files and thumbnails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

from index.collection import Collection
from index.jobs.records import Job, JobItem
from index.records import Clip, Hit, Video
from index.search.search import SearchResult
from index.serializers import clip_dict, collection_dict, job_dict, result_dicts, video_dicts
from index.storage.facets import Facets
from service.schemas import jobs as job_schemas
from service.schemas import library as schemas
from service.schemas import search as search_schemas
from vitascope.client import response_types


def serialize_collection(collection: Collection, model_loaded: bool, default_rerank: int) -> schemas.Collection:
    """Serialize a collection.

    Args:
        collection: the collection.
        model_loaded: whether the model of the collection is loaded.
        default_rerank: default number of results to rerank.

    Raises:
        StorageError: the collection cannot be read.
    """
    service_fields = {"model_loaded": model_loaded, "default_rerank": default_rerank}
    return schemas.Collection.model_validate({**collection_dict(collection), **service_fields})


def serialize_facets(facets: Facets) -> schemas.Facets:
    """Serialize facets: the filters of a collection and their numbers of videos."""
    return schemas.Facets.model_validate(asdict(facets))


def serialize_videos(collection: Collection, videos: Sequence[Video]) -> list[schemas.Video]:
    """Serialize videos of ``collection``."""
    return [
        schemas.Video.model_validate(_with_video_urls(collection.name, video, fields))
        for video, fields in zip(videos, video_dicts(collection, videos), strict=True)
    ]


def serialize_video(collection: Collection, video: Video) -> schemas.Video:
    """Serialize a video of ``collection``."""
    return serialize_videos(collection, [video])[0]


def serialize_video_with_clips(collection: Collection, video: Video, clips: list[Clip]) -> schemas.VideoWithClips:
    """Serialize a video and its clips."""
    spans = [
        schemas.ClipSpan.model_validate(
            {**clip_dict(collection, video, clip), **_clip_urls(collection.name, video, clip)}
        )
        for clip in clips
    ]
    return schemas.VideoWithClips(**dict(serialize_video(collection, video)), spans=spans)


def serialize_results(collection: Collection, results: Sequence[SearchResult]) -> list[search_schemas.SearchResult]:
    """Serialize search results: clips, events or videos."""
    return [
        _serialize_result(collection.name, result, fields)
        for result, fields in zip(results, result_dicts(collection, results), strict=True)
    ]


def _serialize_result(
    collection: str, result: SearchResult, fields: response_types.SearchResult
) -> search_schemas.SearchResult:
    hit = result.best.hit
    clips = zip(result.clips, fields["clips"] or (), strict=True)
    return search_schemas.SearchResult.model_validate(
        {
            **fields,
            **_clip_urls(collection, hit.video, hit),
            "media_url": media_url(collection, hit.video, result.start, result.end),
            "video": _with_video_urls(collection, hit.video, fields["video"]),
            "clips": [{**clip, **_clip_urls(collection, hit.video, ranked.hit)} for ranked, clip in clips] or None,
        }
    )


def _with_video_urls(collection: str, video: Video, fields: response_types.Video) -> dict[str, Any]:
    thumbnail = thumbnail_url(collection, video, 0.0, video.duration)
    return {**fields, "media_url": media_url(collection, video), "thumbnail_url": thumbnail}


def _clip_urls(collection: str, video: Video, clip: Clip | Hit) -> dict[str, str]:
    return {
        "media_url": media_url(collection, video, clip.start, clip.end),
        "thumbnail_url": thumbnail_url(collection, video, clip.start, clip.end),
    }


def media_url(collection: str, video: Video, start: float = 0.0, end: float = 0.0) -> str:
    """Return the URL of a video's file; with a span in seconds, a media fragment (`#t=START,END`) that plays it."""
    fragment = f"#t={start:.6g},{end:.6g}" if end > start else ""
    return f"{_video_url(collection, video)}/media{fragment}"


def thumbnail_url(collection: str, video: Video, start: float, end: float) -> str:
    """Return the URL of the thumbnail of a span: the frame in its middle."""
    return f"{_video_url(collection, video)}/thumbnail?t={(start + end) / 2:.6g}"


def _video_url(collection: str, video: Video) -> str:
    return f"/v1/collections/{quote(collection, safe='')}/videos/{video.id}"


def serialize_job(job: Job) -> job_schemas.Job:
    """Serialize a job."""
    return job_schemas.Job.model_validate(job_dict(job))


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

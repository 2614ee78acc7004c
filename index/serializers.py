"""Records of a data folder as the JSON of the HTTP API.

Fields that only a service knows are null: ``model_loaded``, ``default_rerank`` and URLs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vitascope.media.formats import media_type

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from index.collection import Collection
    from index.jobs.records import Job
    from index.records import Clip, Video
    from index.search.search import RankedHit, SearchResult
    from vitascope.client import response_types

_SERVICE_ONLY: Any = None
"""Null value of fields that only a service knows, which the response types do not allow."""


def _fields(record: DataclassInstance) -> Any:
    """Return the fields of a record as Any, because mypy cannot match them with the response types."""
    return asdict(record)


def collection_dict(collection: Collection) -> response_types.Collection:
    """Return the JSON object of a collection. Raises StorageError."""
    from index.jobs.recognition_settings import read_recognition_settings
    from index.search.search import search_signals

    stats, index = collection.stats(), collection.index_state()
    recognition = read_recognition_settings(collection)
    return {
        "name": collection.name,
        "videos": stats.videos,
        "clips": stats.clips,
        "bundle": collection.bundle_name,
        "fingerprint": collection.fingerprint,
        "model_loaded": _SERVICE_ONLY,
        "default_rerank": _SERVICE_ONLY,
        "created_at": collection.created_at,
        "token_encoding": collection.token_encoding,
        "dimensions": collection.embed_dim,
        "signals": list(search_signals(collection)),
        "index_kind": index.requested,
        "index": {"serving": index.serving, "changed": index.changed},
        "stemming": collection.stemming(),
        "transcribe": recognition.transcribe,
        "read_text": recognition.read_text,
        "caption": recognition.caption,
        "bytes": collection.size(),
    }


def video_dicts(collection: Collection, videos: Sequence[Video]) -> list[response_types.Video]:
    """Return the JSON objects of videos, without their clips."""
    missing = collection.media.find_missing(videos)
    return [_video_dict(collection, video, is_missing=video.id in missing) for video in videos]


def video_dict(collection: Collection, video: Video) -> response_types.Video:
    """Return the JSON object of a video, without its clips."""
    return video_dicts(collection, [video])[0]


def _video_dict(collection: Collection, video: Video, *, is_missing: bool) -> response_types.Video:
    return {
        "id": str(video.id),
        "title": video.title,
        "duration": video.duration,
        "width": video.width,
        "height": video.height,
        "media_type": media_type(video.path),
        "content_sha256": video.content_sha256,
        "metadata": dict(video.metadata),
        "clips": video.clip_count,
        "added_at": video.added_at,
        "path": collection.location(video),
        "missing": is_missing,
        "media_url": _SERVICE_ONLY,
        "thumbnail_url": _SERVICE_ONLY,
    }


def clip_dict(collection: Collection, video: Video, clip: Clip) -> response_types.ClipSpan:
    """Return the JSON object of a clip of a video."""
    return {
        "id": str(clip.id),
        "start": clip.start,
        "end": clip.end,
        "text": clip.text,
        "screen_text": clip.screen_text,
        "caption": clip.caption,
        "modalities": collection.modalities(video, clip),
        "media_url": _SERVICE_ONLY,
        "thumbnail_url": _SERVICE_ONLY,
    }


def result_dicts(collection: Collection, results: Sequence[SearchResult]) -> list[response_types.SearchResult]:
    """Return the JSON objects of search results."""
    videos = video_dicts(collection, [result.best.hit.video for result in results])
    return [
        {
            **_hit_dict(collection, result.best),
            "start": result.start,
            "end": result.end,
            "video": video,
            "clips": [_hit_dict(collection, clip) for clip in result.clips] or None,
            "clip_count": result.clip_count if result.clips else None,
            "moment": None if result.moment is None else _fields(result.moment),
        }
        for result, video in zip(results, videos, strict=True)
    ]


def job_dict(job: Job) -> response_types.Job:
    """Return the JSON object of a job."""
    from index.jobs.sources.source_types import source_dict

    source: Any = source_dict(job.source)
    return {
        "id": str(job.id),
        "source": source,
        "metadata": dict(job.options.metadata),
        "state": job.state,
        "error": job.error,
        "requested": job.requested,
        "total": job.counts.total,
        "done": job.counts.done,
        "progress": job.progress,
        "counts": _fields(job.counts),
        "duplicates": job.duplicates,
        "transcribe": job.options.transcribe,
        "read_text": job.options.read_text,
        "caption": job.options.caption,
        "recognitions": {kind: _fields(counts) for kind, counts in job.recognitions.items()},
        "rate": None if job.rate is None else _fields(job.rate),
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
    }


def _hit_dict(collection: Collection, ranked: RankedHit) -> response_types.ClipHit:
    hit = ranked.hit
    return {
        "clip_id": str(hit.clip_id),
        "start": hit.start,
        "end": hit.end,
        "text": hit.text,
        "screen_text": hit.screen_text,
        "caption": hit.caption,
        "modalities": collection.modalities(hit.video, hit),
        "relevance": ranked.relevance,
        "conditions": [_fields(condition) for condition in ranked.conditions or ()] or None,
        "similarity": ranked.similarity,
        "match": ranked.match,
        "fused": ranked.fused,
        "signals": {signal: _fields(score) for signal, score in ranked.signals.items()},
        "media_url": _SERVICE_ONLY,
        "thumbnail_url": _SERVICE_ONLY,
    }

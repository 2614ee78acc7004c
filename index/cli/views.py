"""Records of a data folder as the JSON of the HTTP API.

Fields that only a service knows are null: ``model_loaded``, ``default_rerank`` and URLs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vitascope.media.formats import media_type

if TYPE_CHECKING:
    from index.collection import Collection
    from index.jobs.records import Job
    from index.records import Clip, Video
    from index.search.search import RankedHit, SearchResult

JSON = dict[str, Any]
_NO_URLS: JSON = {"media_url": None, "thumbnail_url": None}


def collection_view(collection: Collection) -> JSON:
    """Return a collection, with ``vectors``: where they are stored. Raises StorageError."""
    from index.jobs.recognition_settings import read_recognition_settings
    from index.search.search import search_signals

    stats, index = collection.stats(), collection.index_state()
    return {
        "name": collection.name,
        "videos": stats.videos,
        "clips": stats.clips,
        "bundle": collection.bundle_name,
        "fingerprint": collection.fingerprint,
        "model_loaded": None,
        "default_rerank": None,
        "created_at": collection.created_at,
        "token_encoding": collection.token_encoding,
        "dimensions": collection.embed_dim,
        "signals": list(search_signals(collection)),
        "index_kind": index.requested,
        "index": {"serving": index.serving, "changed": index.changed},
        "stemming": collection.stemming(),
        **read_recognition_settings(collection)._asdict(),
        "bytes": collection.size(),
        "vectors": collection.vector_backend,
    }


def video_views(collection: Collection, videos: Sequence[Video]) -> list[JSON]:
    """Return videos without their clips."""
    missing = collection.media.find_missing(video.path for video in videos)
    return [_video_view(collection, video, is_missing=video.path in missing) for video in videos]


def video_view(collection: Collection, video: Video) -> JSON:
    """Return a video without its clips."""
    return video_views(collection, [video])[0]


def _video_view(collection: Collection, video: Video, *, is_missing: bool) -> JSON:
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
        **_NO_URLS,
    }


def clip_view(collection: Collection, video: Video, clip: Clip) -> JSON:
    """Return a clip of a video."""
    return {
        "id": str(clip.id),
        "start": clip.start,
        "end": clip.end,
        "text": clip.text,
        "screen_text": clip.screen_text,
        "caption": clip.caption,
        "modalities": collection.modalities(video, clip),
        **_NO_URLS,
    }


def result_views(collection: Collection, results: Sequence[SearchResult]) -> list[JSON]:
    """Return search results."""
    videos = video_views(collection, [result.best.hit.video for result in results])
    return [
        {
            **_hit_view(collection, result.best),
            "start": result.start,
            "end": result.end,
            "video": video,
            "clips": [_hit_view(collection, clip) for clip in result.clips] or None,
            "clip_count": result.clip_count if result.clips else None,
            "moment": None if result.moment is None else asdict(result.moment),
        }
        for result, video in zip(results, videos, strict=True)
    ]


def job_view(job: Job) -> JSON:
    """Return a job."""
    from index.jobs.sources.source_types import source_dict

    return {
        "id": str(job.id),
        "source": source_dict(job.source),
        "metadata": dict(job.options.metadata),
        "state": job.state,
        "error": job.error,
        "requested": job.requested,
        "total": job.counts.total,
        "done": job.counts.done,
        "progress": job.progress,
        "counts": asdict(job.counts),
        "duplicates": job.duplicates,
        "transcribe": job.options.transcribe,
        "read_text": job.options.read_text,
        "caption": job.options.caption,
        "recognitions": {kind: asdict(counts) for kind, counts in job.recognitions.items()},
        "rate": None if job.rate is None else asdict(job.rate),
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
    }


def _hit_view(collection: Collection, ranked: RankedHit) -> JSON:
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
        "conditions": [asdict(condition) for condition in ranked.conditions or ()] or None,
        "similarity": ranked.similarity,
        "match": ranked.match,
        "fused": ranked.fused,
        "signals": {signal: asdict(score) for signal, score in ranked.signals.items()},
        **_NO_URLS,
    }

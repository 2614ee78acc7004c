"""Records as the command prints them in JSON: with the keys of the service's answers, so that a script need not know
which of both has worked. What only one of them knows is null from the other: ``path`` and ``vectors`` of a service,
``compatible`` and addresses of what is done here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vitascope.media.mime_types import media_type

if TYPE_CHECKING:
    from index.collection import Collection
    from index.jobs.records import Job
    from index.records import Clip, Video
    from index.search.search import RankedHit, SearchResult

JSON = dict[str, Any]
ADDRESSES: JSON = {"media_url": None, "thumbnail_url": None}


def collection_here(collection: Collection) -> JSON:
    """What a collection is and holds. Raises StorageError."""
    stats, index = collection.stats(), collection.index_state()
    return {
        "name": collection.name,
        "videos": stats.videos,
        "clips": stats.clips,
        "bundle": collection.bundle_name,
        "fingerprint": collection.fingerprint,
        "compatible": None,
        "created_at": collection.created_at,
        "token_encoding": collection.token_encoding,
        "index_kind": index.setting,
        "index": {"serving": index.kind, "changed": index.changed},
        "bytes": collection.size(),
        "vectors": collection.vector_backend,
    }


def collection_there(told: Mapping[str, Any]) -> JSON:
    """The same of what a service told."""
    return {**told, "vectors": None}


def video_here(collection: Collection, video: Video) -> JSON:
    """A video, without its clips. ``path``: where its file is on this machine."""
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
        **ADDRESSES,
        "path": str(collection.media_path(video)) if collection.owns(video) else video.path,
    }


def video_there(told: Mapping[str, Any]) -> JSON:
    """The same of what a service told, which keeps paths to itself."""
    return {**told, "path": None}


def span_here(clip: Clip) -> JSON:
    """A clip of a video that is looked at."""
    return {"id": str(clip.id), "start": clip.start, "end": clip.end, "text": clip.text, **ADDRESSES}


def result_here(collection: Collection, result: SearchResult) -> JSON:
    """A clip, event or video that a search found."""
    return {
        **_clip(result.best),
        "start": result.start,
        "end": result.end,
        "video": video_here(collection, result.best.hit.video),
        "clips": [_clip(clip) for clip in result.clips] or None,
        "clip_count": result.clip_count if result.clips else None,
    }


def result_there(told: Mapping[str, Any]) -> JSON:
    """The same of what a service told."""
    return {**told, "video": video_there(told["video"])}


def job_here(job: Job) -> JSON:
    """An indexing job."""
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
        "rate": None if job.rate is None else asdict(job.rate),
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
    }


def _clip(ranked: RankedHit) -> JSON:
    hit = ranked.hit
    return {
        "clip_id": str(hit.clip_id),
        "start": hit.start,
        "end": hit.end,
        "text": hit.text,
        "similarity": ranked.similarity,
        "match": ranked.match,
        "fused": ranked.fused,
        "ranks": {"similarity": ranked.ranks.similarity, "words": ranked.ranks.words},
        **ADDRESSES,
    }

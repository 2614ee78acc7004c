"""Records of the index as JSON schemas, with the addresses of their media."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from index.collection import Collection
from index.records import Clip, Video
from index.search.search import RankedHit, SearchResult
from service.schemas import library as schemas
from service.schemas import search as search_schemas
from vitascope.media.formats import media_type


def collection_view(collection: Collection, is_served: bool) -> schemas.Collection:
    """A collection, whose model is loaded or not. Raises StorageError."""
    stats, index = collection.stats(), collection.index_state()
    return schemas.Collection(
        name=collection.name,
        videos=stats.videos,
        clips=stats.clips,
        bundle=collection.bundle_name,
        fingerprint=collection.fingerprint,
        compatible=is_served,
        created_at=collection.created_at,
        token_encoding=collection.token_encoding,
        index_kind=index.setting,
        index=schemas.IndexState(serving=index.kind, changed=index.changed),
        bytes=collection.size(),
    )


def video_view(collection: str, video: Video) -> schemas.Video:
    """A video of the collection of this name."""
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
        media_url=media_url(collection, video),
        thumbnail_url=thumbnail_url(collection, video, 0.0, video.duration),
    )


def video_with_clips(collection: str, video: Video, clips: list[Clip]) -> schemas.VideoWithClips:
    """A video and its clips."""
    spans = [
        schemas.ClipSpan(
            id=str(clip.id),
            start=clip.start,
            end=clip.end,
            text=clip.text,
            media_url=media_url(collection, video, clip.start, clip.end),
            thumbnail_url=thumbnail_url(collection, video, clip.start, clip.end),
        )
        for clip in clips
    ]
    return schemas.VideoWithClips(**dict(video_view(collection, video)), spans=spans)


def result_view(collection: str, result: SearchResult) -> search_schemas.SearchResult:
    """A clip, event or video that a search found."""
    video = result.best.hit.video
    is_clip = not result.clips
    clips = [found_clip(collection, clip) for clip in result.clips]
    whole = {
        "start": result.start,
        "end": result.end,
        "media_url": media_url(collection, video, result.start, result.end),
    }
    return search_schemas.SearchResult(
        **{**dict(found_clip(collection, result.best)), **whole},
        video=video_view(collection, video),
        clips=None if is_clip else clips,
        clip_count=None if is_clip else result.clip_count,
    )


def found_clip(collection: str, ranked: RankedHit) -> search_schemas.FoundClip:
    """A clip that a search found, alone or as one of several."""
    hit = ranked.hit
    return search_schemas.FoundClip(
        clip_id=str(hit.clip_id),
        start=hit.start,
        end=hit.end,
        text=hit.text,
        similarity=ranked.similarity,
        match=ranked.match,
        fused=ranked.fused,
        ranks=search_schemas.Ranks(similarity=ranked.ranks.similarity, words=ranked.ranks.words),
        media_url=media_url(collection, hit.video, hit.start, hit.end),
        thumbnail_url=thumbnail_url(collection, hit.video, hit.start, hit.end),
    )


def media_url(collection: str, video: Video, start: float = 0.0, end: float = 0.0) -> str:
    """Where the file is; with a span, it is played from start to end (a media fragment)."""
    fragment = f"#t={start:.6g},{end:.6g}" if end > start else ""
    return f"{_address(collection, video)}/media{fragment}"


def thumbnail_url(collection: str, video: Video, start: float, end: float) -> str:
    """The picture in the middle of a span."""
    return f"{_address(collection, video)}/thumbnail?t={(start + end) / 2:.6g}"


def _address(collection: str, video: Video) -> str:
    return f"/v1/collections/{quote(collection, safe='')}/videos/{video.id}"


def display_name(path: str) -> str:
    """What a file is called in messages."""
    return Path(path).name

"""Media of stored videos: files, by ranges, thumbnails and previews."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from email.utils import parsedate
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.datastructures import Headers
from starlette.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from index.records import Video
from service.app_state import AppState, AppStateDep
from service.errors import MediaMissing, RangeNotSatisfiable
from service.files import open_stored, rename_stored
from service.http.auth import requires
from service.http.openapi import errors, successes
from service.http.parsing import StrictRoute, matches_etag
from service.http.problems import domain_problem
from service.inference.request_context import request_context
from service.schemas.base import Seconds
from vitascope.media.file import MediaFile
from vitascope.media.formats import media_type
from vitascope.media.frame import THUMBNAIL_SIDE
from vitascope.media.preview import MEDIA_TYPE as PREVIEW_TYPE
from vitascope.sandbox.decoder import Decoder

router = APIRouter(prefix="/v1/collections/{name}/videos/{video_id}", tags=["videos"], route_class=StrictRoute)

CACHE_CONTROL = "private, no-cache"
"""Clients must revalidate by ETag, as a collection that is created again uses the same URLs for other videos."""
SANDBOX = "default-src 'none'; media-src 'self'; img-src 'self'; style-src 'unsafe-inline'; sandbox"


class FileRangeResponse(FileResponse):
    """A file or a part of it; ranges that are not satisfiable are answered with problem details."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        rejected: list[Message] = []

        async def observe(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in (400, 416):
                rejected.append(message)
            if not rejected:
                await send(message)

        await super().__call__(scope, receive, observe)
        if rejected and rejected[0]["status"] == 400:  # not a range of bytes: ignored (RFC 9110, section 14.2)
            headers = [header for header in scope["headers"] if header[0] != b"range"]
            await super().__call__({**scope, "headers": headers}, receive, send)
        elif rejected:
            requested = Headers(scope=scope).get("range", "")
            error = RangeNotSatisfiable(f"Range: {requested[:80]!r}; bytes=first-last inside the file was expected")
            problem = domain_problem(scope, error)
            problem.headers["content-range"] = Headers(raw=rejected[0]["headers"])["content-range"]
            await problem(scope, receive, send)


class MediaResponse(FileRangeResponse):
    """An open media file or a part of it, or 304; closes the file."""

    def __init__(self, file: MediaFile, headers: Mapping[str, str], media_type: str) -> None:
        # Use the open file, as its path may lead to another file by now.
        descriptors = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
        path = f"{descriptors}/{file.fileno()}"
        super().__init__(path, headers=headers, media_type=media_type, stat_result=file.status())
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            if self._is_known(Headers(scope=scope)):
                headers = {name: value for name, value in self.headers.items() if name != "content-length"}
                await Response(status_code=304, headers=headers)(scope, receive, send)
            else:
                await super().__call__(scope, receive, send)

    def _is_known(self, request: Headers) -> bool:
        """Return whether the client's cached file is current."""
        if "if-none-match" in request:
            return matches_etag(request, self.headers["etag"])
        since = parsedate(request.get("if-modified-since", ""))
        changed = parsedate(self.headers["last-modified"])
        return since is not None and changed is not None and since >= changed


@router.head("/media", include_in_schema=False)
@router.get(
    "/media",
    summary="Get the media file",
    response_class=Response,
    responses=successes(
        _200={"content": {"video/*": {}, "image/*": {}, "audio/*": {}}, "description": "The file."},
        _206={"content": {"video/*": {}, "image/*": {}, "audio/*": {}}, "description": "A part of the file."},
        _304={"description": "Not modified."},
    )
    | errors(400, 403, 404, 416, 507),
)
@requires("read", media_cookie=True)
async def get_media(name: str, video_id: str, service: AppStateDep) -> Response:
    """The file as it was added, with range requests (RFC 9110)."""
    video, file = await service.io_pool.run(_open, service, name, video_id)
    headers = {"Cache-Control": CACHE_CONTROL, "Content-Security-Policy": SANDBOX, "Content-Disposition": "inline"}
    return MediaResponse(file, headers, media_type(video.path))


@router.head("/thumbnail", include_in_schema=False)
@router.get(
    "/thumbnail",
    summary="Get a thumbnail",
    response_class=Response,
    responses=successes(
        _200={"content": {"image/jpeg": {}}, "description": "A JPEG image."},
        _304={"description": "Not modified."},
    )
    | errors(400, 403, 404, 413, 415, 422, 503, 507),
)
@requires("read", media_cookie=True)
async def get_thumbnail(
    name: str, video_id: str, request: Request, service: AppStateDep, t: Annotated[Seconds, Query()] = 0.0
) -> Response:
    """The frame on screen at `t` seconds (the last one, beyond the end), as a small JPEG.

    Of a missing file, only the stored frames in the middle of clips are returned.
    """
    try:
        video, file = await service.io_pool.run(_open, service, name, video_id)
    except MediaMissing:
        picture = await service.io_pool.run(lambda: _stored_thumbnail(service, name, service.video(name, video_id), t))
        if picture is None:
            raise
        return Response(picture, headers={"Cache-Control": CACHE_CONTROL}, media_type="image/jpeg")
    with file, rename_stored(video):
        tag = _picture_tag(video, t, service.settings.thumbnail_size)
        headers = {"ETag": tag, "Cache-Control": CACHE_CONTROL}
        if matches_etag(request.headers, tag):
            return Response(status_code=304, headers=headers)
        picture = await service.io_pool.run(_stored_thumbnail, service, name, video, t)
        if picture is None:
            async with request_context(request, service) as context:
                picture = await context.run(
                    _thumbnail, service, context.decoder, file, t, service.settings.thumbnail_size
                )
    return Response(picture, headers=headers, media_type="image/jpeg")


@router.head("/preview", include_in_schema=False)
@router.get(
    "/preview",
    summary="Get a preview",
    response_class=Response,
    responses=successes(
        _200={"content": {"video/mp4": {}, "image/jpeg": {}}, "description": "The preview."},
        _206={"content": {"video/mp4": {}}, "description": "A part of the preview."},
        _304={"description": "Not modified."},
    )
    | errors(400, 403, 404, 413, 415, 416, 422, 503, 507),
)
@requires("read", media_cookie=True)
async def get_preview(
    name: str,
    video_id: str,
    request: Request,
    service: AppStateDep,
    start: Annotated[Seconds, Query()] = 0.0,
    end: Annotated[Seconds | None, Query()] = None,
) -> Response:
    """A span of the video as MP4 (H.264, AAC) in low resolution, for clients that cannot play the file itself.

    Time 0 of the preview is `start`. It ends at `end`, at the end of the video, or after two minutes
    (`VITASCOPE_MAX_PREVIEW_SECONDS`). It is encoded at the first request, which takes a while, and kept for further
    ones. Of a picture it is a JPEG.
    """
    video, file = await service.io_pool.run(_open, service, name, video_id)
    headers = {"Cache-Control": CACHE_CONTROL, "Content-Security-Policy": SANDBOX, "Content-Disposition": "inline"}
    side = service.settings.preview_size
    with file, rename_stored(video):
        if not video.duration:
            headers["ETag"] = _picture_tag(video, 0.0, side)
            if matches_etag(request.headers, headers["ETag"]):
                return Response(status_code=304, headers=headers)
            async with request_context(request, service) as context:
                picture = await context.run(_thumbnail, service, context.decoder, file, 0.0, side)
            return Response(picture, headers=headers, media_type="image/jpeg")
        span_end = min(video.duration, start + service.settings.max_preview_seconds, math.inf if end is None else end)
        key = f"{video.content_sha256}-{start:.3f}-{span_end:.3f}-{side}.mp4"
        preview = await service.io_pool.run(service.previews.open, key)
        if preview is not None:
            return MediaResponse(preview, headers, PREVIEW_TYPE)
        async with (
            request_context(request, service, bulk=True) as context,
            context.deadline(),
            service.previews.encoding,
        ):
            preview = await context.read(service.previews.open, key)  # another request may have been first
            if preview is None:
                preview = await context.run(_encode_preview, service, context.decoder, file, start, span_end, key)
            return MediaResponse(preview, headers, PREVIEW_TYPE)


def _picture_tag(video: Video, time: float, side: int) -> str:
    """Return the ETag of a frame."""
    return f'"{video.content_sha256[:32]}-{time:.6g}-{side}"'


def _encode_preview(
    service: AppState, decoder: Decoder, file: MediaFile, start: float, end: float, key: str
) -> MediaFile:
    content = decoder.preview(file, start, end, service.settings.preview_size, service.settings.media_limits())
    return service.previews.add(key, content)


def _open(service: AppState, name: str, video_id: str) -> tuple[Video, MediaFile]:
    video = service.video(name, video_id)
    return video, open_stored(service.collection(name), video, service.settings.roots())


def _stored_thumbnail(service: AppState, name: str, video: Video, time: float) -> bytes | None:
    """Return the stored thumbnail of the clip whose middle is at ``time``, if it has the requested size; else None."""
    if service.settings.thumbnail_size != THUMBNAIL_SIDE:
        return None
    return service.collection(name).thumbnail_at(video.id, time)


def _thumbnail(service: AppState, decoder: Decoder, file: MediaFile, time: float, side: int) -> bytes:
    return decoder.thumbnail(file, time, side, service.settings.media_limits())

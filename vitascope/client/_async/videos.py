"""Methods for videos: uploads, lists, downloads, thumbnails."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, cast

from vitascope import errors
from vitascope.client import response_types
from vitascope.client._async.jobs import Jobs
from vitascope.client.api import Metadata, api_path, drop_none, form_field, idempotency_header, to_dict
from vitascope.client.progress import UploadProgress

SYNC_WAIT_SECONDS = 20
"""Seconds for which the service indexes an upload within the request. If indexing takes longer, it starts over as a
job: the value is small compared with the time for long videos, and large enough for short ones.
"""


class Videos(Jobs):
    """Videos of a collection."""

    async def add_video(
        self,
        collection: str,
        file: str | Path,
        *,
        title: str | None = None,
        metadata: Metadata | None = None,
        segmentation: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        progress: UploadProgress = False,
    ) -> response_types.AddedVideo:
        """Upload and index a file, and return when it is searchable.

        Content that the collection has is not indexed again: its video is returned as it is, and ``title``,
        ``metadata`` and ``segmentation`` have no effect.

        A long video is indexed by a job, for which the call waits (this needs the scope ``read``); the job continues if
        the call is cancelled.

        Args:
            collection: name of the collection.
            file: file on this machine.
            title: title of the video; None: the file name.
            metadata: metadata for filters.
            segmentation: how the video is cut into clips, such as ``{"rule": "shots", "longest": 16}``.
            idempotency_key: as for `create_collection`.
            progress: True draws a progress bar; a function is called with the bytes sent and the total.
        Raises:
            MediaError: the file cannot be indexed.
            Conflict: the job was cancelled.
        """
        fields = drop_none(title=title, metadata=metadata, segmentation=segmentation)
        prefer = f"respond-async, wait={SYNC_WAIT_SECONDS}"
        result = await self._add_video(collection, file, fields, prefer, idempotency_key, progress)
        if "state" not in result:
            return result
        job = await self.wait_for_job(collection, result["id"], progress=progress is True)
        return await self._video_of_job(job, collection)

    async def submit_video(
        self,
        collection: str,
        file: str | Path,
        *,
        title: str | None = None,
        metadata: Metadata | None = None,
        segmentation: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        progress: UploadProgress = False,
    ) -> response_types.Job | response_types.AddedVideo:
        """Upload a file and return the job that indexes it; see `wait_for_job`. Arguments as for `add_video`.

        Returns the video, which has no ``state``, if the collection has the content already.
        """
        fields = drop_none(title=title, metadata=metadata, segmentation=segmentation)
        return await self._add_video(collection, file, fields, "respond-async", idempotency_key, progress)

    async def add_url(
        self,
        collection: str,
        url: str,
        *,
        title: str | None = None,
        metadata: Metadata | None = None,
        segmentation: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> response_types.Job:
        """Start a job in which the service downloads a file from ``url`` and indexes it; see `wait_for_job`.

        The service must allow the host; see docs/operating.md.
        """
        options = {"metadata": to_dict("metadata", metadata), "segmentation": to_dict("segmentation", segmentation)}
        body = {"url": url, **drop_none(title=title, **options)}
        path = api_path("collections", collection, "videos")
        headers = idempotency_header(idempotency_key)
        return await self._call(response_types.Job, "POST", path, json=body, headers=headers)

    async def list_videos(
        self,
        collection: str,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> response_types.Videos:
        """Return a page of videos in the order in which they were added.

        Args:
            collection: name of the collection.
            limit: videos per page.
            cursor: ``next_cursor`` of the page before.
            where: filter on metadata and fields of videos, as for ``search``.
        """
        filter_json = None if where is None else form_field("filter", to_dict("where", where))
        params = drop_none(limit=limit, cursor=cursor, filter=filter_json)
        path = api_path("collections", collection, "videos")
        return await self._call(response_types.Videos, "GET", path, params=params)

    async def iter_videos(
        self, collection: str, *, where: Mapping[str, Any] | None = None
    ) -> AsyncIterator[response_types.Video]:
        """Iterate over all videos, or those that match the filter; pages are requested as needed."""
        async for page in self._pages(lambda cursor: self.list_videos(collection, cursor=cursor, where=where)):
            for video in page["videos"]:
                yield video

    async def get_video(self, collection: str, video_id: str) -> response_types.VideoWithClips:
        """Return a video with its clips. Raises `VideoNotFound`."""
        path = api_path("collections", collection, "videos", video_id)
        return await self._call(response_types.VideoWithClips, "GET", path)

    async def update_video(
        self,
        collection: str,
        video_id: str,
        *,
        title: str | None = None,
        metadata: Mapping[str, str | float | bool | None] | None = None,
        subtitles: str | None = None,
        from_source: bool = False,
    ) -> response_types.UpdatedVideo:
        """Change a video; None keeps a value.

        Args:
            collection: name of the collection.
            video_id: id of the video.
            title: new title.
            metadata: merged into the metadata of the video; a value None deletes its key.
            subtitles: text of an SRT or WebVTT file, which replaces the words of all clips; an empty text deletes them.
            from_source: the values are from the video's source: each replaces an edit only if it is new in the source.
        Raises:
            VideoNotFound, InvalidInput, SubtitlesCorrupt.
        """
        fields = drop_none(title=title, metadata=to_dict("metadata", metadata), subtitles=subtitles)
        body = {**fields, "from_source": from_source}
        path = api_path("collections", collection, "videos", video_id)
        return await self._call(response_types.UpdatedVideo, "PATCH", path, json=body)

    async def delete_video(self, collection: str, video_id: str) -> None:
        """Delete a video, and its file if the collection owns it."""
        await self._delete(api_path("collections", collection, "videos", video_id))

    async def download_video(self, collection: str, video_id: str, file: str | Path) -> None:
        """Write the media file of a video to ``file``, which is replaced when the download is complete.

        Raises `InvalidInput` if ``file`` cannot be written.
        """
        await self._download(api_path("collections", collection, "videos", video_id, "media"), Path(file))

    async def get_thumbnail(self, url: str) -> bytes:
        """Return the JPEG at a ``thumbnail_url`` of a result, video or clip of this service."""
        if not url.startswith("/v1/"):
            # Another host would receive the API key.
            raise errors.InvalidInput(f"url: {url!r}; a thumbnail_url of the service was expected")
        return (await self._send("GET", url)).content

    async def _add_video(
        self,
        collection: str,
        file: str | Path,
        fields: Mapping[str, Any],
        prefer: str,
        idempotency_key: str | None,
        progress: UploadProgress,
    ) -> response_types.Job | response_types.AddedVideo:
        stem = os.fsencode(Path(file).stem).decode("utf-8", "replace")
        options = {name: to_dict(name, value) for name, value in fields.items() if name != "title"}
        # The file name is sent, too, but forms cannot transmit all of its characters.
        form = {name: form_field(name, value) for name, value in {"title": stem, **fields, **options}.items()}
        headers = {**idempotency_header(idempotency_key), "Prefer": prefer}
        path = api_path("collections", collection, "videos")
        return await self._upload(response_types.AddedVideo, path, file, form, headers=headers, progress=progress)

    async def _video_of_job(self, job: response_types.Job, collection: str) -> response_types.AddedVideo:
        """Return the video that a job made of its only file. Raises MediaError and Conflict if there is none."""
        items = (await self.list_job_items(collection, job["id"], limit=1))["items"]
        item = items[0] if items else None
        if item is None or (item["video_id"] is None and job["state"] != "succeeded"):
            raise errors.Conflict(f"job {job['id']}: {job['state']}{': ' if job['error'] else ''}{job['error'] or ''}")
        if item["video_id"] is None:
            raise errors.MediaError(item["reason"] or f"{item['path']}: {item['state']}")
        video = await self.get_video(collection, item["video_id"])
        note = item["reason"] if item["state"] == "succeeded" else None
        fields = {name: value for name, value in video.items() if name != "spans"}
        return cast(response_types.AddedVideo, {**fields, "notes": [note] if note else []})

"""The part of the client that is about films on their way into a collection, however long they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from vitascope import errors
from vitascope.client import response_types
from vitascope.client.asynchronous.collections import Collections
from vitascope.client.asynchronous.jobs import Jobs
from vitascope.client.progress import UploadProgress
from vitascope.client.request_building import address, given, once
from vitascope.client.request_types import Metadata

PATIENCE = 20
"""Seconds for which a file is indexed while its sender waits. A job begins anew with what takes longer: so few cost
long films little, and spare short ones the job.
"""


class Uploads(Collections, Jobs):
    """Files of this machine."""

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
        """Upload and index a file, and return when it can be found. A file whose content is there already is not
        indexed again.

        ``segmentation``: how it is cut into clips, such as ``{"rule": "shots", "longest": 16}``. ``progress``, here and
        of other uploads: True draws a bar in a terminal or notebook, and a function is called with the bytes that have
        gone and all of them.

        A long film is indexed by a job, which is followed to its end (a key needs the scope ``read`` for that) and goes
        on where nobody waits any more. Raises `MediaError` for a film that cannot be indexed, and `Conflict` where its
        job is cancelled.
        """
        about = given(title=title, metadata=metadata, segmentation=segmentation)
        wish = f"respond-async, wait={PATIENCE}"
        answer = await self._add(collection, file, about, wish, idempotency_key, progress)
        job = _job_in(answer)
        if job is None:
            return cast(response_types.AddedVideo, answer)
        return await self._made_by(
            await self.wait_for_job(collection, job["id"], progress=progress is True), collection
        )

    async def begin_video(
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
        """As ``add_video``, without waiting for more than the upload: a job indexes the file; see ``wait_for_job``.

        The answer is the video, which has no ``state``, where the collection has the content already.
        """
        about = given(title=title, metadata=metadata, segmentation=segmentation)
        return await self._add(collection, file, about, "respond-async", idempotency_key, progress)

    async def _add(
        self,
        collection: str,
        file: str | Path,
        about: Mapping[str, Any],
        prefer: str,
        idempotency_key: str | None,
        progress: UploadProgress,
    ) -> response_types.Job | response_types.AddedVideo:
        fields = {name: value if name == "title" else json.dumps(dict(value)) for name, value in about.items()}
        headers = {**once(idempotency_key), "Prefer": prefer}
        path = address("collections", collection, "videos")
        return await self._upload(response_types.AddedVideo, path, file, fields, headers=headers, progress=progress)

    async def _made_by(self, job: response_types.Job, collection: str) -> response_types.AddedVideo:
        """The video that a job has made of its only file. Raises MediaError and Conflict where there is none."""
        items = (await self.job_items(collection, job["id"], limit=1))["items"]
        item = items[0] if items else None
        if item is None or (item["video_id"] is None and job["state"] != "succeeded"):
            raise errors.Conflict(f"job {job['id']}: {job['state']}{': ' if job['error'] else ''}{job['error'] or ''}")
        if item["video_id"] is None:
            raise errors.MediaError(item["reason"] or f"{item['path']}: {item['state']}")
        video = await self.video(collection, item["video_id"])
        remark = item["reason"] if item["state"] == "succeeded" else None
        told = {name: value for name, value in video.items() if name != "spans"}
        return cast(response_types.AddedVideo, {**told, "notes": [remark] if remark else []})


def _job_in(answer: response_types.Job | response_types.AddedVideo) -> response_types.Job | None:
    return cast(response_types.Job, answer) if "state" in answer else None

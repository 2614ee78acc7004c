# Generated from vitascope/client/asynchronous: change that, then run python -m tests.vitascope.test_client_generated
"""The part of the client that is about collections and their videos."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vitascope import errors
from vitascope.client import response_types
from vitascope.client.request_building import address, given, once
from vitascope.client.request_types import IndexKind, Metadata, TokenEncoding
from vitascope.client.synchronous.caller import Caller


class Collections(Caller):
    """Collections and videos."""

    def collections(self) -> response_types.Collections:
        return self._call(response_types.Collections, "GET", address("collections"))

    def create_collection(
        self,
        name: str,
        *,
        index_kind: IndexKind | None = None,
        token_encoding: TokenEncoding | None = None,
        model: str | None = None,
        idempotency_key: str | None = None,
    ) -> response_types.Collection:
        """Raises `CollectionExists` where there is one of that name.

        ``model``: which fills it, by name, name@version or fingerprint, if not the default. ``idempotency_key``, here
        and below: of your choice, for this call alone, else a random one. Repeated with it within 24 hours, the call is
        not done again, and returns what it returned first.
        """
        options = given(index_kind=index_kind, token_encoding=token_encoding, model=model)
        body = {"name": name, **options}
        headers = once(idempotency_key)
        return self._call(response_types.Collection, "POST", address("collections"), json=body, headers=headers)

    def change_collection(self, name: str, *, index_kind: IndexKind) -> response_types.Collection:
        """Ask for another kind of index; it is built beside the searches. ``index`` in the answer says what serves."""
        body = {"index_kind": index_kind}
        return self._call(response_types.Collection, "PATCH", address("collections", name), json=body)

    def collection(self, name: str) -> response_types.Collection:
        return self._call(response_types.Collection, "GET", address("collections", name))

    def delete_collection(self, name: str) -> None:
        self._do("DELETE", address("collections", name))

    def add_url(
        self,
        collection: str,
        url: str,
        *,
        title: str | None = None,
        metadata: Metadata | None = None,
        segmentation: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> response_types.Job:
        """Begin a job in which the service fetches one file from ``url`` and indexes it; see ``wait_for_job``.

        The service must be set up to fetch from that host, as docs/operating.md says.
        """
        given_metadata = None if metadata is None else dict(metadata)
        body = {"url": url, **given(title=title, metadata=given_metadata, segmentation=segmentation)}
        path = address("collections", collection, "videos")
        return self._call(response_types.Job, "POST", path, json=body, headers=once(idempotency_key))

    def videos(
        self,
        collection: str,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> response_types.Videos:
        """One page of videos; its ``next_cursor`` is the ``cursor`` of the next page, null at the end.

        ``where`` filters by metadata and fields of videos, as for ``search``.
        """
        asked = given(limit=limit, cursor=cursor, filter=None if where is None else json.dumps(dict(where)))
        return self._call(response_types.Videos, "GET", address("collections", collection, "videos"), params=asked)

    def all_videos(self, collection: str, *, where: Mapping[str, Any] | None = None) -> Iterator[response_types.Video]:
        """All videos, or those that pass the filter, one by one; pages are asked for as they are needed."""
        for page in self._pages(lambda cursor: self.videos(collection, cursor=cursor, where=where)):
            yield from page["videos"]

    def video(self, collection: str, video_id: str) -> response_types.VideoWithClips:
        path = address("collections", collection, "videos", video_id)
        return self._call(response_types.VideoWithClips, "GET", path)

    def delete_video(self, collection: str, video_id: str) -> None:
        self._do("DELETE", address("collections", collection, "videos", video_id))

    def download_video(self, collection: str, video_id: str, file: str | Path) -> None:
        """Write the file of a video, as it was added, to ``file``, which is replaced when all has come.

        Raises `InvalidInput` where it cannot be written.
        """
        self._fetch(address("collections", collection, "videos", video_id, "media"), Path(file))

    def thumbnail(self, url: str) -> bytes:
        """The picture (JPEG) at a ``thumbnail_url`` of this service, which results, videos and clips have."""
        if not url.startswith("/v1/"):
            # An address of another host would get the key.
            raise errors.InvalidInput(f"url: {url!r}; a thumbnail_url of the service was expected")
        return (self._sent("GET", url)).content

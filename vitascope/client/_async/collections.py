"""Methods for collections and for operations on whole collections: backup, export, re-embedding."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Unpack

from vitascope import errors
from vitascope.client import response_types
from vitascope.client._async.transport import BaseClient
from vitascope.client.api import (
    IndexKind,
    OperationKind,
    Stemming,
    TokenEncoding,
    WaitOptions,
    api_path,
    drop_none,
    idempotency_header,
)
from vitascope.client.compat import shield_async, sleep_async
from vitascope.client.progress import operation_progress


class Collections(BaseClient):
    """Collections and operations on them."""

    async def list_collections(self) -> response_types.Collections:
        """Return all collections, and the names of those that cannot be opened."""
        return await self._call(response_types.Collections, "GET", api_path("collections"))

    async def get_collection(self, name: str) -> response_types.Collection:
        """Return a collection. Raises `CollectionNotFound`."""
        return await self._call(response_types.Collection, "GET", api_path("collections", name))

    async def get_facets(self, name: str) -> response_types.Facets:
        """Return folders, dates, durations and metadata of a collection's videos, with the number of videos of each.

        Raises `CollectionNotFound`.
        """
        return await self._call(response_types.Facets, "GET", api_path("collections", name, "facets"))

    async def create_collection(
        self,
        name: str,
        *,
        index_kind: IndexKind | None = None,
        token_encoding: TokenEncoding | None = None,
        dimensions: int | None = None,
        model: str | None = None,
        stemming: Stemming | None = None,
        transcribe: bool | str | None = None,
        read_text: bool | float | None = None,
        caption: bool | None = None,
        idempotency_key: str | None = None,
    ) -> response_types.Collection:
        """Create an empty collection.

        Args:
            name: name of the collection.
            index_kind: kind of the vector index; by default chosen by size.
            token_encoding: how visual tokens are stored.
            dimensions: number of dimensions of the embeddings, if the model supports it; None: all.
            model: name, name@version or fingerprint; by default the service's default model.
            stemming: whether words match those with the same English stem (default), or only themselves.
            transcribe: default of jobs: recognise speech, by the service's model (True, or its name).
            read_text: default of jobs: read the text on screen; the seconds between frames (True: 1).
            caption: default of jobs: generate a caption of each clip, by the model of the collection.
            idempotency_key: None: a random key. A call repeated with the same key within 24 hours is not executed again
                and returns the first result.
        Raises:
            CollectionExists: if there is a collection of this name.
        """
        options = drop_none(index_kind=index_kind, token_encoding=token_encoding, dimensions=dimensions, model=model)
        options |= drop_none(stemming=stemming, transcribe=transcribe, read_text=read_text, caption=caption)
        return await self._call(
            response_types.Collection,
            "POST",
            api_path("collections"),
            json={"name": name, **options},
            headers=idempotency_header(idempotency_key),
        )

    async def update_collection(
        self,
        name: str,
        *,
        index_kind: IndexKind | None = None,
        stemming: Stemming | None = None,
        transcribe: bool | str | None = None,
        read_text: bool | float | None = None,
        caption: bool | None = None,
    ) -> response_types.Collection:
        """Change a collection; None keeps a value.

        Args:
            name: name of the collection.
            index_kind: kind of index; it is built in the background, and ``index`` shows the kind in use.
            stemming: as for ``create_collection``; the full-text indexes are rebuilt before this method returns.
            transcribe: default of later jobs, as for ``create_collection``; False: no speech is recognised.
            read_text: default of later jobs, as for ``create_collection``; False: no text is read.
            caption: default of later jobs, as for ``create_collection``.
        """
        body = drop_none(index_kind=index_kind, stemming=stemming)
        body |= drop_none(transcribe=transcribe, read_text=read_text, caption=caption)
        return await self._call(response_types.Collection, "PATCH", api_path("collections", name), json=body)

    async def delete_collection(self, name: str) -> None:
        """Delete a collection with the media files that it owns."""
        await self._delete(api_path("collections", name))

    async def create_operation(
        self, kind: OperationKind, collection: str, **options: bool | str | float
    ) -> response_types.Operation:
        """Start an operation in the background.

        Args:
            kind: ``backup``, ``export``, ``reembed``, ``transcribe``, ``read_text`` or ``caption``.
            collection: name of the collection.
            options: ``tokens`` and ``thumbnails`` of ``export``; ``model`` and ``skip_missing`` of ``reembed``;
                ``model`` and ``subtitled`` of ``transcribe``; ``interval`` of ``read_text``; ``model`` of ``caption``.
        """
        body = {"kind": kind, "collection": collection, **options}
        headers = idempotency_header(None)
        return await self._call(response_types.Operation, "POST", api_path("operations"), json=body, headers=headers)

    async def list_operations(self) -> response_types.Operations:
        """Return all operations."""
        return await self._call(response_types.Operations, "GET", api_path("operations"))

    async def get_operation(self, operation_id: str) -> response_types.Operation:
        """Return an operation."""
        return await self._call(response_types.Operation, "GET", api_path("operations", operation_id))

    async def delete_operation(self, operation_id: str) -> None:
        """Delete an operation and its files; a running one is cancelled."""
        await self._delete(api_path("operations", operation_id))

    async def wait_for_operation(
        self,
        operation_id: str,
        *,
        interval: float = 0.5,
        on_change: Callable[[response_types.Operation], None] | None = None,
        progress: bool = False,
    ) -> response_types.Operation:
        """Poll an operation until it has finished, also if the service restarts within five minutes.

        Args:
            operation_id: id of the operation.
            interval: seconds between two requests; shorter at first.
            on_change: called with every response.
            progress: draw a progress bar in a terminal or notebook.
        Raises:
            Conflict: with the reason, if the operation failed.
        """
        with operation_progress(operation_id, progress) as show:
            delay, reached_at = 0.0, -math.inf
            while True:
                operation = await self._call_during_outage(partial(self.get_operation, operation_id), reached_at)
                reached_at = time.monotonic()
                show(operation)
                if on_change:
                    on_change(operation)
                if operation["state"] == "failed":
                    raise errors.Conflict(f"{operation['kind']} of {operation['collection']}: {operation['error']}")
                if operation["state"] == "succeeded":
                    return operation
                delay = min(interval, 2 * delay + 0.02)
                await sleep_async(delay)

    async def backup(
        self, collection: str, file: str | Path, **wait_options: Unpack[WaitOptions]
    ) -> response_types.Operation:
        """Write a backup of a collection to ``file`` on this machine; an existing file is replaced at the end.

        ``wait_options``: options of `wait_for_operation`. Raises its errors, and `InvalidInput` if ``file`` cannot be
        written.
        """
        target = Path(file)
        if target.is_dir() or not (target.parent.is_dir() and os.access(target.parent, os.W_OK)):
            raise errors.InvalidInput(
                f"file: {str(target)!r} cannot be written; a file in a writable folder was expected"
            )
        operation = await self.create_operation("backup", collection)
        return await self._download_results(operation, lambda name: target, wait_options)

    async def export(
        self,
        collection: str,
        folder: str | Path,
        *,
        tokens: bool = False,
        thumbnails: bool = False,
        **wait_options: Unpack[WaitOptions],
    ) -> response_types.Operation:
        """Write a collection as Parquet files to the new ``folder`` on this machine.

        Args:
            collection: name of the collection.
            folder: folder to create.
            tokens: include the visual and audio tokens that reranking needs.
            thumbnails: include the thumbnails of clips.
            wait_options: options of `wait_for_operation`.
        Raises:
            InvalidInput: ``folder`` exists or cannot be written.
            Conflict: the operation failed.
        """
        target = Path(folder)
        try:
            target.mkdir()
        except OSError as error:
            raise errors.InvalidInput(f"folder: {str(target)!r} cannot be created ({error.strerror})") from error
        try:
            operation = await self.create_operation("export", collection, tokens=tokens, thumbnails=thumbnails)
            return await self._download_results(operation, lambda name: target / Path(name).name, wait_options)
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise

    async def _download_results(
        self, operation: response_types.Operation, target_of: Callable[[str], Path], wait_options: WaitOptions
    ) -> response_types.Operation:
        """Wait for an operation, download its files and delete it."""
        try:
            finished = await self.wait_for_operation(operation["id"], **wait_options)
            for file in finished["files"]:
                await self._download(file["url"], target_of(file["name"]))
        except BaseException:
            with shield_async(), suppress(errors.VitascopeError):
                await self.delete_operation(operation["id"])
            raise
        await self.delete_operation(operation["id"])
        return finished

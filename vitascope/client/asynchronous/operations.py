"""The part of the client that is about work on whole collections: backups, exports, embedding again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Unpack

from vitascope import errors
from vitascope.client import response_types
from vitascope.client.asynchronous.caller import Caller
from vitascope.client.compat import pause_async, shielded_async
from vitascope.client.progress import shown_operation
from vitascope.client.request_building import address, once
from vitascope.client.request_types import OperationKind, OperationWaiting


class Operations(Caller):
    """Work on a whole collection in the background."""

    async def create_operation(
        self, kind: OperationKind, collection: str, **options: bool | str
    ) -> response_types.Operation:
        """Begin work on a whole collection in the background.

        ``kind``: ``backup``; ``export``, with ``tokens`` and ``thumbnails``; ``reembed`` by the default model or
        ``model``, with ``skip_missing``.
        """
        body = {"kind": kind, "collection": collection, **options}
        return await self._call(response_types.Operation, "POST", address("operations"), json=body, headers=once(None))

    async def operations(self) -> response_types.Operations:
        return await self._call(response_types.Operations, "GET", address("operations"))

    async def operation(self, operation_id: str) -> response_types.Operation:
        return await self._call(response_types.Operation, "GET", address("operations", operation_id))

    async def delete_operation(self, operation_id: str) -> None:
        """Break it off if it is under way, and remove its files."""
        await self._do("DELETE", address("operations", operation_id))

    async def wait_for_operation(
        self,
        operation_id: str,
        *,
        interval: float = 0.5,
        on_change: Callable[[response_types.Operation], None] | None = None,
        progress: bool = False,
    ) -> response_types.Operation:
        """Ask every ``interval`` seconds, at first more often, until it has ended; ``on_change`` gets every answer.

        ``progress``: draw a bar in a terminal or notebook. Raises `Conflict` with the reason where it failed.
        """
        with shown_operation(operation_id, progress) as show:
            seconds = 0.0
            while True:
                operation = await self.operation(operation_id)
                show(operation)
                if on_change:
                    on_change(operation)
                if operation["state"] == "failed":
                    raise errors.Conflict(f"{operation['kind']} of {operation['collection']}: {operation['error']}")
                if operation["state"] == "succeeded":
                    return operation
                seconds = min(interval, 2 * seconds + 0.02)
                await pause_async(seconds)

    async def back_up(
        self, collection: str, file: str | Path, **waiting: Unpack[OperationWaiting]
    ) -> response_types.Operation:
        """Write a collection as it is now to ``file`` on this machine; an earlier one there is replaced at the end.

        ``waiting`` as for `wait_for_operation`, whose errors this raises, and `InvalidInput` where ``file`` cannot be
        written.
        """
        begun = await self.create_operation("backup", collection)
        return await self._make_and_fetch(begun, lambda name: Path(file), waiting)

    async def export(
        self,
        collection: str,
        folder: str | Path,
        *,
        tokens: bool = False,
        thumbnails: bool = False,
        **waiting: Unpack[OperationWaiting],
    ) -> response_types.Operation:
        """Write a collection as it is now as Parquet files into the new ``folder`` on this machine; as `back_up`."""
        target = Path(folder)
        try:
            target.mkdir()
        except OSError as error:
            raise errors.InvalidInput(f"folder: {str(target)!r} cannot be made ({error.strerror})") from error
        try:
            begun = await self.create_operation("export", collection, tokens=tokens, thumbnails=thumbnails)
            return await self._make_and_fetch(begun, lambda name: target / Path(name).name, waiting)
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise

    async def _make_and_fetch(
        self, begun: response_types.Operation, target: Callable[[str], Path], waiting: OperationWaiting
    ) -> response_types.Operation:
        """Wait for an operation, fetch its files to the ``target`` of their names, and delete it at the service."""
        try:
            made = await self.wait_for_operation(begun["id"], **waiting)
            for file in made["files"]:
                await self._fetch(file["url"], target(file["name"]))
        except BaseException:
            with shielded_async(), suppress(errors.VitascopeError):
                await self.delete_operation(begun["id"])
            raise
        await self.delete_operation(begun["id"])
        return made

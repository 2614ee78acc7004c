"""Work on whole collections that takes long: backups, exports, embedding again. One after the other, in one thread.

An operation is a file ``ID.json`` in a folder, durable before the work begins and when it has ended, and a folder
``ID`` beside it with the files it made. What was under way when the service stopped or died is begun again at the next
start; one at which it died ``MAX_TRIES`` times is given up.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from service.http.problems import is_server_error
from vitascope.durable_files import atomic_path, make_folders
from vitascope.errors import Conflict, NotFound, StorageError, VitascopeError

_log = logging.getLogger("vitascope.service")

Kind = Literal["backup", "export", "reembed"]
State = Literal["queued", "running", "succeeded", "failed"]
MAX_TRIES = 3
_UNFINISHED = ("queued", "running")
_ID = re.compile(r"[0-9a-f]{16}")

OnStep = Callable[[int, int], None]
"""Takes how much is done, and of how much."""


@dataclass(frozen=True, slots=True)
class Operation:
    """Work on a collection. ``model``: the fingerprint of the one to embed with; None where none was chosen.

    ``error`` says why it failed; ``tries``: how often it was begun; ``media_not_included``: ``files`` and ``bytes`` of
    the media that a backup or export lacks. Times in Unix seconds.
    """

    id: str
    kind: Kind
    collection: str
    options: Mapping[str, bool]
    created_at: float
    state: State = "queued"
    error: str | None = None
    tries: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    model: str | None = None
    media_not_included: Mapping[str, int] | None = None


Work = Callable[[Operation, Path, OnStep], Mapping[str, int] | None]


class _Ended(Exception):
    """The service stops, or the operation was deleted. Never leaves this module."""


class Operations:
    """The operations of one service. Safe to use from many threads."""

    def __init__(self, folder: Path, most: int, work: Work) -> None:
        """Keep at most ``most`` in ``folder``, made if missing, which no other service may use.

        ``work`` does one, with an empty folder for its files, and returns its ``media_not_included``. Raises
        StorageError.
        """
        self._folder = folder
        self._most = most
        self._work = work
        self._changed = threading.Condition()
        self._stopping = False
        self._shares: dict[str, float] = {}
        try:
            make_folders(folder)
            ours = [path for path in folder.iterdir() if _ID.fullmatch(path.stem)]
            records = {path.stem: _read(path) for path in ours if path.suffix == ".json"}
            for path in ours:
                if path.is_dir() and path.name not in records:
                    shutil.rmtree(path, ignore_errors=True)  # deleted, but not to the end
        except OSError as error:
            raise StorageError(f"{folder}: cannot be used for operations: {error}") from error
        self._known = {name: one for name, one in records.items() if one is not None}
        self._thread = threading.Thread(target=self._run_all, name="operations", daemon=True)

    def start(self) -> None:
        """Begin with what is not finished."""
        with self._changed:
            if not self._stopping:
                self._thread.start()

    def begin_to_stop(self) -> None:
        """Break off what is under way; it is begun again at the next start."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def stop(self, timeout: float) -> None:
        """The same, and wait for it, at most ``timeout`` seconds."""
        self.begin_to_stop()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def begin(self, kind: Kind, collection: str, options: Mapping[str, bool], model: str | None = None) -> Operation:
        """A queued operation, durable. Raises Conflict where ``most`` are kept already, StorageError."""
        with self._changed:
            if len(self._known) >= self._most:
                raise Conflict(
                    f"operations: {len(self._known)} are kept, with their files; at most {self._most} are "
                    "(VITASCOPE_MAX_OPERATIONS): delete one that is not needed any more"
                )
            made = Operation(uuid.uuid4().hex[:16], kind, collection, dict(options), time.time(), model=model)
            self._keep(made)
            self._changed.notify()
        return made

    def all(self) -> list[Operation]:
        """Every operation, newest first."""
        with self._changed:
            return sorted(self._known.values(), key=lambda one: -one.created_at)

    def get(self, operation_id: str) -> Operation:
        """The operation of this id. Raises NotFound."""
        with self._changed:
            return self._find(operation_id)

    def share_done(self, operation: Operation) -> float:
        """How much of it is done, 0 to 1."""
        return 1.0 if operation.state == "succeeded" else self._shares.get(operation.id, 0.0)

    def files(self, operation: Operation) -> list[tuple[Path, int]]:
        """The files that it made and their bytes, by name; none before it has succeeded."""
        if operation.state != "succeeded":
            return []
        folder = self._folder / operation.id
        with self._changed:  # nobody deletes it meanwhile
            return [(file, file.stat().st_size) for file in sorted(folder.glob("*"))]

    def delete(self, operation_id: str) -> None:
        """Break it off if it is under way, and remove its files. Raises NotFound and StorageError."""
        with self._changed:
            self._find(operation_id)
            try:
                self._record(operation_id).unlink(missing_ok=True)
            except OSError as error:
                raise StorageError(f"operation {operation_id}: cannot be removed: {error}") from error
            del self._known[operation_id]
            shutil.rmtree(self._folder / operation_id, ignore_errors=True)

    def _find(self, operation_id: str) -> Operation:
        if operation_id not in self._known:
            raise NotFound(f"operation {operation_id[:80]!r}: there is none of this id")
        return self._known[operation_id]

    def _record(self, operation_id: str) -> Path:
        return self._folder / f"{operation_id}.json"

    def _keep(self, operation: Operation) -> None:
        try:
            with atomic_path(self._record(operation.id)) as beside:
                beside.write_text(json.dumps(asdict(operation)))
        except OSError as error:
            raise StorageError(f"operation {operation.id}: cannot be written down: {error}") from error
        self._known[operation.id] = operation

    # The thread

    def _run_all(self) -> None:
        while (operation := self._next()) is not None:
            self._run(operation)

    def _next(self) -> Operation | None:
        """The oldest one that is not finished, as begun; None when the service stops."""
        with self._changed:
            while not self._stopping:
                waiting = [one for one in self._known.values() if one.state in _UNFINISHED]
                if waiting:
                    return min(waiting, key=lambda one: one.created_at)
                self._changed.wait()
        return None

    def _run(self, operation: Operation) -> None:
        begun = replace(operation, state="running", tries=operation.tries + 1, started_at=time.time())
        folder = self._folder / operation.id
        try:
            if operation.tries >= MAX_TRIES:
                raise Conflict(f"the service died {MAX_TRIES} times before it was finished")
            self._update(begun)
            shutil.rmtree(folder, ignore_errors=True)  # what an earlier try left
            folder.mkdir()
            left_out = self._work(begun, folder, lambda done, total: self._note(begun, done, total))
            ended = replace(begun, state="succeeded", finished_at=time.time(), media_not_included=left_out)
            self._update(ended)
        except _Ended:
            with suppress(_Ended, StorageError):
                self._update(operation)  # stopped in order: this try does not count
        except Exception as error:  # whatever it is, the others go on
            if operation.id in self._known:  # else it was deleted, and its folder with it
                self._fail(begun, error)
        with self._changed:
            self._shares.pop(operation.id, None)
            kept = self._known.get(operation.id)
            if kept is None or kept.state != "succeeded":
                shutil.rmtree(folder, ignore_errors=True)

    def _note(self, operation: Operation, done: int, total: int) -> None:
        """Called by the work now and then. Raises what ends it where it is to end."""
        if self._stopping or operation.id not in self._known:
            raise _Ended
        self._shares[operation.id] = done / total if total else 0.0

    def _update(self, operation: Operation) -> None:
        with self._changed:
            if operation.id not in self._known:
                raise _Ended
            self._keep(operation)

    def _fail(self, operation: Operation, error: Exception) -> None:
        reason = str(error)
        if not isinstance(error, VitascopeError) or is_server_error(error):
            _log.error("operation %s (%s of %s)", operation.id, operation.kind, operation.collection, exc_info=error)
            reason = "the service could not do this; its log says why"
        failed = replace(operation, state="failed", error=reason, finished_at=time.time())
        try:
            self._update(failed)
        except _Ended:
            pass
        except StorageError as fault:  # a full disk: it is over all the same, and at the next start begun again
            _log.error("operation %s: %s", operation.id, fault)
            with self._changed:
                self._known[operation.id] = failed


def _read(path: Path) -> Operation | None:
    """The operation that a record describes; None, and a word in the log, for one that cannot be read."""
    try:
        return Operation(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        _log.error("%s: no record of an operation: %s", path, error)
        return None

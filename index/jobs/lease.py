"""Who runs a job: a lease in the catalogue that a live owner renews and a dead one loses.

A lease that ran out may be taken over. That of a process of this machine that no longer exists, or of a run of this
process that has ended, may be taken over at once, so that a job killed and started again goes on without waiting.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from index.storage.catalogue import Catalogue
from vitascope.errors import VitascopeError

_log = logging.getLogger(__name__)

LEASE_SECONDS = 60.0
RENEW_SECONDS = 15.0
_ended: set[str] = set()


def new_owner(*, decodes: bool = True) -> str:
    """A text that names this run of a job and the process it is in; no two runs share one.

    ``decodes``: whether files are decoded in that process, so that they may be what it dies of.
    """
    pid = os.getpid()
    named = {"host": _host(), "pid": pid, "started": _started(pid), "run": uuid.uuid4().hex, "decodes": decodes}
    return json.dumps(named)


def owner_decoded(owner: str | None) -> bool:
    """Whether an owner that died may have died of a file."""
    try:
        return bool(json.loads(owner or "{}").get("decodes", True))
    except (ValueError, AttributeError):
        return True


def note_ended(owner: str) -> None:
    """This run has ended and could not say so in the catalogue: nobody needs to wait for its lease."""
    _ended.add(owner)


def has_ended(owner: str | None) -> bool:
    """Whether this is a run of this process that ended in order, though the catalogue does not say so."""
    return owner in _ended


def owner_is_gone(owner: str | None, lease_until: float | None) -> bool:
    """Whether a job with this owner and lease may be taken over."""
    if owner is None or lease_until is None or lease_until < time.time() or has_ended(owner):
        return True
    try:
        named = json.loads(owner)
        host, pid, started = named["host"], int(named["pid"]), named["started"]
    except (ValueError, KeyError, TypeError):
        return False
    # The start time tells the owner from a later process with the same number.
    return bool(host == _host() and _started(pid) != started)


class Lease:
    """Renews the lease of a job in the background while the block runs."""

    def __init__(self, catalogue: Catalogue, job_id: int, owner: str) -> None:
        self._catalogue = catalogue
        self._job_id = job_id
        self._owner = owner
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"job-{job_id}-lease", daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()

    def _renew(self) -> None:
        while not self._done.wait(RENEW_SECONDS):
            try:
                with self._catalogue.write() as connection:
                    connection.execute(
                        "UPDATE jobs SET lease_until = ? WHERE id = ? AND owner = ?",
                        (time.time() + LEASE_SECONDS, self._job_id, self._owner),
                    )
            except VitascopeError as error:
                # Tried again soon; the runner itself meets the same failure at its next write.
                _log.warning("job %d: lease not renewed: %s", self._job_id, error)


def _host() -> str:
    """Where a process number means something: this machine since its start, this container's processes."""
    parts = [os.uname().nodename]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """When the process began, in the kernel's ticks; None where there is no such process."""
    try:
        # The name in parentheses may hold anything; what follows it is 20 fields up to the start time.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]  # dead, only not yet waited for
    except (OSError, IndexError):
        return None

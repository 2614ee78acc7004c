"""Ownership of a running job: a lease in the catalogue that its owner renews, and that expires if the owner dies.

An expired lease may be taken over. The lease of a process of this machine that no longer exists, or of a run of this
process that has ended, may be taken over at once, so that a job that was killed and restarted does not wait.
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

from index.storage.catalogue import Catalogue
from index.storage.jobs import set_lease
from vitascope.errors import VitascopeError

_log = logging.getLogger(__name__)

LEASE_SECONDS = 60.0
RENEW_SECONDS = 15.0
_ended: set[str] = set()


def new_owner(*, is_local: bool = True) -> str:
    """Return a unique JSON text that identifies this run of a job and its process.

    ``is_local``: whether this process decodes the files, so that a damaged file may crash it.
    """
    pid = os.getpid()
    owner = {"host": _host(), "pid": pid, "started": _start_time(pid), "run": uuid.uuid4().hex, "decodes": is_local}
    return json.dumps(owner)


def owner_decodes_locally(owner: str | None) -> bool:
    """Return whether the lease owner decodes files in its own process, so that a damaged file may have crashed it."""
    try:
        return bool(json.loads(owner or "{}").get("decodes", True))
    except (ValueError, AttributeError):
        return True


def mark_run_ended(owner: str) -> None:
    """Note that a run of this process has ended without releasing its lease in the catalogue."""
    _ended.add(owner)


def run_has_ended(owner: str | None) -> bool:
    """Return whether the owner was marked by ``mark_run_ended``."""
    return owner in _ended


def owner_is_gone(owner: str | None, lease_until: float | None) -> bool:
    """Return whether a job with this owner and lease may be taken over."""
    if owner is None or lease_until is None or lease_until < time.time() or run_has_ended(owner):
        return True
    try:
        fields = json.loads(owner)
        host, pid, start_time = fields["host"], int(fields["pid"]), fields["started"]
    except (ValueError, KeyError, TypeError):
        return False
    # A later process may have the same number, but not the same start time.
    return bool(host == _host() and _start_time(pid) != start_time)


class Lease:
    """Context manager that renews the lease of a job in the background."""

    def __init__(self, catalogue: Catalogue, job_id: int, owner: str) -> None:
        self._catalogue = catalogue
        self._job_id = job_id
        self._owner = owner
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"job-{job_id}-lease", daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_SECONDS):
            try:
                with self._catalogue.write() as connection:
                    set_lease(connection, self._job_id, self._owner, time.time() + LEASE_SECONDS)
            except VitascopeError as error:
                # Retried soon; the runner itself meets the same failure at its next write.
                _log.warning("job %d: lease not renewed: %s", self._job_id, error)


def _host() -> str:
    """Return an identifier of the namespace in which process numbers are unique: boot of this machine and container."""
    parts = [os.uname().nodename]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _start_time(pid: int) -> str | None:
    """Return the start time of a process in kernel ticks; None if it does not exist."""
    try:
        # The process name, in parentheses, may contain spaces and parentheses; the start time is 20 fields after it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]  # zombie or dead
    except (OSError, IndexError):
        return None

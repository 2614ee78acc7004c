"""Cache of plans on disk, keyed by graph, profiles, GPU and TensorRT version.

A plan is executable code, so its folder must belong to the current user or root and be writable by no other user.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from vitascope.durable_files import atomic_path
from vitascope.errors import EngineError
from vitascope.file_lock import file_lock

_log = logging.getLogger("vitascope.tensorrt")

_MAGIC = b"vitascope plan 1\n"
Key = Mapping[str, Any]
"""Properties of a plan, as JSON values: graph, profiles, GPU, version. A plan with other values is stale."""


def engine_cache() -> Path:
    """Return the folder in VITASCOPE_ENGINE_CACHE; if unset, `vitascope` in the user's cache folder."""
    configured = os.environ.get("VITASCOPE_ENGINE_CACHE")
    return (
        Path(configured)
        if configured
        else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitascope"
    )


def cache_key(gpu_name: str, capability: tuple[int, int], version: str) -> str:
    """Return the folder name for plans of one GPU model and one version of TensorRT."""
    slug = re.sub(r"[^a-z0-9]+", "-", gpu_name.lower()).strip("-")
    return f"{slug}-sm{capability[0]}{capability[1]}-tensorrt-{version}"


class PlanFile:
    """One cached plan. A lock lets only one process build it; the others wait."""

    def __init__(self, path: Path, key: Key) -> None:
        """Create the folder. Raises EngineError if that fails, or if another user can write to it."""
        self.path = path
        self.key: dict[str, Any] = json.loads(json.dumps(key))  # in the form in which it is read back
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _check_private(path.parent)
        except OSError as error:
            raise EngineError(f"{path.parent}: cannot be used as an engine cache: {error.strerror}") from error

    def read(self, *, log: bool = True) -> bytes | None:
        """Return the plan; None if it is missing, stale or damaged. ``log``: log that it is stale or damaged.

        Raises EngineError if the file cannot be read.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise EngineError(f"{self.path}: cannot be read: {error.strerror}") from error
        problem, plan = _parse(content, self.key)
        if problem is not None and log:
            _log.warning("%s: rebuilding: %s", self.path.name, problem)
        return plan

    def write(self, plan: bytes) -> None:
        """Store a plan atomically. Raises EngineError."""
        header = json.dumps({"key": self.key, "sha256": hashlib.sha256(plan).hexdigest()}, sort_keys=True).encode()
        write_file(self.path, _MAGIC + header + b"\n" + plan)

    def get(self, build: Callable[[], bytes]) -> bytes:
        """Return the cached plan; build and store it if necessary. Raises EngineError, and the errors of ``build``."""
        plan = self.read()
        if plan is not None:
            return plan
        with self._build_lock():
            plan = self.read(log=False)  # another process may have built it
            if plan is None:
                plan = build()
                self.write(plan)
            return plan

    def invalidate(self) -> None:
        """Remove a plan that TensorRT rejects."""
        self.path.unlink(missing_ok=True)

    @contextmanager
    def _build_lock(self) -> Iterator[None]:
        with ExitStack() as stack:
            try:
                stack.enter_context(file_lock(self.path.with_suffix(".lock"), give_up=lambda: False))
            except OSError as error:
                raise EngineError(f"{self.path.parent}: cannot be locked for building: {error.strerror}") from error
            yield


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically. Raises EngineError."""
    try:
        with atomic_path(path) as temp_path:
            temp_path.write_bytes(content)
    except OSError as error:
        raise EngineError(f"{path}: cannot be written: {error.strerror}") from error


def _parse(content: bytes, key: Key) -> tuple[str | None, bytes | None]:
    """Return (None, plan), or (problem, None)."""
    if not content.startswith(_MAGIC):
        return "it is not a plan of this version", None
    header, _, plan = content[len(_MAGIC) :].partition(b"\n")
    try:
        fields = json.loads(header)
        stored_key, digest = dict(fields["key"]), fields["sha256"]
    except (ValueError, TypeError, KeyError):
        return "its header is damaged", None
    if changed := sorted(name for name in {*key, *stored_key} if key.get(name) != stored_key.get(name)):
        return f"it was built for another {', '.join(changed)}", None
    if hashlib.sha256(plan).hexdigest() != digest:
        return "it is damaged", None
    return None, plan


def _check_private(folder: Path) -> None:
    status = folder.stat()
    if status.st_uid not in (os.getuid(), 0) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise EngineError(
            f"{folder}: belongs to user {status.st_uid} with mode {stat.S_IMODE(status.st_mode):o}; a folder that only "
            f"user {os.getuid()} can write to was expected, since plans are executable code"
        )

"""Built engines on disk: found again by what they were built from and for, and built anew where that has changed.

A plan is code for the GPU: whoever can write to its file can run code as the user of the service. So the folder must
belong to that user and be writable for nobody else.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vitascope.errors import EngineError

_log = logging.getLogger("vitascope.tensorrt")

_MAGIC = b"vitascope plan 1\n"
Key = Mapping[str, Any]
"""What a plan was built from and for, as JSON has it."""


def engine_cache() -> Path:
    """VITASCOPE_ENGINE_CACHE, else the user's folder for caches."""
    named = os.environ.get("VITASCOPE_ENGINE_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitascope"


def place_of(card: str, capability: tuple[int, int], version: str) -> str:
    """The name of a folder for plans of one kind of GPU and one version of TensorRT."""
    slug = re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")
    return f"{slug}-sm{capability[0]}{capability[1]}-tensorrt-{version}"


class PlanFile:
    """One plan at ``path``, for ``key``. Several processes may use it: others wait for the one that builds."""

    def __init__(self, path: Path, key: Key) -> None:
        """Makes the folder. Raises EngineError where it cannot be made, or where others may write to it."""
        self.path = path
        self.key: dict[str, Any] = json.loads(json.dumps(key))  # tuples are lists once they are read again
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _check_private(path.parent)
        except OSError as error:
            raise EngineError(f"{path.parent}: cannot be used for built engines: {error.strerror}") from error

    def read(self, *, say: bool = True) -> bytes | None:
        """The plan; None where there is none, or a stale or damaged one, which the log says if ``say``."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise EngineError(f"{self.path}: cannot be read: {error.strerror}") from error
        why, plan = _opened(content, self.key)
        if why is not None and say:
            _log.warning("%s: is built anew: %s", self.path.name, why)
        return plan

    def write(self, plan: bytes) -> None:
        """Keep ``plan``, in one step. Raises EngineError."""
        header = json.dumps({"key": self.key, "sha256": hashlib.sha256(plan).hexdigest()}, sort_keys=True).encode()
        write_whole(self.path, _MAGIC + header + b"\n" + plan)

    def get(self, build: Callable[[], bytes]) -> bytes:
        """The plan, by ``build`` where there is none for this key. Raises EngineError, and what ``build`` does."""
        plan = self.read()
        if plan is not None:
            return plan
        with self._turn():
            plan = self.read(say=False)  # somebody else may have built it meanwhile
            if plan is None:
                plan = build()
                self.write(plan)
            return plan

    def forget(self) -> None:
        """Remove a plan that the library does not take, so that it is built anew."""
        self.path.unlink(missing_ok=True)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        try:
            file = self.path.with_suffix(".lock").open("w")
        except OSError as error:
            raise EngineError(f"{self.path.parent}: nothing can be built there: {error.strerror}") from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def write_whole(path: Path, content: bytes) -> None:
    """Put ``content`` in the place of what is at ``path``; a crash leaves the one or the other. Raises EngineError."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise EngineError(f"{path}: cannot be written: {error.strerror}") from error


def _opened(content: bytes, key: Key) -> tuple[str | None, bytes | None]:
    """(None, the plan), or (why it is of no use, None)."""
    if not content.startswith(_MAGIC):
        return "it is no plan of this version", None
    header, _, plan = content[len(_MAGIC) :].partition(b"\n")
    try:
        stated = json.loads(header)
        found, digest = dict(stated["key"]), stated["sha256"]
    except (ValueError, TypeError, KeyError):
        return "its header is damaged", None
    if changed := sorted(name for name in {*key, *found} if key.get(name) != found.get(name)):
        return f"it was built for another {', '.join(changed)}", None
    if hashlib.sha256(plan).hexdigest() != digest:
        return "it is damaged", None
    return None, plan


def _check_private(folder: Path) -> None:
    found = folder.stat()
    if found.st_uid not in (os.getuid(), 0) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise EngineError(
            f"{folder}: belongs to user {found.st_uid} with mode {stat.S_IMODE(found.st_mode):o}; a folder that only "
            f"user {os.getuid()} may write to was expected, since built engines are code"
        )

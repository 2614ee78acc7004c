# Generated from vitascope/client/asynchronous: change that, then run python -m tests.vitascope.test_client_generated
"""Files from a service, whole or not at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import BinaryIO

import httpx

from vitascope.client.waits import blocking
from vitascope.errors import InvalidInput

TRIES = 5
"""Connections in a row that may break off without a byte."""


def fetch(http: httpx.Client, url: str, target: Path) -> None:
    """Write what is at ``url`` to ``target``; a file that is there is replaced when all has come.

    Goes on where a connection broke off. Raises InvalidInput where ``target`` cannot be written, httpx.HTTPStatusError
    with the answer read, and other errors of httpx.
    """
    beside = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
    try:
        with beside.open("xb") as file:
            _receive(http, url, file)
            file.flush()
            blocking(os.fsync, file.fileno())
        os.replace(beside, target)
    except OSError as error:
        raise InvalidInput(f"file: {str(target)!r} cannot be written ({error.strerror or error})") from error
    finally:
        beside.unlink(missing_ok=True)


def _receive(http: httpx.Client, url: str, file: BinaryIO) -> None:
    broken = 0
    while True:
        came = file.tell()
        try:
            _append(http, url, file)
            return
        except httpx.TransportError:
            broken = broken + 1 if file.tell() == came else 0
            if broken == TRIES:
                raise


def _append(http: httpx.Client, url: str, file: BinaryIO) -> None:
    """The rest of what is at ``url``, after the bytes that ``file`` has already."""
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={file.tell()}-"} if file.tell() else {})}
    with http.stream("GET", url, headers=headers) as response:
        if response.is_error:
            response.read()
            response.raise_for_status()
        if response.status_code != httpx.codes.PARTIAL_CONTENT:
            file.seek(0)
            file.truncate()
        for chunk in response.iter_bytes():
            blocking(file.write, chunk)

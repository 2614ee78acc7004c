# Generated from vitascope/client/asynchronous: change that, then run python -m tests.vitascope.test_client_generated
"""Files from a service, whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import httpx

from vitascope.client.compat import blocking, pause
from vitascope.client.retries import Retries
from vitascope.client.transfer import Transfer
from vitascope.errors import InvalidInput

PAUSES = Retries()
"""Between connections of one download."""

Open = Callable[[Mapping[str, str]], httpx.Response]
"""Sends the request with these headers; the body of the response is unread."""


def fetch(open_response: Open, transfer: Transfer, target: Path) -> None:
    """Write a file of the service to ``target``; a file that is there is replaced when all has come.

    Continues where a connection broke off, within the limits of ``transfer``. Raises InvalidInput where ``target``
    cannot be written, ServiceError beyond the limits, and what ``open_response`` raises.
    """
    beside = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
    try:
        with beside.open("xb") as file:
            _receive(open_response, transfer, file)
            file.flush()
            blocking(os.fsync, file.fileno())
        os.replace(beside, target)
    except OSError as error:
        raise InvalidInput(f"file: {str(target)!r} cannot be written ({error.strerror or error})") from error
    finally:
        beside.unlink(missing_ok=True)


def _receive(open_response: Open, transfer: Transfer, file: BinaryIO) -> None:
    while True:
        offset = file.tell()
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={offset}-"} if offset else {})}
        with closing(open_response(headers)) as response:
            file.seek(transfer.first_byte(response, offset))
            file.truncate()
            try:
                for piece in response.iter_bytes():
                    blocking(file.write, piece)
                return
            except httpx.TransportError as error:
                stalls = transfer.broke_off(file.tell(), error)
        pause(PAUSES.pause_after(1 + stalls, None))

"""A request, sent again where that does no harm and may help."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import TypeVar

import httpx

from vitascope.client.compat import pause_async
from vitascope.client.retries import Repeatable, Retries, may_repeat, retry_after

_log = logging.getLogger("vitascope.client")
T = TypeVar("T")


async def repeated(send: Callable[[], Awaitable[T]], retries: Retries, repeatable: Repeatable) -> T:
    """What ``send`` returns, tried again as long as that is safe and may help; else what it raised last.

    ``send`` raises httpx.HTTPError, for an error answer httpx.HTTPStatusError.
    """
    began = time.monotonic()
    for tries in count(1):
        try:
            return await send()
        except httpx.HTTPError as error:
            seconds = retries.pause_after(tries, retry_after(error))
            left = began + retries.seconds - time.monotonic()
            if tries >= retries.tries or seconds > left or not may_repeat(error, repeatable):
                raise
            _log.info("try %d of %d failed (%s); the next one in %.2f s", tries, retries.tries, error, seconds)
        await pause_async(seconds)
    raise AssertionError("unreachable")

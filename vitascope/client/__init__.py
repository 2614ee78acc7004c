"""Clients of the HTTP API: `Client`, blocking, and `AsyncClient`, for asyncio.

    with Client("http://127.0.0.1:8000") as client:
        client.add_video("videos", "clip.mp4", metadata={"camera": "north"})
        for result in client.search("videos", "a red square moves left")["results"]:
            print(result["similarity"], result["video"]["title"])

    async with AsyncClient("http://127.0.0.1:8000") as client:
        response = await client.search("videos", "a red square moves left")

Methods return the JSON of the response (times in seconds); `vitascope.client.response_types` has its types. Error
responses raise the exceptions of `vitascope.errors` by their ``code``; errors without a class there, and a service that
cannot be reached, raise `ServiceError`.

Requests that were rejected because of load (429, 503), or whose connection failed, are retried if that is safe; see
`RetryConfig`. Writes carry an Idempotency-Key, so that they are executed once.

A `Client` must not be shared by threads. An `AsyncClient` takes concurrent calls; cancelling a call ends its request.

`_async` is the source; tests/vitascope/client/test_generated.py generates `_sync` from it.
"""

from vitascope.client._async.client import AsyncClient
from vitascope.client._sync.client import Client
from vitascope.client.api import ServiceError
from vitascope.client.retry import RetryConfig

__all__ = ["AsyncClient", "Client", "RetryConfig", "ServiceError"]

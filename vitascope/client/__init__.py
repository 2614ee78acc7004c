"""Clients of the service: `Client`, which waits for each answer, and `AsyncClient`, the same for asyncio.

    with Client("http://127.0.0.1:8000") as client:
        client.add_video("videos", "clip.mp4", metadata={"camera": "north"})
        for result in client.search("videos", "a red square moves left")["results"]:
            print(result["similarity"], result["video"]["title"])

    async with AsyncClient("http://127.0.0.1:8000") as client:
        found = await client.search("videos", "a red square moves left")

Methods return the service's JSON as it is (dicts, lists, strings, numbers; times in seconds), and
`vitascope.client.response_types` says what is in it. An error answer raises the error that the service raised
(`vitascope.errors`), so that callers of the client and of the runtime handle the same names; what has no name there,
and a service that cannot be reached, raises `ServiceError`.

A request that was refused because too much is under way (429, 503), or whose connection could not be opened or broke
off, is sent again where that does no harm: `Retries` says how often and for how long. What is written carries an
Idempotency-Key, so it is done once.

A `Client` is not for use by several threads at once; an `AsyncClient` is for as many calls at once as you like, and a
call that is cancelled ends its request.

The clients are written once: `asynchronous` is the source, and tests/vitascope/test_client_generated.py makes
`synchronous` of it, word by word. A blocking client that ran a hidden event loop would start threads, and not work
where a loop runs already; two that shared descriptions of requests would still have each signature and each loop over
pages twice. What is generated is plain code, with plain tracebacks and types.
"""

from vitascope.client.asynchronous.client import AsyncClient
from vitascope.client.errors import ServiceError
from vitascope.client.retries import Retries
from vitascope.client.synchronous.client import Client

__all__ = ["AsyncClient", "Client", "Retries", "ServiceError"]

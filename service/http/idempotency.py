"""Requests with an Idempotency-Key are done once: who repeats one gets the first one's answer.

As draft-ietf-httpapi-idempotency-key-header-07 says. Only answers of success are kept, and they are kept before
they are sent. A request that failed, or that a kill cut short, may be repeated.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BadRequest
from service.http.errors import IdempotencyInProgress, IdempotencyKeyReused
from service.http.idempotency_store import Answer, AnswerStore
from service.http.problems import domain_problem, http_problem
from service.http.request_digest import Fingerprint
from vitascope.errors import VitascopeError

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
_KEY = re.compile(r'("?)([A-Za-z0-9._:/+=-]{1,255})\1')


class Idempotency:
    """Which requests with a key are under way, and the answers of those that are done."""

    def __init__(self, store: AnswerStore) -> None:
        self._store = store
        self._under_way: set[tuple[str, str]] = set()

    async def serve(self, app: ASGIApp, client: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that has the header: by ``app``, or as before."""
        try:
            key = read_key(Headers(scope=scope).get(HEADER, ""))
            with self._claim(client, key):
                known = await asyncio.to_thread(self._store.find, client, key, time.time())
                if known is None:
                    await self._serve_first(app, client, key, scope, receive, send)
                    return
                answer = await _again(known, scope, receive)
        except VitascopeError as error:
            answer = domain_problem(scope, error)
        except HTTPException as error:  # the body is too large, or stopped coming
            answer = http_problem(scope, error)
        await answer(scope, receive, send)

    @contextmanager
    def _claim(self, client: str, key: str) -> Iterator[None]:
        # In memory: one process has the data folder, and what it had begun ends with it.
        if (client, key) in self._under_way:
            raise IdempotencyInProgress(
                f"{HEADER}: {key!r}: the first request with it is under way; come back for its answer",
                {"Retry-After": "1"},
            )
        self._under_way.add((client, key))
        try:
            yield
        finally:
            self._under_way.discard((client, key))

    async def _serve_first(
        self, app: ASGIApp, client: str, key: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        body = _Body(scope, receive)
        held: list[Message] = []

        async def hold(message: Message) -> None:
            held.append(message)

        await app(scope, body.receive, hold)
        if 200 <= held[0]["status"] < 300 and body.is_complete:
            await asyncio.to_thread(self._store.keep, client, key, _answer(body, held), time.time())
        for message in held:
            await send(message)


def read_key(header: str) -> str:
    """The key in a header: a string in quotes, or bare. Raises BadRequest."""
    found = _KEY.fullmatch(header.strip())
    if found is None:
        raise BadRequest(f"{HEADER}: {header[:80]!r}; 1 to 255 of A-Z, a-z, 0-9 and ._:/+=- were expected")
    return found[2]


class _Body:
    """The body of a request on its way in, with its fingerprint."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self._fingerprint = Fingerprint(scope, Headers(scope=scope).get("content-type", ""))
        self.is_complete = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and not self.is_complete:
            self._fingerprint.feed(message.get("body", b""))
            self.is_complete = not message.get("more_body", False)
        return message

    def fingerprint(self) -> bytes:
        return self._fingerprint.digest()


async def _again(known: Answer, scope: Scope, receive: Receive) -> Response:
    body = _Body(scope, receive)
    while not body.is_complete:
        if (await body.receive())["type"] == "http.disconnect":
            break  # nobody reads what is answered
    if body.fingerprint() != known.fingerprint:
        raise IdempotencyKeyReused(f"{HEADER}: it belongs to another request; a new one was expected")
    return Response(known.body, known.status, {**known.headers, REPLAYED: "true"})


def _answer(body: _Body, messages: list[Message]) -> Answer:
    start, *rest = messages
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in start["headers"]}
    kept = {name: headers[name] for name in ("content-type", "location") if name in headers}
    return Answer(body.fingerprint(), start["status"], kept, b"".join(each.get("body", b"") for each in rest))

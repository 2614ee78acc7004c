"""Context of a request: its deadline, its cancellation, and the models and threads that it uses."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import ParamSpec, TypeVar

from fastapi import Request
from opentelemetry.context import get_current

from index.collection import Collection
from index.vectors.interface import FAISS
from service.app_state import AppState
from service.errors import BadRequest, DeadlineExceeded
from service.inference.models import LoadedModel
from service.inference.scheduler import CallContext, Outputs
from vitascope.engines.onnx_runtime import Array
from vitascope.model import Model
from vitascope.sandbox.decoder import Decoder
from vitascope.sandbox.pool import PooledDecoder

P = ParamSpec("P")
T = TypeVar("T")

TIMEOUT_HEADER = "X-Request-Timeout"


@dataclass(frozen=True)
class RequestContext:
    """Models, threads and decoders of one request, which stop when it is cancelled or its deadline passes."""

    service: AppState
    call_context: CallContext

    def model(self, loaded: LoadedModel) -> Model:
        """Return a model for this request."""
        return self.service.models.with_context(loaded, self.call_context)

    def collection(self, name: str) -> tuple[Collection, Model]:
        """Return a collection and its model. Raises the errors of ``AppState.collection`` with ``for_model``."""
        collection = self.service.collection(name)
        return collection, self.model(self.service.models.for_collection(collection))

    def within(self, seconds: float) -> RequestContext:
        """Return a context with a deadline at most ``seconds`` from now."""
        call_context = self.call_context
        deadline = time.monotonic() + seconds
        if call_context.deadline is not None:
            deadline = min(deadline, call_context.deadline)
        return replace(self, call_context=replace(call_context, deadline=deadline))

    def bulk(self) -> RequestContext:
        """Return a context with low priority: interactive calls and decoding tasks precede its own."""
        return replace(self, call_context=replace(self.call_context, bulk=True))

    @property
    def decoder(self) -> Decoder:
        """Decoder for media that are not decoded for a model."""
        return PooledDecoder(self.service.decoding, self.call_context)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function that waits for the model or decodes media in a thread, unless the request is cancelled first.

        Raises Overloaded, DeadlineExceeded, RequestAbandoned and the errors of ``function``.
        """
        return await self.service.inference_pool.run(self._unless_cancelled, partial(function, *args, **kwargs))

    async def run_long(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function that embeds many clips in the pool for long requests. Raises the errors of ``run``."""
        return await self.service.long_pool.run(self._unless_cancelled, partial(function, *args, **kwargs))

    async def read(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function that reads the catalogue or files in a thread. Raises the errors of ``run``."""
        return await self.service.io_pool.run(self._unless_cancelled, partial(function, *args, **kwargs))

    async def write(self, function: Callable[[], T]) -> T:
        """Run a function that writes to the catalogue in a thread. Raises the errors of ``run``."""
        return await self.service.write_pool.run(self._unless_cancelled, function)

    async def search(self, collection: Collection, function: Callable[[], T]) -> T:
        """Run a function that compares embeddings in the pool for searches. Raises the errors of ``run``."""
        pool = self.service.search_pool if collection.vector_backend == FAISS else self.service.io_pool
        return await pool.run(self._unless_cancelled, function)

    async def upload(self, function: Callable[[], T], seconds: float | None = None) -> T:
        """Run a function that indexes an upload in a thread, for a request that holds a slot of the upload pool.

        Raises DeadlineExceeded if no thread becomes free before the deadline or within ``seconds``, RequestAbandoned,
        and the errors of ``function``.
        """
        deadline = (self if seconds is None else self.within(seconds)).call_context.deadline
        left = math.inf if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            return await self.service.upload_pool.run_in_slot(partial(self._unless_cancelled, function), left)
        except TimeoutError:
            raise DeadlineExceeded("deadline: it passed while the upload waited for other uploads") from None

    def submit(self, loaded: LoadedModel, graph: str, inputs: Mapping[str, Array]) -> asyncio.Future[Outputs]:
        """Queue a run of a graph without blocking a thread; await the result inside ``deadline``.

        Raises Overloaded; the future raises EngineError, DeadlineExceeded and RequestAbandoned.
        """
        call_name = loaded.call_name(graph)
        return asyncio.wrap_future(self.service.scheduler.submit(call_name, inputs, self.call_context))

    @asynccontextmanager
    async def deadline(self) -> AsyncIterator[None]:
        """Cancel the block at the deadline. Raises DeadlineExceeded."""
        deadline = self.call_context.deadline
        try:
            async with asyncio.timeout(None if deadline is None else max(0.0, deadline - time.monotonic())):
                yield
        except TimeoutError:
            raise DeadlineExceeded("deadline: it passed while the request waited for the model") from None

    def _unless_cancelled(self, function: Callable[[], T]) -> T:
        error = self.call_context.cancellation_error(time.monotonic())
        if error is not None:
            raise error
        return function()


@asynccontextmanager
async def request_context(
    request: Request, service: AppState, *, bulk: bool = False, is_long: bool = False
) -> AsyncIterator[RequestContext]:
    """Return the context of a request whose body has been read; it is cancelled when the client disconnects.

    Args:
        request: The request.
        service: The service.
        bulk: Whether its calls have low priority.
        is_long: Whether it embeds many clips, so that it is not counted in the rate at which short requests finish.

    Raises:
        BadRequest: The timeout header is invalid.
        Overloaded: The request, neither bulk nor long, would wait too long.
    """
    call_context = CallContext(bulk, time.monotonic() + _timeout(request, service), trace=get_current())
    with nullcontext() if bulk or is_long else service.queue_limiter.enter():
        watcher = asyncio.create_task(_watch(request, call_context))
        try:
            yield RequestContext(service, call_context)
        finally:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher


async def _watch(request: Request, call_context: CallContext) -> None:
    while not call_context.cancelled.is_set():
        if (await request.receive())["type"] == "http.disconnect":
            call_context.cancelled.set()


def _timeout(request: Request, service: AppState) -> float:
    """Return the timeout of a request in seconds: the smaller value of its header and the setting."""
    limit = service.settings.request_timeout
    header = request.headers.get(TIMEOUT_HEADER)
    if header is None:
        return limit
    try:
        seconds = float(header)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise BadRequest(f"{TIMEOUT_HEADER}: {header!r}; seconds, more than 0, were expected")
    return min(seconds, limit)

"""A request as the model's queue sees it: until when its answer is wanted, and whether anybody still waits."""

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
from service.app_state import Service
from service.errors import BadRequest, DeadlineExceeded
from service.inference.call import Asker, Outputs
from service.inference.loaded_model import Loaded
from vitascope.engines.onnx_runtime import Array
from vitascope.model import Model
from vitascope.sandbox.decoder import Decoder, PooledDecoder

P = ParamSpec("P")
T = TypeVar("T")

TIMEOUT_HEADER = "X-Request-Timeout"


@dataclass(frozen=True)
class Turn:
    """What one request works with: models that run graphs for it alone, as long as it is wanted."""

    service: Service
    asker: Asker

    def model(self, loaded: Loaded) -> Model:
        """A model as this request uses it."""
        return self.service.models.model_for(loaded, self.asker)

    def collection(self, name: str) -> tuple[Collection, Model]:
        """A collection and the model that fills it. Raises as ``Service.collection`` with ``for_model``."""
        collection = self.service.collection(name)
        return collection, self.model(self.service.models.of(collection))

    def within(self, seconds: float) -> Turn:
        """The same, whose answer is wanted no longer than ``seconds`` from now."""
        until = time.monotonic() + seconds
        deadline = self.asker.deadline
        return replace(self, asker=replace(self.asker, deadline=until if deadline is None else min(until, deadline)))

    @property
    def decoder(self) -> Decoder:
        """What reads media files for this request where no model is needed."""
        return PooledDecoder(self.service.decoding, self.asker)

    async def ingest(self, function: Callable[[], T], seconds: float | None = None) -> T:
        """``function`` in a thread of those for uploads, by a request that has a place there.

        Raises DeadlineExceeded where none is free before the deadline, or for ``seconds``, RequestAbandoned and what
        ``function`` raises.
        """
        asker = (self if seconds is None else self.within(seconds)).asker
        left = math.inf if asker.deadline is None else max(0.0, asker.deadline - time.monotonic())
        try:
            return await self.service.ingestion.work(partial(self._if_wanted, function), left)
        except TimeoutError:
            raise DeadlineExceeded("deadline: it passed while the upload waited behind others") from None

    async def write(self, function: Callable[[], T]) -> T:
        """As ``run``, for what asks the model nothing: in a thread of those that write to the catalogue."""
        return await self.service.writes.run(self._if_wanted, function)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``function`` in a thread of those that wait for the model, unless the request has become pointless before
        one was free.

        Raises Overloaded, DeadlineExceeded, RequestAbandoned and what ``function`` raises.
        """
        return await self.service.heavy.run(self._if_wanted, partial(function, *args, **kwargs))

    async def read(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As ``run``, for what asks the model nothing: in a thread of those that read the catalogue."""
        return await self.service.light.run(self._if_wanted, partial(function, *args, **kwargs))

    async def search(self, collection: Collection, function: Callable[[], T]) -> T:
        """As ``read``, for what compares embeddings: in a thread of those that search, unless a server does it."""
        pool = self.service.searches if collection.vector_backend == FAISS else self.service.light
        return await pool.run(self._if_wanted, function)

    def start(self, loaded: Loaded, graph: str, inputs: Mapping[str, Array]) -> asyncio.Future[Outputs]:
        """A run of a graph, without a thread that waits for it; await it within ``time_left``.

        Raises Overloaded at once; the future raises EngineError, DeadlineExceeded and RequestAbandoned.
        """
        return asyncio.wrap_future(self.service.models.submit(loaded, graph, inputs, self.asker))

    def _if_wanted(self, function: Callable[[], T]) -> T:
        reason = self.asker.cancellation_error(time.monotonic())
        if reason is not None:
            raise reason
        return function()

    @asynccontextmanager
    async def time_left(self) -> AsyncIterator[None]:
        """Until the deadline; what is awaited inside is cancelled then. Raises DeadlineExceeded."""
        deadline = self.asker.deadline
        try:
            async with asyncio.timeout(None if deadline is None else max(0.0, deadline - time.monotonic())):
                yield
        except TimeoutError:
            raise DeadlineExceeded("deadline: it passed while the request waited for the model") from None


@asynccontextmanager
async def turn(request: Request, service: Service, *, bulk: bool = False) -> AsyncIterator[Turn]:
    """A turn for a request whose body has been read; nothing of it reaches the model once the client has gone.

    Raises BadRequest for a timeout that is none, and Overloaded where the request would wait for too long, if it is
    interactive: not ``bulk``.
    """
    asker = Asker(bulk, time.monotonic() + _seconds(request, service), context=get_current())
    with nullcontext() if bulk else service.queue_limiter.enter():
        watching = asyncio.create_task(_watch(request, asker))
        try:
            yield Turn(service, asker)
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching


async def _watch(request: Request, asker: Asker) -> None:
    while not asker.gone.is_set():
        if (await request.receive())["type"] == "http.disconnect":
            asker.gone.set()


def _seconds(request: Request, service: Service) -> float:
    """For how long the answer is wanted: what the client says, or what the service allows, whichever is shorter."""
    most = service.settings.request_timeout
    stated = request.headers.get(TIMEOUT_HEADER)
    if stated is None:
        return most
    try:
        seconds = float(stated)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise BadRequest(f"{TIMEOUT_HEADER}: {stated!r}; seconds, more than 0, were expected")
    return min(seconds, most)

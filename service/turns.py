"""One request at a time through the model, and bounded pools of threads for all that is not asynchronous."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import anyio
import anyio.to_thread
import numpy as np
from numpy.typing import NDArray

from vitascope.model import Answer, Floats, Match, Model, Streams, VideoEmbedding

P = ParamSpec("P")
T = TypeVar("T")


class TurnTakingModel(Model):
    """A model whose graphs run for one caller at a time; decoding goes on beside them."""

    def __init__(self, *args: object, **settings: object) -> None:
        super().__init__(*args, **settings)  # type: ignore[arg-type]
        self._turn = threading.RLock()

    def warm(self) -> None:
        with self._turn:
            super().warm()

    def embed_text(self, texts: Sequence[str]) -> Floats:
        with self._turn:
            return super().embed_text(texts)

    def embed_video(self, streams: Streams) -> VideoEmbedding:
        with self._turn:
            return super().embed_video(streams)

    def match(self, texts: Sequence[str], visual_tokens: NDArray[np.floating]) -> Match:
        with self._turn:
            return super().match(texts, visual_tokens)

    def answer(self, questions: Sequence[str], visual_tokens: NDArray[np.floating], top: int = 5) -> list[list[Answer]]:
        with self._turn:
            return super().answer(questions, visual_tokens, top)


class Pool:
    """At most ``size`` threads at work; the event loop never waits for them."""

    def __init__(self, size: int) -> None:
        self._limiter = anyio.CapacityLimiter(size)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``function`` in a thread, as soon as one is free; its result or its error."""
        return await anyio.to_thread.run_sync(lambda: function(*args, **kwargs), limiter=self._limiter)

"""LangChain retriever: clips of a running service as documents.

    retriever = VitascopeRetriever(collection="holidays", limit=5)
    retriever.invoke("a dog runs on the beach")

Needs langchain-core (the extra `langchain`). The text of a clip is content of a video: chains should pass it to their
model as data, not as instructions.
"""

from __future__ import annotations

from typing import Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import Field, SecretStr

from vitascope.client import AsyncClient, Client
from vitascope.client.api import Signal, validate_url
from vitascope.client.response_types import SearchResponse, SearchResult

__all__ = ["VitascopeRetriever"]


class VitascopeRetriever(BaseRetriever):
    """Retrieve the clips of a collection that match a sentence, best first, one document per clip.

    ``page_content`` is the title of the video and, on the following lines, the words spoken and those shown in the
    clip. ``metadata``: collection, video_id, clip_id, title, start and end (s), relevance (None if unknown),
    similarity, match and fused (None without reranking), signals (rank, score and matches by signal), absolute
    media_url and thumbnail_url, and video (its metadata).

    Raises the errors of `vitascope.client.Client`.
    """

    url: str = "http://127.0.0.1:8000"
    """Base URL of the service."""
    api_key: SecretStr | None = None
    """By default VITASCOPE_API_KEY."""
    collection: str = "videos"
    limit: int = Field(default=10, ge=1)
    where: dict[str, Any] | None = None
    """Filter on metadata, videos and clips."""
    rerank: int | None = Field(default=None, ge=0)
    """Number of best clips to rerank. None: as many as the model's bundle states."""
    signals: list[Signal] | dict[Signal, float] | None = None
    """Signals, with weights: visual, audio, speech, screen_text, caption, name. None: all of the collection."""
    min_similarity: float | None = Field(default=None, ge=-1, le=1)
    group: Literal["clip", "event", "video"] = "clip"
    """What a document is: a clip, an event (adjoining clips) or a video; it has the data of its best clip."""

    # One client per call: chains call from several threads and event loops.

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        with Client(self.url, api_key=self._key()) as client:
            return self._documents(client.search(self.collection, query, **self._options()))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        async with AsyncClient(self.url, api_key=self._key()) as client:
            return self._documents(await client.search(self.collection, query, **self._options()))

    def _key(self) -> str | None:
        return None if self.api_key is None else self.api_key.get_secret_value()

    def _options(self) -> dict[str, Any]:
        options = self.model_dump(include={"where", "rerank", "signals", "min_similarity", "group"})
        # The service may have a lower limit than the default.
        return {**options, **self.model_dump(include={"limit"}, exclude_unset=True)}

    def _documents(self, response: SearchResponse) -> list[Document]:
        return [self._document(result) for result in response["results"]]

    def _document(self, result: SearchResult) -> Document:
        video, base = result["video"], validate_url(self.url)[0].rstrip("/")  # without a password
        texts = (video["title"], result["text"], result["screen_text"], result.get("caption"))  # older services: none
        return Document(
            id=f"{self.collection}/{video['id']}/{result['clip_id']}",
            page_content="\n".join(filter(None, texts)),
            metadata={
                "collection": self.collection,
                "video_id": video["id"],
                "title": video["title"],
                "clip_id": result["clip_id"],
                "start": result["start"],
                "end": result["end"],
                "relevance": result["relevance"],
                "similarity": result["similarity"],
                "match": result["match"],
                "fused": result["fused"],
                "signals": result["signals"],
                "media_url": base + result["media_url"],
                "thumbnail_url": base + result["thumbnail_url"],
                "video": video["metadata"],
            },
        )

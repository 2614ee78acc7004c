"""Rerank requests and results; the words are those of ``service.schemas.search``."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from service.schemas.base import Id, Int, Probability, Request, Response, example
from service.schemas.search import FUSED, MATCH, Similarity


class DocumentRef(Request):
    """A clip of the collection, or a video: its best clip."""

    model_config = example(clip_id="41")

    clip_id: Id | None = None
    video_id: Id | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.clip_id is None) == (self.video_id is None):
            raise ValueError("clip_id, video_id: one of them, and not both, was expected")
        return self


class RerankRequest(Request):
    """A text with stored clips or videos, or one of these with texts; the fusion model scores pairs."""

    model_config = example(
        query="a dog runs on the beach",
        collection="holidays",
        documents=[{"clip_id": "41"}, {"video_id": "3"}],
        top_n=10,
    )

    query: Annotated[str | DocumentRef, Field(description="a text, or a stored clip or video")]
    documents: Annotated[
        Annotated[list[DocumentRef], Field(fail_fast=True)] | Annotated[list[str], Field(fail_fast=True)],
        Field(min_length=1, description="clips and videos if the query is a text, else texts"),
    ]
    collection: Annotated[str, Field(description="collection of the clips and videos")]
    top_n: Annotated[Int | None, Field(ge=1, description="number of results; default: all")] = None
    return_documents: Annotated[bool, Field(description="repeat each document in its result")] = False
    model: Annotated[str | None, Field(description="optional; another model than the collection's is rejected")] = None

    @model_validator(mode="after")
    def _has_a_text_and_clips(self) -> Self:
        are_texts = isinstance(self.documents[0], str)
        if isinstance(self.query, str) == are_texts:
            kinds = "texts, and so is the query" if are_texts else "clips and videos, and so is the query"
            raise ValueError(f"documents: {kinds}; a text and clips or videos, or the reverse, were expected")
        return self


RERANKED_CLIP: dict[str, Any] = {"clip_id": "41", "video_id": "3", "start": 8.0, "end": 16.0}
RERANK_RESULT: dict[str, Any] = {
    "index": 1,
    "relevance_score": 0.9,
    "similarity": 0.41,
    "match": 0.93,
    "fused": 0.9,
    "clip": RERANKED_CLIP,
    "document": None,
}


class RerankedClip(Response):
    """The clip that was scored; of a video, its best one."""

    model_config = example(**RERANKED_CLIP)

    clip_id: Id
    video_id: Id
    start: Annotated[float, Field(description="seconds")]
    end: Annotated[float, Field(description="seconds")]


class RerankResult(Response):
    """A document and its scores."""

    model_config = example(**RERANK_RESULT)

    index: Annotated[int, Field(description="index of the document in the request")]
    relevance_score: Annotated[
        Probability, Field(description="fused; 0 for a clip without visual tokens, which cannot be scored")
    ]
    similarity: Similarity
    match: Annotated[Probability | None, Field(description=f"{MATCH}; null for a clip without visual tokens")]
    fused: Annotated[Probability | None, Field(description=f"{FUSED}; null if match is")]
    clip: RerankedClip
    document: Annotated[DocumentRef | str | None, Field(description="with `return_documents`, else null")]


class RerankResponse(Response):
    """Results by relevance_score, then similarity, then order of the request."""

    model_config = example(id="63a3777712174aa7be6a6b4c38536e23", model="hd-vila-tiny", results=[RERANK_RESULT])

    id: Annotated[str, Field(description="id of the request")]
    model: str
    results: list[RerankResult]

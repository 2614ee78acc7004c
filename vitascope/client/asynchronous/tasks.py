"""The part of the client that asks about clips: caption scores, answers, embeddings, reranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitascope.client import response_types
from vitascope.client.asynchronous.caller import Caller
from vitascope.client.progress import UploadProgress
from vitascope.client.request_building import JSON, address, given


class Tasks(Caller):
    """Caption scores, answers, embeddings, reranking."""

    async def score(
        self,
        captions: Sequence[str],
        *,
        collection: str,
        video_id: str,
        start: float | None = None,
        end: float | None = None,
        references: Sequence[str] = (),
        frames: int = 0,
        model: str | None = None,
    ) -> response_types.ScoreResponse:
        """How captions describe a video of a collection, or its part from ``start`` to ``end`` (s): similarity,
        clipscore, match, fused for each.

        With ``references``, captions known to be right, also refclipscore; with ``frames``, so many looked at one by
        one, also emscore and its words. ``model``, here and below: by name, name@version or fingerprint, if not the
        default.
        """
        about = {"collection": collection, "video_id": video_id, **given(start=start, end=end)}
        options: JSON = {"captions": list(captions), "references": list(references), "frames": frames}
        asked = about | options | given(model=model)
        return await self._call(response_types.ScoreResponse, "POST", address("caption-scores"), json=asked, reads=True)

    async def score_file(
        self,
        file: str | Path,
        captions: Sequence[str],
        *,
        references: Sequence[str] = (),
        frames: int = 0,
        model: str | None = None,
        progress: UploadProgress = False,
    ) -> response_types.ScoreResponse:
        """The same for a file that is uploaded for this purpose and not kept."""
        fields: JSON = {"captions": list(captions), "frames": str(frames), **given(model=model)}
        if references:
            fields["references"] = list(references)
        return await self._upload(
            response_types.ScoreResponse, address("caption-scores"), file, fields, reads=True, progress=progress
        )

    async def ask(
        self,
        question: str,
        *,
        collection: str,
        video_id: str,
        start: float | None = None,
        end: float | None = None,
        top: int = 5,
        candidates: Sequence[str] | None = None,
        abstain_below: float = 0.0,
        model: str | None = None,
    ) -> response_types.AnswerResponse:
        """The best ``top`` answers to a question about a video of a collection or a part of it, each with its
        probability.

        ``candidates``: what the answer may be; probabilities are among them. ``answer`` is null where the best one's
        probability is below ``abstain_below``.
        """
        part = given(start=start, end=end, candidates=None if candidates is None else list(candidates), model=model)
        options: JSON = {"question": question, "top": top, "abstain_below": abstain_below}
        about = {"collection": collection, "video_id": video_id}
        return await self._call(
            response_types.AnswerResponse, "POST", address("answers"), json={**about, **part, **options}, reads=True
        )

    async def ask_file(
        self,
        file: str | Path,
        question: str,
        *,
        top: int = 5,
        candidates: Sequence[str] | None = None,
        abstain_below: float = 0.0,
        model: str | None = None,
        progress: UploadProgress = False,
    ) -> response_types.AnswerResponse:
        """The same for a file that is uploaded for this purpose and not kept."""
        fields: JSON = {"question": question, "top": str(top), "abstain_below": str(abstain_below)}
        fields |= given(model=model)
        if candidates is not None:
            fields["candidates"] = list(candidates)
        return await self._upload(
            response_types.AnswerResponse, address("answers"), file, fields, reads=True, progress=progress
        )

    async def embed(self, texts: Sequence[str], *, model: str | None = None) -> response_types.Embeddings:
        """Vectors of texts, in OpenAI's shape: ``data[i]["embedding"]`` is that of texts[i], of length 1.

        ``fingerprint`` says of which model: vectors of two cannot be compared.
        """
        asked = {"input": list(texts), **given(model=model)}
        return await self._call(response_types.Embeddings, "POST", address("embeddings"), json=asked, reads=True)

    async def embed_file(
        self, file: str | Path, *, model: str | None = None, progress: UploadProgress = False
    ) -> response_types.Embeddings:
        """The vector of a picture or video, which is not kept, in the same shape."""
        return await self._upload(
            response_types.Embeddings, address("embeddings"), file, given(model=model), reads=True, progress=progress
        )

    async def rerank(
        self,
        query: str | Mapping[str, str],
        documents: Sequence[str | Mapping[str, str]],
        *,
        collection: str,
        top_n: int | None = None,
    ) -> response_types.Reranked:
        """Documents ordered by how well they fit, each with relevance_score (fused), similarity and match.

        A sentence against stored clips and videos, ``{"clip_id": "41"}`` or ``{"video_id": "3"}``; or one of these
        against sentences.
        """
        body: dict[str, Any] = {"query": query, "documents": list(documents), "collection": collection}
        return await self._call(
            response_types.Reranked, "POST", address("rerank"), json=body | given(top_n=top_n), reads=True
        )

"""A text with stored clips or videos, or one of these with texts: judged pair by pair."""

from __future__ import annotations

from collections.abc import Sequence

from index.collection import Collection
from index.records import Clip
from index.search.pair_scoring import Judged, clips_by_id, judge_pairs
from service.app_state import Service
from service.http.parameters import at_most, record_number
from service.inference.clip_embedding import check_text, check_texts
from service.inference.request_context import Turn
from service.schemas.rerank import JudgedClip, RerankRequest, RerankResult, StoredPart
from vitascope.errors import FingerprintMismatch


def check_rerank(service: Service, asked: RerankRequest) -> None:
    """Raise ModelNotFound, InvalidInput and TextError before anything is read."""
    at_most("documents", len(asked.documents), service.settings.max_rerank)
    if isinstance(asked.query, str):
        check_text(service, "query", asked.query)
    check_texts(service, "documents", [one for one in asked.documents if isinstance(one, str)])
    if asked.model is not None:
        service.models.named(asked.model)


def rerank(service: Service, mine: Turn, asked: RerankRequest) -> tuple[str, list[RerankResult]]:
    """(the model's name, the results, best first); documents that were deleted meanwhile are left out.

    Raises CollectionNotFound, VideoNotFound, NotFound, FingerprintMismatch also where another model is asked for than
    the collection's, NotReady, TaskMissing, EngineError, StorageError.
    """
    collection, model = mine.collection(asked.collection)
    here = service.models.entry(collection.fingerprint)
    if asked.model is not None and not here.is_called(asked.model):
        raise FingerprintMismatch(
            f"model: {asked.model[:80]!r}; {here.described} was expected, which collection {collection.name} is of"
        )
    with service.observer.stage("rerank"):
        found = judge_pairs(collection, model, _pairs(collection, asked))
    best = [(number, judged) for number, judged in enumerate(found) if judged is not None]
    best.sort(key=lambda one: (one[1].fused is None, -(one[1].fused or 0.0), -one[1].similarity, one[0]))
    return model.bundle.manifest.name, [_view(asked, number, judged) for number, judged in best[: asked.top_n]]


def _pairs(collection: Collection, asked: RerankRequest) -> list[tuple[str, Sequence[Clip]]]:
    if isinstance(asked.query, str):
        parts = [one for one in asked.documents if isinstance(one, StoredPart)]
        return [(asked.query, clips) for clips in _clips(collection, parts)]
    clips = _clips(collection, [asked.query])[0]
    return [(one, clips) for one in asked.documents if isinstance(one, str)]


def _clips(collection: Collection, parts: Sequence[StoredPart]) -> list[Sequence[Clip]]:
    ids = [record_number(part.clip_id) for part in parts if part.clip_id is not None]
    single = iter(clips_by_id(collection, ids))
    return [
        [next(single)] if part.video_id is None else collection.clips(record_number(part.video_id)) for part in parts
    ]


def _view(asked: RerankRequest, number: int, judged: Judged) -> RerankResult:
    clip = judged.clip
    return RerankResult(
        index=number,
        relevance_score=judged.fused or 0.0,
        similarity=judged.similarity,
        match=judged.match,
        fused=judged.fused,
        clip=JudgedClip(clip_id=str(clip.id), video_id=str(clip.video_id), start=clip.start, end=clip.end),
        document=asked.documents[number] if asked.return_documents else None,
    )

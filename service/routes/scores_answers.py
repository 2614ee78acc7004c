"""Caption scores, answers, moments, captions and chapters: of a stored video (JSON) or an uploaded file (a form)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal

import numpy as np
from fastapi import APIRouter, Request

from index.clips.segmentation import segment_file
from index.records import Float32
from service.app_state import ReadyAppStateDep
from service.http.auth import requires
from service.http.openapi import form_body
from service.http.parsing import StrictRoute, check_max, limit_fields, parse_id
from service.inference.embedding import (
    ClipRange,
    EmbeddedClip,
    SourceFile,
    check_text,
    check_texts,
    embed_clip,
    embed_clips,
    embed_source_windows,
    embed_spans,
)
from service.inference.request_context import RequestContext
from service.routes.sources import SOURCE_ERRORS, OpenSource, compute_for_source
from service.schemas.chapters import Chapter, ChapterForm, ChapterRequest, ChapterResponse
from service.schemas.jobs import parse_segmentation
from service.schemas.library import Moment
from service.schemas.scores_answers import (
    Answer,
    AnswerFields,
    AnswerForm,
    AnswerRequest,
    AnswerResponse,
    CaptionedClip,
    CaptionFields,
    CaptionForm,
    CaptionRequest,
    CaptionResponse,
    CaptionScore,
    EmScore,
    GeneratedCaption,
    MomentFields,
    MomentForm,
    MomentRequest,
    MomentResponse,
    ScoreFields,
    ScoreForm,
    ScoreRequest,
    ScoreResponse,
    TextMoments,
    WordEvidence,
)
from vitascope import answering, scoring
from vitascope.captions import Caption, CaptionOptions
from vitascope.chapters import find_chapters
from vitascope.errors import InvalidInput, VideoNotFound
from vitascope.media.sampling import Span, resolve_span
from vitascope.modalities import used_modalities
from vitascope.model import Model

router = APIRouter(prefix="/v1", route_class=StrictRoute)


@router.post(
    "/caption-scores",
    tags=["scores"],
    summary="Score captions",
    responses=SOURCE_ERRORS,
    openapi_extra=form_body(ScoreForm, also_json=ScoreRequest),
)
@requires("read")
async def score_captions(request: Request, service: ReadyAppStateDep) -> ScoreResponse:
    """Score captions of a clip: similarity, CLIPScore, match and fused score; with references also
    RefCLIPScore; with frames also EMScore and its words. A score that the model cannot compute is null.
    """

    def check(fields: ScoreFields) -> None:
        check_max("captions", len(fields.captions), service.settings.max_captions)
        check_max("references", len(fields.references), service.settings.max_captions)
        limit_fields(fields, frames=service.settings.max_frames)
        check_texts(service, "captions", fields.captions)
        check_texts(service, "references", fields.references)

    return await compute_for_source(request, service, ScoreRequest, ScoreForm, check, _score)


@router.post(
    "/answers",
    tags=["answers"],
    summary="Answer a question",
    responses=SOURCE_ERRORS,
    openapi_extra=form_body(AnswerForm, also_json=AnswerRequest),
)
@requires("read")
async def answer_question(request: Request, service: ReadyAppStateDep) -> AnswerResponse:
    """The most probable answers to a question about a clip, from the model's vocabulary or from candidates, with their
    probabilities; none if the model is not confident enough.
    """

    def check(fields: AnswerFields) -> None:
        limit_fields(fields, top=service.settings.max_answers)
        check_text(service, "question", fields.question)
        check_max("candidates", len(fields.candidates or ()), service.settings.max_candidate_answers)
        check_texts(service, "candidates", fields.candidates or ())

    return await compute_for_source(request, service, AnswerRequest, AnswerForm, check, _answer)


@router.post(
    "/moments",
    tags=["moments"],
    summary="Find moments",
    responses=SOURCE_ERRORS,
    openapi_extra=form_body(MomentForm, also_json=MomentRequest),
)
@requires("read")
async def find_moments(request: Request, service: ReadyAppStateDep) -> MomentResponse:
    """Find the spans of a video in which each text is true, finer than its clips, with scores, and the probability that
    the text is true in each window of the video. Windows are embedded by the first request and cached.
    """

    def check(fields: MomentFields) -> None:
        check_max("texts", len(fields.texts), service.settings.max_captions)
        limit_fields(fields, top=service.settings.max_results)
        check_texts(service, "texts", fields.texts)

    return await compute_for_source(
        request, service, MomentRequest, MomentForm, check, _find_moments, is_long=lambda _: True
    )


@router.post(
    "/captions",
    tags=["captions"],
    summary="Generate captions",
    responses=SOURCE_ERRORS,
    openapi_extra=form_body(CaptionForm, also_json=CaptionRequest),
)
@requires("read")
async def generate_captions(request: Request, service: ReadyAppStateDep) -> CaptionResponse:
    """Sentences that the model generates about a part of a video, or about each clip of it, most probable first."""

    def check(fields: CaptionFields) -> None:
        limit_fields(fields, beams=service.settings.max_beams, count=service.settings.max_beams)
        fields.options()

    def is_long(fields: CaptionRequest | CaptionForm) -> bool:
        return fields.segmentation is not None

    return await compute_for_source(
        request, service, CaptionRequest, CaptionForm, check, _generate_captions, is_long=is_long
    )


@router.post(
    "/chapters",
    tags=["captions"],
    summary="Generate chapters",
    responses=SOURCE_ERRORS,
    openapi_extra=form_body(ChapterForm, also_json=ChapterRequest),
)
@requires("read")
async def generate_chapters(request: Request, service: ReadyAppStateDep) -> ChapterResponse:
    """Chapters of a video: its clips, merged while neighbours are similar or short, with a caption each as title."""

    def check(fields: ChapterRequest | ChapterForm) -> None:
        limit_fields(fields, max_chapters=service.settings.max_caption_clips)

    return await compute_for_source(
        request, service, ChapterRequest, ChapterForm, check, _generate_chapters, is_long=lambda _: True
    )


def _score(context: RequestContext, open_source: OpenSource, fields: ScoreRequest | ScoreForm) -> ScoreResponse:
    """Score captions. Raises the errors of ``stored_file`` and ``embed_clip``, TextError, TaskMissing, EngineError."""
    model = context.model(context.service.models.get(fields.model))
    with open_source(context) as source:
        clip = embed_clip(context, model, source, ClipRange(fields.start, fields.end, fields.frames, sound=True))
    with context.service.observer.stage("score"):
        scores = scoring.score_captions(
            model, clip.embedding, fields.captions, fields.references, clip.frames, clip.audio_tokens
        )
    # Embeddings and frames use the pictures only.
    modalities = used_modalities(clip.audio_tokens if "matching" in model.tasks else None)
    serialized = [_serialize_scores(each) for each in scores]
    return ScoreResponse(
        video=clip.video, start=clip.start, end=clip.end, modalities=list(modalities), scores=serialized
    )


def _serialize_scores(scores: scoring.CaptionScores) -> CaptionScore:
    em = scores.emscore
    fields = {**vars(scores), "emscore": None}
    if em is not None:
        words = [WordEvidence(**asdict(word)) for word in em.words]
        fields["emscore"] = EmScore(**{**vars(em), "words": words})
    return CaptionScore(**fields)


def _answer(context: RequestContext, open_source: OpenSource, fields: AnswerRequest | AnswerForm) -> AnswerResponse:
    """Answer a question.

    Raises the errors of ``stored_file`` and ``embed_clip``, InvalidInput, TextError, TaskMissing and EngineError.
    """
    model = context.model(context.service.models.get(fields.model))
    with open_source(context) as source:
        clip = embed_clip(context, model, source, ClipRange(fields.start, fields.end, sound=True))
    with context.service.observer.stage("answer"):
        result = answering.answer_question(
            model,
            fields.question,
            clip.embedding.visual_tokens,
            top=fields.top,
            candidates=fields.candidates,
            abstain_below=fields.abstain_below,
            audio_tokens=clip.audio_tokens,
        )
    return AnswerResponse(
        question=fields.question,
        video=clip.video,
        start=clip.start,
        end=clip.end,
        modalities=list(used_modalities(clip.audio_tokens)),
        answer=result.answer,
        abstained=result.abstained,
        answers=[Answer(text=answer.text, probability=answer.probability) for answer in result.answers],
        out_of_vocabulary=result.out_of_vocabulary,
    )


def _find_moments(
    context: RequestContext, open_source: OpenSource, fields: MomentRequest | MomentForm
) -> MomentResponse:
    """Find moments. Raises the errors of ``stored_file`` and ``embed_source_windows``, TextError and EngineError."""
    loaded, bulk = context.service.models.get(fields.model), context.bulk()
    model = context.model(loaded)
    max_windows = context.service.settings.max_moment_windows // len(fields.texts)
    with open_source(context) as source:
        part = ClipRange(fields.start, fields.end)
        spans, windows = embed_source_windows(bulk, bulk.model(loaded), source, part, max_windows)
    with context.service.observer.stage("moments"):
        results = model.find_moments(fields.texts, windows, spans, fields.top)
    return MomentResponse(
        video=source.video,
        start=spans[0][0],
        end=spans[-1][1],
        times=results[0].times.round(3).tolist(),
        results=[
            TextMoments(
                text=text,
                moments=[Moment(**vars(moment)) for moment in result.moments],
                saliency=result.saliency.astype(float).round(4).tolist(),
            )
            for text, result in zip(fields.texts, results, strict=True)
        ],
    )


def _generate_captions(
    context: RequestContext, open_source: OpenSource, fields: CaptionRequest | CaptionForm
) -> CaptionResponse:
    """Generate captions.

    Raises the errors of ``stored_file``, ``embed_clips`` and ``segment_file``, TaskMissing, InvalidInput, EngineError.
    """
    loaded, bulk = context.service.models.get(fields.model), context.bulk()
    model = context.model(loaded)
    check_max("max_tokens", fields.max_tokens or 1, model.caption_decoder.max_tokens)
    options = fields.options()
    options.check_tasks(model.tasks)
    with open_source(context) as source:
        if fields.segmentation is None:
            clips = [embed_clip(context, model, source, ClipRange(fields.start, fields.end, sound=True))]
        else:
            spans = _clip_spans(bulk, source, fields, "max_caption_clips")
            clips = embed_clips(bulk, bulk.model(loaded), source, spans)
    return CaptionResponse(
        video=source.video,
        clips=[
            CaptionedClip(
                start=clip.start,
                end=clip.end,
                modalities=list(used_modalities(clip.audio_tokens)),
                captions=[GeneratedCaption(**vars(caption)) for caption in captions],
            )
            for clip, captions in zip(clips, _caption_clips(context, model, clips, options), strict=True)
        ],
    )


def _generate_chapters(
    context: RequestContext, open_source: OpenSource, fields: ChapterRequest | ChapterForm
) -> ChapterResponse:
    """Divide a video into chapters. Raises the errors of ``_generate_captions``, and InvalidInput for a picture."""
    loaded, bulk = context.service.models.get(fields.model), context.bulk()
    model, embedder = context.model(loaded), bulk.model(loaded)
    _ = model.caption_decoder  # before anything is decoded
    limits = context.service.settings.media_limits()
    with open_source(context) as source:
        spans = _clip_spans(bulk, source, fields, "max_moment_windows")
        stored: dict[Span, Float32] = {}
        if source.stored is not None and fields.segmentation == "stored":
            stored = source.stored.clip_embeddings(model)
        embeddings = stored | embed_spans(bulk, embedder, source, [span for span in spans if span not in stored])
        chapters = find_chapters(embedder, source.file, spans, fields.options(), limits, embeddings)
        clips = embed_clips(bulk, embedder, source, [chapter.clip for chapter in chapters])
    options = CaptionOptions(beams=min(CaptionOptions.beams, context.service.settings.max_beams))
    captions = _caption_clips(context, model, clips, options)
    return ChapterResponse(
        video=source.video,
        chapters=[
            Chapter(
                start=chapter.start,
                end=chapter.end,
                title=best.text,
                log_probability=best.log_probability,
                modalities=list(used_modalities(clip.audio_tokens)),
            )
            for chapter, clip, [best] in zip(chapters, clips, captions, strict=True)
        ],
    )


def _caption_clips(
    context: RequestContext, model: Model, clips: Sequence[EmbeddedClip], options: CaptionOptions
) -> list[list[Caption]]:
    """Return captions of each clip. Raises the errors of ``Model.generate_captions``."""
    sounds = [clip.audio_tokens for clip in clips]
    silence = next((np.zeros_like(tokens) for tokens in sounds if tokens is not None), None)
    audio_tokens = (
        None if silence is None else np.concatenate([silence if tokens is None else tokens for tokens in sounds])
    )
    visual_tokens = np.concatenate([clip.embedding.visual_tokens for clip in clips])
    with context.service.observer.stage("caption"):
        return model.generate_captions(visual_tokens, audio_tokens, options)


def _clip_spans(
    context: RequestContext,
    source: SourceFile,
    fields: CaptionRequest | CaptionForm | ChapterRequest | ChapterForm,
    limit: Literal["max_caption_clips", "max_moment_windows"],
) -> list[Span]:
    """Return the spans of the clips of the requested part, at most the setting ``limit``.

    Raises media errors and InvalidInput.
    """
    settings = context.service.settings
    limits = settings.media_limits()
    duration = context.decoder.probe(source.file, limits).duration if source.duration is None else source.duration
    start, end = part = resolve_span(duration, fields.start, fields.end)
    if isinstance(fields, CaptionRequest | ChapterRequest) and fields.segmentation == "stored":
        stored = context.service.collection(fields.collection).clips(
            parse_id(fields.video_id, VideoNotFound, "video_id")
        )
        spans = [(clip.start, clip.end) for clip in stored]
    else:
        assert not isinstance(fields.segmentation, str)
        segmentation = parse_segmentation(fields.segmentation)
        spans = segment_file(source.file, duration, segmentation, limits, context.decoder, policy=None).spans
    # The only clip of a picture has no length, so the condition excludes it.
    clips = [(max(a, start), min(b, end)) for a, b in spans if a < end and b > start] or [part]
    if len(clips) > (most := getattr(settings, limit)):
        raise InvalidInput(
            f"segmentation: {len(clips)} clips from {start:g} to {end:g} s; at most {most} were expected ({limit})"
        )
    return clips

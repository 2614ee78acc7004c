"""One clip, of a stored video or of an uploaded file, as the model sees it; and what the model says about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from index.records import Video
from service.errors import MediaMissing, PathForbidden
from service.folders import is_inside
from service.forms import Upload
from service.schemas import library as schemas
from service.schemas.tasks import Answer, AnswerResponse, CaptionScore, ScoreResponse
from service.state import Service
from service.uploads import called
from service.views import display_name, video_view
from vitascope.errors import InvalidInput, TextError
from vitascope.media.probe import probe
from vitascope.model import Model, VideoEmbedding
from vitascope.scores import clip_score


@dataclass(frozen=True)
class Look:
    """A clip that was looked at. ``embedding`` has one row; times in seconds."""

    collection: str
    video: Video | None
    start: float
    end: float
    embedding: VideoEmbedding


def look_at_video(
    service: Service, model: Model, name: str, video_id: str, start: float | None, end: float | None
) -> Look:
    """Look at a stored video. Raises CollectionNotFound, VideoNotFound, MediaMissing, media errors,
    InvalidInput.
    """
    video = service.video(name, video_id)
    path = readable_path(service, video)
    span = clip_span(video.duration, start, end)
    limits = service.settings.media_limits()
    return Look(name, video, *span, model.embed_file(path, [span], limits))


def look_at_upload(service: Service, model: Model, upload: Upload, start: float | None, end: float | None) -> Look:
    """Look at a file that is not kept. Raises media errors and InvalidInput."""
    limits = service.settings.media_limits()
    with called(upload.path, upload.name):
        info = probe(upload.path, limits)
        span = clip_span(0.0 if info.kind == "picture" else info.duration, start, end)
        return Look("", None, *span, model.embed_file(upload.path, [span], limits))


def readable_path(service: Service, video: Video) -> Path:
    """The file of a video. Raises MediaMissing and PathForbidden.

    The catalogue is trusted: who may write to it may index what he likes from the command line. Not trusted
    is who may write to an allowed folder: a link put in the place of an indexed file must not show what lies
    elsewhere.
    """
    path = Path(video.path)
    roots = service.settings.roots()
    if any(path.is_relative_to(root.absolute()) for root in roots) and not is_inside(path, roots):
        raise PathForbidden(f"video {video.id}: {display_name(video.path)!r} leads out of the folder it was indexed in")
    if not path.is_file():
        raise MediaMissing(f"video {video.id}: its file {display_name(video.path)!r} is gone")
    return path


def clip_span(duration: float, start: float | None, end: float | None) -> tuple[float, float]:
    """The part of a file of ``duration`` (s) that is meant; a picture has only (0, 0). Raises InvalidInput."""
    if duration == 0:
        return 0.0, 0.0
    first, last = start or 0.0, duration if end is None else min(end, duration)
    if first >= last:
        raise InvalidInput(f"start: {first:g} s to {last:g} s; a span inside the file's {duration:g} s was expected")
    return first, last


def check_texts(service: Service, name: str, texts: Sequence[str]) -> None:
    """Raise TextError naming the first text that is blank or too long, before anything is decoded."""
    limit = service.settings.max_text_characters
    for number, text in enumerate(texts):
        place = name if name != "captions" else f"captions[{number}]"
        if not text.strip():
            raise TextError(f"{place}: it is empty; a text of 1 to {limit} characters was expected")
        if len(text) > limit:
            raise TextError(f"{place}: {len(text)} characters; at most {limit} were expected")


def score(model: Model, look: Look, captions: Sequence[str]) -> ScoreResponse:
    """How each caption describes the clip. Raises TextError, TaskMissing and EngineError."""
    count = len(captions)
    similarity = np.clip(model.embed_text(captions) @ look.embedding.vectors[0], -1.0, 1.0)
    matches: list[float | None] = [None] * count
    fused: list[float | None] = [None] * count
    if "matching" in model.bundle.manifest.tasks:
        match = model.match(captions, np.repeat(look.embedding.visual_tokens, count, axis=0))
        matches = match.probabilities.tolist()
        fused = model.fused(similarity, match.logits).tolist()
    scores = [
        CaptionScore(caption=c, similarity=s, clipscore=clip_score(s), match=m, fused=f)
        for c, s, m, f in zip(captions, similarity.tolist(), matches, fused, strict=True)
    ]
    return ScoreResponse(video=_seen(look), start=look.start, end=look.end, scores=scores)


def answer(model: Model, look: Look, question: str, top: int) -> AnswerResponse:
    """The likeliest answers about the clip. Raises TextError, TaskMissing and EngineError."""
    found = model.answer([question], look.embedding.visual_tokens, top)[0]
    answers = [Answer(text=one.text, probability=one.probability) for one in found]
    return AnswerResponse(question=question, video=_seen(look), start=look.start, end=look.end, answers=answers)


def _seen(look: Look) -> schemas.Video | None:
    return None if look.video is None else video_view(look.collection, look.video)

"""One clip, of a stored video or of an uploaded file, as the model sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from index.records import Video
from service.errors import MediaMissing, PathForbidden
from service.folders import is_inside
from service.forms import Upload
from service.schemas import library as schemas
from service.state import Service
from service.uploads import called
from service.views import display_name, video_view
from vitascope.captions import Frames, frame_times
from vitascope.errors import InvalidInput, TextError
from vitascope.model import Model, VideoEmbedding


@dataclass(frozen=True)
class Part:
    """What of a file is looked at: ``start`` to ``end`` (s; None: from its beginning, to its end), and besides that so
    many ``frames`` one by one.
    """

    start: float | None = None
    end: float | None = None
    frames: int = 0


@dataclass(frozen=True)
class Look:
    """A clip that was looked at. ``embedding`` has one row; times in seconds; ``frames`` where they were asked for."""

    collection: str
    video: Video | None
    start: float
    end: float
    embedding: VideoEmbedding
    frames: Frames | None = None

    def video_view(self) -> schemas.Video | None:
        """The stored video; None for a file that came along."""
        return None if self.video is None else video_view(self.collection, self.video)


def look_at_video(service: Service, model: Model, name: str, video_id: str, part: Part) -> Look:
    """Look at a stored video. Raises CollectionNotFound, VideoNotFound, MediaMissing, media errors,
    InvalidInput.
    """
    video = service.video(name, video_id)
    path = readable_path(service, video)
    span = clip_span(video.duration, part.start, part.end)
    return Look(name, video, *span, *_seen(service, model, path, span, part.frames))


def look_at_upload(service: Service, model: Model, upload: Upload, part: Part) -> Look:
    """Look at a file that is not kept. Raises media errors and InvalidInput."""
    with called(upload.path, upload.name):
        info = model.decoder.probe(upload.path, service.settings.media_limits())
        span = clip_span(0.0 if info.kind == "picture" else info.duration, part.start, part.end)
        return Look("", None, *span, *_seen(service, model, upload.path, span, part.frames))


def _seen(
    service: Service, model: Model, path: Path, span: tuple[float, float], frames: int
) -> tuple[VideoEmbedding, Frames | None]:
    """The clip, and its frames each as a clip of its own, out of one pass through the file."""
    times = frame_times(*span, frames) if frames else []
    with service.observer.stage("decode"):
        spans = [span, *((time, time) for time in times)]
        sampled = model.decoder.sample(path, model.streams, spans, service.settings.media_limits())
    seen = model.embed_video({name: pixels[:, None] for name, pixels in sampled.frames.items()})
    clip = VideoEmbedding(seen.vectors[:1], seen.visual_tokens[:1])
    return clip, Frames(times, seen.vectors[1:]) if times else None


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
    """Raise TextError naming the first of a list of texts that is blank or too long, before anything is decoded."""
    for number, text in enumerate(texts):
        check_text(service, f"{name}[{number}]", text)


def check_text(service: Service, name: str, text: str) -> None:
    """Raise TextError where a text is blank or too long."""
    limit = service.settings.max_text_characters
    if not text.strip():
        raise TextError(f"{name}: it is empty; a text of 1 to {limit} characters was expected")
    if len(text) > limit:
        raise TextError(f"{name}: {len(text)} characters; at most {limit} were expected")

"""One clip, of a stored video or of an uploaded file, as the model sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from index.records import Video
from service.asking import Turn
from service.caching.clips import ClipKey, SeenClip
from service.errors import MediaMissing, PathForbidden
from service.folders import is_inside
from service.forms import Upload
from service.schemas import library as schemas
from service.state import Service
from service.uploads import called
from service.views import display_name, video_view
from vitascope.captions import Frames, frame_times
from vitascope.errors import InvalidInput, TextError
from vitascope.model import Floats, Model, VideoEmbedding


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


def look_at_video(service: Service, mine: Turn, model: Model, name: str, video_id: str, part: Part) -> Look:
    """Look at a stored video. Raises CollectionNotFound, VideoNotFound, MediaMissing, media errors,
    InvalidInput, DeadlineExceeded and RequestAbandoned.
    """
    video = service.video(name, video_id)
    path = readable_path(service, video)
    seen = _seen(service, mine, model, path, _content(service, video, path), part, lambda: video.duration)
    return _look(seen, name, video)


def look_at_upload(service: Service, mine: Turn, model: Model, upload: Upload, part: Part) -> Look:
    """Look at a file that is not kept. Raises media errors, InvalidInput, DeadlineExceeded and RequestAbandoned."""

    def duration() -> float:
        info = model.decoder.probe(upload.path, service.settings.media_limits())
        return 0.0 if info.kind == "picture" else info.duration

    with called(upload.path, upload.name):
        return _look(_seen(service, mine, model, upload.path, upload.sha256, part, duration), "", None)


def _look(seen: Sequence[SeenClip], collection: str, video: Video | None) -> Look:
    clip, *frames = seen
    assert clip.visual_tokens is not None
    embedding = VideoEmbedding(clip.vectors, clip.visual_tokens)
    one_by_one = Frames(frames[0].times, frames[0].vectors) if frames else None
    return Look(collection, video, clip.start, clip.end, embedding, one_by_one)


def _seen(
    service: Service,
    mine: Turn,
    model: Model,
    path: Path,
    content: str,
    part: Part,
    duration: Callable[[], float],
) -> list[SeenClip]:
    """The clip, and its frames each as a clip of its own if they are asked for.

    What nobody has seen of them comes out of one pass through the file, whose ``duration`` (s) is asked for then.
    """
    clip = ClipKey(model.bundle.fingerprint, content, part.start or 0.0, part.end)
    asked = [clip, clip._replace(frames=part.frames)] if part.frames else [clip]

    def see(keys: Sequence[ClipKey]) -> Iterator[tuple[ClipKey, SeenClip]]:
        span = clip_span(duration(), part.start, part.end)
        times = [frame_times(*span, key.frames) if key.frames else [] for key in keys]
        spans = [[(time, time) for time in own] or [span] for own in times]
        with service.observer.stage("decode"):
            every = [each for own in spans for each in own]
            sampled = model.decoder.sample(path, model.streams, every, service.settings.media_limits())
        embedded = model.embed_video({name: pixels[:, None] for name, pixels in sampled.frames.items()})
        first = 0
        for key, own_times, own_spans in zip(keys, times, spans, strict=True):
            rows = slice(first, first + len(own_spans))
            first = rows.stop
            tokens = None if key.frames else _own(embedded.visual_tokens[rows])
            yield key, SeenClip(*span, _own(embedded.vectors[rows]), tokens, own_times)

    found = service.caches.clips.recall(asked, see, mine.asker)
    return [found[key] for key in asked]


def _own(rows: Floats) -> Floats:
    """A copy, since a view would keep what is beside it, that nobody who is given it can change for the others."""
    copied = rows.copy()
    copied.flags.writeable = False
    return copied


def _content(service: Service, video: Video, path: Path) -> str:
    """What stands for the bytes of a stored video. A file that is not the service's own may be another one since it was
    indexed, so its SHA-256 stands for them only together with what the file system says.
    """
    if service.media.owns(path):
        return video.content_sha256
    try:
        now = path.stat()
    except OSError as error:
        raise MediaMissing(f"video {video.id}: its file {display_name(video.path)!r} is gone") from error
    return f"{video.content_sha256} {now.st_dev} {now.st_ino} {now.st_size} {now.st_mtime_ns} {now.st_ctime_ns}"


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

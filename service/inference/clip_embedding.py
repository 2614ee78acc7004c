"""One clip, of a stored video or of an uploaded file, as the model sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.records import Video
from index.storage.removals import is_owned
from service.app_state import Service
from service.http.multipart import Upload
from service.inference.clip_cache import ClipKey, SeenClip
from service.inference.request_context import Turn
from service.schemas import library as schemas
from service.serializers import video_view
from service.stored_media import open_stored
from service.uploads import rename_errors
from vitascope.captions import Frames, frame_times
from vitascope.errors import TextError
from vitascope.media.file import MediaFile, MediaSource
from vitascope.media.sampling import Span, resolve_span
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
    """Look at a stored video. Raises VideoNotFound, what ``open_stored`` raises, media errors, InvalidInput,
    DeadlineExceeded and RequestAbandoned.
    """
    video = service.video(name, video_id)
    with open_stored(service, name, video) as file:
        seen = _seen(service, mine, model, file, _content(video, file), part, video.duration)
    return _look(seen, name, video)


def look_at_upload(service: Service, mine: Turn, model: Model, upload: Upload, part: Part) -> Look:
    """Look at a file that is not kept. Raises media errors, InvalidInput, DeadlineExceeded and RequestAbandoned."""

    with rename_errors(upload.path, upload.name):
        return _look(_seen(service, mine, model, upload.path, upload.sha256, part, None), "", None)


def _look(seen: Sequence[SeenClip], collection: str, video: Video | None) -> Look:
    clip, *frames = seen
    assert clip.visual_tokens is not None
    embedding = VideoEmbedding(clip.vectors, clip.visual_tokens)
    one_by_one = Frames(frames[0].times, frames[0].vectors) if frames else None
    return Look(collection, video, clip.start, clip.end, embedding, one_by_one)


def _seen(
    service: Service, mine: Turn, model: Model, file: MediaSource, content: str, part: Part, duration: float | None
) -> list[SeenClip]:
    """The clip, and its frames each as a clip of its own if they are asked for.

    What nobody has seen of them comes out of one pass through the file. ``duration``: s, None where it is not known.
    """
    clip = ClipKey(model.bundle.fingerprint, content, part.start or 0.0, part.end)
    asked = [clip, clip._replace(frames=part.frames)] if part.frames else [clip]

    def see(keys: Sequence[ClipKey]) -> Iterator[tuple[ClipKey, SeenClip]]:
        with service.observer.stage("decode"):
            span, times, frames = _decoded(service, model, file, part, duration, [key.frames for key in keys])
        embedded = model.embed_video({name: pixels[:, None] for name, pixels in frames.items()})
        first = 0
        for key, own_times in zip(keys, times, strict=True):
            rows = slice(first, first + max(1, len(own_times)))
            first = rows.stop
            tokens = None if key.frames else _own(embedded.visual_tokens[rows])
            yield key, SeenClip(*span, _own(embedded.vectors[rows]), tokens, own_times)

    found = service.caches.clips.recall(asked, see, mine.asker)
    return [found[key] for key in asked]


def _decoded(
    service: Service, model: Model, file: MediaSource, part: Part, duration: float | None, counts: Sequence[int]
) -> tuple[Span, list[list[float]], Mapping[str, NDArray[np.uint8]]]:
    """(the clip, times in s, pixels by stream): the clip itself where a count is 0, else so many of its frames."""
    limits = service.settings.media_limits()
    if duration is None and list(counts) == [0]:
        span, pixels = model.decoder.sample_span(file, model.streams, part.start, part.end, limits)
        return span, [[]], pixels
    lasts = model.decoder.probe(file, limits).duration if duration is None else duration
    span = resolve_span(lasts, part.start, part.end)
    times = [frame_times(*span, count) if count else [] for count in counts]
    every = [each for own in times for each in ([(time, time) for time in own] or [span])]
    return span, times, model.decoder.sample(file, model.streams, every, limits).frames


def _own(rows: Floats) -> Floats:
    """A copy, since a view would keep what is beside it, that nobody who is given it can change for the others."""
    copied = rows.copy()
    copied.flags.writeable = False
    return copied


def _content(video: Video, file: MediaFile) -> str:
    """What stands for the bytes of a stored video. A file that the collection does not own may be another one since it
    was indexed, so its SHA-256 stands for them only together with what the file system says of the open file.
    """
    if is_owned(video.path):
        return video.content_sha256
    now = file.status()
    return f"{video.content_sha256} {now.st_dev} {now.st_ino} {now.st_size} {now.st_mtime_ns} {now.st_ctime_ns}"


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

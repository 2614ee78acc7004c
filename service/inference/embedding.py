"""Embedding of texts, and of clips of stored videos and uploads, with caches.

Shape letters: N texts, V visual tokens, D embedding dim.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from index.collection import Collection
from index.records import Float32, Signal, Video
from index.search.query_file import embed_query_file
from index.search.query_file import embed_sound as embed_file_sound
from index.storage.queries import load_embeddings
from index.storage.removals import is_owned
from service.app_state import AppState
from service.files import open_stored, rename_errors, rename_stored
from service.http.multipart import Upload
from service.inference.cache import CachedClip, CachedText, ClipKey, TextKey, split_rows, stack, text_keys
from service.inference.models import LoadedModel
from service.inference.request_context import RequestContext
from service.schemas import library as schemas
from service.serializers import serialize_video
from vitascope.bundle.manifest import InputType
from vitascope.embeddings import CLIPS_IN_MEMORY, Floats, VideoEmbedding
from vitascope.errors import InvalidInput, TextError
from vitascope.media.file import MediaFile, MediaSource
from vitascope.media.limits import MediaLimits
from vitascope.media.sampling import Span, resolve_span
from vitascope.modalities import read_audio_tokens
from vitascope.model import Model
from vitascope.moments import aligned_windows, embed_windows
from vitascope.scoring import FrameEmbeddings, frame_times
from vitascope.text_format import is_blank

CALL_TEXTS = 4
"""Texts per call: few, so that the scheduler can batch them with texts of similar length of other requests."""
MAX_IN_FLIGHT = 16
"""Queued calls of one request: enough to keep the model busy, but few, so that other requests wait only briefly."""
CLIPS_PER_BATCH = 32
"""Clips of a request whose frames are in memory at the same time."""
CACHED_WINDOWS = 16
"""Windows per cache entry: few, so that a request about a part of a video embeds few windows outside of it."""
FEW_CHARACTERS = 4096
"""Up to this number of texts are tokenised on the event loop, where a thread would take longer."""


@dataclass(frozen=True)
class ClipRange:
    """A part of a file to embed.

    ``start``, ``end``: seconds; None: the start or the end of the file. ``frames``: number of frames to embed one by
    one in addition. ``sound``: whether audio tokens are needed, if the model fuses sound.
    """

    start: float | None = None
    end: float | None = None
    frames: int = 0
    sound: bool = False


@dataclass(frozen=True)
class EmbeddedClip:
    """An embedded clip of a stored video, or of an upload (``video`` None).

    Attributes:
        video: The video for the response; None for an upload.
        start, end: Seconds in the file.
        embedding: Embedding of the clip, with one row.
        frames: Embeddings of frames, if requested.
        audio_tokens: (1, T, A); None if not requested, or if ``read_audio_tokens`` returns None.
    """

    video: schemas.Video | None
    start: float
    end: float
    embedding: VideoEmbedding
    frames: FrameEmbeddings | None = None
    audio_tokens: Floats | None = None


@dataclass(frozen=True)
class StoredVideo:
    """A video of a collection."""

    collection: Collection
    id: int

    def audio_tokens(self, model: Model, spans: Sequence[Span]) -> list[Floats | None]:
        """Return the audio tokens (1, T, A) that ``model`` made of the clips with these spans; None for missing ones.

        Raises VideoNotFound and StorageError.
        """
        if self.collection.fingerprint != model.bundle.fingerprint:
            return [None] * len(spans)
        clips = self.collection.clips(self.id)
        stored_spans = np.array([(clip.start, clip.end) for clip in clips]).reshape(-1, 2)
        is_same = np.isclose(stored_spans, np.array(spans)[:, None]).all(axis=2)
        clip_ids = [clips[int(row.argmax())].id if row.any() else None for row in is_same]
        tokens = self.collection.stored_tokens([clip_id for clip_id in clip_ids if clip_id is not None], "audio")
        stored = [None if clip_id is None else tokens.get(clip_id) for clip_id in clip_ids]
        return [None if array is None else array[None] for array in stored]

    def clip_embeddings(self, model: Model) -> dict[Span, Float32]:
        """Return the stored embeddings (D,) of the clips by span; empty if another model made them.

        Raises VideoNotFound and StorageError.
        """
        if self.collection.fingerprint != model.bundle.fingerprint or self.collection.is_truncated:
            return {}
        clips = self.collection.clips(self.id)
        with self.collection.catalogue.read() as connection:
            embeddings = load_embeddings(connection, [clip.id for clip in clips], self.collection.embed_dim)
        return {(clip.start, clip.end): embeddings[clip.id] for clip in clips if clip.id in embeddings}


@dataclass(frozen=True)
class SourceFile:
    """The file that a request is about.

    Attributes:
        file: The media file.
        content: Identifies the content of the file, for cache keys.
        video: The video for the response; None for an upload.
        duration: Seconds; None if unknown.
        stored: The stored video; None for an upload.
    """

    file: MediaSource
    content: str
    video: schemas.Video | None = None
    duration: float | None = None
    stored: StoredVideo | None = None


@contextmanager
def stored_file(context: RequestContext, name: str, video_id: str) -> Iterator[SourceFile]:
    """Open the file of a stored video; errors name an upload by its title.

    Raises VideoNotFound, and the errors of ``open_stored``.
    """
    video, collection = context.service.video(name, video_id), context.service.collection(name)
    with open_stored(collection, video, context.service.settings.roots()) as file, rename_stored(video):
        content, schema = _content_key(video, file), serialize_video(collection, video)
        yield SourceFile(file, content, schema, video.duration, stored=StoredVideo(collection, video.id))


@contextmanager
def uploaded_file(upload: Upload) -> Iterator[SourceFile]:
    """Yield an uploaded file; errors show the client's file name, not the temporary path."""
    with rename_errors(upload.path, upload.name):
        yield SourceFile(upload.path, upload.sha256)


def embed_upload(context: RequestContext, model: Model, upload: Upload, clip: ClipRange) -> EmbeddedClip:
    """Embed a clip of an uploaded file. Raises the errors of ``embed_clip``."""
    with uploaded_file(upload) as source:
        return embed_clip(context, model, source, clip)


def embed_sound(context: RequestContext, model: Model, upload: Upload, clip: ClipRange) -> Floats:
    """Return the embedding (1, D) of the sound of a clip of an uploaded file.

    Raises TaskMissing, media errors, InvalidInput (also for silence), DeadlineExceeded and RequestAbandoned.
    """
    with rename_errors(upload.path, upload.name):
        return embed_file_sound(model, upload.path, clip.start, clip.end, context.service.settings.media_limits())


def embed_query(
    context: RequestContext, model: Model, upload: Upload, clip: ClipRange, signal: Signal | None
) -> Float32:
    """Return the embedding (D,) of a clip of a query file. ``signal`` and errors: see ``embed_query_file``."""

    def embed(chosen: Signal) -> Float32:
        if chosen == "audio":
            rows = embed_sound(context, model, upload, clip)
        else:
            rows = embed_upload(context, model, upload, clip).embedding.vectors
        embedding: Float32 = rows[0]
        return embedding

    with rename_errors(upload.path, upload.name):
        return embed_query_file(model, upload.path, signal, embed, context.service.settings.media_limits())


def embed_clip(context: RequestContext, model: Model, source: SourceFile, clip: ClipRange) -> EmbeddedClip:
    """Embed a clip, with its frames and sound if requested. Uncached pictures are decoded in one pass.

    Raises media errors, InvalidInput, DeadlineExceeded and RequestAbandoned.
    """
    file = source.file
    key = ClipKey(model.bundle.fingerprint, source.content, clip.start or 0.0, clip.end)
    keys = [key, key._replace(frames=clip.frames)] if clip.frames else [key]

    def create(missing: Sequence[ClipKey]) -> Iterator[tuple[ClipKey, CachedClip]]:
        with context.service.observer.stage("decode"):
            counts = [key.frames for key in missing]
            span, times, frames = _decode(context, model, file, clip, source.duration, counts)
        embedded = model.embed_video({name: pixels[:, None] for name, pixels in frames.items()})
        first = 0
        for key, frame_seconds in zip(missing, times, strict=True):
            rows = slice(first, first + max(1, len(frame_seconds)))
            first = rows.stop
            tokens = None if key.frames else _readonly_copy(embedded.visual_tokens[rows])
            yield key, CachedClip(*span, _readonly_copy(embedded.vectors[rows]), tokens, frame_seconds)

    clips = context.service.caches.clips.get_or_create(keys, create, context.call_context)
    whole, *parts = (clips[key] for key in keys)
    assert whole.visual_tokens is not None
    embedding = VideoEmbedding(whole.embeddings, whole.visual_tokens)
    frames = FrameEmbeddings(parts[0].times, parts[0].embeddings) if parts else None
    span, limits = (whole.start, whole.end), context.service.settings.media_limits()
    [audio_tokens] = _audio_tokens(model, source, [span], limits) if clip.sound else [None]
    return EmbeddedClip(source.video, *span, embedding, frames, audio_tokens)


def embed_clips(context: RequestContext, model: Model, source: SourceFile, spans: Sequence[Span]) -> list[EmbeddedClip]:
    """Embed clips of a file, with their sound if the model fuses sound. Raises the errors of ``embed_clip``."""
    limits = context.service.settings.media_limits()
    keys = [ClipKey(model.bundle.fingerprint, source.content, *span) for span in spans]

    def create(missing: Sequence[ClipKey]) -> Iterator[tuple[ClipKey, CachedClip]]:
        missing_spans = [(key.start, key.end or 0.0) for key in missing]
        with context.service.observer.stage("decode"):
            frames = model.decoder.sample(source.file, model.streams, missing_spans, limits).frames
        embedded = model.embed_video({name: pixels[:, None] for name, pixels in frames.items()})
        for row, (key, span) in enumerate(zip(missing, missing_spans, strict=True)):
            vectors, tokens = (array[row : row + 1] for array in (embedded.vectors, embedded.visual_tokens))
            yield key, CachedClip(*span, _readonly_copy(vectors), _readonly_copy(tokens))

    cached = dict[ClipKey, CachedClip]()
    for first in range(0, len(keys), CLIPS_PER_BATCH):  # as in ``_embed_spans``
        batch = keys[first : first + CLIPS_PER_BATCH]
        cached |= context.service.caches.clips.get_or_create(batch, create, context.call_context)
    clips = []
    for key, span, sound in zip(keys, spans, _audio_tokens(model, source, spans, limits), strict=True):
        tokens = cached[key].visual_tokens
        assert tokens is not None
        embedding = VideoEmbedding(cached[key].embeddings, tokens)
        clips.append(EmbeddedClip(source.video, *span, embedding, audio_tokens=sound))
    return clips


def _audio_tokens(model: Model, source: SourceFile, spans: Sequence[Span], limits: MediaLimits) -> list[Floats | None]:
    """Return the audio tokens (1, T, A) of clips, from the collection if possible; None for a clip without sound."""
    if not model.fuses_audio:
        return [None] * len(spans)
    stored = [None] * len(spans) if source.stored is None else source.stored.audio_tokens(model, spans)
    return [
        read_audio_tokens(model, source.file, span, limits) if tokens is None else tokens
        for span, tokens in zip(spans, stored, strict=True)
    ]


def embed_source_windows(
    context: RequestContext, model: Model, source: SourceFile, clip: ClipRange, max_windows: int
) -> tuple[list[Span], Floats]:
    """Embed the windows of a video, or of a part of it, for ``Model.find_moments``. Windows are cached in groups.

    Args:
        context: Context of the request.
        model: Model of the request.
        source: The video.
        clip: The part of the video.
        max_windows: Maximum number of windows in the part.

    Returns:
        The spans of the windows inside the part, and the embeddings of the windows (T, D) float32.

    Raises TaskMissing, media errors, InvalidInput, DeadlineExceeded and RequestAbandoned.
    """
    seconds, limits = model.moment_windows.window_seconds, context.service.settings.media_limits()
    duration = model.decoder.probe(source.file, limits).duration if source.duration is None else source.duration
    part = resolve_span(duration, clip.start, clip.end)
    spans = aligned_windows(duration, seconds, *part)
    if len(spans) > max_windows:
        raise InvalidInput(
            f"start, end: {part[0]:g} to {part[1]:g} s are {len(spans)} windows of {seconds:g} s; at most "
            f"{max_windows} were expected for as many texts (max_moment_windows)"
        )
    spans_by_key: dict[ClipKey, list[Span]] = {}
    for group in aligned_windows(duration, CACHED_WINDOWS * seconds, *part):
        windows = aligned_windows(duration, seconds, *group)
        spans_by_key[ClipKey(model.bundle.fingerprint, source.content, *group, windows=len(windows))] = windows

    embeddings = _embed_spans(context, model, source, spans_by_key, CLIPS_IN_MEMORY // CACHED_WINDOWS)
    first = next(iter(spans_by_key.values()))[0][0]
    skipped = round((spans[0][0] - first) / seconds)
    spans = [(max(start, part[0]), min(end, part[1])) for start, end in spans]
    return spans, embeddings[skipped : skipped + len(spans)]


def embed_spans(context: RequestContext, model: Model, source: SourceFile, spans: Sequence[Span]) -> dict[Span, Floats]:
    """Return the embeddings (D,) of clips by span, using the cache. Raises the errors of ``embed_clip``."""
    if not spans:
        return {}
    keys = {ClipKey(model.bundle.fingerprint, source.content, *span, windows=1): [span] for span in spans}
    rows = _embed_spans(context, model, source, keys, CLIPS_IN_MEMORY)
    return {key_spans[0]: row for key_spans, row in zip(keys.values(), rows, strict=True)}


def _embed_spans(
    context: RequestContext,
    model: Model,
    source: SourceFile,
    spans_by_key: Mapping[ClipKey, Sequence[Span]],
    batch_size: int,
) -> Floats:
    """Return the embeddings (T, D) of the spans of all cache keys.

    Keys are claimed in batches, so that a request about a later part of a video does not wait for the whole video.
    """
    limits = context.service.settings.media_limits()

    def create(missing: Sequence[ClipKey]) -> Iterator[tuple[ClipKey, CachedClip]]:
        rows = embed_windows(model, source.file, [span for key in missing for span in spans_by_key[key]], limits)
        ends = np.cumsum([key.windows for key in missing])
        for key, key_rows in zip(missing, np.split(rows, ends[:-1]), strict=True):
            yield key, CachedClip(key.start, key.end or 0.0, _readonly_copy(key_rows))

    keys, embedded = list(spans_by_key), dict[ClipKey, CachedClip]()
    for first in range(0, len(keys), batch_size):
        batch = keys[first : first + batch_size]
        embedded |= context.service.caches.clips.get_or_create(batch, create, context.call_context)
    return np.concatenate([embedded[key].embeddings for key in keys])


def _decode(
    context: RequestContext,
    model: Model,
    file: MediaSource,
    clip: ClipRange,
    duration: float | None,
    counts: Sequence[int],
) -> tuple[Span, list[list[float]], Mapping[str, NDArray[np.uint8]]]:
    """Return (span, times in s, pixels by stream). ``counts``: 0: the clip as a whole; n: n of its frames."""
    limits = context.service.settings.media_limits()
    if duration is None and list(counts) == [0]:
        span, pixels = model.decoder.sample_span(file, model.streams, clip.start, clip.end, limits)
        return span, [[]], pixels
    seconds = model.decoder.probe(file, limits).duration if duration is None else duration
    span = resolve_span(seconds, clip.start, clip.end)
    times = [frame_times(*span, count) if count else [] for count in counts]
    spans = [each for frames in times for each in ([(time, time) for time in frames] or [span])]
    return span, times, model.decoder.sample(file, model.streams, spans, limits).frames


def _readonly_copy(rows: Floats) -> Floats:
    """Copy rows, since a view would keep the whole array, and protect them, since cached values are shared."""
    copied = rows.copy()
    copied.flags.writeable = False
    return copied


def _content_key(video: Video, file: MediaFile) -> str:
    """Return a text that identifies the content of a stored video, for cache keys.

    A file that the collection does not own may have changed since it was indexed, so its status is part of the text.
    """
    if is_owned(video.path):
        return video.content_sha256
    status = file.status()
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return f"{video.content_sha256} {' '.join(map(str, identity))}"


async def embed_texts(
    context: RequestContext, loaded: LoadedModel, texts: Sequence[str], input_type: InputType = "query"
) -> tuple[Floats, int]:
    """Return embeddings (N, D) float32, and the total number of tokens; cached texts are not run.

    Unlike in ``service.inference.cache.embed_texts``, no thread waits for the model. Raises the errors of
    ``RequestContext.submit``.
    """
    cache = context.service.caches.texts
    keys = text_keys(loaded.model, loaded.model.add_prompt(texts, input_type))
    values: dict[TextKey, CachedText] = {}
    async with context.deadline():
        while missing := [key for key in dict.fromkeys(keys) if key not in values]:
            with cache.claim(missing) as claim:
                values |= claim.cached
                async for key, value in _run_texts(context, loaded, claim.missing):
                    values[key] = value
                    cache.put(claim, key, value)
            for key, future in claim.shared.items():
                if (shared := await asyncio.wrap_future(future)) is not None:
                    values[key] = shared
    return stack(values, keys, loaded.bundle.manifest.vector_width)


async def _run_texts(
    context: RequestContext, loaded: LoadedModel, keys: Sequence[TextKey]
) -> AsyncIterator[tuple[TextKey, CachedText]]:
    """Run the text graph, and yield the embeddings of texts as they become ready."""
    if not keys:
        return
    texts = [key.text for key in keys]
    with context.service.observer.stage("preprocess"):
        if sum(map(len, texts)) <= FEW_CHARACTERS:
            batches = loaded.model.text_batches(texts, CALL_TEXTS)
        else:
            # Not in the inference pool, all of whose threads may be waiting for these texts.
            batches = await context.service.io_pool.run(loaded.model.text_batches, texts, CALL_TEXTS)
    remaining = iter(batches)
    in_flight = deque(
        (batch, context.submit(loaded, "text", batch.inputs)) for batch in islice(remaining, MAX_IN_FLIGHT)
    )
    try:
        while in_flight:
            batch, future = in_flight.popleft()
            for row in split_rows(keys, batch, await future):
                yield row
            in_flight.extend((batch, context.submit(loaded, "text", batch.inputs)) for batch in islice(remaining, 1))
    finally:
        for _, future in in_flight:
            future.cancel()


def check_texts(service: AppState, name: str, texts: Sequence[str]) -> None:
    """Raise TextError for the first text that is blank or too long."""
    for index, text in enumerate(texts):
        check_text(service, f"{name}[{index}]", text)


def check_text(service: AppState, name: str, text: str) -> None:
    """Raise TextError for a text that is blank or too long."""
    limit = service.settings.max_text_characters
    if is_blank(text):
        raise TextError(f"{name}: it is empty; visible characters, at most {limit}, were expected")
    if len(text) > limit:
        raise TextError(f"{name}: {len(text)} characters; at most {limit} were expected")

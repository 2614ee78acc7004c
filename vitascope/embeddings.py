"""Embeddings of videos, sounds and the clips of files.

Shape letters: B videos or sounds, C clips, F frames, H height, W width (pixels), V visual tokens, K their width, T
audio tokens, A their width, D embedding dim.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from vitascope.audio_windows import Samples, batched_inputs, cut_windows
from vitascope.bundle.manifest import AudioStream, Manifest
from vitascope.engines.graphs import GraphRunner
from vitascope.errors import MediaError
from vitascope.input_validation import Streams, batch_size_of_streams, check_spans
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.scoring import normalize_rows

if TYPE_CHECKING:
    from vitascope.media.file import MediaSource
    from vitascope.model import Model

Floats = NDArray[np.float32]

CLIPS_IN_MEMORY = 64
"""Maximum clips of a file whose frames are in memory at the same time."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoEmbedding:
    """Embeddings of videos.

    Attributes:
        vectors: (B, D) float32, normalized; D is 0 if the bundle has no embeddings.
        visual_tokens: (B, V, K) float32.
    """

    vectors: Floats
    visual_tokens: Floats

    @classmethod
    def concatenate(cls, parts: Iterable[Self]) -> Self:
        """Concatenate one or more embeddings."""
        vectors, visual_tokens = zip(*((part.vectors, part.visual_tokens) for part in parts), strict=True)
        return cls(np.concatenate(vectors), np.concatenate(visual_tokens))


@dataclass(frozen=True)
class AudioEmbedding:
    """Embeddings of sounds.

    Attributes:
        vectors: (B, D) float32, normalized.
        tokens: (B, T, A) float32; None if the bundle has no audio tokens.
    """

    vectors: Floats
    tokens: Floats | None


@dataclass(frozen=True)
class FileEmbedding:
    """Embeddings of the clips of a file.

    Attributes:
        video: One row per clip; None if the file has no pictures, or the bundle has no video graph.
        audio: One row per clip with sound; None if no clip has sound, or the bundle has no audio graph.
        clips_with_sound: Positions of the clips with sound, ascending int64.
    """

    video: VideoEmbedding | None
    audio: AudioEmbedding | None
    clips_with_sound: NDArray[np.int64]


def embed_video(graphs: GraphRunner, manifest: Manifest, streams: Streams, batch_size: int) -> VideoEmbedding:
    """Embed B videos, ``batch_size`` at a time; ``streams`` and errors as in ``Model.embed_video``."""
    batch_size_of_streams(manifest.streams, streams)

    def run(streams: Streams) -> VideoEmbedding:
        count = len(streams[manifest.streams[0].name])
        vectors = np.empty((count, manifest.vector_width), np.float32)
        tokens = np.empty((count, manifest.visual_tokens, manifest.visual_width), np.float32)
        for first in range(0, count, batch_size):
            rows = slice(first, first + batch_size)
            inputs = {s.name: np.ascontiguousarray(streams[s.name][rows]) for s in manifest.streams}
            results = graphs.run("video", inputs)
            tokens[rows] = results["visual_tokens"]
            if manifest.vector_width:
                vectors[rows] = results["vector"]
        return VideoEmbedding(vectors, tokens)

    return embed_views(run, streams, manifest.mirrored_view)


def embed_views(
    run: Callable[[Streams], VideoEmbedding], streams: Streams, mirrored_view: float | None
) -> VideoEmbedding:
    """Embed videos; still pictures are embedded in two views.

    The embedding of a still picture is the normalized mean of the embeddings of both views. Its visual tokens are those
    of the first view, which is not mirrored.

    Args:
        run: Embeds streams without a second view.
        streams: Frames by stream name, (B, C, F, H, W, 3) uint8. A still picture is a video whose frames are all equal.
        mirrored_view: ``mirrored_view`` of the manifest; None: no second view.
    """
    embedding = run(streams)
    if mirrored_view is None:
        return embedding
    is_still = [(frames == frames[:, :1, :1]).all(axis=(1, 2, 3, 4, 5)) for frames in streams.values()]
    rows = np.flatnonzero(np.logical_and.reduce(is_still))
    if not len(rows):
        return embedding
    from vitascope.media.frame import mirrored_middle  # imports Pillow, which searches by text do without

    views = {}
    for name, frames in streams.items():
        first = np.stack([mirrored_middle(frames[row, 0, 0], mirrored_view) for row in rows])
        views[name] = np.tile(first[:, None, None], (1, *frames.shape[1:3], 1, 1, 1))
    embedding.vectors[rows] = normalize_rows(embedding.vectors[rows] + run(views).vectors)
    return embedding


def embed_sounds(
    graphs: GraphRunner, stream: AudioStream, sounds: Iterable[tuple[int, Samples]], count: int, batch_size: int
) -> tuple[AudioEmbedding, NDArray[np.int64]]:
    """Embed sounds as the mean of their windows, ``batch_size`` windows at a time.

    Args:
        graphs: Graphs of the bundle.
        stream: Audio stream of the bundle.
        sounds: (position of the sound, samples (N,)); a sound may come in several parts.
        count: Number of sounds.
        batch_size: Maximum windows of a run.

    Returns:
        The embeddings of sounds that are not silent, and their positions.
    """
    shapes = graphs.output_shapes("audio")
    sums = {name: np.zeros((count, *shape)) for name, shape in shapes.items()}
    windows = np.zeros(count, np.int64)
    for positions, inputs in batched_inputs(cut_windows(stream, sounds), batch_size):
        for name, array in graphs.run("audio", inputs).items():
            for position, row in zip(positions, array, strict=True):  # np.add.at takes a hundred times as long
                sums[name][position] += row
        np.add.at(windows, positions, 1)
    rows = np.flatnonzero(windows)
    vectors = normalize_rows(sums["vector"][rows]).astype(np.float32)
    tokens = None
    if stream.tokens:
        tokens = (sums["audio_tokens"][rows] / windows[rows, None, None]).astype(np.float32)
    return AudioEmbedding(vectors, tokens), rows


def embed_clips(
    model: Model, file: MediaSource, clips: Sequence[tuple[float, float]], limits: MediaLimits = DEFAULT_LIMITS
) -> Iterator[VideoEmbedding]:
    """Yield the embeddings of the pictures of clips of a file, ``CLIPS_IN_MEMORY`` rows at a time.

    Raises MediaError, InvalidInput (there is no clip, or one is outside the file), TaskMissing and EngineError.
    """
    for first in range(0, max(1, len(clips)), CLIPS_IN_MEMORY):
        frames = model.decoder.sample(file, model.streams, clips[first : first + CLIPS_IN_MEMORY], limits).frames
        yield model.embed_video({name: array[:, None] for name, array in frames.items()})


def embed_file(
    model: Model, file: MediaSource, clips: Sequence[tuple[float, float]] | None, limits: MediaLimits
) -> FileEmbedding:
    """Embed pictures and sound of clips, if the bundle has graphs. Arguments and errors: ``Model.embed_file``."""
    info = model.decoder.probe(file, limits)
    spans = [(0.0, info.duration)] if clips is None else check_spans(clips, info.duration)
    graphs = model.bundle.manifest.graphs
    audio, clips_with_sound = None, np.zeros(0, np.int64)
    if info.kind == "audio" or (info.audio is not None and ("audio" in graphs or "video" not in graphs)):
        try:
            audio, clips_with_sound = model.embed_audio_file(file, spans, limits)
        except MediaError as error:
            if info.kind == "audio" or "video" not in graphs:
                raise
            _log.warning("the sound is left out: %s", error)
    has_video = info.kind != "audio" and ("video" in graphs or info.audio is None)
    video = model.embed_video_file(file, spans, limits) if has_video else None
    return FileEmbedding(video, audio if len(clips_with_sound) else None, clips_with_sound)

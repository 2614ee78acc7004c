"""Generation of captions for the clips of stored videos: as a stage of a job, and for videos indexed earlier."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache

import numpy as np

from index.collection import Collection
from index.jobs.recognition import RecognitionInterrupted, open_unchanged
from index.recognitions import store_captions
from index.records import Clip, Float32, Signal, Video
from index.video_text import ClipCaption, RecognitionKind
from vitascope.bundle.manifest import CAPTION_GRAPHS, Manifest
from vitascope.errors import MediaError, TaskMissing
from vitascope.media.file import MediaFile
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits
from vitascope.model import Model
from vitascope.sandbox.pool import TaskContext
from vitascope.sandbox.recognition import BULK, OnProgress

CLIPS_PER_BATCH = 16
"""Clips whose frames and tokens are in memory at the same time."""


def caption_model_name(manifest: Manifest) -> str:
    """Return name and version of a bundle with a hash of its caption graphs, which the fingerprint does not cover."""
    files = [file for graph, file in sorted(manifest.graphs.items()) if graph in CAPTION_GRAPHS]
    files += [manifest.captions.weights] if manifest.captions and manifest.captions.weights else []
    parts = [manifest.fingerprint(), *(manifest.files[file].sha256 for file in files)]
    digest = hashlib.sha256(" ".join(parts).encode()).hexdigest()
    return f"{manifest.name}@{manifest.version}:{digest[:12]}"


def check_caption_task(manifest: Manifest) -> None:
    """Raise TaskMissing if a bundle cannot generate captions."""
    if "captioning" not in manifest.tasks:
        raise TaskMissing(f"caption: bundle {manifest.name} has no task 'captioning'; one with it was expected")


@dataclass(frozen=True, slots=True)
class VideoCaptioning:
    """Generates a caption for each clip of a collection's videos.

    Stored tokens are used if the same model made them; otherwise the file is decoded.

    Attributes:
        model: Model with the task "captioning".
        context: its error interrupts generation before the next token.
    """

    collection: Collection
    model: Model
    limits: MediaLimits = DEFAULT_LIMITS
    context: TaskContext = BULK

    @property
    def kind(self) -> RecognitionKind:
        return "caption"

    @property
    def model_name(self) -> str:
        manifest = self.model.bundle.manifest
        return caption_model_name(manifest) if "captioning" in manifest.tasks else f"{manifest.name}@{manifest.version}"

    def wait_until_ready(self) -> str:
        check_caption_task(self.model.bundle.manifest)
        _ = self.model.caption_decoder
        return self.model_name

    def applies(self, video: Video) -> bool:
        """Return whether the model can caption a video: a sound file needs a model that fuses sound."""
        return video.width > 0 or self.model.fuses_audio

    def make_text(self, video: Video, media: MediaFile | None, on_progress: OnProgress) -> tuple[str, ...]:
        clips = self.collection.clips(video.id)
        captions: list[ClipCaption] = []
        notes: list[str] = []
        with ExitStack() as stack:

            @cache
            def open_media() -> MediaFile:
                return media or stack.enter_context(open_unchanged(self.collection, video, self.limits))

            for first in range(0, len(clips), CLIPS_PER_BATCH):
                batch = clips[first : first + CLIPS_PER_BATCH]
                captions += self._caption(video, batch, open_media, notes)
                on_progress(len(captions) / len(clips))
        store_captions(self.collection, video.id, captions, self.model_name)
        return tuple(dict.fromkeys(notes))

    def _caption(
        self, video: Video, clips: Sequence[Clip], open_media: Callable[[], MediaFile], notes: list[str]
    ) -> list[ClipCaption]:
        visual_tokens = self._visual_tokens(video, clips, open_media)
        audio_tokens = self._audio_tokens(video, clips, open_media, notes)
        try:
            generated = self.model.generate_captions(
                visual_tokens, audio_tokens, is_cancelled=lambda: self._interruption() is not None
            )
        except CancelledError:
            raise self._interruption() or RecognitionInterrupted from None
        return [ClipCaption(clip.start, clip.end, best.text) for clip, [best] in zip(clips, generated, strict=True)]

    def _interruption(self) -> Exception | None:
        return self.context.cancellation_error(time.monotonic())

    def _load_tokens(self, clips: Sequence[Clip], signal: Signal, tokens: Float32) -> list[int]:
        """Write the stored tokens of B clips to ``tokens`` (B, …); return the rows of clips without stored tokens."""
        if self.collection.fingerprint != self.model.bundle.fingerprint:
            return list(range(len(clips)))
        stored, missing = self.collection.stored_tokens((clip.id for clip in clips), signal), []
        for row, clip in enumerate(clips):
            if (own := stored.get(clip.id)) is not None:
                tokens[row] = own
            elif signal == "visual" or clip.has_sound:
                missing.append(row)
        return missing

    def _visual_tokens(self, video: Video, clips: Sequence[Clip], open_media: Callable[[], MediaFile]) -> Float32:
        """Return the visual tokens (B, V, K) of clips; 0 for a sound file."""
        manifest = self.model.bundle.manifest
        tokens = np.zeros((len(clips), manifest.visual_tokens, manifest.visual_width), np.float32)
        if video.width and (missing := self._load_tokens(clips, "visual", tokens)):
            spans = [(clips[row].start, clips[row].end) for row in missing]
            frames = self.model.decoder.sample(open_media(), self.model.streams, spans, self.limits).frames
            streams = {name: pixels[:, None] for name, pixels in frames.items()}
            tokens[missing] = self.model.embed_video(streams).visual_tokens
        return tokens

    def _audio_tokens(
        self, video: Video, clips: Sequence[Clip], open_media: Callable[[], MediaFile], notes: list[str]
    ) -> Float32 | None:
        """Return the audio tokens (B, T, A) of clips, 0 for clips without sound; None if the model fuses no sound."""
        audio = self.model.bundle.manifest.audio
        if audio is None or not audio.fused:
            return None
        tokens = np.zeros((len(clips), audio.tokens, audio.width), np.float32)
        missing = np.array(self._load_tokens(clips, "audio", tokens), np.int64)
        if not len(missing):
            return tokens
        try:
            if self.model.decoder.probe(open_media(), self.limits).audio is not None:
                spans = [(clips[row].start, clips[row].end) for row in missing]
                sound, rows = self.model.embed_audio_file(open_media(), spans, self.limits)
                if sound.tokens is not None:
                    tokens[missing[rows]] = sound.tokens
        except MediaError as error:
            if not video.width:
                raise
            notes.append(f"the sound is left out: {error}")
        return tokens

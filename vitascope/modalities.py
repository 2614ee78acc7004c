"""Modalities of a clip from which scores and answers are computed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from vitascope.errors import MediaError
from vitascope.media.limits import DEFAULT_LIMITS, MediaLimits

if TYPE_CHECKING:
    from vitascope.media.file import MediaSource
    from vitascope.model import Model

Modality = Literal["visual", "audio"]
_log = logging.getLogger(__name__)


def used_modalities(audio_tokens: NDArray[np.floating] | None) -> tuple[Modality, ...]:
    """Return the modalities of a clip with pictures. ``audio_tokens``: None if the clip has no sound."""
    return ("visual",) if audio_tokens is None else ("visual", "audio")


def read_audio_tokens(
    model: Model, file: MediaSource, clip: tuple[float, float], limits: MediaLimits = DEFAULT_LIMITS
) -> NDArray[np.float32] | None:
    """Return the audio tokens (1, T, A) of a clip of a media file, for matching and answers.

    Args:
        model: Model that embeds the sound.
        file: Video file, by path or open.
        clip: Start and end in s.
        limits: Limits of the decoder.

    Returns:
        Audio tokens; None if the model matches and answers by pictures only, or if the clip has no decodable sound.

    Raises:
        EngineError: The run failed.
    """
    if not model.fuses_audio:
        return None
    try:
        embedding, _ = model.embed_audio_file(file, [clip], limits)
    except MediaError as error:
        _log.warning("the sound is left out: %s", error)
        return None
    return embedding.tokens if len(embedding.vectors) else None

"""Conversion of clips and their tokens to and from the form that the catalogue stores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy.typing as npt

from index.records import Float32, NewClip, Signal, check_span, check_text, check_thumbnail, check_tokens
from index.storage.queries import ClipRow
from vitascope.errors import InvalidInput, StorageError
from vitascope.visual_token_codec import decode_tokens, encode_tokens

if TYPE_CHECKING:
    from index.collection import Collection


def clip_row(collection: Collection, clip: NewClip, *, has_pictures: bool) -> ClipRow:
    """Validate a new clip and return its catalogue row. Raises InvalidInput that names the field.

    ``has_pictures``: whether the video has pictures. A collection created by an earlier version stores no audio tokens.
    """
    if clip.audio_embedding is not None:
        collection.require_signals(["audio"])
    has_pictures = has_pictures and "visual" in collection.signals
    for name, value in (("embedding", clip.embedding), ("visual_tokens", clip.visual_tokens)):
        if (value is not None) != has_pictures:
            actual = None if has_pictures else "an array"
            raise InvalidInput(f"{name}: {actual}; one was expected of a video with pictures, and of no other")
    if clip.audio_tokens is not None and clip.audio_embedding is None:
        raise InvalidInput("audio_tokens: an array; none was expected of a clip without an audio embedding")
    return ClipRow(
        span=check_span(clip.start, clip.end),
        vector=_embedding_blob(collection, clip.embedding),
        tokens=_token_blob(collection, clip.visual_tokens, "visual"),
        text=check_text("text", clip.text),
        thumbnail=check_thumbnail(clip.thumbnail),
        audio_vector=_embedding_blob(collection, clip.audio_embedding),
        audio_tokens=_token_blob(collection, clip.audio_tokens, "audio"),
    )


def token_shapes(meta: Mapping[str, str]) -> dict[Signal, tuple[int, int]]:
    """Read the shape of stored tokens, (tokens, width), by signal from a table meta. Raises KeyError and ValueError."""
    shapes: dict[Signal, tuple[int, int]] = {"visual": (int(meta["visual_tokens"]), int(meta["visual_width"]))}
    if "audio_tokens" in meta:
        shapes["audio"] = int(meta["audio_tokens"]), int(meta["audio_width"])
    return shapes


def decode_clip_tokens(collection: Collection, clip_id: int, blob: bytes | None, signal: Signal) -> Float32 | None:
    """Decode the stored tokens of a clip to their shape; None if there are none. Raises StorageError if damaged."""
    shape = collection.token_shapes.get(signal)
    if blob is None or shape is None:
        return None
    try:
        return decode_tokens(blob, collection.token_encoding, shape)
    except InvalidInput as error:
        raise StorageError(f"{collection.catalogue.path}: clip {clip_id}: {error}") from error


def _token_blob(collection: Collection, tokens: npt.ArrayLike | None, signal: Signal) -> bytes | None:
    shape = collection.token_shapes.get(signal)
    if tokens is None or shape is None:
        return None
    return encode_tokens(check_tokens(tokens, shape, f"{signal}_tokens"), collection.token_encoding)


def _embedding_blob(collection: Collection, embedding: npt.ArrayLike | None) -> bytes | None:
    return None if embedding is None else collection.truncate(embedding).astype("<f4").tobytes()

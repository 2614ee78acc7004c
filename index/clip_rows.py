"""Stored form of clips: of new ones, which are checked, and of visual tokens.

Shape letters: V visual tokens, W their width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy.typing as npt

from index.records import Float32, NewClip, check_span, check_text, check_thumbnail, check_tokens
from index.storage.queries import ClipRow
from vitascope.errors import InvalidInput, StorageError
from vitascope.visual_token_codec import decode_tokens, encode_tokens

if TYPE_CHECKING:
    from index.collection import Collection


def clip_row(collection: Collection, clip: NewClip, *, has_pictures: bool) -> ClipRow:
    """Return the stored form of a clip, of a video with or without pictures. Raises InvalidInput naming the field."""
    if clip.audio_embedding is not None:
        collection.require_signals(["audio"])
    has_pictures = has_pictures and "visual" in collection.signals
    for name, value in (("embedding", clip.embedding), ("visual_tokens", clip.visual_tokens)):
        if (value is not None) != has_pictures:
            actual = None if has_pictures else "an array"
            raise InvalidInput(f"{name}: {actual}; one was expected of a video with pictures, and of no other")
    tokens = None if clip.visual_tokens is None else check_tokens(clip.visual_tokens, collection.tokens_shape)
    return ClipRow(
        span=check_span(clip.start, clip.end),
        vector=_embedding_blob(collection, clip.embedding),
        tokens=None if tokens is None else encode_tokens(tokens, collection.token_encoding),
        text=check_text("text", clip.text),
        thumbnail=check_thumbnail(clip.thumbnail),
        audio_vector=_embedding_blob(collection, clip.audio_embedding),
    )


def decode_clip_tokens(collection: Collection, clip_id: int, blob: bytes | None) -> Float32 | None:
    """Return visual tokens (V, W) from their stored form. Raises StorageError for a damaged one."""
    if blob is None:
        return None
    try:
        return decode_tokens(blob, collection.token_encoding, collection.tokens_shape)
    except InvalidInput as error:
        raise StorageError(f"{collection.catalogue.path}: clip {clip_id}: {error}") from error


def _embedding_blob(collection: Collection, embedding: npt.ArrayLike | None) -> bytes | None:
    return None if embedding is None else collection.truncate(embedding).astype("<f4").tobytes()

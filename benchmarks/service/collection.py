"""A collection of any size for measuring search: vectors in clusters, no files, no tokens."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from benchmarks.index import clustered
from index.collection import Collection
from index.collection_store import CollectionStore
from index.records import Float32, NewVideo
from index.storage.queries import ClipRow, insert_video, newest_clip
from vitascope.model import Model
from vitascope.visual_token_codec import encode_tokens

CLIPS_OF_A_VIDEO = 100
CLIP_SECONDS = 8.0


def fill(data: Path, name: str, model: Model, clips: int, *, tokens: bool = False) -> Float32:
    """Make the collection in a data folder and have its index built; returns its vectors (clips, D).

    ``tokens``: with visual tokens, all 0, so that results can be reranked.
    """
    vectors = clustered(clips, 1, model.bundle.manifest.vector_width)[0]
    with CollectionStore(data / "collections") as library:
        collection = library.create(name, model)
        for first in range(0, clips, CLIPS_OF_A_VIDEO):
            _add(collection, first, vectors[first : first + CLIPS_OF_A_VIDEO], tokens)
    with CollectionStore(data / "collections") as library:
        opened = library.open(name)
        opened.search(vectors[0], 1)
        opened.wait_for_index()
    return vectors


def _add(collection: Collection, number: int, vectors: Float32, tokens: bool) -> None:
    nothing = np.zeros(collection.tokens_shape, np.float32)
    encoded = encode_tokens(nothing, collection.token_encoding) if tokens else None
    video = NewVideo(
        content_sha256=hashlib.sha256(str(number).encode()).hexdigest(),
        path=f"/nowhere/{number}.mp4",
        title=f"film {number}",
        duration=len(vectors) * CLIP_SECONDS,
        width=640,
        height=360,
        metadata={"number": number},
    )
    rows = [
        ClipRow(
            span=(clip * CLIP_SECONDS, (clip + 1) * CLIP_SECONDS),
            vector=vector.astype("<f4").tobytes(),
            tokens=encoded,
            text="",
            thumbnail=None,
        )
        for clip, vector in enumerate(vectors)
    ]
    with collection.catalogue.write() as connection:
        insert_video(connection, video, newest_clip(connection) + 1, rows)

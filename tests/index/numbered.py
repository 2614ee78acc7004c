"""Videos that are known by their number alone: what a catalogue must hold for number n can be said without it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from index.collection import Collection, NewClip, NewVideo
from index.collection_store import CollectionStore
from index.records import Scalar
from index.transfer.media import AllowedPaths
from index.vectors.interface import FAISS
from vitascope.bundle.manifest import FileEntry, FrameStream, Manifest
from vitascope.visual_token_codec import TokenEncoding, decode_tokens, encode_tokens

WIDTH = 8
TOKENS = (2, 3)
COLORS = ("red", "green", "blue")


def manifest(name: str = "numbers") -> Manifest:
    """Of a bundle that exists on paper only; another name is another fingerprint."""
    graphs = {"text": f"{name}.text.onnx", "video": f"{name}.video.onnx"}
    files = [*graphs.values(), "tokenizer.json", "MODEL_CARD.md", "parity.json"]
    return Manifest(
        name=name,
        version="1",
        architecture="none",
        tasks=["retrieval"],
        streams=[FrameStream(name="high", frames=1, height=8, width=8, placement="middle")],
        graphs=graphs,  # type: ignore[arg-type]
        files={file: FileEntry(sha256=hashlib.sha256(file.encode()).hexdigest(), bytes=1) for file in files},
        vector_width=WIDTH,
        visual_tokens=TOKENS[0],
        visual_width=TOKENS[1],
        text_length=8,
        temperature=0.1,
        licence="none",
    )


def new_collection(root: Path, name: str = "videos", *, vectors: str = FAISS) -> Collection:
    """An empty collection below ``root`` whose vectors are searched there."""
    return CollectionStore(root).create(name, manifest(), vectors=vectors)


def allowed(library: CollectionStore, *roots: Path) -> AllowedPaths:
    """Where the videos lie, and ``roots``."""
    return AllowedPaths([Path("/videos"), *roots], library.root.parent)


def content(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def clip_total(number: int) -> int:
    return 1 + number % 3


def vectors_of(number: int) -> np.ndarray:
    """(clips, WIDTH) float32, each row of length 1."""
    rows = np.random.default_rng(number).standard_normal((clip_total(number), WIDTH))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def tokens_of(number: int) -> np.ndarray:
    """(clips, *TOKENS) float16."""
    return np.random.default_rng(1000 + number).standard_normal((clip_total(number), *TOKENS)).astype(np.float16)


def kept_tokens_of(number: int, encoding: TokenEncoding) -> np.ndarray:
    """(clips, *TOKENS) float32: what an encoding keeps of ``tokens_of``."""
    return np.stack([decode_tokens(encode_tokens(t, encoding), encoding, TOKENS) for t in tokens_of(number)])


def metadata_of(number: int) -> dict[str, Scalar]:
    return {
        "number": number,
        "color": COLORS[number % 3],
        "even": number % 2 == 0,
        "weight": number / 4,
    }


def new_video(number: int) -> tuple[NewVideo, list[NewClip]]:
    """What ``Collection.add_video`` takes."""
    video = NewVideo(
        content_sha256=content(number),
        path=f"/videos/{number}.mp4",
        title=f"video {number}",
        duration=4.0 * clip_total(number),
        width=320,
        height=180,
        metadata=metadata_of(number),
    )
    vectors, tokens = vectors_of(number), tokens_of(number)
    clips = [NewClip(4.0 * n, 4.0 * (n + 1), vectors[n], tokens[n]) for n in range(clip_total(number))]
    return video, clips


def add(collection: Collection, *numbers: int) -> list[int]:
    """Add the videos of these numbers; their ids."""
    return [collection.add_video(*new_video(number)).id for number in numbers]


def numbers_in(collection: Collection) -> list[int]:
    """The numbers of the videos that the collection holds, each checked to be whole, as a search sees them too."""
    with collection.catalogue.read() as connection:
        clip_ids = connection.execute("SELECT id FROM clips ORDER BY id").fetchall()
        assert (
            connection.execute("SELECT rowid FROM words WHERE words MATCH 'video' ORDER BY rowid").fetchall()
            == clip_ids
        )
    numbers = []
    for video in collection.videos(10_000):
        number = int(video.title.split()[1])
        expected, expected_clips = new_video(number)
        assert (video.content_sha256, video.path) == (expected.content_sha256, expected.path)
        assert video.metadata == expected.metadata
        clips = collection.clips(video.id)
        assert [(c.start, c.end) for c in clips] == [(c.start, c.end) for c in expected_clips]
        np.testing.assert_array_equal(
            collection.visual_tokens([c.id for c in clips]), kept_tokens_of(number, collection.token_encoding)
        )
        for clip, vector in zip(clips, vectors_of(number), strict=True):
            best = collection.search(vector, 1)[0]
            assert best.clip_id == clip.id
            assert abs(best.similarity - 1) < 1e-5
        numbers.append(number)
    return sorted(numbers)

"""Numbered videos, clustered vectors, and brute force for what a catalogue and an index must return."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.collection import Collection, NewClip, NewVideo
from index.collection_store import CollectionStore
from index.records import Scalar, Video
from index.storage.queries import newest_clip
from index.transfer.media import AllowedPaths
from index.vectors import faiss_kinds
from index.vectors.faiss_kinds import Float32, Int64, Mask
from index.vectors.interface import FAISS
from index.video_text import ClipCaption, Recognition, VideoText
from vitascope.bundle.manifest import FileEntry, FrameStream, Manifest
from vitascope.screen_text.interface import TextSpan
from vitascope.speech.interface import SpeechSegment, SpokenWord
from vitascope.visual_token_codec import TokenEncoding, decode_tokens, encode_tokens

WIDTH = 8
TOKENS = (2, 3)
COLORS = ("red", "green", "blue")
WITH_TEXT = VideoText(
    subtitles=(SpeechSegment(0, 1, "spoken words"),),
    transcript=(SpeechSegment(0, 1, "spöken", "en", 0.5, (SpokenWord("spöken", 0, 0.5),)),),
    screen_text=(TextSpan("出口 Exit", 0, 1, (0, 0.25, 1, 0.5), 0.75),),
    captions=(ClipCaption(0, 1.25, "a sign over a door"),),
    recognitions={
        "screen_text": Recognition("reader", "failed", "too large", 5.0),
        "caption": Recognition("captioner", "done", None, 6.0),
    },
)


def manifest(name: str = "numbers") -> Manifest:
    """The manifest of a bundle without files; another name gives another fingerprint."""
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
    """An empty collection below ``root`` with this vector backend."""
    return CollectionStore(root).create(name, manifest(), vectors=vectors)


def allowed(library: CollectionStore, *roots: Path) -> AllowedPaths:
    """The folder of the numbered videos, and ``roots``."""
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
    """(clips, *TOKENS) float32: ``tokens_of``, encoded and decoded again."""
    return np.stack([decode_tokens(encode_tokens(t, encoding), encoding, TOKENS) for t in tokens_of(number)])


def metadata_of(number: int) -> dict[str, Scalar]:
    return {
        "number": number,
        "color": COLORS[number % 3],
        "even": number % 2 == 0,
        "weight": number / 4,
    }


def new_video(number: int) -> tuple[NewVideo, list[NewClip]]:
    """The arguments of ``Collection.add_video``."""
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
    """Add the videos of these numbers and return their ids."""
    return [collection.add_video(*new_video(number)).id for number in numbers]


def numbers_in(collection: Collection) -> list[int]:
    """The numbers of the videos in the collection; each is checked to be complete, in the catalogue and in searches."""
    with collection.catalogue.read() as connection:
        video_ids = connection.execute("SELECT id FROM videos ORDER BY id").fetchall()
        named = connection.execute("SELECT rowid FROM names WHERE names MATCH 'title: video' ORDER BY rowid")
        assert named.fetchall() == video_ids
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


def add_owned(collection: Collection, *numbers: int, content: bytes | None = None) -> None:
    """Add videos under their numbers as ids, each with a file that the collection owns."""
    for number in numbers:
        file = collection.folder.parent.parent / f"upload-{number}"
        file.write_bytes(media_content(number) if content is None else content)
        add_file(collection, number, file)


def add_file(collection: Collection, number: int, file: Path) -> None:
    """Add a video under its number as id, with a link to ``file`` as the file that the collection owns."""
    new, clips = new_video(number)
    fields = {name: getattr(new, name) for name in NewVideo.__slots__}
    video = Video(**fields | {"path": owned_path(number)}, id=number, added_at=1.0, clip_count=len(clips))
    with collection.catalogue.read() as connection:
        first_clip = newest_clip(connection) + 1
    collection.add_with_ids(video, clips, first_clip, file)


def owned_path(number: int) -> str:
    """The path in the catalogue of the file of ``add_file``."""
    return f"media/{content(number)}.mp4"


def media_content(number: int) -> bytes:
    return f"film {number}".encode()


def matches(filter_json: Mapping[str, Any], fields: Mapping[str, Any]) -> bool:
    """Whether a filter matches a video with these metadata, or a clip with the fields ``fields["clip"]``."""
    ((key, value),) = filter_json.items()
    if key == "and":
        return all(matches(part, fields) for part in value)
    if key == "or":
        return any(matches(part, fields) for part in value)
    if key == "not":
        return not matches(value, fields)
    if key == "clip":
        return matches(value, fields["clip"])
    ((operator, operand),) = value.items() if isinstance(value, dict) else [("eq", value)]
    actual = fields[key]
    return bool(
        {
            "eq": actual == operand,
            "ne": actual != operand,
            "gt": actual > operand,
            "gte": actual >= operand,
            "lt": actual < operand,
            "lte": actual <= operand,
        }[operator]
    )


CLUSTERED_DIM = 16


def clustered(count: int, seed: int = 0, clusters: int = 40) -> Float32:
    """(count, CLUSTERED_DIM), each of length 1. The clusters are the same for every seed."""
    centres = np.random.default_rng(99).standard_normal((clusters, CLUSTERED_DIM))
    random = np.random.default_rng(seed)
    rows = centres[random.integers(0, clusters, count)] + 0.5 * random.standard_normal((count, CLUSTERED_DIM))
    unit: Float32 = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def exact(vectors: Float32, ids: Int64, queries: Float32, k: int, allowed: Mask | None = None) -> list[list[int]]:
    """The ids of the ``k`` nearest to each query, best first, by brute force."""
    passing = np.ones(len(ids), bool) if allowed is None else np.array([i < len(allowed) and allowed[i] for i in ids])
    cosines = queries.astype(np.float64) @ vectors[passing].astype(np.float64).T
    return [ids[passing][np.argsort(-row, kind="stable")[:k]].tolist() for row in cosines]


def recall(ids: Int64, expected: list[list[int]]) -> float:
    """Mean recall of ids (Q, K)."""
    return float(np.mean([len(set(f) & set(e)) / len(e) for f, e in zip(ids.tolist(), expected, strict=True)]))


def use_kinds_when_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build graphs and lists of any number of vectors, and search them where exact search would cost less."""
    monkeypatch.setattr(faiss_kinds, "MIN_CLIPS", dict.fromkeys(faiss_kinds.MIN_CLIPS, 0))
    monkeypatch.setattr(faiss_kinds, "prefer_exact", lambda cost, possible: False)

"""Pages up to the last result, in a collection with an approximate index."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from index.collection import MAX_K, Collection, NewClip, NewVideo
from index.collection_store import CollectionStore
from index.search.request import EmbeddingPart
from index.vectors.faiss_kinds import FLAT, HNSW, IVFPQ
from tests.chaos import only_by_chaos
from tests.index.numbered import TOKENS, content, manifest
from tests.index.searching import all_pages, request_for, search_page

WIDTH = 64
VIDEOS, EACH = 300, 100


@only_by_chaos
@pytest.mark.parametrize("kind", [FLAT, HNSW, IVFPQ, "milvus"])
def test_ten_thousand_results_of_thirty_thousand_clips(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    """The pages of every query have exactly the 10,000 most similar clips."""
    random = np.random.default_rng(7)
    centres = random.standard_normal((300, WIDTH))
    rows = centres[random.integers(0, 300, VIDEOS * EACH)] + 0.7 * random.standard_normal((VIDEOS * EACH, WIDTH))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    wide_manifest = manifest().model_copy(update={"vector_width": WIDTH})
    bundle = SimpleNamespace(fingerprint=wide_manifest.fingerprint(), manifest=SimpleNamespace(tasks=[], name="wide"))
    model: Any = SimpleNamespace(bundle=bundle)
    vectors = str(request.getfixturevalue("milvus").url) if kind == "milvus" else "faiss"
    queries, limit = (3, 500) if kind == "milvus" else (20, 100)  # Milvus Lite takes its time
    with CollectionStore(tmp_path) as library:
        setting = HNSW if kind == "milvus" else kind
        collection = library.create("videos", wide_manifest, vectors=vectors, index_kind=setting)
        try:
            fill(collection, rows)
            search_page(collection, model, EmbeddingPart(rows[0]))
            collection.wait_for_index()
            assert collection.index_state().serving == setting
            for query in random.standard_normal((queries, WIDTH)).astype(np.float32):
                pages = all_pages(collection, model, request_for(model, EmbeddingPart(query), limit=limit))
                shown = [result.best.hit.clip_id for page in pages for result in page.results]
                assert len(shown) == len(set(shown)) == MAX_K
                cosines = rows @ (query / np.linalg.norm(query))
                threshold = float(np.partition(cosines, -MAX_K)[-MAX_K])
                assert min(cosines[clip_id - 1] for clip_id in shown) >= threshold - 1e-6
                threshold = float(np.partition(cosines, -500)[-500]) - 1e-5
                request = request_for(model, EmbeddingPart(query), limit=50, min_similarity=threshold)
                pages = all_pages(collection, model, request)
                similar = [result.best.hit.clip_id for page in pages for result in page.results]
                assert sorted(similar) == (1 + np.flatnonzero(cosines >= threshold)).tolist()
        finally:
            library.drop("videos")


def fill(collection: Collection, rows: np.ndarray) -> None:
    tokens = np.zeros(TOKENS, np.float16)
    for number in range(VIDEOS):
        own = rows[number * EACH : (number + 1) * EACH]
        clips = [NewClip(4.0 * n, 4.0 * n + 4, row, tokens) for n, row in enumerate(own)]
        collection.add_video(NewVideo(content(number), f"/videos/{number}.mp4", f"video {number}", 400.0, 8, 8), clips)

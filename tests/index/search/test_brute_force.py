"""Random combinations of all search options, and the deepest pages, compared with brute force in NumPy."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from index.collection import MAX_K, Collection
from index.collection_store import CollectionStore
from index.records import NewClip, NewVideo, Scalar, SearchSignal
from index.search import search as search_module
from index.search.request import ClipPart, EmbeddingPart, QueryPart, SearchRequest, TextPart
from index.search.search import RankedHit, search
from index.storage.filters import parse_filter
from index.storage.fulltext import MAX_ORDERED, WordScore
from index.vectors.faiss_kinds import FLAT, HNSW, IVFPQ
from tests.chaos import only_by_chaos, rounds
from tests.index.sample_data import TOKENS, WIDTH, content, manifest, new_collection
from tests.index.searches import MODEL, all_pages, request_for, search_page, text_part

DEEP_DIM, DEEP_VIDEOS, DEEP_CLIPS = 64, 300, 100
VOCABULARY = ["dog", "cat", "engine", "boat", "snow", "piano", "forest", "bridge"]
CHINESE = ["海滩", "小狗", "发动机", "城市"]
FILTERS: list[tuple[Any, Any]] = [
    (None, lambda row: True),
    ({"color": "red"}, lambda row: row.metadata["color"] == "red"),
    ({"not": {"number": {"lt": 30}}}, lambda row: row.metadata["number"] >= 30),
    ({"clip": {"start": {"gte": 8}, "text": {"ne": ""}}}, lambda row: row.start >= 8 and bool(row.spoken)),
    ({"or": [{"number": {"lt": 10}}, {"clip": {"end": 8}}]}, lambda row: row.metadata["number"] < 10 or row.end == 8),
    ({"color": "violet"}, lambda row: False),
]


@dataclass(frozen=True)
class Row:
    """The expected content of a clip."""

    id: int
    video: int
    start: float
    end: float
    vector: np.ndarray
    tokens: np.ndarray
    title: list[str]
    spoken: list[str]
    metadata: dict[str, Scalar]


def tokens_in(text: str) -> list[str]:
    return [token for word in text.split() for token in (list(word) if word in CHINESE else [word])]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, backend: str) -> Iterator[tuple[Collection, list[Row]]]:
    """About 350 clips that touch, overlap or leave gaps, some of them with equal embeddings."""
    draw = random.Random(5)
    rng = np.random.default_rng(5)
    rows: list[Row] = []
    root = tmp_path_factory.mktemp("congruence")
    with new_collection(root, vectors=backend) as collection:
        for number in range(70):
            count = draw.randint(1, 10)
            stride = draw.choice([3.0, 4.0, 4.0])
            places = [n for n in range(count) if draw.random() > 0.2] or [0]
            vectors = rng.standard_normal((len(places), WIDTH)).astype(np.float32)
            if number % 7 == 0:
                vectors[:] = np.arange(1, WIDTH + 1)
            tokens = rng.standard_normal((len(places), *TOKENS)).astype(np.float16)
            spoken = [" ".join(draw.choices(VOCABULARY + CHINESE, k=draw.randint(0, 6))) for _ in places]
            title = f"{draw.choice(VOCABULARY)} n{number}"
            metadata: dict[str, Scalar] = {"number": number, "color": draw.choice(["red", "blue"])}
            clips = [
                NewClip(stride * n, stride * n + 4, vectors[i], tokens[i], spoken[i]) for i, n in enumerate(places)
            ]
            path = f"/videos/{number}.mp4"
            video = collection.add_video(NewVideo(content(number), path, title, 40.0, 32, 18, metadata), clips)
            if number % 10 == 9:
                collection.delete_video(video.id)
                continue
            for i, clip in enumerate(collection.clips(video.id)):
                words = tokens_in(title), tokens_in(spoken[i])
                unit = vectors[i] / np.linalg.norm(vectors[i].astype(np.float64))
                kept = collection.visual_tokens([clip.id])[0]  # rounded as they are stored
                rows.append(Row(clip.id, video.id, clip.start, clip.end, unit, kept, *words, metadata))
        assert len(rows) > 250
        yield collection, rows
    CollectionStore(root).drop("videos")


def word_scores(rows: list[Row], texts: list[str]) -> tuple[dict[int, WordScore], dict[int, WordScore]]:
    """Word scores by clip id and by video id. A term is one word or two that follow each other."""
    words = [word for text in texts for word in text.split()]
    terms = [[word] for word in words if word not in CHINESE]
    terms += [list(pair) for word in words if word in CHINESE for pair in itertools.pairwise(word)]
    terms = [term for n, term in enumerate(terms) if term not in terms[:n]]
    phrase = tokens_in(texts[0]) if len(texts) == 1 else []
    if len(phrase) > 1:
        terms.append(phrase)
    titles = {row.video: row.title for row in rows}

    def rarities(texts: list[list[str]]) -> list[float | None]:
        def idf(count: int) -> float:
            return math.log(1 + (len(texts) - count + 0.5) / (count + 0.5))

        counts = [sum(has(text, term) for text in texts) for term in terms]
        shares = [min(1.0, idf(n) / idf(min(5, len(texts) // 5))) if n else None for n in counts]
        return [0.0 if rarity is not None and rarity < 0.2 else rarity for rarity in shares]

    def has(text: list[str], term: list[str]) -> bool:
        return any(text[i : i + len(term)] == term for i in range(len(text)))

    spoken, named = rarities([row.spoken for row in rows]), rarities(list(titles.values()))

    def score(speech: list[str], title: list[str]) -> WordScore | None:
        matched = missing = rarest = full = count = 0.0
        for term, by_speech, by_title in zip(terms, spoken, named, strict=True):
            weight = 1.0 if by_speech is None and by_title is None else max(by_speech or 0.0, by_title or 0.0)
            rarity = max(has(speech, term) * (by_speech or 0.0), has(title, term) * (by_title or 0.0))
            if term is phrase:
                full = rarity
                continue
            count += weight > 0
            matched += weight * (rarity > 0)
            missing += weight * (rarity == 0)
            rarest = max(rarest, rarity)
        if not matched:
            return None
        is_partial = count > 2 and missing > 0
        return WordScore(max(rarest * matched / (matched + missing**2), full), full > 0, is_partial)

    clips = {row.id: score(row.spoken, row.title) for row in rows if score(row.spoken, [])}
    names = {video: score([], title) for video, title in titles.items()}
    return {i: s for i, s in clips.items() if s}, {video: s for video, s in names.items() if s}


def brute_order(
    rows: list[Row], request: SearchRequest, condition: Any
) -> list[tuple[int, float, tuple[int | None, bool], float]]:
    """(clip id, cosine, rank by similarity and whether words match, word score) of all clips, before reranking."""
    query = _query({row.id: row for row in rows}, request)
    out = {part.clip_id for part in request.parts if isinstance(part, ClipPart)}
    possible = [row for row in rows if condition(row) and (request.include_query_clips or row.id not in out)]
    # Equal vectors have equal cosines; what is left of rounding must not order them.
    cosine = {row.id: round(float(row.vector.astype(np.float64) @ query), 9) for row in possible}
    threshold = -2 if request.min_similarity is None else request.min_similarity
    similar = sorted((i for i in cosine if cosine[i] >= threshold), key=lambda i: (-cosine[i], i))
    by_similarity = {i: n for n, i in enumerate(similar, 1)}
    if request.signals is not None:
        return [(i, cosine[i], (by_similarity[i], False), 0.0) for i in similar]
    texts = [part.text for part in request.parts if isinstance(part, TextPart) and part.weight > 0]
    spoken, named = word_scores(rows, texts)
    scores = {row.id: spoken[row.id] for row in possible if row.id in spoken}
    for video, score in named.items():
        clips = sorted((row.id for row in possible if row.video == video), key=lambda i: (-cosine[i], i))
        for clip in clips[:3]:
            scores.setdefault(clip, score)
    partial = sorted((i for i in scores if scores[i].is_partial), key=lambda i: (-scores[i].score, i))
    pairs = set().union(*(itertools.pairwise(tokens_in(text)) for text in texts))
    for row in possible:
        if row.id in partial:
            present = {*itertools.pairwise(row.spoken), *itertools.pairwise(row.title)}
            count = len(pairs & present) if row.id in partial[:MAX_ORDERED] else 0
            score = scores[row.id]
            scores[row.id] = score._replace(score=score.score * (1 + count) / (1 + len(pairs)))
    positive = [part for part in request.parts if part.weight > 0]
    share = sum(part.weight for part in positive if isinstance(part, TextPart)) / sum(part.weight for part in positive)
    scores = {i: score._replace(score=share * score.score) for i, score in scores.items()}
    none = WordScore(0.0, False, False)

    def order(i: int) -> tuple[float, bool, float, int]:
        score = scores.get(i, none)
        return -(score.score + (1 - score.score) * 0.6 * (1 + cosine[i]) / 2), not score.has_phrase, -cosine[i], i

    return [
        (i, cosine[i], (by_similarity[i], i in scores), scores.get(i, none).score) for i in sorted(similar, key=order)
    ]


def _query(by_id: dict[int, Row], request: SearchRequest) -> Any:
    query = np.zeros(WIDTH)
    for part in request.parts:
        vector = by_id[part.clip_id].vector if isinstance(part, ClipPart) else part.embedding
        query += part.weight * vector.astype(np.float64) / np.linalg.norm(vector.astype(np.float64))
    return query / np.linalg.norm(query)


def brute_force(rows: list[Row], request: SearchRequest, condition: Any) -> list[dict[str, Any]]:
    """All results, of every page."""
    by_id = {row.id: row for row in rows}
    order = brute_order(rows, request, condition)
    if request.group != "clip":
        order = order[: request.candidates]
    fused: dict[int, float] = {}
    if request.rerank:
        text = next(part.text for part in request.parts if isinstance(part, TextPart) and part.weight > 0)
        head = order[: request.rerank]
        match = MODEL.match([text] * len(head), [by_id[i].tokens.astype(np.float32) for i, *_ in head])
        scores = MODEL.fused_score(np.array([cosine for _, cosine, *_ in head]), match.logits)
        fused = {candidate[0]: float(score) for candidate, score in zip(head, scores, strict=True)}
        movable = sorted((c for c in head if c[3] < 0.2), key=lambda c: -(c[3] + (1 - c[3]) * fused[c[0]]))
        order = [movable.pop(0) if c[3] < 0.2 else c for c in head] + order[request.rerank :]
    ids = [i for i, *_ in order]
    known = {i: (cosine, places) for i, cosine, places, _ in order}
    clusters = [[i] for i in ids]
    if request.group == "event":
        spread = np.std([row.vector @ _query(by_id, request) for row in rows]) + 1e-5
        clusters = _events([by_id[i] for i in ids], {i: cosine for i, (cosine, _) in known.items()}, spread)
    elif request.group == "video":
        videos = itertools.groupby(sorted(ids, key=lambda i: by_id[i].video), key=lambda i: by_id[i].video)
        clusters = [list(group) for _, group in videos]
    results = []
    for cluster in sorted((sorted(ids_, key=ids.index) for ids_ in clusters), key=lambda ids_: ids.index(ids_[0])):
        best = by_id[cluster[0]]
        of_event = [by_id[i] for i in cluster] if request.group == "event" else [best]
        results.append(
            {
                "clip": best.id,
                "span": (min(row.start for row in of_event), max(row.end for row in of_event)),
                "similarity": known[best.id][0],
                "fused": fused.get(best.id),
                "ranks": known[best.id][1],
                "clips": cluster[: request.clips_per_result] if request.group != "clip" else [],
                "count": len(cluster),
            }
        )
    return results


def _events(rows: list[Row], cosine: dict[int, float], spread: float) -> list[list[int]]:
    """Ids of the clips of each event.

    Clips within ``spread`` of the best of their video form chains with gaps no longer than the clip before; the other
    clips between start and end of a chain belong to it.
    """
    best = {row.video: max(cosine[other.id] for other in rows if other.video == row.video) for row in rows}
    events = [[row] for row in rows if cosine[row.id] >= best[row.video] - spread]
    for a, b in itertools.permutations([row for [row] in events], 2):
        if a.video == b.video and a.start <= b.start <= a.end + (a.end - a.start):
            first, second = (next(event for event in events if row in event) for row in (a, b))
            if first is not second:
                events.remove(second)
                first += second
    for row in rows:
        if cosine[row.id] < best[row.video] - spread:
            around = [
                event
                for event in events
                if event[0].video == row.video
                and min(other.start for other in event) <= row.start
                and row.end <= max(other.end for other in event)
            ]
            if around:
                around[0].append(row)
            else:
                events.append([row])
    return [[row.id for row in event] for event in events]


def rank_of(hit: RankedHit, signal: SearchSignal) -> int | None:
    return hit.signals[signal].rank if signal in hit.signals else None


def word_rank(hit: RankedHit) -> int | None:
    return rank_of(hit, "speech") or rank_of(hit, "name")


def draw_request(draw: random.Random, rows: list[Row]) -> tuple[SearchRequest, Any]:
    """Return a random request, and the condition of its filter."""
    parts: list[QueryPart] = []
    if draw.random() < 0.8:
        parts.append(
            text_part(MODEL, " ".join(draw.sample(VOCABULARY + CHINESE, draw.randint(1, 3))), draw.choice([1.0, 2.0]))
        )
    if draw.random() < 0.4:
        parts += [ClipPart(row.id, draw.choice([0.5, -0.5, 1.0])) for row in draw.sample(rows, draw.randint(1, 2))]
    if draw.random() < 0.3 or not parts:
        parts.append(EmbeddingPart(np.random.default_rng(draw.randrange(1000)).standard_normal(WIDTH), 0.7))
    has_text = isinstance(parts[0], TextPart)
    condition_json, condition = draw.choice([*FILTERS[:-1], *FILTERS])
    group: Any = draw.choice(["clip", "clip", "event", "video"])
    request = SearchRequest(
        MODEL.bundle.fingerprint,
        parts,
        limit=draw.choice([1, 4, 10, 400]),
        where=None if condition_json is None else parse_filter(condition_json),
        rerank=draw.choice([0, 0, 7, 33]) if has_text else 0,
        signals=None if has_text and draw.random() < 0.6 else {"visual": 2.0},
        group=group,
        candidates=draw.choice([20, 60, 200]) if group != "clip" else None,
        clips_per_result=draw.choice([1, 3, 100]),
        min_similarity=draw.choice([None, None, 0.0, 0.35]),
        include_query_clips=draw.random() < 0.3,
    )
    return request, condition


@pytest.mark.parametrize("seed", range(2, 2 + rounds(1, 12)))  # 2 has reranked results on several pages
def test_every_page_equals_brute_force(
    filled: tuple[Collection, list[Row]], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection, rows = filled
    monkeypatch.setattr(search_module, "SAMPLE_SIZE", 10_000)  # every clip
    draw = random.Random(seed)
    seen: Counter[str] = Counter()
    for _ in range(30):
        request, condition = draw_request(draw, rows)
        expected = brute_force(rows, request, condition)
        pages = all_pages(collection, MODEL, request, max_pages=6)
        results = [result for page in pages for result in page.results]
        assert (pages[-1].next_position is not None) == (len(expected) > len(pages) * request.limit)
        assert len(results) == min(len(expected), len(pages) * request.limit)
        for result, other in zip(results, expected, strict=False):
            assert result.best.hit.clip_id == other["clip"], request
            assert (result.start, result.end) == other["span"]
            assert (rank_of(result.best, "visual"), word_rank(result.best) is not None) == other["ranks"]
            assert [clip.hit.clip_id for clip in result.clips] == other["clips"]
            assert result.clip_count == other["count"]
            assert result.best.similarity == pytest.approx(other["similarity"], abs=1e-5)
            assert (result.best.fused is None) == (other["fused"] is None)
            if other["fused"] is not None:
                assert result.best.fused == pytest.approx(other["fused"], abs=1e-5)
        seen["results"] += len(results)
        seen["words"] += sum(word_rank(result.best) is not None for result in results)
        seen["merged"] += sum(result.clip_count > 1 for result in results)
        seen["pages"] += len(pages)
    assert min(seen.values()) > 30, seen


def test_pages_fit_together_beyond_the_ranks_by_similarity(
    filled: tuple[Collection, list[Row]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks up to 30 instead of 1000: all clips follow, without duplicates, on all pages."""
    collection, rows = filled
    monkeypatch.setattr("index.search.fusion.RANK_DEPTH", 30)
    monkeypatch.setattr(search_module, "RANK_DEPTH", 30)
    request = request_for(MODEL, "piano snow", limit=25)
    pages = [result.best.hit.clip_id for page in all_pages(collection, MODEL, request) for result in page.results]
    at_once = search(collection, replace(request, limit=1000)).results
    assert pages == [result.best.hit.clip_id for result in at_once]
    assert sorted(pages) == sorted(row.id for row in rows)
    similar = [
        r.best.hit.clip_id for r in search(collection, replace(request, limit=1000, signals={"visual": 1})).results
    ]
    matched = {r.best.hit.clip_id for r in at_once if word_rank(r.best)}
    assert 30 < len(matched) < len(rows)
    assert [clip for clip in pages if clip not in matched] == [clip for clip in similar if clip not in matched]
    for result in at_once:
        rank = similar.index(result.best.hit.clip_id) + 1
        is_ranked = rank <= 30 or result.best.hit.clip_id not in matched
        assert rank_of(result.best, "visual") == (rank if is_ranked else None)


@only_by_chaos
@pytest.mark.parametrize("kind", [FLAT, HNSW, IVFPQ, "milvus"])
def test_ten_thousand_results_of_thirty_thousand_clips(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    """The pages of every query have exactly the 10,000 most similar clips."""
    random = np.random.default_rng(7)
    centres = random.standard_normal((300, DEEP_DIM))
    rows = centres[random.integers(0, 300, DEEP_VIDEOS * DEEP_CLIPS)] + 0.7 * random.standard_normal(
        (DEEP_VIDEOS * DEEP_CLIPS, DEEP_DIM)
    )
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    wide_manifest = manifest().model_copy(update={"vector_width": DEEP_DIM})
    bundle = SimpleNamespace(fingerprint=wide_manifest.fingerprint(), manifest=SimpleNamespace(tasks=[], name="wide"))
    model: Any = SimpleNamespace(bundle=bundle)
    vectors = str(request.getfixturevalue("milvus").url) if kind == "milvus" else "faiss"
    queries, limit = (3, 500) if kind == "milvus" else (20, 100)  # Milvus Lite is slow
    with CollectionStore(tmp_path) as library:
        setting = HNSW if kind == "milvus" else kind
        collection = library.create("videos", wide_manifest, vectors=vectors, index_kind=setting)
        try:
            add_all(collection, rows)
            search_page(collection, model, EmbeddingPart(rows[0]))
            collection.wait_for_index()
            assert collection.index_state().serving == setting
            for query in random.standard_normal((queries, DEEP_DIM)).astype(np.float32):
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


def add_all(collection: Collection, rows: np.ndarray) -> None:
    tokens = np.zeros(TOKENS, np.float16)
    for number in range(DEEP_VIDEOS):
        own = rows[number * DEEP_CLIPS : (number + 1) * DEEP_CLIPS]
        clips = [NewClip(4.0 * n, 4.0 * n + 4, row, tokens) for n, row in enumerate(own)]
        collection.add_video(NewVideo(content(number), f"/videos/{number}.mp4", f"video {number}", 400.0, 8, 8), clips)

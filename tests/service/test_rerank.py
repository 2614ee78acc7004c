"""Reranking: a sentence against stored clips and videos, a stored clip against sentences."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.media_files import solid, write_animation
from tests.service.conftest import fill, settings_for
from tests.service.running import JSON, Running, problem_of, serving
from tests.small_bundle import make_small_bundle


def reranked(running: Running, **body: object) -> JSON:
    answer = running.client.post("/v1/rerank", json=body)
    assert answer.status_code == 200, answer.text
    made: JSON = answer.json()
    return made


def clips_of(running: Running, collection: str) -> dict[str, tuple[str, str]]:
    """(video id, id of its first clip) by title."""
    base = f"/v1/collections/{collection}/videos"
    found = {}
    for video in running.client.get(base, params={"limit": 100}).json()["videos"]:
        spans = running.client.get(f"{base}/{video['id']}").json()["spans"]
        found[video["title"]] = (video["id"], spans[0]["id"])
    return found


def test_clips_are_ranked_for_a_text(running: Running, palette: str) -> None:
    known = clips_of(running, palette)
    documents = [{"clip_id": known[name][1]} for name in ("green", "red", "blue")]
    found = reranked(running, query="a red thing", documents=documents, collection=palette, model="small-colours")
    assert found["model"] == "small-colours"
    best, *others = found["results"]
    assert best["index"] == 1
    assert best["relevance_score"] == best["fused"] > 0.9
    assert best["match"] > 0.9
    assert best["similarity"] > 0.9
    assert best["clip"] == {"clip_id": known["red"][1], "video_id": known["red"][0], "start": 0.0, "end": 2.0}
    assert best["document"] is None
    scores = [one["relevance_score"] for one in found["results"]]
    assert scores == sorted(scores, reverse=True)
    assert {one["index"] for one in others} == {0, 2}


def test_scores_are_those_of_a_reranked_search(running: Running, palette: str) -> None:
    body = {"text": "a blue thing", "rerank": 3}
    searched = running.client.post(f"/v1/collections/{palette}/search", json=body).json()["results"]
    documents = [{"clip_id": one["clip_id"]} for one in searched]
    found = reranked(running, query="a blue thing", documents=documents, collection=palette)["results"]
    assert [one["index"] for one in found] == [0, 1, 2]
    for one, hit in zip(found, searched, strict=True):
        assert (one["match"], one["fused"]) == pytest.approx((hit["match"], hit["fused"]), abs=1e-5)
        assert one["similarity"] == pytest.approx(hit["similarity"], abs=1e-5)


def test_the_best_clip_of_a_video_counts(running: Running, collection: str, tmp_path: Path) -> None:
    colours = ((10, 200, 10), (10, 10, 220), (220, 10, 10))
    path = write_animation(tmp_path / "three.webp", [solid(colour) for colour in colours], [8000] * 3)
    added = running.client.post(
        f"/v1/collections/{collection}/videos", files={"file": (path.name, path.read_bytes())}
    ).json()
    assert added["clips"] == 3
    document = {"video_id": added["id"]}
    found = reranked(running, query="a blue thing", documents=[document], collection=collection)["results"]
    assert (found[0]["clip"]["start"], found[0]["clip"]["end"]) == (8.0, 16.0)
    # The other way round each sentence has a clip of its own.
    sentences = ["a red thing", "a black thing", "a green thing"]
    found = reranked(running, query=document, documents=sentences, collection=collection)["results"]
    starts = {sentences[one["index"]]: one["clip"]["start"] for one in found}
    assert (starts["a red thing"], starts["a green thing"]) == (16.0, 0.0)
    assert found[-1]["index"] == 1


def test_texts_are_ranked_for_a_clip(running: Running, palette: str) -> None:
    clip = {"clip_id": clips_of(running, palette)["green"][1]}
    sentences = ["a red thing", "a green thing", "a blue thing", "a green thing"]
    found = reranked(running, query=clip, documents=sentences, collection=palette, top_n=2, return_documents=True)[
        "results"
    ]
    assert [(one["index"], one["document"]) for one in found] == [(1, "a green thing"), (3, "a green thing")]


def test_a_clip_without_visual_tokens_is_last_and_not_scored(running: Running, colors: str) -> None:
    known = clips_of(running, colors)
    collection = running.service.collection(colors)
    with collection.catalogue.write() as connection:
        connection.execute("DELETE FROM tokens WHERE clip_id = ?", (int(known["red"][1]),))
    documents = [{"clip_id": known[name][1]} for name in ("red", "blue")]
    found = reranked(running, query="a red thing", documents=documents, collection=colors)["results"]
    assert [one["index"] for one in found] == [1, 0]
    assert (found[1]["match"], found[1]["fused"], found[1]["relevance_score"]) == (None, None, 0.0)
    assert found[1]["similarity"] > 0.9


@pytest.mark.parametrize(
    ("body", "status", "code", "word"),
    [
        ({"documents": []}, 422, "validation_failed", "documents"),
        ({"documents": ["a"]}, 422, "validation_failed", "or the reverse"),
        ({"query": {"clip_id": "1"}}, 422, "validation_failed", "or the reverse"),
        ({"documents": [{"clip_id": "1"}, "a"]}, 422, "validation_failed", "documents"),
        ({"documents": [{}]}, 422, "validation_failed", "one of them"),
        ({"documents": [{"clip_id": "1", "video_id": "1"}]}, 422, "validation_failed", "one of them"),
        ({"top_n": 0}, 422, "validation_failed", "top_n"),
        ({"documents": [{"clip_id": "1"}] * 101}, 422, "invalid_input", "documents: 101"),
        ({"query": " "}, 422, "invalid_text", "query"),
        ({"query": {"clip_id": "1"}, "documents": ["a", ""]}, 422, "invalid_text", "documents[1]"),
        ({"documents": [{"clip_id": "99999"}]}, 404, "not_found", "99999"),
        ({"documents": [{"clip_id": "one"}]}, 404, "not_found", "no clip"),
        ({"documents": [{"video_id": "99999"}]}, 404, "video_not_found", "99999"),
        ({"collection": "nowhere"}, 404, "collection_not_found", "nowhere"),
        ({"model": "rerank-v3.5"}, 404, "model_not_found", "small-colours"),
    ],
)
def test_invalid_rerank_requests_are_rejected(
    running: Running, palette: str, body: JSON, status: int, code: str, word: str
) -> None:
    asked = {"query": "a red thing", "documents": [{"clip_id": "1"}], "collection": palette} | body
    assert word in problem_of(running.client.post("/v1/rerank", json=asked), status, code)["detail"]


def test_a_bundle_without_matching_is_rejected(tmp_path: Path, files: Path) -> None:
    bundle = make_small_bundle(tmp_path / "bundle", tasks=["retrieval"])
    with serving(settings_for(bundle, tmp_path / "data")) as running:
        running.client.post("/v1/collections", json={"name": "videos"})
        fill(running, "videos", files)
        asked = {"query": "a red thing", "documents": [{"clip_id": "1"}], "collection": "videos"}
        problem_of(running.client.post("/v1/rerank", json=asked), 409, "task_missing")

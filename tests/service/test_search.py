"""Search over HTTP: by text, clip, file and combinations; full text; filters; events and videos; pages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.records import NewClip, NewVideo
from tests.media_files import solid, write_picture
from tests.service.running import JSON, Running, problem_of
from vitascope.client import Client


def search(running: Running, collection: str, **body: object) -> JSON:
    response = running.client.post(f"/v1/collections/{collection}/search", json=body)
    assert response.status_code == 200, response.text
    result: JSON = response.json()
    return result


def search_with_file(running: Running, collection: str, file: Path, **fields: str) -> JSON:
    files = {"file": (file.name, file.read_bytes())}
    response = running.client.post(f"/v1/collections/{collection}/search", files=files, data=fields)
    assert response.status_code == 200, response.text
    result: JSON = response.json()
    return result


def titles(response: JSON) -> list[str]:
    return [result["video"]["title"] for result in response["results"]]


def test_a_text_finds_the_clip_and_its_media(running: Running, palette: str) -> None:
    response = search(running, palette, text="a green thing")
    best = response["results"][0]
    assert (response["text"], best["video"]["title"]) == ("a green thing", "green")
    assert (best["start"], best["end"], best["match"], best["fused"]) == (0.0, 2.0, None, None)
    assert best["similarity"] > 0.9
    assert best["media_url"].endswith(f"/videos/{best['video']['id']}/media#t=0,2")
    assert running.client.get(best["media_url"]).status_code == 200
    assert running.client.get(best["thumbnail_url"]).headers["content-type"] == "image/jpeg"


def test_reranked_clips_come_first_by_fused_score_and_others_have_none(running: Running, palette: str) -> None:
    results = search(running, palette, text="a blue thing", rerank=2)["results"]
    assert results[0]["video"]["title"] == "blue"
    assert results[0]["match"] > 0.9
    assert results[0]["fused"] > results[1]["fused"]
    assert (results[2]["match"], results[2]["fused"]) == (None, None)
    assert [result["relevance"] for result in results[:2]] == [result["fused"] for result in results[:2]]


def fill(running: Running, name: str, count: int, *, first: int = 0, speech: str = "") -> None:
    """Add videos of three adjacent clips of 4 s: red, blue and red."""
    collection = running.service.library.open(name)
    red, blue = running.service.model.embed_text(["red", "blue"])
    tokens = np.zeros((2, 16), np.float16)
    for number in range(first, first + count):
        clips = [
            NewClip(4.0 * n, 4.0 * n + 4, vector + 0.01 * number, tokens, f"{speech} {n}".strip())
            for n, vector in enumerate((red, blue, red))
        ]
        collection.add_video(NewVideo(f"{number:064x}", "/v.mp4", f"video {number}", 12.0, 8, 8), clips)


def test_a_clip_finds_similar_clips(running: Running, palette: str) -> None:
    red = search(running, palette, text="a red thing")["results"][0]
    query = [{"kind": "clip", "value": red["clip_id"]}]
    response = search(running, palette, query=query)
    assert response["text"] is None
    assert sorted(titles(response)) == ["blue", "green"]
    assert titles(search(running, palette, query=query, include_query_clips=True))[0] == "red"
    toward = [*query, {"kind": "text", "value": "a blue thing", "weight": 5}]
    assert titles(search(running, palette, query=toward, rerank=2))[0] == "blue"


def test_a_picture_finds_similar_clips(running: Running, palette: str, tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "leaf.png", solid((40, 190, 30)))
    response = search_with_file(running, palette, picture, limit="1")
    assert titles(response) == ["green"]
    assert (response["text"], response["results"][0]["match"]) == (None, None)
    both = json.dumps([{"kind": "file", "weight": 0.2}, {"kind": "text", "value": "a red thing"}])
    assert titles(search_with_file(running, palette, picture, query=both, limit="1")) == ["red"]
    assert titles(search_with_file(running, palette, picture, text="a green thing", rerank="2"))[0] == "green"
    assert titles(search_with_file(running, palette, picture, filter='{"color": "blue"}')) == ["blue"]


def test_the_next_page_of_a_search_with_a_file_needs_no_file(running: Running, palette: str, files: Path) -> None:
    part = json.dumps([{"kind": "file", "start": 0.5, "end": 1.5}])
    assert titles(search_with_file(running, palette, files / "blue.mp4", query=part, limit="1")) == ["blue"]
    first = search_with_file(running, palette, files / "green.mp4", limit="2")
    body: JSON = {"query": [{"kind": "file"}]}
    second = search(running, palette, **body, limit=2, cursor=first["next_cursor"])
    assert titles(first)[0] == "green"
    assert sorted(titles(first) + titles(second)) == ["blue", "green", "red"]
    assert second["next_cursor"] is None
    response = running.client.post(f"/v1/collections/{palette}/search", json=body)
    assert "needs a form" in problem_of(response, 422, "validation_failed")["detail"]


def test_search_includes_words_of_title_and_speech(running: Running, collection: str) -> None:
    fill(running, collection, 3)
    fill(running, collection, 1, first=3, speech="Die Brücke am Fluß")
    plain = search(running, collection, text="a blue brucke", limit=12, signals=["visual"])
    assert [
        [(signal, score["rank"]) for signal, score in result["signals"].items()] for result in plain["results"]
    ] == [[("visual", rank)] for rank in range(1, 13)]
    results = search(running, collection, text="a blue brucke", limit=12)
    spoken = [result for result in results["results"] if "speech" in result["signals"]]
    assert {result["video"]["title"] for result in spoken} == {"video 3"}
    assert sorted(result["text"] for result in spoken) == [f"Die Brücke am Fluß {n}" for n in range(3)]
    assert results["results"][0]["text"] == "Die Brücke am Fluß 1"


def test_clips_are_filtered_by_their_time_and_speech(running: Running, collection: str) -> None:
    fill(running, collection, 2)
    fill(running, collection, 1, first=2, speech="good morning")

    def results(filter_json: JSON, **options: Any) -> list[tuple[str, float]]:
        results = search(running, collection, text="red", limit=20, filter=filter_json, **options)["results"]
        return sorted((result["video"]["title"], result["start"]) for result in results)

    assert results({"clip": {"start": {"gte": 8}}}) == [(f"video {n}", 8.0) for n in range(3)]
    assert results({"clip": {"text": {"prefix": "good"}, "end": {"lte": 8}}}) == [("video 2", 0.0), ("video 2", 4.0)]
    assert results({"title": "video 1", "clip": {"start": 4}}) == [("video 1", 4.0)]
    assert results({"added_at": {"gte": "2021-01-01"}, "clip": {"start": 0}}, group="video") == [
        (f"video {n}", 0.0) for n in range(3)
    ]
    assert results({"added_at": {"lt": "2021-01-01"}}) == []


def test_videos_are_listed_by_day_and_by_fields_of_clips(running: Running, collection: str) -> None:
    fill(running, collection, 2)
    path = f"/v1/collections/{collection}/videos"
    with Client(str(running.client.base_url)) as client:
        assert len(list(client.iter_videos(collection, where={"added_at": {"gte": "2021-01-01T00:00:00Z"}}))) == 2
        assert [v["title"] for v in client.iter_videos(collection, where={"title": {"ne": "video 0"}})] == ["video 1"]
        assert list(client.iter_videos(collection, where={"added_at": {"lte": "2020-12-31"}})) == []
    for start, count in ((0, 2), (1, 0)):
        response = running.client.get(path, params={"filter": f'{{"clip": {{"start": {start}}}}}'})
        assert len(response.json()["videos"]) == count
    response = running.client.get(path, params={"filter": '{"added_at": "today"}'})
    assert "added_at.eq: 'today'" in problem_of(response, 422, "invalid_filter")["detail"]


def test_a_video_lists_its_clips_with_their_speech(running: Running, collection: str) -> None:
    fill(running, collection, 1, speech="good morning")
    video_id = running.client.get(f"/v1/collections/{collection}/videos").json()["videos"][0]["id"]
    spans = running.client.get(f"/v1/collections/{collection}/videos/{video_id}").json()["spans"]
    assert [span["text"] for span in spans] == [f"good morning {n}" for n in range(3)]
    hits = search(running, collection, text="red")["results"]
    assert {(hit["clip_id"], hit["text"], hit["thumbnail_url"]) for hit in hits} == {
        (span["id"], span["text"], span["thumbnail_url"]) for span in spans
    }


def test_results_are_grouped_by_event_and_video(running: Running, collection: str) -> None:
    fill(running, collection, 2)
    clips = search(running, collection, text="red")
    assert [result["clips"] for result in clips["results"]] == [None] * 6
    events = search(running, collection, text="red", group="event", candidates=4)
    assert sorted((r["video"]["title"], r["start"], r["end"], r["clip_count"]) for r in events["results"]) == [
        (f"video {number}", 0.0, 12.0, 2) for number in (0, 1)
    ]
    whole = search(running, collection, text="red", group="event", clips=2)["results"]
    assert [(r["start"], r["end"], r["clip_count"], len(r["clips"])) for r in whole] == [(0.0, 12.0, 3, 2)] * 2
    assert whole[0]["media_url"].endswith("#t=0,12")
    assert whole[0]["similarity"] == whole[0]["clips"][0]["similarity"] >= whole[0]["clips"][1]["similarity"]
    videos = search(running, collection, text="red", group="video", rerank=3)["results"]
    assert [(r["clip_count"], len(r["clips"])) for r in videos] == [(3, 3)] * 2
    assert videos[0]["clip_id"] == videos[0]["clips"][0]["clip_id"]
    assert videos[0]["fused"] is not None


@pytest.mark.parametrize(
    "options", [{}, {"signals": ["visual"]}, {"rerank": 5}, {"group": "video"}, {"group": "event", "candidates": 15}]
)
def test_pages_fit_together(running: Running, collection: str, options: dict[str, Any]) -> None:
    fill(running, collection, 7)
    whole = search(running, collection, text="red video", limit=100, **options)
    assert whole["next_cursor"] is None
    with Client(str(running.client.base_url)) as client:
        pages = list(client.iter_search_pages(collection, "red video", limit=4, **options))
    assert [result for page in pages for result in page["results"]] == whole["results"]
    assert [len(page["results"]) for page in pages[:-1]] == [4] * (len(pages) - 1)
    assert len(pages) > 1
    assert not any(page["changed"] for page in pages)


def test_pages_report_changes_of_the_collection_and_show_its_first_state(running: Running, collection: str) -> None:
    fill(running, collection, 4)
    first = search(running, collection, text="red", limit=4)
    deleted = first["results"][0]["video"]["id"]
    running.client.delete(f"/v1/collections/{collection}/videos/{deleted}").raise_for_status()
    fill(running, collection, 1, first=4)
    second = search(running, collection, text="red", limit=4, cursor=first["next_cursor"])
    third = search(running, collection, text="red", limit=4, cursor=second["next_cursor"])
    assert [page["changed"] for page in (first, second, third)] == [False, True, False]
    shown = [result["clip_id"] for page in (first, second, third) for result in page["results"]]
    assert len(shown) == len(set(shown))
    of_first = {result["clip_id"] for result in first["results"]}
    kept = {result["clip_id"] for result in search(running, collection, text="red", limit=100)["results"]}
    assert kept - set(shown) == {clip for clip in kept if int(clip) > 12}
    assert set(shown) - kept <= of_first
    assert third["next_cursor"] is None


def test_a_cursor_expires_with_its_collection(running: Running, collection: str) -> None:
    fill(running, collection, 2)
    first = search(running, collection, text="red", limit=1)
    path = f"/v1/collections/{collection}"
    running.client.delete(path).raise_for_status()
    running.client.post("/v1/collections", json={"name": collection}).raise_for_status()
    fill(running, collection, 2)
    response = running.client.post(f"{path}/search", json={"text": "red", "limit": 1, "cursor": first["next_cursor"]})
    assert "a new search" in problem_of(response, 409, "cursor_expired")["detail"]


def test_a_cursor_belongs_to_its_search(running: Running, palette: str) -> None:
    first = search(running, palette, text="red", limit=1)
    path = f"/v1/collections/{palette}/search"
    for other in ({"text": "blue"}, {"text": "red", "rerank": 1}, {"text": "red", "filter": {"color": "red"}}):
        response = running.client.post(path, json={**other, "cursor": first["next_cursor"]})
        assert "of another search" in problem_of(response, 400, "bad_request")["detail"]
    for cursor in ("", "a", "!!", "e30", "bnVsbA", "eyJvZmZzZXQiOi0xfQ"):
        response = running.client.post(path, json={"text": "red", "cursor": cursor})
        assert problem_of(response, 400, "bad_request")["detail"].startswith("cursor: ")
    assert len(search(running, palette, text="red", limit=2, cursor=first["next_cursor"])["results"]) == 2


@pytest.mark.parametrize(
    ("body", "status", "code", "word"),
    [
        ({}, 422, "validation_failed", "text, query: one of them"),
        ({"text": "a", "query": [{"kind": "text", "value": "a"}]}, 422, "validation_failed", "not both"),
        ({"query": []}, 422, "validation_failed", "query"),
        ({"query": [{"kind": "sound", "value": "a"}]}, 422, "validation_failed", "query.0"),
        ({"query": [{"kind": "text", "value": " "}]}, 422, "invalid_text", "query.0.value"),
        ({"query": [{"kind": "text", "value": "a", "weight": 0}]}, 422, "invalid_input", "query.0.weight: 0"),
        ({"query": [{"kind": "text", "value": "a", "weight": 1e9}]}, 422, "validation_failed", "weight"),
        ({"query": [{"kind": "clip", "value": "999"}]}, 404, "not_found", "query.0: clip 999"),
        ({"query": [{"kind": "clip", "value": "x"}]}, 404, "not_found", "query.0.value: 'x'"),
        ({"query": [{"kind": "clip", "value": "1"}], "rerank": 3}, 422, "invalid_input", "rerank: 3"),
        ({"query": [{"kind": "text", "value": "a"}] * 17}, 422, "invalid_input", "query: 17; at most 16"),
        ({"text": " \n\t"}, 422, "invalid_text", "text"),
        ({"text": "a" * 100_000}, 422, "invalid_text", "100000"),
        ({"text": "a", "limit": 101}, 422, "invalid_input", "limit: 101"),
        ({"text": "a", "rerank": 101}, 422, "invalid_input", "rerank: 101"),
        ({"text": "a", "filter": {"a": {"above": 1}}}, 422, "invalid_filter", "above"),
        ({"text": "a", "candidates": 5}, 422, "invalid_input", "candidates: 5"),
        ({"text": "a", "group": "video", "candidates": 10_001}, 422, "invalid_input", "candidates: 10001"),
        ({"text": "a", "clips": 101}, 422, "invalid_input", "clips: 101"),
        ({"text": "a", "min_similarity": 2}, 422, "validation_failed", "min_similarity"),
        ({"text": "a", "cursor": "a" * 100_001}, 422, "validation_failed", "cursor"),
    ],
)
def test_invalid_searches_are_rejected(
    running: Running, palette: str, body: JSON, status: int, code: str, word: str
) -> None:
    response = running.client.post(f"/v1/collections/{palette}/search", json=body)
    assert word in problem_of(response, status, code)["detail"]


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"query": "{"}, "query: not JSON"),
        ({"query": '[{"kind": "text", "value": "a"}]'}, 'of kind "file"'),
        ({"query": '[{"kind": "file"}, {"kind": "file"}]'}, 'of kind "file"'),
        ({"limit": "many"}, "limit"),
        ({"filter": "[]"}, "filter"),
        ({"limits": "1"}, "limits"),
    ],
)
def test_invalid_forms_are_rejected(
    running: Running, palette: str, files: Path, fields: dict[str, str], word: str
) -> None:
    upload = {"file": ("red.mp4", (files / "red.mp4").read_bytes())}
    response = running.client.post(f"/v1/collections/{palette}/search", files=upload, data=fields)
    assert word in problem_of(response, 422, "validation_failed")["detail"]


def test_files_that_are_no_media_and_bodies_of_other_types_are_rejected(running: Running, palette: str) -> None:
    path = f"/v1/collections/{palette}/search"
    response = running.client.post(path, files={"file": ("red.mp4", b"no video at all")})
    assert "red.mp4" in problem_of(response, 415, "media_unsupported")["detail"]
    response = running.client.post(path, content=b"a", headers={"content-type": "text/plain"})
    assert "application/json" in problem_of(response, 415, "content_type_unsupported")["detail"]
    assert list(running.service.media.uploads.iterdir()) == []


def test_the_client_searches_with_a_file_page_by_page(running: Running, palette: str, files: Path) -> None:
    with Client(str(running.client.base_url)) as client:
        pages = list(client.iter_search_pages(palette, "a red thing", file=files / "red.mp4", limit=1))
        assert pages[0]["results"][0]["video"]["title"] == "red"
        assert len(pages) == 3
        page_of_one = client.search(
            palette, file=files / "blue.mp4", limit=1, where={"number": {"gte": 1}}, signals=["visual"]
        )
        assert page_of_one["results"][0]["video"]["title"] == "blue"


@pytest.fixture(autouse=True)
def _check_uploads(running: Running) -> Iterator[None]:
    yield
    assert list(running.service.media.uploads.iterdir()) == []

"""Search over HTTP: by sentence, clip, file and a mix; words; events and videos; pages."""

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


def ask(running: Running, collection: str, **body: object) -> JSON:
    answer = running.client.post(f"/v1/collections/{collection}/search", json=body)
    assert answer.status_code == 200, answer.text
    result: JSON = answer.json()
    return result


def ask_with(running: Running, collection: str, file: Path, **fields: str) -> JSON:
    files = {"file": (file.name, file.read_bytes())}
    answer = running.client.post(f"/v1/collections/{collection}/search", files=files, data=fields)
    assert answer.status_code == 200, answer.text
    result: JSON = answer.json()
    return result


def titles(answer: JSON) -> list[str]:
    return [result["video"]["title"] for result in answer["results"]]


def fill(running: Running, name: str, count: int, *, first: int = 0, said: str = "") -> None:
    """Videos of three clips of 4 s each that touch; red, then blue, then red."""
    collection = running.service.library.open(name)
    red, blue = running.service.model.embed_text(["red", "blue"])
    tokens = np.zeros((2, 16), np.float16)
    for number in range(first, first + count):
        clips = [
            NewClip(4.0 * n, 4.0 * n + 4, vector + 0.01 * number, tokens, f"{said} {n}".strip())
            for n, vector in enumerate((red, blue, red))
        ]
        collection.add_video(NewVideo(f"{number:064x}", "/v.mp4", f"video {number}", 12.0, 8, 8), clips)


def test_a_clip_finds_what_looks_like_it(running: Running, palette: str) -> None:
    red = ask(running, palette, text="a red thing")["results"][0]
    asked = [{"kind": "clip", "value": red["clip_id"]}]
    answer = ask(running, palette, query=asked)
    assert answer["text"] is None
    assert sorted(titles(answer)) == ["blue", "green"]
    assert titles(ask(running, palette, query=asked, include_query_clips=True))[0] == "red"
    toward = [*asked, {"kind": "text", "value": "a blue thing", "weight": 5}]
    assert titles(ask(running, palette, query=toward, rerank=2))[0] == "blue"


def test_a_picture_finds_what_looks_like_it_and_is_not_kept(running: Running, palette: str, tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "leaf.png", solid((40, 190, 30)))
    answer = ask_with(running, palette, picture, limit="1")
    assert titles(answer) == ["green"]
    assert (answer["text"], answer["results"][0]["match"]) == (None, None)
    both = json.dumps([{"kind": "file", "weight": 0.2}, {"kind": "text", "value": "a red thing"}])
    assert titles(ask_with(running, palette, picture, query=both, limit="1")) == ["red"]
    assert titles(ask_with(running, palette, picture, text="a green thing", rerank="2"))[0] == "green"
    assert titles(ask_with(running, palette, picture, filter='{"color": "blue"}')) == ["blue"]
    assert list(running.service.media.uploads.iterdir()) == []


def test_a_part_of_a_video_can_be_searched_with(running: Running, palette: str, files: Path) -> None:
    part = json.dumps([{"kind": "file", "start": 0.5, "end": 1.5}])
    assert titles(ask_with(running, palette, files / "blue.mp4", query=part, limit="1")) == ["blue"]


def test_the_next_page_of_a_search_with_a_file_needs_no_file(running: Running, palette: str, files: Path) -> None:
    first = ask_with(running, palette, files / "green.mp4", limit="2")
    asked: JSON = {"query": [{"kind": "file"}]}
    second = ask(running, palette, **asked, limit=2, cursor=first["next_cursor"])
    assert titles(first)[0] == "green"
    assert sorted(titles(first) + titles(second)) == ["blue", "green", "red"]
    assert second["next_cursor"] is None
    answer = running.client.post(f"/v1/collections/{palette}/search", json=asked)
    assert "needs a form" in problem_of(answer, 422, "validation_failed")["detail"]


def test_words_of_title_and_speech_count_on_request(running: Running, collection: str) -> None:
    fill(running, collection, 3)
    fill(running, collection, 1, first=3, said="Die Brücke am Fluß")
    plain = ask(running, collection, text="a blue bruecke brucke", limit=12)
    assert all(result["ranks"]["fulltext"] is None for result in plain["results"])
    assert [result["ranks"]["similarity"] for result in plain["results"]] == list(range(1, 13))
    found = ask(running, collection, text="a blue brucke", limit=12, hybrid=True)
    spoken = [result for result in found["results"] if result["ranks"]["fulltext"]]
    assert {result["video"]["title"] for result in spoken} == {"video 3"}
    assert sorted(result["text"] for result in spoken) == [f"Die Brücke am Fluß {n}" for n in range(3)]
    assert found["results"][0]["text"] == "Die Brücke am Fluß 1"


def test_clips_are_filtered_by_their_own_time_and_by_what_is_said(running: Running, collection: str) -> None:
    fill(running, collection, 2)
    fill(running, collection, 1, first=2, said="good morning")

    def found(filter_json: JSON, **options: Any) -> list[tuple[str, float]]:
        results = ask(running, collection, text="red", limit=20, filter=filter_json, **options)["results"]
        return sorted((result["video"]["title"], result["start"]) for result in results)

    assert found({"clip": {"start": {"gte": 8}}}) == [(f"video {n}", 8.0) for n in range(3)]
    assert found({"clip": {"text": {"prefix": "good"}, "end": {"lte": 8}}}) == [("video 2", 0.0), ("video 2", 4.0)]
    assert found({"title": "video 1", "clip": {"start": 4}}, hybrid=True) == [("video 1", 4.0)]
    assert found({"added_at": {"gte": "2021-01-01"}, "clip": {"start": 0}}, group="video") == [
        (f"video {n}", 0.0) for n in range(3)
    ]
    assert found({"added_at": {"lt": "2021-01-01"}}) == []


def test_videos_are_listed_by_day_but_not_by_fields_of_clips(running: Running, collection: str) -> None:
    fill(running, collection, 2)
    path = f"/v1/collections/{collection}/videos"
    with Client(str(running.client.base_url)) as client:
        assert len(list(client.iter_videos(collection, where={"added_at": {"gte": "2021-01-01T00:00:00Z"}}))) == 2
        assert [v["title"] for v in client.iter_videos(collection, where={"title": {"ne": "video 0"}})] == ["video 1"]
        assert list(client.iter_videos(collection, where={"added_at": {"lte": "2020-12-31"}})) == []
    answer = running.client.get(path, params={"filter": '{"clip": {"start": 0}}'})
    assert "clip.start; videos are listed by their own fields" in problem_of(answer, 422, "invalid_filter")["detail"]
    answer = running.client.get(path, params={"filter": '{"added_at": "today"}'})
    assert "added_at.eq: 'today'" in problem_of(answer, 422, "invalid_filter")["detail"]


def test_a_video_lists_its_clips_with_what_is_said(running: Running, collection: str) -> None:
    fill(running, collection, 1, said="good morning")
    video_id = running.client.get(f"/v1/collections/{collection}/videos").json()["videos"][0]["id"]
    spans = running.client.get(f"/v1/collections/{collection}/videos/{video_id}").json()["spans"]
    assert [span["text"] for span in spans] == [f"good morning {n}" for n in range(3)]
    hits = ask(running, collection, text="red")["results"]
    assert {(hit["clip_id"], hit["text"], hit["thumbnail_url"]) for hit in hits} == {
        (span["id"], span["text"], span["thumbnail_url"]) for span in spans
    }


def test_neighbouring_clips_are_one_event_and_videos_list_their_clips(running: Running, collection: str) -> None:
    fill(running, collection, 2)
    clips = ask(running, collection, text="red")
    assert [result["clips"] for result in clips["results"]] == [None] * 6
    events = ask(running, collection, text="red", group="event", candidates=4)
    assert sorted((r["video"]["title"], r["start"], r["end"], r["clip_count"]) for r in events["results"]) == [
        (f"video {number}", start, start + 4, 1) for number in (0, 1) for start in (0.0, 8.0)
    ]
    whole = ask(running, collection, text="red", group="event", clips=2)["results"]
    assert [(r["start"], r["end"], r["clip_count"], len(r["clips"])) for r in whole] == [(0.0, 12.0, 3, 2)] * 2
    assert whole[0]["media_url"].endswith("#t=0,12")
    assert whole[0]["similarity"] == whole[0]["clips"][0]["similarity"] >= whole[0]["clips"][1]["similarity"]
    videos = ask(running, collection, text="red", group="video", rerank=3)["results"]
    assert [(r["clip_count"], len(r["clips"])) for r in videos] == [(3, 3)] * 2
    assert videos[0]["clip_id"] == videos[0]["clips"][0]["clip_id"]
    assert videos[0]["fused"] is not None


@pytest.mark.parametrize(
    "options", [{}, {"hybrid": True}, {"rerank": 5}, {"group": "video"}, {"group": "event", "candidates": 15}]
)
def test_pages_fit_together(running: Running, collection: str, options: dict[str, Any]) -> None:
    fill(running, collection, 7)
    whole = ask(running, collection, text="red video", limit=100, **options)
    assert whole["next_cursor"] is None
    with Client(str(running.client.base_url)) as client:
        pages = list(client.iter_search_pages(collection, "red video", limit=4, **options))
    assert [result for page in pages for result in page["results"]] == whole["results"]
    assert [len(page["results"]) for page in pages[:-1]] == [4] * (len(pages) - 1)
    assert len(pages) > 1
    assert not any(page["changed"] for page in pages)


def test_pages_of_a_collection_that_changes_say_so_and_are_of_its_first_state(
    running: Running, collection: str
) -> None:
    fill(running, collection, 4)
    first = ask(running, collection, text="red", limit=4)
    gone = first["results"][0]["video"]["id"]
    running.client.delete(f"/v1/collections/{collection}/videos/{gone}").raise_for_status()
    fill(running, collection, 1, first=4)
    second = ask(running, collection, text="red", limit=4, cursor=first["next_cursor"])
    third = ask(running, collection, text="red", limit=4, cursor=second["next_cursor"])
    assert [page["changed"] for page in (first, second, third)] == [False, True, False]
    shown = [result["clip_id"] for page in (first, second, third) for result in page["results"]]
    assert len(shown) == len(set(shown))
    of_first = {result["clip_id"] for result in first["results"]}
    kept = {result["clip_id"] for result in ask(running, collection, text="red", limit=100)["results"]}
    assert kept - set(shown) == {clip for clip in kept if int(clip) > 12}
    assert set(shown) - kept <= of_first
    assert third["next_cursor"] is None


def test_a_cursor_of_a_collection_that_was_made_again_has_expired(running: Running, collection: str) -> None:
    fill(running, collection, 2)
    first = ask(running, collection, text="red", limit=1)
    path = f"/v1/collections/{collection}"
    running.client.delete(path).raise_for_status()
    running.client.post("/v1/collections", json={"name": collection}).raise_for_status()
    fill(running, collection, 2)
    answer = running.client.post(f"{path}/search", json={"text": "red", "limit": 1, "cursor": first["next_cursor"]})
    assert "a new search" in problem_of(answer, 409, "cursor_expired")["detail"]


def test_a_cursor_belongs_to_its_search(running: Running, palette: str) -> None:
    first = ask(running, palette, text="red", limit=1)
    path = f"/v1/collections/{palette}/search"
    for other in ({"text": "blue"}, {"text": "red", "rerank": 1}, {"text": "red", "filter": {"color": "red"}}):
        answer = running.client.post(path, json={**other, "cursor": first["next_cursor"]})
        assert "of another search" in problem_of(answer, 400, "bad_request")["detail"]
    for cursor in ("", "a", "!!", "e30", "bnVsbA", "eyJvZmZzZXQiOi0xfQ"):
        answer = running.client.post(path, json={"text": "red", "cursor": cursor})
        assert problem_of(answer, 400, "bad_request")["detail"].startswith("cursor: ")
    assert len(ask(running, palette, text="red", limit=2, cursor=first["next_cursor"])["results"]) == 2


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
        ({"query": [{"kind": "clip", "value": "x"}]}, 404, "not_found", "query.0"),
        ({"query": [{"kind": "clip", "value": "1"}], "rerank": 3}, 422, "invalid_input", "rerank: 3"),
        ({"query": [{"kind": "clip", "value": "1"}], "hybrid": True}, 422, "invalid_input", "hybrid"),
        ({"query": [{"kind": "text", "value": "a"}] * 17}, 422, "invalid_input", "query: 17; at most 16"),
        ({"text": "a", "candidates": 5}, 422, "invalid_input", "candidates: 5"),
        ({"text": "a", "group": "video", "candidates": 10_001}, 422, "invalid_input", "candidates: 10001"),
        ({"text": "a", "clips": 101}, 422, "invalid_input", "clips: 101"),
        ({"text": "a", "min_similarity": 2}, 422, "validation_failed", "min_similarity"),
        ({"text": "a", "cursor": "a" * 100_001}, 422, "validation_failed", "cursor"),
    ],
)
def test_what_cannot_be_asked_is_named(
    running: Running, palette: str, body: JSON, status: int, code: str, word: str
) -> None:
    answer = running.client.post(f"/v1/collections/{palette}/search", json=body)
    assert word in problem_of(answer, status, code)["detail"]


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
def test_a_form_that_cannot_be_asked_is_named(
    running: Running, palette: str, files: Path, fields: dict[str, str], word: str
) -> None:
    upload = {"file": ("red.mp4", (files / "red.mp4").read_bytes())}
    answer = running.client.post(f"/v1/collections/{palette}/search", files=upload, data=fields)
    assert word in problem_of(answer, 422, "validation_failed")["detail"]


def test_a_file_that_is_no_media_is_refused_and_a_body_of_another_type_too(running: Running, palette: str) -> None:
    path = f"/v1/collections/{palette}/search"
    answer = running.client.post(path, files={"file": ("red.mp4", b"no video at all")})
    assert "red.mp4" in problem_of(answer, 415, "media_unsupported")["detail"]
    answer = running.client.post(path, content=b"a", headers={"content-type": "text/plain"})
    assert "application/json" in problem_of(answer, 415, "content_type_unsupported")["detail"]
    assert list(running.service.media.uploads.iterdir()) == []


def test_the_client_searches_with_a_file_page_by_page(running: Running, palette: str, files: Path) -> None:
    with Client(str(running.client.base_url)) as client:
        pages = list(client.iter_search_pages(palette, "a red thing", file=files / "red.mp4", limit=1))
        assert pages[0]["results"][0]["video"]["title"] == "red"
        assert len(pages) == 3
        one = client.search(palette, file=files / "blue.mp4", limit=1, where={"number": {"gte": 1}}, hybrid=False)
        assert one["results"][0]["video"]["title"] == "blue"


@pytest.fixture(autouse=True)
def _nothing_left(running: Running) -> Iterator[None]:
    yield
    assert list(running.service.media.uploads.iterdir()) == []

"""The three tasks over HTTP: search, caption scores, answers; and what is said of the model that does them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.media_files import solid, write_animation
from tests.service.conftest import settings_for
from tests.service.running import JSON, Running, problem_of, serving
from tests.small_bundle import make_small_bundle


def search(running: Running, collection: str, **body: object) -> list[JSON]:
    answer = running.client.post(f"/v1/collections/{collection}/search", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["text"] == body["text"]
    results: list[JSON] = answer.json()["results"]
    return results


def test_a_text_finds_the_clip_and_its_media_url(running: Running, palette: str) -> None:
    best = search(running, palette, text="a green thing")[0]
    assert best["video"]["title"] == "green"
    assert (best["start"], best["end"]) == (0.0, 2.0)
    assert best["similarity"] > 0.9
    assert (best["match"], best["fused"]) == (None, None)
    assert best["media_url"].endswith(f"/videos/{best['video']['id']}/media#t=0,2")
    assert running.client.get(best["media_url"]).status_code == 200
    assert running.client.get(best["thumbnail_url"]).headers["content-type"] == "image/jpeg"


def test_reranked_clips_come_first_by_fused_score_and_the_others_have_none(running: Running, palette: str) -> None:
    results = search(running, palette, text="a blue thing", rerank=2)
    assert results[0]["video"]["title"] == "blue"
    assert results[0]["match"] > 0.9
    assert results[0]["fused"] > results[1]["fused"]
    assert (results[2]["match"], results[2]["fused"]) == (None, None)


def test_a_search_is_filtered_and_limited(running: Running, palette: str) -> None:
    found = search(running, palette, text="a red thing", filter={"number": {"gte": 1}}, limit=1)
    assert [r["video"]["title"] for r in found] in (["green"], ["blue"])
    assert search(running, palette, text="a red thing", filter={"color": "violet"}) == []


def test_grouping_shows_each_video_once(running: Running, collection: str, tmp_path: Path) -> None:
    long = write_animation(tmp_path / "long.webp", [solid((220, 10, 10)), solid((200, 30, 30))], [20_000, 20_000])
    short = write_animation(tmp_path / "short.webp", [solid((10, 10, 220)), solid((30, 30, 200))], [2000, 2000])
    for path in (long, short):
        files = {"file": (path.name, path.read_bytes())}
        assert running.client.post(f"/v1/collections/{collection}/videos", files=files).status_code == 201
    clips = search(running, collection, text="a red thing", limit=2)
    assert [r["video"]["title"] for r in clips] == ["long", "long"]
    videos = search(running, collection, text="a red thing", limit=2, group="video")
    assert [r["video"]["title"] for r in videos] == ["long", "short"]


@pytest.mark.parametrize(
    ("body", "code", "word"),
    [
        ({"text": ""}, "invalid_text", "text"),
        ({"text": " \n\t"}, "invalid_text", "text"),
        ({"text": "a" * 100_000}, "invalid_text", "100000"),
        ({"text": "a", "rerank": True}, "validation_failed", "rerank"),
        ({"text": "a", "limit": 101}, "invalid_input", "limit: 101"),
        ({"text": "a", "rerank": 101}, "invalid_input", "rerank: 101"),
        ({"text": "a", "filter": {"a": {"above": 1}}}, "invalid_filter", "above"),
        ({"text": "a", "filter": {"a": []}}, "invalid_filter", "a"),
    ],
)
def test_invalid_searches_are_rejected(running: Running, palette: str, body: JSON, code: str, word: str) -> None:
    answer = running.client.post(f"/v1/collections/{palette}/search", json=body)
    assert word in problem_of(answer, 422, code)["detail"]
    assert search(running, palette, text="a red thing")


def test_captions_are_scored_in_their_order(running: Running, palette: str) -> None:
    red = search(running, palette, text="a red thing")[0]["video"]
    body = {"collection": palette, "video_id": red["id"], "captions": ["a blue thing", "a red thing"]}
    answer = running.client.post("/v1/caption-scores", json=body).json()
    assert answer["video"] == red
    assert (answer["start"], answer["end"]) == (0.0, 2.0)
    wrong, right = answer["scores"]
    assert (wrong["caption"], right["caption"]) == ("a blue thing", "a red thing")
    for name in ("similarity", "clipscore", "match", "fused"):
        assert right[name] > wrong[name]
    assert right["clipscore"] == pytest.approx(2.5 * right["similarity"])
    assert right["match"] > 0.9


def test_clipscore_has_no_negative_values(running: Running, palette: str) -> None:
    body = {"collection": palette, "video_id": "1", "captions": ["dog", "cat", "person", "car"]}
    scores = running.client.post("/v1/caption-scores", json=body).json()["scores"]
    assert any(s["similarity"] < 0 for s in scores)
    assert all(s["clipscore"] == max(0.0, 2.5 * s["similarity"]) for s in scores)


def test_an_uploaded_file_is_scored_and_not_stored(running: Running, files: Path) -> None:
    with (files / "blue.mp4").open("rb") as file:
        answer = running.client.post(
            "/v1/caption-scores", files={"file": ("b.mp4", file)}, data={"captions": ["a red thing", "a blue thing"]}
        ).json()
    assert answer["video"] is None
    assert answer["end"] == 2.0
    assert answer["scores"][1]["fused"] > answer["scores"][0]["fused"]
    assert list(running.service.media.uploads.iterdir()) == []


def test_a_question_is_answered_with_probabilities(running: Running, palette: str, files: Path) -> None:
    body = {"collection": palette, "video_id": "2", "question": "what color is it?", "top": 3}
    stored = running.client.post("/v1/answers", json=body).json()
    assert stored["answers"][0]["text"] == "green"
    probabilities = [a["probability"] for a in stored["answers"]]
    assert len(probabilities) == 3
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) <= 1.000001
    with (files / "blue.mp4").open("rb") as file:
        fields = {"question": "is it red?", "top": "1"}
        uploaded = running.client.post("/v1/answers", files={"file": ("b.mp4", file)}, data=fields).json()
    assert [a["text"] for a in uploaded["answers"]] == ["no"]
    assert uploaded["video"] is None


def test_a_span_of_a_video_is_scored_alone(running: Running, collection: str, tmp_path: Path) -> None:
    frames = [solid(color) for color in ((220, 10, 10), (10, 10, 220))]
    path = write_animation(tmp_path / "two.webp", frames, [4000, 4000])
    answer = running.client.post(f"/v1/collections/{collection}/videos", files={"file": (path.name, path.read_bytes())})
    about = {"collection": collection, "video_id": answer.json()["id"], "question": "what color is it?", "top": 1}
    for span, color in (({"end": 4}, "red"), ({"start": 4}, "blue"), ({"start": 5, "end": 99}, "blue")):
        said = running.client.post("/v1/answers", json={**about, **span}).json()
        assert said["answers"][0]["text"] == color, span
        assert said["end"] <= 8.0
    form = {"question": "what color is it?", "start": "4.5", "top": "1"}
    said = running.client.post("/v1/answers", files={"file": ("t.webp", path.read_bytes())}, data=form).json()
    assert (said["start"], said["end"], said["answers"][0]["text"]) == (4.5, 8.0, "blue")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"captions": []}, "validation_failed"),
        ({"captions": "a"}, "validation_failed"),
        ({"captions": ["a"], "start": -1}, "validation_failed"),
        ({"captions": ["a"], "start": 2, "end": 1}, "validation_failed"),
        ({"captions": ["a"], "start": 7}, "invalid_input"),
        ({"captions": ["a"] * 6}, "invalid_input"),
        ({"captions": ["a", ""]}, "invalid_text"),
        ({"captions": ["a", "b" * 100_000]}, "invalid_text"),
        ({"captions": ["a"], "video_id": 1}, "validation_failed"),
    ],
)
def test_invalid_captions_are_rejected(running: Running, palette: str, fields: JSON, code: str) -> None:
    body = {"collection": palette, "video_id": "1", **fields}
    detail = problem_of(running.client.post("/v1/caption-scores", json=body), 422, code)["detail"]
    if code == "invalid_text":
        assert detail.startswith("captions[1]")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"question": ""}, "invalid_text"),
        ({"question": "a" * 100_000}, "invalid_text"),
        ({"question": "a", "top": 0}, "validation_failed"),
        ({"question": "a", "top": 51}, "invalid_input"),
        ({}, "validation_failed"),
    ],
)
def test_invalid_questions_are_rejected(running: Running, palette: str, fields: JSON, code: str) -> None:
    body = {"collection": palette, "video_id": "1", **fields}
    problem_of(running.client.post("/v1/answers", json=body), 422, code)


def test_a_body_of_another_type_is_rejected(running: Running) -> None:
    for route in ("/v1/caption-scores", "/v1/answers"):
        answer = running.client.post(route, content=b"a", headers={"content-type": "text/plain"})
        assert "application/json" in problem_of(answer, 415, "content_type_unsupported")["detail"]


def test_a_missing_task_of_a_bundle_is_named(tmp_path: Path, files: Path) -> None:
    bundle = make_small_bundle(tmp_path / "bundle", tasks=["retrieval"])
    with serving(settings_for(bundle, tmp_path / "data")) as running:
        client = running.client
        client.post("/v1/collections", json={"name": "videos"})
        red = (files / "red.mp4").read_bytes()
        assert client.post("/v1/collections/videos/videos", files={"file": ("red.mp4", red)}).status_code == 201
        assert search(running, "videos", text="a red thing")
        reranked = client.post("/v1/collections/videos/search", json={"text": "a red thing", "rerank": 5})
        problem_of(reranked, 409, "task_missing")
        about = {"collection": "videos", "video_id": "1"}
        score = client.post("/v1/caption-scores", json={**about, "captions": ["a red thing"]}).json()["scores"][0]
        assert score["similarity"] > 0.9
        assert (score["match"], score["fused"]) == (None, None)
        problem_of(client.post("/v1/answers", json={**about, "question": "what is it?"}), 409, "task_missing")


def test_the_model_is_described(running: Running, small_bundle: Path) -> None:
    model = running.client.get("/v1/models").json()["models"][0]
    assert model["name"] == "small-colours"
    assert model["tasks"] == ["retrieval", "matching", "answering"]
    assert [s["name"] for s in model["streams"]] == ["high", "low"]
    assert model["licence"] == "MIT"
    assert model["model_card"] == (small_bundle / "MODEL_CARD.md").read_text()


def test_references_and_frames_add_scores(running: Running, palette: str, files: Path) -> None:
    options = {"captions": ["a red ball", "a blue ball"], "references": ["a red thing", "a cat"], "frames": 3}
    body = {"collection": palette, "video_id": "1", **options}
    stored = running.client.post("/v1/caption-scores", json=body).json()["scores"]
    right, wrong = stored
    assert right["refclipscore"] > wrong["refclipscore"]
    assert right["reference_similarity"] > 0.9
    assert right["emscore"]["score"] > wrong["emscore"]["score"]
    words = {word["word"]: word for word in right["emscore"]["words"]}
    assert words["a"]["weight"] == 0
    assert words["red"]["similarity"] > 0.9
    assert words["red"]["time"] in (pytest.approx(1 / 3), pytest.approx(1), pytest.approx(5 / 3))
    with (files / "red.mp4").open("rb") as file:
        fields = {**options, "frames": "3"}
        uploaded = running.client.post("/v1/caption-scores", files={"file": ("r.mp4", file)}, data=fields).json()
    assert uploaded["scores"] == stored


def test_scores_without_references_and_frames_are_null(running: Running, palette: str) -> None:
    body = {"collection": palette, "video_id": "1", "captions": ["a red ball"]}
    score = running.client.post("/v1/caption-scores", json=body).json()["scores"][0]
    assert (score["reference_similarity"], score["refclipscore"], score["emscore"]) == (None, None, None)


@pytest.mark.parametrize(
    ("fields", "code", "word"),
    [
        ({"references": ["a", ""]}, "invalid_text", "references[1]"),
        ({"references": ["a"] * 6}, "invalid_input", "references: 6"),
        ({"frames": 33}, "invalid_input", "frames: 33"),
        ({"frames": -1}, "validation_failed", "frames"),
    ],
)
def test_references_and_frames_have_limits(running: Running, palette: str, fields: JSON, code: str, word: str) -> None:
    body = {"collection": palette, "video_id": "1", "captions": ["a"], **fields}
    assert word in problem_of(running.client.post("/v1/caption-scores", json=body), 422, code)["detail"]


def test_scores_of_missing_tasks_are_null(tmp_path: Path, files: Path) -> None:
    bundle = make_small_bundle(tmp_path / "bundle", tasks=["matching"])
    with serving(settings_for(bundle, tmp_path / "data")) as running:
        fields = {"captions": ["a red ball"], "references": ["a red thing"], "frames": "2"}
        with (files / "red.mp4").open("rb") as file:
            answer = running.client.post("/v1/caption-scores", files={"file": ("r.mp4", file)}, data=fields).json()
        score = answer["scores"][0]
        assert score.pop("match") > 0.9
        assert score.pop("caption") == "a red ball"
        assert set(score.values()) == {None}


def test_a_bundle_without_embeddings_answers_and_has_no_collections(tmp_path: Path, files: Path) -> None:
    bundle = make_small_bundle(tmp_path / "bundle", tasks=["answering"], answers=None, free_form_answers=True)
    with serving(settings_for(bundle, tmp_path / "data")) as running:
        client, red = running.client, {"file": ("red.mp4", (files / "red.mp4").read_bytes())}
        asked = {"question": "what is it?", "candidates": ["a blue ball", "red"]}
        answer = client.post("/v1/answers", files=red, data=asked).json()
        assert (answer["answer"], answer["out_of_vocabulary"], len(answer["answers"])) == ("red", [], 2)
        missing = client.post("/v1/answers", files=red, data={"question": "what is it?"})
        assert "no answer vocabulary" in problem_of(missing, 422, "invalid_input")["detail"]
        made = client.post("/v1/collections", json={"name": "videos"})
        assert "it has no vectors" in problem_of(made, 409, "task_missing")["detail"]
        (model,) = client.get("/v1/models").json()["models"]
        assert (model["tasks"], model["vector_width"], model["answers"]) == (["answering"], 0, 0)


def test_a_question_is_answered_from_candidates(running: Running, palette: str, files: Path) -> None:
    body = {
        "collection": palette,
        "video_id": "2",
        "question": "what color is it?",
        "candidates": ["Red", "Green", "x"],
    }
    answer = running.client.post("/v1/answers", json=body).json()
    assert (answer["answer"], answer["abstained"], answer["out_of_vocabulary"]) == ("Green", False, ["x"])
    assert [one["text"] for one in answer["answers"]] == ["Green", "Red"]
    assert sum(one["probability"] for one in answer["answers"]) == pytest.approx(1)
    with (files / "green.mp4").open("rb") as file:
        fields = {"question": "what color is it?"} | {"candidates": ["Red", "Green", "x"]}
        uploaded = running.client.post("/v1/answers", files={"file": ("g.mp4", file)}, data=fields).json()
    assert uploaded["answers"] == answer["answers"]


def test_the_model_abstains_below_a_probability(running: Running, palette: str) -> None:
    about = {"collection": palette, "video_id": "2", "question": "what color is it?", "candidates": ["red", "blue"]}
    unsure = running.client.post("/v1/answers", json={**about, "abstain_below": 0.99}).json()
    assert (unsure["answer"], unsure["abstained"]) == (None, True)
    assert len(unsure["answers"]) == 2
    sure = running.client.post("/v1/answers", json={**about, "candidates": ["green"], "abstain_below": 1}).json()
    assert (sure["answer"], sure["abstained"]) == ("green", False)


@pytest.mark.parametrize(
    ("fields", "code", "word"),
    [
        ({"candidates": []}, "validation_failed", "candidates"),
        ({"candidates": ["a", " "]}, "invalid_text", "candidates[1]"),
        ({"candidates": ["red", "RED"]}, "invalid_input", "repeated"),
        ({"candidates": ["a"] * 1001}, "invalid_input", "candidates: 1001"),
        ({"abstain_below": 1.5}, "validation_failed", "abstain_below"),
    ],
)
def test_invalid_candidates_are_rejected(running: Running, palette: str, fields: JSON, code: str, word: str) -> None:
    body = {"collection": palette, "video_id": "1", "question": "what is it?", **fields}
    assert word in problem_of(running.client.post("/v1/answers", json=body), 422, code)["detail"]


def test_stages_are_measured(running: Running, palette: str) -> None:
    body = {"collection": palette, "video_id": "1", "captions": ["a red ball"]}
    assert running.client.post("/v1/caption-scores", json=body).status_code == 200
    counted = running.client.get("/metrics").text
    for stage in ("decode", "score"):
        assert f'vitascope_stage_seconds_count{{stage="{stage}"}}' in counted

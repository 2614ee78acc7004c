"""Caption scores, answers and reranking over HTTP, with all kinds of models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.media_files import solid, write_animation, write_audio, write_color_video
from tests.service.conftest import fill, settings_for
from tests.service.running import JSON, Running, problem_of, serving
from tests.small_bundle import AUDIO, TONES, make_small_bundle
from vitascope.cli.main import main
from vitascope.client import Client


def test_captions_are_scored_in_their_order(running: Running, palette: str) -> None:
    body = {"collection": palette, "video_id": "1", "captions": ["a blue thing", "a red thing", "dog"]}
    response = running.client.post("/v1/caption-scores", json=body).json()
    assert response["video"] == running.client.get(f"/v1/collections/{palette}/videos").json()["videos"][0]
    assert (response["start"], response["end"]) == (0.0, 2.0)
    wrong, right, other = response["scores"]
    assert (wrong["caption"], right["caption"]) == ("a blue thing", "a red thing")
    for name in ("similarity", "clipscore", "match", "fused"):
        assert right[name] > wrong[name]
    assert right["clipscore"] == pytest.approx(2.5 * right["similarity"])
    assert right["match"] > 0.9
    assert other["clipscore"] == max(0.0, 2.5 * other["similarity"])
    assert (right["reference_similarity"], right["refclipscore"], right["emscore"]) == (None, None, None)


def test_an_uploaded_file_is_scored_and_not_stored(running: Running, files: Path) -> None:
    with (files / "blue.mp4").open("rb") as file:
        response = running.client.post(
            "/v1/caption-scores", files={"file": ("b.mp4", file)}, data={"captions": ["a red thing", "a blue thing"]}
        ).json()
    assert response["video"] is None
    assert response["end"] == 2.0
    assert response["scores"][1]["fused"] > response["scores"][0]["fused"]
    assert list(running.service.media.uploads.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "fields", "code", "word"),
    [
        ("caption-scores", {"captions": []}, "validation_failed", "captions"),
        ("caption-scores", {"captions": "a"}, "validation_failed", "captions"),
        ("caption-scores", {"captions": ["a"], "start": -1}, "validation_failed", "start"),
        ("caption-scores", {"captions": ["a"], "start": 2, "end": 1}, "validation_failed", "start"),
        ("caption-scores", {"captions": ["a"], "start": 7}, "invalid_input", "start"),
        ("caption-scores", {"captions": ["a"] * 6}, "invalid_input", "captions: 6"),
        ("caption-scores", {"captions": ["a", ""]}, "invalid_text", "captions[1]"),
        ("caption-scores", {"captions": ["a", "b" * 100_000]}, "invalid_text", "captions[1]"),
        ("caption-scores", {"captions": ["a"], "video_id": 1}, "validation_failed", "video_id"),
        ("caption-scores", {"captions": ["a"], "references": ["a", ""]}, "invalid_text", "references[1]"),
        ("caption-scores", {"captions": ["a"], "references": ["a"] * 6}, "invalid_input", "references: 6"),
        ("caption-scores", {"captions": ["a"], "frames": 33}, "invalid_input", "frames: 33"),
        ("caption-scores", {"captions": ["a"], "frames": -1}, "validation_failed", "frames"),
        ("answers", {}, "validation_failed", "question"),
        ("answers", {"question": ""}, "invalid_text", "question"),
        ("answers", {"question": "\u200b\x00"}, "invalid_text", "question: it is empty"),
        ("answers", {"question": "a" * 100_000}, "invalid_text", "question"),
        ("answers", {"question": "a", "top": 0}, "validation_failed", "top"),
        ("answers", {"question": "a", "top": 51}, "invalid_input", "top: 51"),
        ("answers", {"question": "a", "candidates": []}, "validation_failed", "candidates"),
        ("answers", {"question": "a", "candidates": ["a", " "]}, "invalid_text", "candidates[1]"),
        ("answers", {"question": "a", "candidates": ["red", "RED"]}, "invalid_input", "repeated"),
        ("answers", {"question": "a", "candidates": ["a"] * 1001}, "invalid_input", "candidates: 1001"),
        ("answers", {"question": "a", "abstain_below": 1.5}, "validation_failed", "abstain_below"),
    ],
)
def test_invalid_requests_are_rejected(
    running: Running, palette: str, path: str, fields: JSON, code: str, word: str
) -> None:
    body = {"collection": palette, "video_id": "1", **fields}
    assert word in problem_of(running.client.post(f"/v1/{path}", json=body), 422, code)["detail"]


@pytest.mark.parametrize("path", ["/v1/caption-scores", "/v1/answers"])
def test_a_body_of_another_type_is_rejected(running: Running, path: str) -> None:
    response = running.client.post(path, content=b"a", headers={"content-type": "text/plain"})
    assert "application/json" in problem_of(response, 415, "content_type_unsupported")["detail"]


def test_a_question_is_answered_with_probabilities(running: Running, palette: str, files: Path) -> None:
    body = {"collection": palette, "video_id": "2", "question": "what color is it?", "top": 3}
    answers = running.client.post("/v1/answers", json=body).json()["answers"]
    assert answers[0]["text"] == "green"
    probabilities = [answer["probability"] for answer in answers]
    assert len(probabilities) == 3
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) <= 1.000001
    with (files / "blue.mp4").open("rb") as file:
        fields = {"question": "is it red?", "top": "1"}
        uploaded = running.client.post("/v1/answers", files={"file": ("b.mp4", file)}, data=fields).json()
    assert [answer["text"] for answer in uploaded["answers"]] == ["no"]
    assert uploaded["video"] is None


def test_a_span_of_a_video_is_scored_alone(running: Running, collection: str, tmp_path: Path) -> None:
    frames = [solid(color) for color in ((220, 10, 10), (10, 10, 220))]
    path = write_animation(tmp_path / "two.webp", frames, [4000, 4000])
    response = running.client.post(
        f"/v1/collections/{collection}/videos", files={"file": (path.name, path.read_bytes())}
    )
    video = {"collection": collection, "video_id": response.json()["id"], "question": "what color is it?", "top": 1}
    for span, color in (({"end": 4}, "red"), ({"start": 4}, "blue"), ({"start": 5, "end": 99}, "blue")):
        body = running.client.post("/v1/answers", json={**video, **span}).json()
        assert body["answers"][0]["text"] == color, span
        assert body["end"] <= 8.0
    form = {"question": "what color is it?", "start": "4.5", "top": "1"}
    body = running.client.post("/v1/answers", files={"file": ("t.webp", path.read_bytes())}, data=form).json()
    assert (body["start"], body["end"], body["answers"][0]["text"]) == (4.5, 8.0, "blue")


def test_a_bundle_for_retrieval_only_searches_and_embeds(tmp_path: Path, files: Path) -> None:
    bundle = make_small_bundle(tmp_path / "bundle", tasks=["retrieval"])
    with serving(settings_for(bundle, tmp_path / "data")) as running:
        client = running.client
        client.post("/v1/collections", json={"name": "videos"})
        fill(running, "videos", files)
        search, video = {"text": "a red thing"}, {"collection": "videos", "video_id": "1"}
        assert client.post("/v1/collections/videos/search", json=search).json()["results"]
        score = client.post("/v1/caption-scores", json={**video, "captions": ["a red thing"]}).json()["scores"][0]
        assert score["similarity"] > 0.9
        assert (score["match"], score["fused"]) == (None, None)
        rerank = {"query": "a red thing", "documents": [{"clip_id": "1"}], "collection": "videos"}
        for path, body in (
            ("/v1/collections/videos/search", {**search, "rerank": 5}),
            ("/v1/answers", {**video, "question": "what is it?"}),
            ("/v1/rerank", rerank),
        ):
            problem_of(client.post(path, json=body), 409, "task_missing")


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


def test_a_bundle_for_matching_only_scores_captions(tmp_path: Path, files: Path) -> None:
    bundle = make_small_bundle(tmp_path / "bundle", tasks=["matching"])
    with serving(settings_for(bundle, tmp_path / "data")) as running:
        fields = {"captions": ["a red ball"], "references": ["a red thing"], "frames": "2"}
        form = {"file": ("r.mp4", (files / "red.mp4").read_bytes())}
        score = running.client.post("/v1/caption-scores", files=form, data=fields).json()["scores"][0]
        assert score.pop("match") > 0.9
        assert score.pop("caption") == "a red ball"
        assert set(score.values()) == {None}
        problem_of(running.client.post("/v1/embeddings", json={"input": "a"}), 409, "task_missing")


def test_a_bundle_without_embeddings_answers_and_has_no_collections(tmp_path: Path, files: Path) -> None:
    bundle = make_small_bundle(tmp_path / "bundle", tasks=["answering"], answers=None, free_form_answers=True)
    with serving(settings_for(bundle, tmp_path / "data")) as running:
        client, red = running.client, {"file": ("red.mp4", (files / "red.mp4").read_bytes())}
        body = {"question": "what is it?", "candidates": ["a blue ball", "red"]}
        response = client.post("/v1/answers", files=red, data=body).json()
        assert (response["answer"], response["out_of_vocabulary"], len(response["answers"])) == ("red", [], 2)
        missing = client.post("/v1/answers", files=red, data={"question": "what is it?"})
        assert "no answer vocabulary" in problem_of(missing, 422, "invalid_input")["detail"]
        created = client.post("/v1/collections", json={"name": "videos"})
        assert "it has no embeddings of videos" in problem_of(created, 409, "task_missing")["detail"]
        (model,) = client.get("/v1/models").json()["models"]
        assert (model["tasks"], model["vector_width"], model["answers"]) == (["answering"], 0, 0)


def test_a_question_is_answered_from_candidates(running: Running, palette: str, files: Path) -> None:
    body = {
        "collection": palette,
        "video_id": "2",
        "question": "what color is it?",
        "candidates": ["Red", "Green", "x"],
    }
    response = running.client.post("/v1/answers", json=body).json()
    assert (response["answer"], response["abstained"], response["out_of_vocabulary"]) == ("Green", False, ["x"])
    assert [result["text"] for result in response["answers"]] == ["Green", "Red"]
    assert sum(answer["probability"] for answer in response["answers"]) == pytest.approx(1)
    with (files / "green.mp4").open("rb") as file:
        fields = {"question": "what color is it?"} | {"candidates": ["Red", "Green", "x"]}
        uploaded = running.client.post("/v1/answers", files={"file": ("g.mp4", file)}, data=fields).json()
    assert uploaded["answers"] == response["answers"]


def test_the_model_abstains_below_a_probability(running: Running, palette: str) -> None:
    video = {"collection": palette, "video_id": "2", "question": "what color is it?", "candidates": ["red", "blue"]}
    unsure = running.client.post("/v1/answers", json={**video, "abstain_below": 0.99}).json()
    assert (unsure["answer"], unsure["abstained"]) == (None, True)
    assert len(unsure["answers"]) == 2
    sure = running.client.post("/v1/answers", json={**video, "candidates": ["green"], "abstain_below": 1}).json()
    assert (sure["answer"], sure["abstained"]) == ("green", False)


def reranked(running: Running, **body: object) -> JSON:
    response = running.client.post("/v1/rerank", json=body)
    assert response.status_code == 200, response.text
    created: JSON = response.json()
    return created


def clips_of(running: Running, collection: str) -> dict[str, tuple[str, str]]:
    """Return (video id, id of its first clip) by title."""
    base = f"/v1/collections/{collection}/videos"
    videos = running.client.get(base, params={"limit": 100}).json()["videos"]
    spans = {video["id"]: running.client.get(f"{base}/{video['id']}").json()["spans"] for video in videos}
    return {video["title"]: (video["id"], spans[video["id"]][0]["id"]) for video in videos}


def test_clips_are_ranked_for_a_text(running: Running, palette: str) -> None:
    clips = clips_of(running, palette)
    documents = [{"clip_id": clips[name][1]} for name in ("green", "red", "blue")]
    results = reranked(running, query="a red thing", documents=documents, collection=palette, model="small-colours")
    assert results["model"] == "small-colours"
    best, *others = results["results"]
    assert best["index"] == 1
    assert best["relevance_score"] == best["fused"] > 0.9
    assert best["match"] > 0.9
    assert best["similarity"] > 0.9
    assert best["clip"] == {"clip_id": clips["red"][1], "video_id": clips["red"][0], "start": 0.0, "end": 2.0}
    assert best["document"] is None
    scores = [result["relevance_score"] for result in results["results"]]
    assert scores == sorted(scores, reverse=True)
    assert {result["index"] for result in others} == {0, 2}


def test_scores_are_those_of_a_reranked_search(running: Running, palette: str) -> None:
    body = {"text": "a blue thing", "rerank": 3}
    searched = running.client.post(f"/v1/collections/{palette}/search", json=body).json()["results"]
    documents = [{"clip_id": hit["clip_id"]} for hit in searched]
    results = reranked(running, query="a blue thing", documents=documents, collection=palette)["results"]
    assert [result["index"] for result in results] == [0, 1, 2]
    for result, hit in zip(results, searched, strict=True):
        assert (result["match"], result["fused"]) == pytest.approx((hit["match"], hit["fused"]), abs=1e-5)
        assert result["similarity"] == pytest.approx(hit["similarity"], abs=1e-5)


def test_the_best_clip_of_a_video_counts(running: Running, collection: str, tmp_path: Path) -> None:
    colours = ((10, 200, 10), (10, 10, 220), (220, 10, 10))
    path = write_animation(tmp_path / "three.webp", [solid(colour) for colour in colours], [8000] * 3)
    added = running.client.post(
        f"/v1/collections/{collection}/videos", files={"file": (path.name, path.read_bytes())}
    ).json()
    assert added["clips"] == 3
    document = {"video_id": added["id"]}
    results = reranked(running, query="a blue thing", documents=[document], collection=collection)["results"]
    assert (results[0]["clip"]["start"], results[0]["clip"]["end"]) == (8.0, 16.0)
    # With texts as documents, each has its own best clip.
    sentences = ["a red thing", "a black thing", "a green thing"]
    results = reranked(running, query=document, documents=sentences, collection=collection)["results"]
    starts = {sentences[result["index"]]: result["clip"]["start"] for result in results}
    assert (starts["a red thing"], starts["a green thing"]) == (16.0, 0.0)
    assert results[-1]["index"] == 1


def test_texts_are_ranked_for_a_clip(running: Running, palette: str) -> None:
    clip = {"clip_id": clips_of(running, palette)["green"][1]}
    sentences = ["a red thing", "a green thing", "a blue thing", "a green thing"]
    results = reranked(running, query=clip, documents=sentences, collection=palette, top_n=2, return_documents=True)[
        "results"
    ]
    assert [(result["index"], result["document"]) for result in results] == [(1, "a green thing"), (3, "a green thing")]


def test_a_clip_without_visual_tokens_is_last_and_not_scored(running: Running, colors: str) -> None:
    clips = clips_of(running, colors)
    collection = running.service.collection(colors)
    with collection.catalogue.write() as connection:
        connection.execute("DELETE FROM tokens WHERE clip_id = ?", (int(clips["red"][1]),))
    documents = [{"clip_id": clips[name][1]} for name in ("red", "blue")]
    results = reranked(running, query="a red thing", documents=documents, collection=colors)["results"]
    assert [result["index"] for result in results] == [1, 0]
    assert (results[1]["match"], results[1]["fused"], results[1]["relevance_score"]) == (None, None, 0.0)
    assert results[1]["similarity"] > 0.9


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
        ({"documents": [{"clip_id": "one"}]}, 404, "not_found", "clip_id: 'one'; an id"),
        ({"documents": [{"video_id": "one"}]}, 404, "video_not_found", "video_id: 'one'; an id"),
        ({"documents": [{"video_id": "99999"}]}, 404, "video_not_found", "99999"),
        ({"collection": "nowhere"}, 404, "collection_not_found", "nowhere"),
        ({"model": "rerank-v3.5"}, 404, "model_not_found", "small-colours"),
    ],
)
def test_invalid_rerank_requests_are_rejected(
    running: Running, palette: str, body: JSON, status: int, code: str, word: str
) -> None:
    body = {"query": "a red thing", "documents": [{"clip_id": "1"}], "collection": palette} | body
    assert word in problem_of(running.client.post("/v1/rerank", json=body), status, code)["detail"]


def test_scores_and_answers_state_whether_they_used_sound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_small_bundle(
        tmp_path / "bundle",
        tasks=["retrieval", "audio_retrieval", "matching", "answering"],
        audio={**AUDIO, "fused": True},
    )
    tone = 0.5 * np.sin(2 * np.pi * TONES["blue"] * np.arange(16_000) / 8000).astype(np.float32)
    film = write_audio(tmp_path / "film.mkv", tone[None], 8000, "flac", with_video=True)  # grey pictures
    mute = write_color_video(tmp_path / "mute.mp4", (128, 128, 128))
    with serving(settings_for(bundle, tmp_path / "data")) as running, Client(str(running.client.base_url)) as client:
        client.create_collection("films")
        video = client.add_video("films", film)
        with monkeypatch.context() as patch:
            patch.setattr("service.inference.embedding.read_audio_tokens", None)  # its sound is not decoded again
            stored = client.ask("which colour is it", collection="films", video_id=video["id"])
        assert (stored["answer"], stored["modalities"]) == ("blue", ["visual", "audio"])
        heard, unheard = (client.score_file(file, ["a blue thing"]) for file in (film, mute))
        assert (heard["modalities"], unheard["modalities"]) == (["visual", "audio"], ["visual"])
        assert heard["scores"][0]["match"] > unheard["scores"][0]["match"]
    for command in (["score", str(film), "a blue thing"], ["ask", str(film), "which colour is it"]):
        assert main([*command, "--bundle", str(bundle)]) == 0
        assert "Used: pictures and sound" in capsys.readouterr().out

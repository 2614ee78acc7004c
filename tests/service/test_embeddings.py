"""Embeddings for OpenAI's client, and of pictures, videos and files."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.media_files import write_tracks
from tests.service.conftest import settings_for
from tests.service.running import JSON, Running, problem_of, serving
from tests.small_bundle import make_small_bundle
from tests.waiting import PATIENCE, wait_for
from vitascope.bundle.manifest import Prompts
from vitascope.model import Model

if TYPE_CHECKING:
    import openai


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[openai.OpenAI]:
    import openai  # takes a second

    url = f"{str(running.client.base_url).rstrip('/')}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def data_url(path: Path, kind: str = "video/mp4") -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def embed(running: Running, **body: object) -> JSON:
    response = running.client.post("/v1/embeddings", json=body)
    assert response.status_code == 200, response.text
    body: JSON = response.json()
    return body


def test_openais_client_gets_embeddings(client: openai.OpenAI, small_model: Model) -> None:
    texts = ["a red thing", "a blue ball and a green square", "cat"]
    expected = small_model.embed_text(texts)
    for encoding in ({}, {"encoding_format": "float"}):  # the client's default is base64
        response = client.embeddings.create(model="small-colours", input=texts, **encoding)  # type: ignore[arg-type]
        assert (response.object, response.model) == ("list", "small-colours")
        assert [item.index for item in response.data] == [0, 1, 2]
        assert np.abs(np.array([item.embedding for item in response.data]) - expected).max() < 1e-6
    single = client.embeddings.create(model="small-colours", input=texts[0], dimensions=16, user="me")
    assert np.abs(np.array(single.data[0].embedding) - expected[0]).max() < 1e-6
    assert (single.usage.prompt_tokens, single.usage.total_tokens) == (5, 5)  # [CLS], three words, [SEP]


def test_openais_client_gets_errors(client: openai.OpenAI) -> None:
    import openai

    with pytest.raises(openai.UnprocessableEntityError, match="token ids; texts were expected"):
        client.embeddings.create(model="small-colours", input=[[1, 2, 3]])
    with pytest.raises(openai.UnprocessableEntityError, match="dimensions: 8; 16 or 12 was expected"):
        client.embeddings.create(model="small-colours", input="a", dimensions=8)
    with pytest.raises(openai.NotFoundError, match="'text-embedding-3-small'; one of small-colours@1, or"):
        client.embeddings.create(model="text-embedding-3-small", input="a")


def test_openais_client_can_send_videos_and_pictures(client: openai.OpenAI, files: Path) -> None:
    inputs = ["a red thing", {"type": "video", "data": data_url(files / "red.mp4")}, {"type": "text", "text": "blue"}]
    response = client.embeddings.create(model="small-colours", input=inputs)  # type: ignore[arg-type]
    text, video, other = (np.array(item.embedding) for item in response.data)
    assert text @ video > 0.9
    assert other @ video < 0.3


def test_embeddings_are_truncated_and_normalized(running: Running, client: openai.OpenAI, files: Path) -> None:
    items = ["a red thing", {"type": "video", "data": data_url(files / "red.mp4")}]
    whole, cut = (
        np.array([item["embedding"] for item in embed(running, input=items, dimensions=dimensions)["data"]])
        for dimensions in (16, 12)
    )
    np.testing.assert_allclose(cut, whole[:, :12] / np.linalg.norm(whole[:, :12], axis=1, keepdims=True), atol=1e-6)
    response = client.embeddings.create(model="small-colours", input=["a red thing"], dimensions=12)
    np.testing.assert_allclose(response.data[0].embedding, cut[0], atol=1e-6)
    with (files / "red.mp4").open("rb") as file:
        form = running.client.post("/v1/embeddings", files={"file": file}, data={"dimensions": "12"}).json()
    np.testing.assert_allclose(form["data"][0]["embedding"], cut[1], atol=1e-6)


def test_the_prompt_of_a_text_depends_on_the_input_type(
    running: Running, small_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = running.service.models.get(None).bundle.manifest
    monkeypatch.setitem(manifest.__dict__, "prompts", Prompts(query="which ", document="a video of "))
    texts = ["green", "green and red"]
    for input_type, prompt in (("query", "which "), ("document", "a video of "), (None, "which ")):
        options = {} if input_type is None else {"input_type": input_type}
        vectors = [item["embedding"] for item in embed(running, input=texts, **options)["data"]]
        expected = small_model.embed_text([prompt + text for text in texts])
        np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_embeddings_are_in_the_order_of_the_inputs(running: Running, small_model: Model) -> None:
    texts = [" ".join(["a", "red", "big", "ball", "moves", "left"][: 1 + number * 7 % 6]) for number in range(300)]
    response = embed(running, input=texts)
    assert [item["index"] for item in response["data"]] == list(range(300))
    vectors = np.array([item["embedding"] for item in response["data"]])
    assert np.abs(vectors - small_model.embed_text(texts)).max() < 1e-6


def test_a_span_of_a_video_is_embedded_alone(running: Running, files: Path) -> None:
    whole, part = (
        embed(running, input=[{"type": "video", "data": data_url(files / "red.mp4"), **span}])["data"][0]
        for span in ({}, {"start": 0.5, "end": 1})
    )
    assert np.array(whole["embedding"]) @ np.array(part["embedding"]) > 0.9
    beyond = {"type": "video", "data": data_url(files / "red.mp4"), "start": 9}
    problem_of(running.client.post("/v1/embeddings", json={"input": [beyond]}), 422, "invalid_input")


def test_an_uploaded_file_is_embedded_and_not_stored(running: Running, files: Path) -> None:
    red = (files / "red.mp4").read_bytes()
    as_file = running.client.post("/v1/embeddings", files={"file": ("r.mp4", red)}, data={"model": "small-colours"})
    as_data = embed(running, input=[{"type": "video", "data": data_url(files / "red.mp4")}])
    assert as_file.json() == as_data
    assert as_data["usage"] == {"prompt_tokens": 0, "total_tokens": 0}
    assert list(running.service.media.uploads.iterdir()) == []


@pytest.mark.parametrize(
    ("body", "status", "code", "word"),
    [
        ({}, 422, "validation_failed", "input"),
        ({"input": []}, 422, "validation_failed", "input"),
        ({"input": [1, 2]}, 422, "validation_failed", "token ids"),
        ({"input": ["a", ["b"]]}, 422, "validation_failed", "token ids"),
        ({"input": ["a", None]}, 422, "validation_failed", "input.1"),
        ({"input": [{"type": "film", "data": ""}]}, 422, "validation_failed", "a string"),
        ({"input": "a", "encoding_format": "int8"}, 422, "validation_failed", "encoding_format"),
        ({"input": "a", "dimensions": True}, 422, "validation_failed", "dimensions"),
        ({"input": "a", "size": 3}, 422, "validation_failed", "size"),
        ({"input": "a", "dimensions": 17}, 422, "invalid_input", "16 or 12 was expected"),
        ({"input": "a", "model": "other"}, 404, "model_not_found", "small-colours"),
        ({"input": ["a", " "]}, 422, "invalid_text", "input[1]"),
        ({"input": ["a" * 501]}, 422, "invalid_text", "input[0]"),
        ({"input": ["a"] * 2049}, 422, "invalid_input", "input: 2049"),
        ({"input": [{"type": "image", "data": "http://127.0.0.1/a.png"}]}, 422, "invalid_input", "data URL"),
        ({"input": [{"type": "image", "data": "file:///etc/passwd"}]}, 422, "invalid_input", "data URL"),
        ({"input": ["a", {"type": "image", "data": "data:;base64,%%"}]}, 422, "invalid_input", "input[1].data"),
        ({"input": ["a", {"type": "image", "data": "data:;base64,YWJj"}]}, 415, "media_unsupported", "input[1]"),
    ],
)
def test_invalid_inputs_are_rejected(running: Running, body: JSON, status: int, code: str, word: str) -> None:
    assert word in problem_of(running.client.post("/v1/embeddings", json=body), status, code)["detail"]
    assert list(running.service.media.uploads.iterdir()) == []


@pytest.fixture
def blocked_text_graph(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[list[int], threading.Event]]:
    """Block the text graph until the event is set; yields the rows of each run, and the event."""
    rows, go = list[int](), threading.Event()
    engine = running.service.model._graphs.engine("text")  # type: ignore[attr-defined]
    run = engine.run

    def run_later(inputs: JSON) -> object:
        rows.append(len(inputs["input_ids"]))
        assert go.wait(PATIENCE)
        return run(inputs)

    monkeypatch.setattr(engine, "run", run_later)
    yield rows, go
    go.set()


def test_concurrent_requests_share_batches(
    running: Running, blocked_text_graph: tuple[list[int], threading.Event]
) -> None:
    rows, go = blocked_text_graph
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(embed, running, input="a red thing that is not cached yet")
        wait_for(lambda: rows)
        # Texts of one length: which others are batched depends on the order of their arrival.
        others = [pool.submit(embed, running, input=f"a new ball {n}") for n in range(8)]
        wait_for(lambda: running.service.scheduler.queue_length() == 8)
        go.set()
        assert all(future.result()["data"] for future in (first, *others))
    assert rows == [1, 8]


def test_a_deadline_ends_the_wait(running: Running, blocked_text_graph: tuple[list[int], threading.Event]) -> None:
    rows, go = blocked_text_graph
    body = {"input": [f"a late {number}" for number in range(200)]}
    response = running.client.post("/v1/embeddings", json=body, headers={"X-Request-Timeout": "0.2"})
    problem_of(response, 504, "deadline_exceeded")
    go.set()
    assert embed(running, input="a")["data"]
    assert sum(rows) <= 33  # one batch, and the last text; the others never reached the model


def test_json_has_no_more_digits_than_needed(running: Running) -> None:
    text = running.client.post("/v1/embeddings", json={"input": "a red thing"}).text
    numbers = json.loads(text)["data"][0]["embedding"]
    assert len(text) < 14 * len(numbers) + 200  # float32 written as float64 takes 20 and more


def test_a_model_that_reads_another_track_embeds_files_that_have_it(files: Path, tmp_path: Path) -> None:
    bundle = make_small_bundle(tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["streams"][1]["track"] = 1
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    both = write_tracks(tmp_path / "both.mp4", [files / "red.mp4", files / "blue.mp4"])
    with serving(settings_for(bundle, tmp_path / "data")) as running:
        [model] = running.client.get("/v1/models").json()["models"]
        assert [stream["track"] for stream in model["streams"]] == [0, 1]
        inputs = ["a red thing", "a blue thing", {"type": "video", "data": data_url(both)}]
        red, blue, video = (np.array(item["embedding"]) for item in embed(running, input=inputs)["data"])
        assert video @ red == pytest.approx(video @ blue, abs=0.1)
        assert video @ red > 0.5
        plain = {"input": [{"type": "video", "data": data_url(files / "red.mp4")}]}
        refused = problem_of(running.client.post("/v1/embeddings", json=plain), 415, "media_unsupported")
        assert "1 video track; 2 were expected, as the model reads track 1" in refused["detail"]

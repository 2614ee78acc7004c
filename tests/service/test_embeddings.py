"""Embeddings for OpenAI's own client, and what goes beyond its interface: pictures, videos, files."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openai
import pytest

from tests.service.conftest import settings_for
from tests.service.running import JSON, Running, problem_of, serving
from tests.small_bundle import make_small_bundle
from tests.waiting import PATIENCE, wait_for
from vitascope.model import Model


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[openai.OpenAI]:
    url = f"{str(running.client.base_url).rstrip('/')}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def data_url(path: Path, kind: str = "video/mp4") -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def embedded(running: Running, **body: object) -> JSON:
    answer = running.client.post("/v1/embeddings", json=body)
    assert answer.status_code == 200, answer.text
    made: JSON = answer.json()
    return made


def test_openais_client_gets_embeddings(client: openai.OpenAI, small_model: Model) -> None:
    texts = ["a red thing", "a blue ball and a green square", "cat"]
    expected = small_model.embed_text(texts)
    # Its client asks for base64 unless told otherwise.
    found = client.embeddings.create(model="small-colours", input=texts)
    assert found.object == "list"
    assert found.model == "small-colours"
    assert [one.index for one in found.data] == [0, 1, 2]
    assert np.abs(np.array([one.embedding for one in found.data]) - expected).max() < 1e-6
    as_numbers = client.embeddings.create(model="small-colours", input=texts, encoding_format="float")
    assert np.abs(np.array([one.embedding for one in as_numbers.data]) - expected).max() < 1e-6
    one = client.embeddings.create(model="small-colours", input=texts[0], dimensions=16, user="me")
    assert np.abs(np.array(one.data[0].embedding) - expected[0]).max() < 1e-6
    # [CLS], three words, [SEP]
    assert (one.usage.prompt_tokens, one.usage.total_tokens) == (5, 5)


def test_openais_client_gets_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="token ids; texts were expected"):
        client.embeddings.create(model="small-colours", input=[[1, 2, 3]])
    with pytest.raises(openai.UnprocessableEntityError, match="dimensions: 8; 16 was expected"):
        client.embeddings.create(model="small-colours", input="a", dimensions=8)
    with pytest.raises(openai.NotFoundError, match="'text-embedding-3-small'; one of small-colours@1, or"):
        client.embeddings.create(model="text-embedding-3-small", input="a")


def test_openais_client_can_send_videos_and_pictures(client: openai.OpenAI, files: Path) -> None:
    inputs = ["a red thing", {"type": "video", "data": data_url(files / "red.mp4")}, {"type": "text", "text": "blue"}]
    found = client.embeddings.create(model="small-colours", input=inputs)  # type: ignore[arg-type]
    text, video, other = (np.array(one.embedding) for one in found.data)
    assert text @ video > 0.9
    assert other @ video < 0.3


def test_numbers_and_base64_are_equal(running: Running) -> None:
    numbers = embedded(running, input=["a red thing"])["data"][0]["embedding"]
    packed = embedded(running, input=["a red thing"], encoding_format="base64")["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(packed), "<f4").tolist() == np.array(numbers, np.float32).tolist()
    assert np.linalg.norm(numbers) == pytest.approx(1, abs=1e-5)


def test_embeddings_are_in_the_order_of_the_inputs(running: Running, small_model: Model) -> None:
    texts = [" ".join(["a", "red", "big", "ball", "moves", "left"][: 1 + number * 7 % 6]) for number in range(300)]
    found = embedded(running, input=texts)
    assert [one["index"] for one in found["data"]] == list(range(300))
    vectors = np.array([one["embedding"] for one in found["data"]])
    assert np.abs(vectors - small_model.embed_text(texts)).max() < 1e-6


def test_a_span_of_a_video_is_embedded_alone(running: Running, files: Path) -> None:
    whole, part = (
        embedded(running, input=[{"type": "video", "data": data_url(files / "red.mp4"), **span}])["data"][0]
        for span in ({}, {"start": 0.5, "end": 1})
    )
    assert np.array(whole["embedding"]) @ np.array(part["embedding"]) > 0.9
    beyond = {"type": "video", "data": data_url(files / "red.mp4"), "start": 9}
    problem_of(running.client.post("/v1/embeddings", json={"input": [beyond]}), 422, "invalid_input")


def test_an_uploaded_file_is_embedded_and_not_stored(running: Running, files: Path) -> None:
    red = (files / "red.mp4").read_bytes()
    as_file = running.client.post("/v1/embeddings", files={"file": ("r.mp4", red)}, data={"model": "small-colours"})
    as_data = embedded(running, input=[{"type": "video", "data": data_url(files / "red.mp4")}])
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
        ({"input": [{"type": "audio", "data": ""}]}, 422, "validation_failed", "a string"),
        ({"input": "a", "encoding_format": "int8"}, 422, "validation_failed", "encoding_format"),
        ({"input": "a", "dimensions": True}, 422, "validation_failed", "dimensions"),
        ({"input": "a", "size": 3}, 422, "validation_failed", "size"),
        ({"input": "a", "dimensions": 17}, 422, "invalid_input", "16 was expected"),
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


def test_concurrent_requests_share_batches(running: Running) -> None:
    """Held up by one slow run, requests of one text each go through the model together."""
    began, go = threading.Event(), threading.Event()
    engine = running.service.model._graphs.engine("text")  # type: ignore[attr-defined]
    run, seen = engine.run, []

    def slow(inputs: JSON) -> JSON:
        seen.append(len(inputs["input_ids"]))
        began.set()
        assert go.wait(PATIENCE)
        answer: JSON = run(inputs)
        return answer

    engine.run = slow
    try:
        with ThreadPoolExecutor(9) as pool:
            first = pool.submit(embedded, running, input="a red thing that nobody has asked for yet")
            assert began.wait(PATIENCE)
            # Of one length: who joins whom among others depends on who came first.
            rest = [pool.submit(embedded, running, input=f"a new ball {n}") for n in range(8)]
            wait_for(lambda: running.service.scheduler.queue_length() == 8)
            go.set()
            assert all(future.result()["data"] for future in (first, *rest))
    finally:
        go.set()
        engine.run = run
    assert seen == [1, 8]


def test_a_deadline_ends_the_wait(running: Running) -> None:
    go, seen = threading.Event(), list[int]()
    engine = running.service.model._graphs.engine("text")  # type: ignore[attr-defined]
    run = engine.run

    def stuck(inputs: JSON) -> JSON:
        seen.append(len(inputs["input_ids"]))
        assert go.wait(PATIENCE)
        answer: JSON = run(inputs)
        return answer

    engine.run = stuck
    late_texts = [f"a late {number}" for number in range(200)]
    try:
        late = running.client.post("/v1/embeddings", json={"input": late_texts}, headers={"X-Request-Timeout": "0.2"})
        problem_of(late, 504, "deadline_exceeded")
    finally:
        go.set()
        engine.run = run
    assert embedded(running, input="a")["data"]
    assert sum(seen) <= 32  # what was in the model; the rest never reached it


def test_a_bundle_without_text_embeddings_is_rejected(tmp_path: Path) -> None:
    with serving(settings_for(make_small_bundle(tmp_path / "b", tasks=["matching"]), tmp_path / "data")) as running:
        problem_of(running.client.post("/v1/embeddings", json={"input": "a"}), 409, "task_missing")


def test_json_has_no_more_digits_than_needed(running: Running) -> None:
    text = running.client.post("/v1/embeddings", json={"input": "a red thing"}).text
    numbers = json.loads(text)["data"][0]["embedding"]
    assert len(text) < 14 * len(numbers) + 200  # float32 written as float64 takes 20 and more

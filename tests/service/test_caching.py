"""What the service's caches change for who asks: nothing but what it costs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from tests.media_files import write_color_video
from tests.service.conftest import fill, settings_for
from tests.service.running import JSON, Running, problem_of, serving
from tests.service.test_observability import scrape, value
from tests.waiting import PATIENCE, wait_for
from vitascope.model import Model


@pytest.fixture(scope="module")
def caching(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[Running]:
    """A service of this file's own, so that its counts are nobody else's; with the collection `palette`."""
    data = tmp_path_factory.mktemp("caching")
    with serving(settings_for(small_bundle, data)) as running:
        assert running.client.post("/v1/collections", json={"name": "palette"}).status_code == 201
        fill(running, "palette", files)
        yield running


@dataclass
class Looks:
    """What was counted since this was made."""

    running: Running
    before: dict[tuple[str, frozenset[tuple[str, str]]], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.before = scrape(self.running.client)

    def __call__(self, name: str, **labels: str) -> float:
        return value(scrape(self.running.client), name, **labels) - value(self.before, name, **labels)


@contextmanager
def held(running: Running, graph: str) -> Iterator[tuple[list[int], threading.Event]]:
    """The graph, which waits for the event before it runs; the rows of each run."""
    go, seen = threading.Event(), list[int]()
    engine = running.service.model._graphs.engine(graph)  # type: ignore[attr-defined]
    run: Callable[[JSON], JSON] = engine.run

    def slow(inputs: JSON) -> JSON:
        seen.append(len(next(iter(inputs.values()))))
        assert go.wait(PATIENCE)
        return run(inputs)

    engine.run = slow
    try:
        yield seen, go
    finally:
        go.set()
        engine.run = run


def embedded(running: Running, texts: Sequence[str], **headers: str) -> JSON:
    answer = running.client.post("/v1/embeddings", json={"input": texts}, headers=headers)
    assert answer.status_code == 200, answer.text
    made: JSON = answer.json()
    return made


def test_only_new_texts_of_a_request_are_run(caching: Running) -> None:
    known = [f"a {'big ' * number}cat" for number in range(30)]
    first = embedded(caching, known)
    looks = Looks(caching)
    again = embedded(caching, [*known[:15], "a small red cat", *known[15:], "a small blue ball", "a small red cat"])
    assert looks("vitascope_batch_rows_sum", graph="text") == 2
    assert looks("vitascope_cache_lookups_total", cache="texts", result="hit") == 30
    assert looks("vitascope_cache_lookups_total", cache="texts", result="miss") == 2
    assert looks("vitascope_cache_entries", cache="texts") == 2
    assert looks("vitascope_cache_bytes", cache="texts") > 2 * 16 * 4
    # Bit for bit, and each in its place; the tokens are told as before.
    vectors = [one["embedding"] for one in again["data"]]
    assert vectors[:15] + vectors[16:31] == [one["embedding"] for one in first["data"]]
    assert vectors[15] == vectors[32]
    assert vectors[15] != vectors[31]
    per_text = {text: embedded(caching, [text])["usage"]["prompt_tokens"] for text in ("a big cat", "a small red cat")}
    assert again["usage"]["prompt_tokens"] == first["usage"]["prompt_tokens"] + 3 * per_text["a small red cat"]


def test_a_repeated_search_runs_no_graph(caching: Running) -> None:
    def search() -> JSON:
        found: JSON = caching.client.post("/v1/collections/palette/search", json={"text": "a red thing here"}).json()
        return found

    first = search()
    looks = Looks(caching)
    assert search() == first
    assert embedded(caching, ["a red thing here"])["data"]  # what a search has embedded, too
    assert looks("vitascope_inference_seconds_count", graph="text") == 0
    assert looks("vitascope_cache_lookups_total", cache="texts", result="hit") == 2


def test_concurrent_requests_with_the_same_text_run_it_once(caching: Running) -> None:
    """One is answered by a thread, a search, the other on the event loop."""
    looks = Looks(caching)
    body = {"text": "wanted twice"}
    with held(caching, "text") as (seen, go), ThreadPoolExecutor(3) as threads:
        one = threads.submit(embedded, caching, ["wanted twice"])
        wait_for(lambda: seen)
        two = threads.submit(embedded, caching, ["wanted twice", "wanted once"])
        three = threads.submit(caching.client.post, "/v1/collections/palette/search", json=body)
        wait_for(lambda: looks("vitascope_cache_lookups_total", cache="texts", result="shared") == 2)
        go.set()
        assert one.result()["data"][0]["embedding"] == two.result()["data"][0]["embedding"]
        assert three.result().status_code == 200
    assert seen == [1, 1]


def test_a_request_at_its_deadline_does_not_fail_others_that_wait_for_its_texts(caching: Running) -> None:
    with held(caching, "text") as (seen, go), ThreadPoolExecutor(10) as threads:
        answers = [threads.submit(embedded, caching, ["in the way"])]
        wait_for(lambda: seen)

        def have_waited(seconds: float) -> bool:
            """Whether somebody waited for a text of one whose time was over after so many seconds."""
            looks, text = Looks(caching), f"both for {seconds} s"

            def looked(result: str) -> float:
                return looks("vitascope_cache_lookups_total", cache="texts", result=result)

            about = {"json": {"input": [text]}, "headers": {"x-request-timeout": f"{seconds}"}}
            late = threads.submit(caching.client.post, "/v1/embeddings", **about)
            wait_for(lambda: looked("miss") or late.done())
            if looked("miss"):
                answers.append(threads.submit(embedded, caching, [text]))
                wait_for(lambda: looked("shared") + looked("miss") >= 2)
            problem_of(late.result(), 504, "deadline_exceeded")
            return looked("shared") == 1

        # On a slow machine it may be late before anybody waits.
        assert any(have_waited(seconds) for seconds in (0.2, 1, 5, 25))
        go.set()
        assert all(answer.result()["data"] for answer in answers)


def test_embeddings_from_different_batches_rank_the_same(small_model: Model) -> None:
    """What is promised: not the last bits, but the cosines and the order that they give."""
    texts = [f"a {'big ' * (number % 7)}{color} thing" for number, color in enumerate(("red", "green", "blue") * 20)]
    together = small_model.embed_text(texts)
    alone = np.concatenate([small_model.embed_text([text]) for text in texts])
    assert (together * alone).sum(axis=1).min() > 1 - 1e-5
    assert np.abs(together @ together.T - alone @ together.T).max() < 1e-5


def score(running: Running, frames: int = 0, **about: object) -> JSON:
    answer = running.client.post("/v1/caption-scores", json={"captions": ["a red thing"], "frames": frames, **about})
    assert answer.status_code == 200, answer.text
    found: JSON = answer.json()
    return found


def test_a_second_question_about_a_clip_decodes_nothing(caching: Running) -> None:
    about = {"collection": "palette", "video_id": "1", "start": 0.25}
    first = score(caching, frames=4, **about)
    looks = Looks(caching)
    assert score(caching, frames=4, **about) == first
    without = score(caching, **about)["scores"][0]
    assert {**without, "emscore": None} == {**first["scores"][0], "emscore": None}
    answer = caching.client.post("/v1/answers", json={"question": "what color is it?", **about}).json()
    assert answer["answer"] == "red"
    assert (answer["start"], answer["end"]) == (first["start"], first["end"])
    assert looks("vitascope_stage_seconds_count", stage="decode") == 0
    assert looks("vitascope_inference_seconds_count", graph="video") == 0
    score(caching, frames=2, **about)  # frames that nobody has seen
    assert looks("vitascope_inference_seconds_count", graph="video") == 1
    score(caching, **{**about, "start": 0.5})
    assert looks("vitascope_stage_seconds_count", stage="decode") == 2


def test_the_same_content_is_embedded_once_under_any_name(caching: Running, files: Path) -> None:
    content = (files / "green.mp4").read_bytes()
    looks = Looks(caching)
    for name in ("a.mp4", "b.mp4"):
        form = {"file": (name, content)}
        answer = caching.client.post("/v1/answers", files=form, data={"question": "what color is it?"})
        assert answer.json()["answer"] == "green", answer.text
    assert caching.client.post("/v1/embeddings", files=form).status_code == 200
    assert looks("vitascope_inference_seconds_count", graph="video") == 1
    assert looks("vitascope_decoding_wait_seconds_count", operation="sample_span", kind="interactive") == 1
    # Uploaded for keeps it has the same content, and stays what it was.
    assert score(caching, collection="palette", video_id="2")["scores"]
    assert looks("vitascope_inference_seconds_count", graph="video") == 1


def test_an_invalid_span_of_a_cached_file_is_an_error(caching: Running, files: Path) -> None:
    form = {"file": ("a.mp4", (files / "blue.mp4").read_bytes())}
    data = {"question": "what color is it?"}
    assert caching.client.post("/v1/answers", files=form, data=data).status_code == 200
    problem_of(caching.client.post("/v1/answers", files=form, data={**data, "start": "9"}), 422, "invalid_input")


def test_a_replaced_file_is_embedded_again(caching: Running, files: Path) -> None:
    """The catalogue states the SHA-256 of the red film; who writes to the folder puts a green one in its place."""
    folder = caching.settings.data_dir / "incoming"
    film, red = folder / "film.mp4", folder.parent / "red.mp4"
    write_color_video(red, (200, 20, 20), seconds=1.5)
    film.write_bytes(red.read_bytes())
    assert caching.client.post("/v1/collections", json={"name": "folders"}).status_code == 201
    job = caching.client.post("/v1/collections/folders/jobs", json={"folder": str(folder)}).json()
    address = f"/v1/collections/folders/jobs/{job['id']}"
    wait_for(lambda: caching.client.get(address).json()["state"] == "succeeded")
    question = {"question": "what color is it?"}
    stored = {"collection": "folders", "video_id": "1", **question}
    assert caching.client.post("/v1/answers", json=stored).json()["answer"] == "red"
    (folder.parent / "other.mp4").write_bytes((files / "green.mp4").read_bytes())
    (folder.parent / "other.mp4").replace(film)
    assert caching.client.post("/v1/answers", json=stored).json()["answer"] == "green"
    # What was seen under the SHA-256 of the red one is not taken for the red one.
    form = {"file": ("a.mp4", red.read_bytes())}
    assert caching.client.post("/v1/answers", files=form, data=question).json()["answer"] == "red"


def test_concurrent_questions_about_one_upload_decode_it_once(caching: Running, tmp_path: Path) -> None:
    write_color_video(tmp_path / "odd.mp4", (30, 200, 30), seconds=1.0)
    content = (tmp_path / "odd.mp4").read_bytes()
    looks = Looks(caching)

    def ask(_: int) -> str:
        form, data = {"file": ("a.mp4", content)}, {"question": "what color is it?"}
        answer: str = caching.client.post("/v1/answers", files=form, data=data).json()["answer"]
        return answer

    with held(caching, "video") as (seen, go), ThreadPoolExecutor(6) as threads:
        answers = threads.map(ask, range(6))
        wait_for(lambda: looks("vitascope_cache_lookups_total", cache="clips", result="shared") == 5)
        go.set()
        assert list(answers) == ["green"] * 6
    assert seen == [1]


def test_caches_respect_their_limit_and_are_invalidated_with_a_model(small_bundle: Path, tmp_path: Path) -> None:
    settings = settings_for(small_bundle, tmp_path, text_cache_bytes=5000, clip_cache_bytes=0)
    with serving(settings) as running:
        looks = Looks(running)
        for number in range(20):
            embedded(running, [f"text {number}"])
        assert looks("vitascope_cache_bytes", cache="texts") <= 5000
        kept = looks("vitascope_cache_entries", cache="texts")
        assert 2 <= kept <= 8
        assert looks("vitascope_cache_evictions_total", cache="texts") == 20 - kept
        running.service.caches.invalidate("another")
        assert looks("vitascope_cache_entries", cache="texts") == kept
        running.service.caches.invalidate(running.service.model.bundle.fingerprint)
        assert looks("vitascope_cache_bytes", cache="texts") == 0
        embedded(running, ["text 19"])
        assert looks("vitascope_batch_rows_sum", graph="text") == 21

"""The Python client with a real service: the code of docs/python.md, notebook output, and retries."""

from __future__ import annotations

import asyncio
import re
import shutil
import threading
import time
from base64 import b64decode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from tests.media_files import write_color_video
from tests.service.conftest import COLORS, fill, settings_for
from tests.service.forwarding import forwarding
from tests.service.running import JSON, ROOT, Running, serving
from tests.waiting import PATIENCE, wait_for
from vitascope.client import AsyncClient, Client, RetryConfig, ServiceError, compat
from vitascope.errors import CollectionNotFound
from vitascope.integrations.notebook import Strip, strip, strip_async

SNIPPETS = re.findall(
    r"^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
)
HOSTILE = '"><script>alert(1)</script>\x1b[31m'
ADMIN = "the-admin-key-of-these-tests-0123456789abcdef"
SOON = RetryConfig(max_attempts=1000, max_elapsed=PATIENCE, base_delay=0.05, max_delay=0.05)
"""Enough retries for a slow machine."""


@pytest.fixture
def folder(
    running: Running, small_bundle: Path, files: Path, incoming: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Folder with the files that the page names; the service has no collection of its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VITASCOPE_API_KEY", raising=False)
    for name, color in (("beach", "red"), ("snow", "blue"), ("forest", "green")):
        shutil.copy(files / f"{color}.mp4", tmp_path / f"{name}.mp4")
    write_color_video(tmp_path / "film.mp4", (200, 10, 200))
    Image.new("RGB", (64, 64), COLORS["red"]).save(tmp_path / "beach.jpg")
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "hd-vila-tiny").symlink_to(small_bundle)
    write_color_video(incoming / "yellow.mp4", (240, 240, 10))
    (incoming / "broken.mp4").write_text("no film at all")
    yield tmp_path
    running.client.delete("/v1/collections/holidays")


def test_code_of_the_docs_page_runs(
    running: Running, folder: Path, incoming: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {}
    printed = []
    for snippet in SNIPPETS:
        code = snippet.replace("http://127.0.0.1:8000", str(running.client.base_url)).replace(
            '"films"', f'"{incoming.name}"'
        )
        exec(compile(code, "docs/python.md", "exec"), names)
        printed.append(capsys.readouterr())
    names["client"].close()
    assert "beach" in printed[0].out
    assert names["answer"] is None  # a model of colours knows no animals
    assert [document["index"] for document in names["order"]] == [0, 1]
    assert names["titles"] == {"beach"}
    assert printed[3].out.endswith("100%\n")
    assert "succeeded 1\n" in printed[6].out
    assert "broken.mp4 " in printed[6].out
    assert "broken.mp4 failed" in printed[6].out
    assert (folder / "copy.mp4").read_bytes() == (folder / "beach.mp4").read_bytes()
    assert sorted(path.name for path in (folder / "holidays-parquet").iterdir()) == [
        "clips.parquet",
        "videos.parquet",
    ]
    assert re.findall(r"^(\w.*) \[", printed[8].out, re.MULTILINE) == ["a dog runs", "snow falls", "people dance"]
    assert not any(output.err for output in printed)  # no progress bars without a terminal


def images_of(strip_: Strip) -> list[Image.Image]:
    images = re.findall(r'src="data:image/jpeg;base64,([^"]*)"', strip_._repr_html_())
    return [Image.open(BytesIO(b64decode(data)), formats=["JPEG"]) for data in images]


def test_strip_shows_thumbnails_with_captions(running: Running, palette: str, collection: str, files: Path) -> None:
    with Client(str(running.client.base_url)) as client:
        shown = strip(client, client.search(palette, "a red thing", rerank=1))
        best, *others = (picture.getpixel((8, 8)) for picture in images_of(shown))
        assert len(others) == 2
        assert best[0] > 180 > 60 > max(best[1:])  # type: ignore[index, operator]
        html, text = shown._repr_html_(), shown._repr_mimebundle_(include=None, exclude=None)["text/plain"]
        result = shown.results[0]
        for name in ("fused", "match", "similarity"):
            assert f"{name} {result[name]:.3f}" in html  # type: ignore[literal-required]
            assert f"{name} {result[name]:.3f}" in text  # type: ignore[literal-required]
        assert "0:00-0:02" in html
        assert len(text.splitlines()) == 3

        client.add_video(collection, files / "red.mp4", title=HOSTILE)
        client.add_video(collection, files / "blue.mp4")
        results = list(client.iter_search_results(collection, "a red thing"))
        client.delete_video(collection, results[1]["video"]["id"])
        shown = strip(client, results)
        assert [thumbnail is None for thumbnail in shown.thumbnails] == [False, True]
        assert "<script" not in shown._repr_html_()
        assert "&quot;&gt;&lt;script&gt;" in shown._repr_html_()
        assert "\x1b" not in repr(shown)
        assert repr(strip(client, [])) == "No results"

    async def at_once() -> Strip:
        async with AsyncClient(str(running.client.base_url)) as client:
            return await strip_async(client, await client.search(palette, "a red thing"))

    assert len(images_of(asyncio.run(at_once()))) == 3


def test_requests_about_a_part_of_a_file(low_limits: Running, files: Path) -> None:
    part = {"start": 0.5, "end": 1.5}
    with Client(str(low_limits.client.base_url)) as client:
        film = files / "red.mp4"
        responses: list[JSON] = [
            client.score_file(film, ["a red thing"], **part),
            client.ask_file(film, "what color is it?", **part),
            client.classify_entailment_of_file(film, ["a red thing"], **part),
            client.find_moments_in_file(film, ["a red thing"], **part),
            *client.generate_captions_for_file(film, **part)["clips"],
            *client.generate_chapters_for_file(film, **part)["chapters"],
        ]
    assert [(response["start"], response["end"]) for response in responses] == [(0.5, 1.5)] * 6


@pytest.fixture(scope="module")
def busy(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[Running]:
    """Service for two concurrent requests, with the collection `palette`."""
    settings = settings_for(
        small_bundle,
        tmp_path_factory.mktemp("busy"),
        allow_unauthenticated=False,
        admin_key=ADMIN,
        max_requests=2,
        text_cache_bytes=0,
    )
    with serving(settings) as running:
        running.client.headers["authorization"] = f"Bearer {ADMIN}"
        assert running.client.post("/v1/collections", json={"name": "palette"}).status_code == 201
        fill(running, "palette", files)
        yield running


def port_of(running: Running) -> int:
    port = running.client.base_url.port
    assert port is not None
    return port


def client_of(running: Running, retries: RetryConfig = SOON, *, key: str = ADMIN, port: int | None = None) -> Client:
    return Client(f"http://127.0.0.1:{port or port_of(running)}", api_key=key, retries=retries)


def response_count(running: Running, status: int) -> int:
    """Return the number of responses with this status."""
    families = text_string_to_metric_families(running.service.observer.metrics.to_text().decode())
    samples = [sample for family in families for sample in family.samples]
    return int(
        sum(s.value for s in samples if s.name == "vitascope_requests_total" and s.labels["status"] == str(status))
    )


@contextmanager
def blocked_graph(running: Running, graph: str, *keys: str) -> Iterator[threading.Event]:
    """Block the graph until the event is set, while one search per key is running or queued."""
    released, batch_sizes = threading.Event(), list[int]()
    engine = running.service.model._graphs.engine(graph)  # type: ignore[attr-defined]
    run = engine.run

    def block(inputs: JSON) -> JSON:
        batch_sizes.append(len(next(iter(inputs.values()))))
        assert released.wait(PATIENCE)
        outputs: JSON = run(inputs)
        return outputs

    def search(key: str) -> int:
        url = f"{running.client.base_url}/v1/collections/palette/search"
        return httpx.post(url, json={"text": "red"}, headers={"x-api-key": key}, timeout=PATIENCE).status_code

    def is_blocked() -> bool:
        # Concurrent searches may share a run.
        return sum(batch_sizes) + running.service.scheduler.queue_length() == len(keys) and bool(batch_sizes) == bool(
            keys
        )

    engine.run = block
    try:
        with ThreadPoolExecutor(max(1, len(keys))) as threads:
            try:
                waiting = [threads.submit(search, key) for key in keys]
                wait_for(is_blocked)
                yield released
            finally:
                released.set()
            assert [each.result() for each in waiting] == [200] * len(keys)
    finally:
        engine.run = run


def test_requests_rejected_by_a_full_service_succeed_later(busy: Running, files: Path) -> None:
    before, started_at = response_count(busy, 503), time.monotonic()
    with blocked_graph(busy, "text", ADMIN, ADMIN) as released, ThreadPoolExecutor(3) as threads:
        searching, creating, scoring = client_of(busy), client_of(busy), client_of(busy)
        results = threads.submit(searching.search, "palette", "a red thing")
        created = threads.submit(creating.create_collection, "created-late")
        # The whole file has to be sent again.
        scores = threads.submit(scoring.score_file, files / "red.mp4", ["a red thing"])
        wait_for(lambda: response_count(busy, 503) >= before + 3)  # perhaps two of one client
        released.set()
        assert results.result()["results"][0]["video"]["title"] == "red"
        assert created.result()["name"] == "created-late"
        assert scores.result()["scores"][0]["similarity"] > 0.9
    assert time.monotonic() - started_at >= 1  # Retry-After: 1


def test_rate_limited_requests_succeed_later(busy: Running) -> None:
    """The request was rejected before execution, so even non-idempotent ones are retried."""
    busy.client.post("/v1/collections", json={"name": "gone-late"})
    scopes = ["read", "write", "admin"]
    key = busy.client.post("/v1/keys", json={"name": "one", "scopes": scopes, "concurrency": 1}).json()["key"]
    before = response_count(busy, 429)
    with (
        blocked_graph(busy, "text", key) as released,
        ThreadPoolExecutor(1) as threads,
        client_of(busy, key=key) as client,
    ):
        deleted = threads.submit(client.delete_collection, "gone-late")
        wait_for(lambda: response_count(busy, 429) > before)
        released.set()
        deleted.result()
    assert busy.client.get("/v1/collections/gone-late").status_code == 404


@pytest.mark.parametrize("retries", [RetryConfig(max_attempts=1), RetryConfig(max_attempts=9, max_elapsed=0.9)])
def test_exhausted_retries_raise_at_once(busy: Running, retries: RetryConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(compat, "time", SimpleNamespace(sleep=pauses.append))
    before = response_count(busy, 503)
    with (
        blocked_graph(busy, "text", ADMIN, ADMIN),
        client_of(busy, retries) as client,
        pytest.raises(ServiceError, match="retry in a moment") as raised,
    ):
        client.search("palette", "red")
    assert pauses == []  # Retry-After exceeds max_elapsed
    assert raised.value.status == 503
    assert raised.value.problem["code"] == "overloaded"
    wait_for(lambda: response_count(busy, 503) == before + 1)  # counted after it is sent


def test_cancelled_call_never_reaches_the_model(busy: Running) -> None:
    def dropped() -> float:
        families = text_string_to_metric_families(busy.service.observer.metrics.to_text().decode())
        samples = [sample for family in families for sample in family.samples]
        labels = {"graph": "text", "reason": "abandoned"}.items()
        return sum(s.value for s in samples if s.name == "vitascope_calls_dropped_total" and labels <= s.labels.items())

    async def search_and_cancel() -> None:
        async with AsyncClient(f"http://127.0.0.1:{port_of(busy)}", api_key=ADMIN) as client:
            call = asyncio.create_task(client.search("palette", "a cancelled search"))
            await asyncio.to_thread(wait_for, busy.service.scheduler.queue_length)
            (queued,) = busy.service.scheduler._queue
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            # The service has noticed the disconnect.
            await asyncio.to_thread(wait_for, queued.context.cancelled.is_set)

    before = dropped()
    with blocked_graph(busy, "text", ADMIN):
        asyncio.run(search_and_cancel())
        assert dropped() == before  # it is still in the queue
    wait_for(lambda: dropped() == before + 1)


def test_write_with_a_lost_response_is_executed_once(busy: Running) -> None:
    with forwarding(port_of(busy)) as between, client_of(busy, port=between.port) as client:
        between.answers_to_lose = 2
        # A second execution would fail with 409.
        assert client.create_collection("once")["name"] == "once"
        assert between.answers_to_lose == 0
        between.answers_to_lose = 1
        assert client.get_collection("once")["videos"] == 0  # reads are retried as well
        between.answers_to_lose = 1
        with pytest.raises(ServiceError, match="cannot be reached"):
            client.delete_collection("once")  # not retried: a second execution would fail with 404
        with pytest.raises(CollectionNotFound):
            client.get_collection("once")


def test_repeated_upload_waits_for_the_one_in_progress(
    busy: Running, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(busy.service.concurrency, "_max_writes", 2)  # the repeated request needs a second slot
    busy.client.post("/v1/collections", json={"name": "broken-off"})
    before = response_count(busy, 409)
    with forwarding(port_of(busy)) as between, client_of(busy, port=between.port) as client:
        with blocked_graph(busy, "video") as released, ThreadPoolExecutor(1) as threads:
            added = threads.submit(client.add_video, "broken-off", files / "blue.mp4", title="Blue")
            wait_for(lambda: busy.service.scheduler._active)  # the upload is in the model
            between.cut()
            wait_for(lambda: response_count(busy, 409) > before)
            released.set()
            assert added.result()["title"] == "Blue"
        assert client.get_collection("broken-off")["videos"] == 1
    assert busy.client.get("/v1/collections/broken-off").json()["videos"] == 1

"""Services, or what is between, that never come to an end: the client does. Downloads: test_download.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from index.cli.backend import collect_pages
from tests.vitascope.local_server import CLIENTS, Exchange, call, server
from vitascope.client import Client, RetryConfig, ServiceError

HASTY = RetryConfig(max_attempts=3, base_delay=0.0)


def answer_json(exchange: Exchange, status: int, value: dict[str, Any], **headers: object) -> None:
    content = json.dumps(value).encode()
    exchange.head(status, Content_Length=len(content), **headers)
    exchange.body(content)


@pytest.mark.parametrize("kind", CLIENTS)
@pytest.mark.parametrize(
    ("method", "arguments"),
    [("iter_videos", ["films"]), ("iter_jobs", ["films"]), ("iter_search_results", ["films", "a dog"])],
)
def test_repeated_cursor_ends_the_iteration(kind: str, method: str, arguments: list[str]) -> None:
    """As from a cache that does not heed the query."""
    requests = []

    def answer(exchange: Exchange) -> None:
        requests.append(exchange.path)
        assert len(requests) < 1000
        answer_json(exchange, 200, {"videos": [], "jobs": [], "results": [], "next_cursor": "second"})

    with server(answer) as url, pytest.raises(ServiceError, match="the same next_cursor twice: 'second'"):
        call(kind, url, method, *arguments)
    assert len(requests) == 2


def test_repeated_cursor_ends_list_commands() -> None:
    requests = []

    def answer(exchange: Exchange) -> None:
        requests.append(exchange.path)
        assert len(requests) < 1000
        answer_json(exchange, 200, {"jobs": [], "next_cursor": "second"})

    with (
        server(answer) as url,
        Client(url) as client,
        pytest.raises(ServiceError, match="the same next_cursor twice"),
    ):
        collect_pages(lambda limit, cursor: client.list_jobs("films", limit=limit, cursor=cursor), "jobs", 10, None)
    assert len(requests) == 2


@pytest.mark.parametrize("kind", CLIENTS)
def test_upload_is_attempted_max_attempts_times(kind: str, tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"film")
    requests = []

    def refuse(exchange: Exchange) -> None:
        requests.append(exchange.path)
        exchange.rfile.read(int(exchange.headers["Content-Length"]))
        answer_json(exchange, 503, {"code": "overloaded", "detail": "later"}, Retry_After=0)

    def close(exchange: Exchange) -> None:
        requests.append(exchange.path)
        exchange.rfile.read(int(exchange.headers["Content-Length"]))

    for answer, message in ((refuse, "later"), (close, "cannot be reached")):
        requests.clear()
        with server(answer) as url, pytest.raises(ServiceError, match=message):
            call(kind, url, "add_video", "films", tmp_path / "film.mp4", retries=HASTY)
        assert len(requests) == 3

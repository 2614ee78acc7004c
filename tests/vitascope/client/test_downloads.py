"""Downloads are complete or fail, resume after lost connections, and are limited."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vitascope.client.services import CLIENTS, Caller, Exchange, server
from vitascope.client import RetryConfig, ServiceError
from vitascope.client._sync.transfers import MAX_RESTARTS, MAX_STALLS
from vitascope.errors import InvalidInput, VideoNotFound, VitascopeError

CONTENT = random.Random(1).randbytes(300_000)


@pytest.fixture(autouse=True)
def no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in CLIENTS:
        monkeypatch.setattr(f"vitascope.client.{kind}.transfers.RECONNECT", RetryConfig(base_delay=0.0))


class MediaServer:
    """Server that sends ``parts`` bytes per request before it closes the connection, then the rest."""

    def __init__(self, parts: list[int], *, supports_ranges: bool = True) -> None:
        self.parts = parts
        self.supports_ranges = supports_ranges
        self.ranges: list[str | None] = []
        self.sent = 0

    def __call__(self, exchange: Exchange) -> None:
        self.ranges.append(exchange.headers["Range"])
        first = exchange.offset if self.supports_ranges else 0
        rest = CONTENT[first:]
        if first:
            content_range = f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}"
            exchange.head(206, Content_Length=len(rest), Content_Range=content_range)
        else:
            exchange.head(200, Content_Length=len(rest))
        part = rest[: self.parts.pop(0)] if self.parts else rest
        self.sent += len(part)
        exchange.body(part)


def download(call: Caller, url: str, target: Path) -> None:
    call(url, "download_video", "films", "1", target)


@pytest.mark.parametrize("supports_ranges", [True, False])
def test_download_continues_after_lost_connections(supports_ranges: bool, call: Caller, tmp_path: Path) -> None:
    media = MediaServer([100, 0, 0, 0, 0, 2000] if supports_ranges else [3000, 200], supports_ranges=supports_ranges)
    with server(media) as url:
        download(call, url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    offsets = [100] * 5 + [2100] if supports_ranges else [3000, 200]
    assert media.ranges == [None, *(f"bytes={offset}-" for offset in offsets)]


def test_a_file_that_changes_during_the_download_is_downloaded_again(call: Caller, tmp_path: Path) -> None:
    changed = CONTENT[::-1]

    def respond(exchange: Exchange) -> None:
        if exchange.headers["If-Range"] is None:
            exchange.head(200, Content_Length=len(CONTENT), ETag='"1"')
            exchange.body(CONTENT[:1000])
        else:
            assert (exchange.headers["Range"], exchange.headers["If-Range"]) == ("bytes=1000-", '"1"')
            exchange.head(200, Content_Length=len(changed), ETag='"2"')
            exchange.body(changed)

    with server(respond) as url:
        download(call, url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == changed


def test_download_fails_after_max_restarts(call: Caller, tmp_path: Path) -> None:
    cuts = random.Random(2)
    media = MediaServer([cuts.randrange(len(CONTENT)) for _ in range(2000)], supports_ranges=False)
    with server(media) as url, pytest.raises(ServiceError) as raised:
        download(call, url, tmp_path / "file")
    assert "GET /v1/collections/films/videos/1/media: the connection was lost 6 times" in str(raised.value)
    assert "ignores Range" in str(raised.value)
    assert len(media.ranges) == MAX_RESTARTS + 2
    assert list(tmp_path.iterdir()) == []


def test_download_fails_after_max_connections(call: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"vitascope.client.{call.kind}.transfers.MAX_CONNECTIONS", 20)
    media = MediaServer([1] * 2000)
    with server(media) as url, pytest.raises(ServiceError, match="was lost 20 times; 20 bytes were received, not the"):
        download(call, url, tmp_path / "file")
    assert (len(media.ranges), media.sent) == (20, 20)


def send_wrong_range(exchange: Exchange) -> None:
    if exchange.offset == 0:
        exchange.head(200, Content_Length=len(CONTENT))
        exchange.body(CONTENT[:100])
    else:
        exchange.head(206, Content_Length=7, Content_Range="bytes 7-13/14")
        exchange.body(CONTENT[7:14])


def redirect(exchange: Exchange) -> None:
    exchange.head(302, Location="/login", Content_Length=5)
    exchange.body(b"login")


def send_nothing(exchange: Exchange) -> None:
    exchange.head(204)


def send_problem(exchange: Exchange) -> None:
    exchange.json(404, {"code": "video_not_found", "detail": "there is none"})


def lose_connection(exchange: Exchange) -> None:
    MediaServer([0 if exchange.offset else 100])(exchange)


@pytest.mark.parametrize(
    ("respond", "error", "message"),
    [
        (send_wrong_range, ServiceError, "'bytes 7-13/14'; 'bytes 100-…' was expected"),
        (redirect, ServiceError, "HTTP 302 Found, Location: /login"),
        (send_nothing, ServiceError, "HTTP 204; a file was expected"),
        (send_problem, VideoNotFound, "there is none"),
        (lose_connection, ServiceError, f"was lost {1 + MAX_STALLS} times; 100 bytes were received"),
    ],
)
def test_failed_download_raises_the_reason_and_keeps_the_existing_file(
    respond: Callable[[Exchange], None], error: type[VitascopeError], message: str, call: Caller, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"earlier")
    with server(respond) as url, pytest.raises(error, match=message):
        download(call, url, tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"earlier"


def test_unwritable_target_is_named(call: Caller, tmp_path: Path) -> None:
    with (
        server(MediaServer([])) as url,
        pytest.raises(InvalidInput, match=r"file: '.*none/file' cannot be written \(No su"),
    ):
        download(call, url, tmp_path / "none" / "file")

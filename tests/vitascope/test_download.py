"""Downloads are complete or fail, resume after lost connections, and are limited."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.vitascope.local_server import CLIENTS, Exchange, download, server
from vitascope.client import RetryConfig, ServiceError
from vitascope.client._sync.transfers import MAX_RESTARTS, MAX_STALLS
from vitascope.errors import InvalidInput, VideoNotFound

CONTENT = random.Random(1).randbytes(300_000)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("_sync", "_async"):
        monkeypatch.setattr(f"vitascope.client.{kind}.transfers.RECONNECT", RetryConfig(base_delay=0.0))


class Media:
    """Server that sends ``pieces`` bytes per request before it closes the connection, then the rest."""

    def __init__(self, pieces: list[int], *, knows_ranges: bool = True) -> None:
        self.pieces = pieces
        self.knows_ranges = knows_ranges
        self.ranges: list[str | None] = []
        self.sent = 0

    def __call__(self, exchange: Exchange) -> None:
        self.ranges.append(exchange.headers["Range"])
        first = exchange.offset if self.knows_ranges else 0
        rest = CONTENT[first:]
        if first:
            stated = f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}"
            exchange.head(206, Content_Length=len(rest), Content_Range=stated)
        else:
            exchange.head(200, Content_Length=len(rest))
        piece = rest[: self.pieces.pop(0)] if self.pieces else rest
        self.sent += len(piece)
        exchange.body(piece)


@pytest.mark.parametrize("kind", CLIENTS)
def test_download_resumes_after_a_lost_connection(kind: str, tmp_path: Path) -> None:
    media = Media([100, 0, 0, 0, 0, 2000])
    with server(media) as url:
        download(kind, url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert media.ranges == [None, *["bytes=100-"] * 5, "bytes=2100-"]


@pytest.mark.parametrize("kind", CLIENTS)
def test_download_restarts_if_the_server_ignores_ranges(kind: str, tmp_path: Path) -> None:
    with server(Media([3000, 200], knows_ranges=False)) as url:
        download(kind, url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("kind", CLIENTS)
def test_download_fails_after_max_restarts(kind: str, tmp_path: Path) -> None:
    cuts = random.Random(2)
    media = Media([cuts.randrange(len(CONTENT)) for _ in range(2000)], knows_ranges=False)
    with server(media) as url, pytest.raises(ServiceError) as raised:
        download(kind, url, tmp_path / "file")
    assert "GET /v1/collections/films/videos/1/media: the connection was lost 6 times" in str(raised.value)
    assert "ignores Range" in str(raised.value)
    assert len(media.ranges) == MAX_RESTARTS + 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", CLIENTS)
def test_download_fails_after_max_connections(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("_sync", "_async"):
        monkeypatch.setattr(f"vitascope.client.{module}.transfers.MAX_CONNECTIONS", 20)
    media = Media([1] * 2000)
    with server(media) as url, pytest.raises(ServiceError, match="was lost 20 times; 20 bytes were received, not the"):
        download(kind, url, tmp_path / "file")
    assert (len(media.ranges), media.sent) == (20, 20)


@pytest.mark.parametrize("kind", CLIENTS)
def test_failed_download_keeps_the_existing_file(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"earlier")
    with (
        server(Media([100] + [0] * 2000)) as url,
        pytest.raises(ServiceError, match=f"was lost {1 + MAX_STALLS} times; 100 bytes were received"),
    ):
        download(kind, url, tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"earlier"


@pytest.mark.parametrize("kind", CLIENTS)
def test_wrong_content_range_fails_the_download(kind: str, tmp_path: Path) -> None:
    def answer(exchange: Exchange) -> None:
        if exchange.offset == 0:
            exchange.head(200, Content_Length=len(CONTENT))
            exchange.body(CONTENT[:100])
        else:
            exchange.head(206, Content_Length=7, Content_Range="bytes 7-13/14")
            exchange.body(CONTENT[7:14])

    with server(answer) as url, pytest.raises(ServiceError, match="'bytes 7-13/14'; 'bytes 100-…' was expected"):
        download(kind, url, tmp_path / "file")


@pytest.mark.parametrize("kind", CLIENTS)
def test_redirect_fails_the_download(kind: str, tmp_path: Path) -> None:
    def answer(exchange: Exchange) -> None:
        exchange.head(302, Location="/login", Content_Length=5)
        exchange.body(b"login")

    with server(answer) as url, pytest.raises(ServiceError, match="HTTP 302; a file was expected"):
        download(kind, url, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", CLIENTS)
def test_error_response_of_a_download_is_raised(kind: str, tmp_path: Path) -> None:
    problem = b'{"code": "video_not_found", "detail": "there is none"}'

    def answer(exchange: Exchange) -> None:
        exchange.head(404, Content_Length=len(problem), Content_Type="application/problem+json")
        exchange.body(problem)

    with server(answer) as url, pytest.raises(VideoNotFound, match="there is none"):
        download(kind, url, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", CLIENTS)
def test_unwritable_target_is_named(kind: str, tmp_path: Path) -> None:
    with server(Media([])) as url, pytest.raises(InvalidInput, match=r"file: '.*none/file' cannot be written \(No su"):
        download(kind, url, tmp_path / "none" / "file")

"""Files of a service: they come whole or not at all, and go on where a connection broke off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from vitascope.client.synchronous.download import TRIES, fetch
from vitascope.errors import InvalidInput

CONTENT = bytes(range(256)) * 40


class Breaking(httpx.SyncByteStream):
    """So many bytes, then a broken connection."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self.content
        raise httpx.ReadError("connection reset by peer")


class Server:
    """Gives ``pieces`` bytes at each request before the connection breaks; knows ranges or does not."""

    def __init__(self, pieces: list[int], *, knows_ranges: bool = True) -> None:
        self.pieces = pieces
        self.knows_ranges = knows_ranges
        self.asked: list[str | None] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        wanted = request.headers.get("range")
        self.asked.append(wanted)
        first = int(wanted.split("=")[1].rstrip("-")) if wanted and self.knows_ranges else 0
        status = 206 if first else 200
        rest = CONTENT[first:]
        if self.pieces:
            return httpx.Response(status, stream=Breaking(rest[: self.pieces.pop(0)]))
        return httpx.Response(status, content=rest)


def fetched(server: Server, target: Path) -> None:
    with httpx.Client(base_url="http://service", transport=httpx.MockTransport(server)) as http:
        fetch(http, "/file", target)


def test_it_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    server = Server([100, 0, 0, 0, 0, 2000])
    fetched(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.asked == [None, *["bytes=100-"] * 5, "bytes=2100-"]


def test_a_server_without_ranges_is_asked_for_all_of_it_again(tmp_path: Path) -> None:
    fetched(Server([3000], knows_ranges=False), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_what_cannot_be_fetched_leaves_the_earlier_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"earlier")
    server = Server([100] + [0] * TRIES)
    with pytest.raises(httpx.ReadError):
        fetched(server, tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"earlier"


def test_a_refusal_comes_with_its_reason(tmp_path: Path) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(404, json={"detail": "there is none"}))
    with (
        httpx.Client(base_url="http://service", transport=transport) as http,
        pytest.raises(httpx.HTTPStatusError) as raised,
    ):
        fetch(http, "/file", tmp_path / "file")
    assert raised.value.response.json() == {"detail": "there is none"}
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"file: '.*none/file' cannot be written \(No such file"):
        fetched(Server([]), tmp_path / "none" / "file")

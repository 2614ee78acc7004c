"""Previews over HTTP: made at the first request, kept within a limit, removed with their video."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.media_files import counter_frame, write_picture, write_video
from tests.service.conftest import settings_for
from tests.service.running import Running, problem_of, serving
from tests.waiting import wait_for
from vitascope.media.decode import probe
from vitascope.sandbox.decoder import Decoder

URL = "/v1/collections/films/videos"


@pytest.fixture
def service(small_bundle: Path, tmp_path: Path) -> Iterator[Running]:
    """A service with a WMV video of two seconds, whose cache has room for about two previews, and a picture."""
    settings = settings_for(small_bundle, tmp_path / "data", preview_cache_bytes=9_000, max_preview_seconds=1.5)
    with serving(settings) as running:
        running.client.post("/v1/collections", json={"name": "films"}).raise_for_status()
        frames = [counter_frame(number) for number in range(50)]
        video = write_video(tmp_path / "film.wmv", frames, codec="wmv2", format="asf")
        for file in (video, write_picture(tmp_path / "picture.png", counter_frame(1))):
            running.client.post(URL, files={"file": (file.name, file.read_bytes())}).raise_for_status()
        yield running


def cached(service: Running) -> list[str]:
    return sorted(path.name for path in (service.settings.data_dir / "previews").iterdir())


def test_a_preview_plays_by_ranges_and_is_encoded_once(
    service: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    response = service.client.get(f"{URL}/1/preview", params={"start": 0.5, "end": 1.5})
    assert (response.status_code, response.headers["content-type"]) == (200, "video/mp4")
    assert "sandbox" in response.headers["content-security-policy"]
    (tmp_path / "preview.mp4").write_bytes(response.content)
    assert probe(tmp_path / "preview.mp4").duration == pytest.approx(1.0, abs=0.05)
    monkeypatch.setattr(Decoder, "preview", None)  # would fail
    part = service.client.get(f"{URL}/1/preview?start=0.5&end=1.5", headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")


def test_a_preview_is_as_long_as_the_setting_allows(service: Running, tmp_path: Path) -> None:
    (tmp_path / "preview.mp4").write_bytes(service.client.get(f"{URL}/1/preview").content)
    assert probe(tmp_path / "preview.mp4").duration == pytest.approx(1.5, abs=0.05)


def test_the_least_recently_used_previews_are_removed(service: Running) -> None:
    for start in (0.1, 0.2, 0.1, 0.3, 0.4):
        assert service.client.get(f"{URL}/1/preview?start={start}").status_code == 200
    names = cached(service)
    assert 1 <= len(names) < 4
    assert sum((service.settings.data_dir / "previews" / name).stat().st_size for name in names) <= 9_000
    assert any("-0.400-" in name for name in names)


def test_a_picture_is_a_jpeg_and_a_span_outside_the_video_is_rejected(service: Running) -> None:
    picture = service.client.get(f"{URL}/2/preview")
    assert (picture.headers["content-type"], picture.content[:2]) == ("image/jpeg", b"\xff\xd8")
    problem = problem_of(service.client.get(f"{URL}/1/preview?start=5"), 422, "invalid_input")
    assert "a span of the 2 seconds was expected" in problem["detail"]
    problem_of(service.client.get(f"{URL}/3/preview"), 404, "video_not_found")


def test_encoding_of_a_preview_stops_when_its_client_disconnects(service: Running) -> None:
    decoding, url = service.service.decoding, service.client.base_url
    (worker,) = decoding.pids
    os.kill(worker, signal.SIGSTOP)
    with socket.create_connection((url.host, url.port)) as connection:
        connection.sendall(f"GET {URL}/1/preview HTTP/1.1\r\nHost: {url.host}:{url.port}\r\n\r\n".encode())
        wait_for(lambda: decoding.busy_pids == [worker])
    wait_for(lambda: worker not in decoding.pids)
    assert cached(service) == []
    assert service.client.get(f"{URL}/1/preview").status_code == 200


def test_previews_are_removed_with_their_video(service: Running) -> None:
    service.client.get(f"{URL}/1/preview").raise_for_status()
    assert len(cached(service)) == 1
    assert service.client.delete(f"{URL}/1").status_code == 204
    assert cached(service) == []

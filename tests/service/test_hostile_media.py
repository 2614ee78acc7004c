"""Invalid, damaged and hostile media files: each fails alone with a precise error, and nothing is stored."""

from __future__ import annotations

import os
import signal
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.chaos import is_chaos, rounds
from tests.media_files import (
    solid,
    write_audio_only,
    write_color_video,
    write_picture,
    write_png_chunks,
    write_png_header,
    write_truncated,
    write_video,
    write_without_frames,
)
from tests.mutated_files import mutated, write_originals
from tests.service.conftest import settings_for
from tests.service.running import Running, problem_of, serving
from tests.waiting import wait_for
from vitascope.sandbox import supervisor

MIB = 1024**2


@pytest.fixture(scope="module")
def service(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service with two decoding processes and no clip cache, so that every file is decoded."""
    settings = settings_for(small_bundle, tmp_path_factory.mktemp("data"), decode_processes=2, clip_cache_bytes=0)
    with serving(settings) as running:
        assert running.client.post("/v1/collections", json={"name": "films"}).status_code == 201
        yield running


def peak_memory(pid: int | str) -> int:
    """Return the largest resident size of a process in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def processor_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def send(running: Running, number: int, name: str, data: bytes) -> int:
    """Send a file to one of three endpoints and return the status."""
    client, form = running.client, {"file": (name, data)}
    if number % 3 == 0:
        fields = {"segmentation": f'{{"rule": "{("windows", "shots", "subtitles")[number // 3 % 3]}"}}'}
        return client.post("/v1/collections/films/videos", files=form, data=fields).status_code
    if number % 3 == 1:
        return client.post("/v1/caption-scores", files=form, data={"captions": "a"}).status_code
    return client.post("/v1/collections/films/search", files=form, data={"limit": "1"}).status_code


def all_pids(running: Running) -> list[int]:
    """Return the ids of the decoding processes, once all are running."""
    pool = running.service.decoding
    wait_for(lambda: pool.alive == pool.size)
    return pool.pids


def test_mutated_files_fail_alone(service: Running, tmp_path: Path) -> None:
    originals = [(path.name, path.read_bytes()) for path in write_originals(tmp_path)]
    count = rounds(80, 50_000)
    counts: dict[int, int] = {}
    slowest, largest = 0.0, 0

    def send_one(number: int) -> None:
        nonlocal slowest, largest
        name, data = originals[number % len(originals)]
        started_at = time.monotonic()
        status = send(service, number // len(originals), name, mutated(data, number))
        slowest = max(slowest, time.monotonic() - started_at)
        counts[status] = counts.get(status, 0) + 1
        assert status < 500, f"{name}, mutation {number}: {status}"
        for pid in service.service.decoding.pids:
            try:
                largest = max(largest, peak_memory(pid))
            except (OSError, StopIteration):  # it has just been replaced
                continue

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(send_one, range(count)))
    if is_chaos():
        assert slowest <= 10.0
    assert largest <= 1024 * MIB
    assert counts.keys() <= {200, 201, 413, 415, 422}
    assert counts.get(201, 0) + counts.get(200, 0) > count / 10  # some still decode
    assert counts.get(422, 0) > count / 10
    assert service.client.get("/readyz").status_code == 200


def packed_zeros(blocks: int, block: int) -> bytes:
    """``blocks`` times ``block`` zeros as a zlib stream, which compresses only one block."""
    compressor = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    # Ends at a byte boundary and refers to nothing before it, so it can be repeated.
    segment = compressor.compress(bytes(block)) + compressor.flush(zlib.Z_FULL_FLUSH)
    checksum = (blocks * block % 65521 << 16) | 1  # Adler-32 of the zeros
    return b"\x78\xda" + segment * blocks + compressor.flush() + checksum.to_bytes(4, "big")


def large_png(path: Path) -> Path:
    """14,000 x 14,000 pixels: 588 MB compressed to less than a megabyte."""
    return write_png_chunks(path, 14_000, 14_000, packed_zeros(140, 100 * (1 + 3 * 14_000)))


def excess_png(path: Path) -> Path:
    """A header of 64 x 64 pixels and 400 MB of data."""
    return write_png_chunks(path, 64, 64, packed_zeros(100, 4 * MIB))


def mismatched_mp4(path: Path) -> Path:
    """Too many pixels in the header of the codec, 64 x 64 in that of the container."""
    write_large(path)
    data = bytearray(path.read_bytes())
    offset = data.rindex(b"avc1") + 28  # in the sample entry: width, height
    assert data[offset : offset + 4] == WIDTH.to_bytes(2, "big") + HEIGHT.to_bytes(2, "big")
    data[offset : offset + 4] = (64).to_bytes(2, "big") * 2
    path.write_bytes(data)
    return path


def growing_gif(path: Path) -> Path:
    """A small picture with a second frame of 60,000 x 60,000 pixels."""
    write_picture(path, solid((220, 10, 10), 16, 16))
    data = path.read_bytes()
    frame = b"\x2c" + bytes(4) + (60_000).to_bytes(2, "little") * 2 + b"\x00\x02\x02\x4c\x01\x00\x3b"
    path.write_bytes(data[:-1] + b"\x21\xf9\x04\x00\x0a\x00\x00\x00" + frame)
    return path


def empty_webp(path: Path) -> Path:
    """A header of 16,384 x 16,384 pixels and no data."""
    body = b"VP8X" + (10).to_bytes(4, "little") + b"\x10\x00\x00\x00" + (16_383).to_bytes(3, "little") * 2
    path.write_bytes(b"RIFF" + (4 + len(body)).to_bytes(4, "little") + b"WEBP" + body)
    return path


BOMBS = {
    "14k.png": large_png,
    "header.png": lambda path: write_png_header(path, 14_000, 14_000),
    "excess.png": excess_png,
    "mismatch.mp4": mismatched_mp4,
    "grows.gif": growing_gif,
    "empty.webp": empty_webp,
}
HARMLESS = {"excess.png"}
"""Data beyond the stated size is not decompressed, so this is an ordinary small picture."""


@pytest.mark.parametrize("name", BOMBS)
def test_decompression_bombs_are_rejected_at_little_cost(
    service: Running, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = BOMBS[name](tmp_path / name).read_bytes()
    monkeypatch.setattr(supervisor, "TASKS_PER_WORKER", 10**9)  # none is replaced meanwhile
    pids = all_pids(service)
    before = {pid: peak_memory(pid) for pid in ["self", *pids]}
    for number in range(3):
        seconds_before = sum(map(processor_seconds, pids))
        status = send(service, number, name, data)
        assert sum(map(processor_seconds, pids)) - seconds_before < 1.0
        assert status in (413, 415, 422) or name in HARMLESS
    assert sorted(service.service.decoding.pids) == sorted(pids)  # none was lost
    assert max(peak_memory(pid) - peak_before for pid, peak_before in before.items()) <= 256 * MIB


def test_killed_decoding_processes_are_replaced_and_counted(service: Running, files: Path) -> None:
    data = (files / "red.mp4").read_bytes()
    pids = all_pids(service)
    restarts = service.service.decoding.restarts
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    statuses = [send(service, number, "red.mp4", data) for number in range(3)]
    assert set(statuses) <= {200, 201}
    wait_for(lambda: service.client.get("/readyz").status_code == 200)
    assert service.service.decoding.restarts >= restarts + 1
    metrics = service.client.get("/metrics").text
    assert 'vitascope_decoding_processes_lost_total{reason="killed"}' in metrics
    wait_for(lambda: "vitascope_decoding_processes 2.0" in service.client.get("/metrics").text)


def test_the_service_is_not_ready_without_decoding_processes(
    service: Running, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = service.service.decoding
    pids = all_pids(service)
    with monkeypatch.context() as patch:
        patch.setattr(pool._supervisor, "_module", "no.such.module")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: service.client.get("/readyz").status_code == 503)
        assert "no decoding process" in service.client.get("/readyz").json()["detail"]
        # A text search decodes nothing.
        assert service.client.post("/v1/collections/films/search", json={"text": "red"}).status_code == 200
        wait_for(lambda: send(service, 1, "red.mp4", (files / "red.mp4").read_bytes()) == 503)
    wait_for(lambda: service.client.get("/readyz").status_code == 200)
    assert send(service, 1, "red.mp4", (files / "red.mp4").read_bytes()) == 200


def test_the_service_itself_decodes_nothing(
    service: Running, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    incoming = service.settings.data_dir / "incoming" / "films"
    incoming.mkdir(parents=True)
    write_color_video(incoming / "yellow.mp4", (220, 220, 10))
    data = write_color_video(tmp_path / "new.mp4", (10, 220, 220), 4.0).read_bytes()
    for function in ("av.open", "PIL.Image.open"):
        monkeypatch.setattr(function, lambda *_, **__: pytest.fail("decoded in the process of the service"))
    client = service.client
    for number in range(12):
        assert send(service, number, "new.mp4", data) in (200, 201)
    form = {"file": ("red.mp4", (files / "red.mp4").read_bytes())}
    response = client.post("/v1/collections/films/videos", files=form)
    assert client.get(f"{response.headers['location']}/thumbnail", params={"t": 0.123}).status_code == 200
    captions = {"captions": ["red"], "collection": "films", "video_id": response.json()["id"]}
    assert client.post("/v1/caption-scores", json=captions).status_code == 200
    job = client.post("/v1/collections/films/jobs", json={"folder": "films"}).headers["location"]
    wait_for(lambda: client.get(job).json()["state"] not in ("queued", "running"))
    assert client.get(job).json()["counts"]["succeeded"] == 1


Writer = Callable[[Path, Path], object]


def write_archive(path: Path, files: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(files / "red.mp4", "red.mp4")


WIDTH, HEIGHT = 4112, 2320
"""Just above the limit of pixels."""


def write_large(path: Path, files: Path | None = None) -> None:
    options = {"preset": "ultrafast", "crf": "40"}
    write_video(path, [solid((220, 10, 10), WIDTH, HEIGHT)], options=options, b_frames=0)


INVALID: dict[str, tuple[Writer, int, str, str]] = {
    "empty.mp4": (lambda path, files: path.write_bytes(b""), 422, "media_corrupt", "empty"),
    "truncated.mp4": (lambda path, files: write_truncated(files / "red.mp4", path, 0.6), 422, "media_corrupt", ""),
    "no-frames.mp4": (lambda path, files: write_without_frames(path), 422, "media_corrupt", ""),
    "1x1.png": (lambda path, files: write_picture(path, solid((1, 2, 3), 1, 1)), 422, "media_error", "1x1"),
    "large.mp4": (write_large, 413, "media_too_large", "4112x2320"),
    "large.png": (lambda path, files: write_png_header(path, WIDTH, HEIGHT), 413, "media_too_large", "4112x2320"),
    "audio.mp4": (lambda path, files: write_audio_only(path), 415, "media_unsupported", ""),
    "text.mp4": (lambda path, files: path.write_text("a red thing\n" * 50), 415, "media_unsupported", "text"),
    "archive.mp4": (write_archive, 415, "media_unsupported", "ZIP"),
    "noise.mkv": (lambda path, files: path.write_bytes(bytes(range(1, 256)) * 40), 415, "media_unsupported", ""),
    "page.png": (lambda path, files: path.write_text("<svg onload='x()'/>"), 415, "media_unsupported", ""),
}


def stored_files(running: Running, collection: str) -> list[Path]:
    """Return the files of uploads in progress and of the collection."""
    folders = [running.service.media.uploads, running.settings.data_dir / "collections" / collection / "media"]
    return sorted(path for folder in folders if folder.exists() for path in folder.iterdir())


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_file_is_rejected_with_the_reason(
    running: Running, palette: str, files: Path, tmp_path: Path, name: str
) -> None:
    write, status, code, word = INVALID[name]
    write(tmp_path / name, files)
    form = {"file": (name, (tmp_path / name).read_bytes())}
    before = stored_files(running, palette)
    for path, fields in (
        (f"/v1/collections/{palette}/videos", {}),
        ("/v1/caption-scores", {"captions": "a"}),
        ("/v1/answers", {"question": "a"}),
    ):
        detail = problem_of(running.client.post(path, files=form, data=fields), status, code)["detail"]
        assert detail.startswith(name)  # the client's name, not that of a temporary file
        assert word in detail
    assert stored_files(running, palette) == before
    assert running.client.get("/readyz").status_code == 200


def test_an_internal_error_stores_nothing_and_a_retry_succeeds(
    running: Running, collection: str, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise MemoryError

    path, upload = f"/v1/collections/{collection}/videos", {"file": ("red.gif", (files / "red.mp4").read_bytes())}
    with monkeypatch.context() as patch:
        patch.setattr(running.service.model, "embed_video", fail)
        problem_of(running.client.post(path, files=upload), 500, "internal_error")
    assert stored_files(running, collection) == []
    response = running.client.post(path, files=upload)
    assert (response.status_code, response.json()["media_type"]) == (201, "video/mp4")  # by its content, not its name
    assert [path.suffix for path in stored_files(running, collection)] == [".mp4"]

"""Files made to harm: whatever they do, they get their own answer and the service goes on."""

from __future__ import annotations

import os
import signal
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import pytest

from tests.chaos import is_chaos, rounds
from tests.media_files import (
    solid,
    write_color_video,
    write_picture,
    write_png_chunks,
    write_png_header,
    write_video,
)
from tests.mutated_files import mutated, write_originals
from tests.service.conftest import settings_for
from tests.service.running import Running, serving
from tests.waiting import wait_for
from vitascope.sandbox import supervisor

MIB = 1024**2


@pytest.fixture(scope="module")
def service(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Two decoding processes that see every file, also one that was seen before."""
    settings = settings_for(small_bundle, tmp_path_factory.mktemp("data"), decode_processes=2, clip_cache_bytes=0)
    with serving(settings) as running:
        assert running.client.post("/v1/collections", json={"name": "films"}).status_code == 201
        yield running


def peak(pid: int | str) -> int:
    """The most bytes of memory that a process has had at once."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def computed(pid: int | str) -> float:
    """The seconds of processor time that a process has taken."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        user, system = file.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def ask(running: Running, number: int, name: str, data: bytes) -> int:
    """Send a file by one of the ways on which files come in; the status."""
    client, file = running.client, {"file": (name, data)}
    way = number % 3
    if way == 0:
        return client.post("/v1/collections/films/videos", files=file, data=segmentation(number)).status_code
    if way == 1:
        return client.post("/v1/caption-scores", files=file, data={"captions": "a"}).status_code
    return client.post("/v1/collections/films/search", files=file, data={"limit": "1"}).status_code


def all_pids(running: Running) -> list[int]:
    """The ids of the decoding processes, once there are as many as there should be."""
    pool = running.service.decoding
    wait_for(lambda: pool.alive == pool.size)
    return pool.pids


def segmentation(number: int) -> dict[str, str]:
    return {"segmentation": f'{{"rule": "{("windows", "shots", "subtitles")[number // 3 % 3]}"}}'}


def test_mutated_files_cost_at_most_their_own_request(service: Running, tmp_path: Path) -> None:
    originals = [(path.name, path.read_bytes()) for path in write_originals(tmp_path)]
    count = rounds(250, 50_000)
    seen: dict[int, int] = {}
    slowest, largest = 0.0, 0

    def one(number: int) -> None:
        nonlocal slowest, largest
        name, data = originals[number % len(originals)]
        began = time.monotonic()
        status = ask(service, number // len(originals), name, mutated(data, number))
        slowest = max(slowest, time.monotonic() - began)
        seen[status] = seen.get(status, 0) + 1
        assert status < 500, f"{name}, mutation {number}: {status}"
        for pid in service.service.decoding.pids:
            try:
                largest = max(largest, peak(pid))
            except (OSError, StopIteration):  # it has just been replaced
                continue

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(one, range(count)))
    print(f"{count} files: {seen}, slowest {slowest:.2f} s, largest {largest / MIB:.0f} MiB")
    print(f"processes replaced: {service.service.decoding.restarts}")
    if is_chaos():
        assert slowest <= 10.0
    assert largest <= 1024 * MIB
    assert seen.keys() <= {200, 201, 413, 415, 422}
    assert seen.get(201, 0) + seen.get(200, 0) > count / 10  # not all were dead on arrival
    assert seen.get(422, 0) > count / 10
    assert service.client.get("/readyz").status_code == 200


def packed_zeros(blocks: int, block: int) -> bytes:
    """``blocks`` times ``block`` zeros in zlib's format, of which but one is really packed."""
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    # Ends with a whole byte and refers to nothing before it, so it may be repeated.
    one = packer.compress(bytes(block)) + packer.flush(zlib.Z_FULL_FLUSH)
    check = (blocks * block % 65521 << 16) | 1  # Adler-32 of as many zeros
    return b"\x78\xda" + one * blocks + packer.flush() + check.to_bytes(4, "big")


def test_zeros_that_were_packed_once_are_as_many_as_stated() -> None:
    assert zlib.decompress(packed_zeros(3, 70_000)) == bytes(210_000)


def large_png(path: Path) -> Path:
    """14,000 x 14,000 pixels, all there: 588 MB in less than a megabyte."""
    return write_png_chunks(path, 14_000, 14_000, packed_zeros(140, 100 * (1 + 3 * 14_000)))


def lying_png(path: Path) -> Path:
    """64 x 64 pixels stated, 400 MB in the data."""
    return write_png_chunks(path, 64, 64, packed_zeros(100, 4 * MIB))


def lying_mp4(path: Path) -> Path:
    """8K in the codec's header, 64 x 64 in the container's."""
    write_video(path, [solid((220, 10, 10), 7680, 4320)], options={"preset": "ultrafast", "crf": "40"}, b_frames=0)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"avc1") + 28  # in the sample entry: width, height
    assert data[at : at + 4] == (7680).to_bytes(2, "big") + (4320).to_bytes(2, "big")
    data[at : at + 4] = (64).to_bytes(2, "big") * 2
    path.write_bytes(data)
    return path


def growing_gif(path: Path) -> Path:
    """A small picture whose second frame is 60,000 pixels wide and high."""
    write_picture(path, solid((220, 10, 10), 16, 16))
    data = path.read_bytes()
    frame = b"\x2c" + bytes(4) + (60_000).to_bytes(2, "little") * 2 + b"\x00\x02\x02\x4c\x01\x00\x3b"
    path.write_bytes(data[:-1] + b"\x21\xf9\x04\x00\x0a\x00\x00\x00" + frame)
    return path


def empty_webp(path: Path) -> Path:
    """16,384 x 16,384 pixels in the header, and nothing after it."""
    body = b"VP8X" + (10).to_bytes(4, "little") + b"\x10\x00\x00\x00" + (16_383).to_bytes(3, "little") * 2
    path.write_bytes(b"RIFF" + (4 + len(body)).to_bytes(4, "little") + b"WEBP" + body)
    return path


BOMBS = {
    "14k.png": large_png,
    "header.png": lambda path: write_png_header(path, 14_000, 14_000),
    "lies.png": lying_png,
    "lies.mp4": lying_mp4,
    "grows.gif": growing_gif,
    "empty.webp": empty_webp,
}


HARMLESS = {"lies.png"}
"""What is beyond the stated size is never unpacked, so it is a small picture like others."""


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_at_once_and_cost_little(
    service: Running, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = BOMBS[name](tmp_path / name).read_bytes()
    monkeypatch.setattr(supervisor, "TASKS_PER_WORKER", 10**9)  # none is replaced for its age just now
    pids = all_pids(service)
    before = {pid: peak(pid) for pid in ["self", *pids]}
    for number in range(3):
        began = sum(map(computed, before))
        status = ask(service, number, name, data)
        assert sum(map(computed, before)) - began < 1.0
        assert status in (413, 415, 422) or name in HARMLESS
    assert sorted(service.service.decoding.pids) == sorted(pids)  # none has died of it
    assert max(peak(pid) - peak_before for pid, peak_before in before.items()) <= 256 * MIB


def test_a_killed_decoder_costs_no_request_and_shows(service: Running, files: Path) -> None:
    data = (files / "red.mp4").read_bytes()
    pids = all_pids(service)
    restarts = service.service.decoding.restarts
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    answers = [ask(service, number, "red.mp4", data) for number in range(3)]
    assert set(answers) <= {200, 201}
    wait_for(lambda: service.client.get("/readyz").status_code == 200)
    assert service.service.decoding.restarts >= restarts + 1
    metrics = service.client.get("/metrics").text
    assert 'vitascope_decoding_processes_lost_total{reason="killed"}' in metrics
    wait_for(lambda: "vitascope_decoding_processes 2.0" in service.client.get("/metrics").text)


def test_readiness_tells_that_nothing_can_be_decoded(
    service: Running, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = service.service.decoding
    pids = all_pids(service)
    with monkeypatch.context() as patch:
        patch.setattr(pool._supervisor, "_module", "no.such.module")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: service.client.get("/readyz").status_code == 503)
        assert "decodes" in service.client.get("/readyz").json()["detail"]
        # Nothing is to be decoded for this one.
        assert service.client.post("/v1/collections/films/search", json={"text": "red"}).status_code == 200
        wait_for(lambda: ask(service, 1, "red.mp4", (files / "red.mp4").read_bytes()) == 503)
    wait_for(lambda: service.client.get("/readyz").status_code == 200)
    assert ask(service, 1, "red.mp4", (files / "red.mp4").read_bytes()) == 200


def test_the_service_itself_opens_no_media_file(
    service: Running, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    incoming = service.settings.data_dir / "incoming" / "films"
    incoming.mkdir(parents=True)
    write_color_video(incoming / "yellow.mp4", (220, 220, 10))
    data = write_color_video(tmp_path / "new.mp4", (10, 220, 220), 4.0).read_bytes()
    monkeypatch.setattr(av, "open", lambda *_, **__: pytest.fail("decoded in the process of the service"))
    monkeypatch.setattr("PIL.Image.open", lambda *_, **__: pytest.fail("decoded in the process of the service"))
    client = service.client
    for number in range(12):
        assert ask(service, number, "new.mp4", data) in (200, 201)
    answer = client.post("/v1/collections/films/videos", files={"file": ("red.mp4", (files / "red.mp4").read_bytes())})
    video = answer.headers["location"]
    assert client.get(f"{video}/thumbnail", params={"t": 0.123}).status_code == 200
    look = {"captions": ["red"], "collection": "films", "video_id": answer.json()["id"]}
    assert client.post("/v1/caption-scores", json=look).status_code == 200
    job = client.post("/v1/collections/films/jobs", json={"folder": "films"})
    assert job.status_code == 202, job.text
    wait_for(lambda: client.get(job.headers["location"]).json()["state"] not in ("queued", "running"))
    done = client.get(job.headers["location"]).json()
    assert done["counts"]["succeeded"] == 1, done

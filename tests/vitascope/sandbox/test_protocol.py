"""Messages and responses of a compromised worker are validated before use."""

from __future__ import annotations

import socket
from typing import Any

import numpy as np
import pytest

from vitascope.media.audio import AudioInfo
from vitascope.media.decode import MediaInfo
from vitascope.media.limits import MediaLimits
from vitascope.media.sampling import StreamSpec
from vitascope.sandbox.operations import (
    OPERATIONS,
    Preview,
    Probe,
    ReadClips,
    Request,
    Sample,
    SampleSpan,
    ShotStarts,
    StreamCues,
    SubtitleStreams,
    Thumbnail,
    parse_request,
)
from vitascope.sandbox.protocol import ProtocolError, receive_header, send

STREAM = StreamSpec("one", 2, 8, 8, "middle")
SPAN = SampleSpan((), 1.0, 2.5)
INFO = ["video", "mp4", "h264", 64, 48, 1.5, None, ["aac", 44100, 2, 1.5]]

REQUESTS: list[Request[Any]] = [
    Probe(limits=MediaLimits(max_seconds=5.0, codecs=frozenset({"vp9"}))),
    Sample((STREAM,), ((0.0, 1.0),), True, threads=1),
    SampleSpan((STREAM,), 1.0, None),
    ReadClips(((1.0, 2.5),), 16000),
    Thumbnail(1.5, 64),
    Preview(0.5, 1.5, 320),
    ShotStarts(10.0),
    SubtitleStreams(),
    StreamCues(2),
]

INVALID: list[tuple[Request[Any], Any]] = [
    (Probe(), None),
    (Probe(), {}),
    (Probe(), INFO[:-1]),
    (Probe(), ["film", *INFO[1:]]),
    (Probe(), [["video"], *INFO[1:]]),
    (Probe(), ["video", "exe", *INFO[2:]]),
    (Probe(), ["video", ["mp4"], *INFO[2:]]),
    (Probe(), [*INFO[:2], "h" * 1000, *INFO[3:]]),
    (Probe(), [*INFO[:3], 0, *INFO[4:]]),
    (Probe(), [*INFO[:3], True, *INFO[4:]]),
    (Probe(), [*INFO[:4], 10**12, *INFO[5:]]),
    (Probe(), [*INFO[:5], float("nan"), None, None]),
    (Probe(), [*INFO[:5], float("inf"), None, None]),
    (Probe(), [*INFO[:5], -1.0, None, None]),
    (Probe(), [*INFO[:5], 1.5, -1, None]),
    (Probe(), [*INFO[:7], False]),
    (Probe(), [*INFO[:7], ["aac", 44100, 2]]),
    (Probe(), [*INFO[:7], ["aac", -1, 2, 1.5]]),
    (Probe(), [*INFO[:7], ["aac", 44100, 2.5, 1.5]]),
    (Probe(), [*INFO[:7], ["aac", 44100, 2, float("nan")]]),
    (ShotStarts(10.0), []),
    (ShotStarts(10.0), [0.5]),
    (ShotStarts(10.0), [0.0, 2.0, 1.0]),
    (ShotStarts(10.0), [0.0, "1"]),
    (ShotStarts(10.0), [0.0, float("nan")]),
    (SubtitleStreams(), [[-1, "en", False]]),
    (SubtitleStreams(), [[0, "e" * 1000, False]]),
    (SubtitleStreams(), [[0, "en", 1]]),
    (SubtitleStreams(), [[0, "en", False]] * 5000),
    (SPAN, None),
    (SPAN, [1.0]),
    (SPAN, [1.0, "2"]),
    (SPAN, [0.5, 2.0]),
    (SPAN, [1.0, 3.0]),
    (SPAN, [1.0, 1.0]),
    (SPAN, [1.0, float("nan")]),
    (StreamCues(2), [[0.0, 1.0]]),
    (StreamCues(2), [[0.0, float("inf"), "a"]]),
    (StreamCues(2), [[0.0, 1.0, "a" * 1_000_000]]),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.operation)
def test_a_request_survives_the_wire(request_: Request[Any]) -> None:
    here, there = socket.socketpair()
    with here, there:
        send(there, request_.to_header())
        parsed = parse_request(receive_header(here, 4096, lambda: None))
    assert parsed == request_


def test_every_operation_is_covered_here() -> None:
    assert {request.operation for request in REQUESTS} == OPERATIONS.keys()


@pytest.mark.parametrize("index", range(len(INVALID)))
def test_values_of_wrong_type_or_range_are_rejected(index: int) -> None:
    request, value = INVALID[index]
    with pytest.raises(ProtocolError):
        request.decode_result(value, [])


def test_a_thumbnail_must_be_a_jpeg_and_a_preview_an_mp4() -> None:
    with pytest.raises(ProtocolError, match="JPEG"):
        Thumbnail(0.0, 64).decode_result(None, [np.frombuffer(b"<svg onload=x()/>", np.uint8)])
    with pytest.raises(ProtocolError, match="MP4"):
        Preview(0.0, 1.0, 64).decode_result(None, [np.frombuffer(b"<svg onload=x()/>", np.uint8)])


def test_samples_must_be_numbers_from_minus_1_to_1() -> None:
    request = ReadClips(((1.0, 2.0), (3.0, 3.5)), 8000)
    assert request.blob_sizes == [(0, 4 * 8001), (0, 4 * 4001)]
    samples = np.array([-1, 0.5, 1], np.float32)
    decoded, nothing = request.decode_result(None, [samples.view(np.uint8), np.zeros(0, np.uint8)])
    assert decoded is not None
    assert (decoded.tolist(), nothing) == (samples.tolist(), None)
    for invalid in (
        np.array([0, np.nan], np.float32).view(np.uint8),
        np.float32([1.5]).view(np.uint8),
        samples.view(np.uint8)[1:],
    ):
        with pytest.raises(ProtocolError, match="samples"):
            request.decode_result(None, [invalid])


def test_valid_values_are_accepted() -> None:
    assert SPAN.decode_result([1.0, 2.0], []) == ((1.0, 2.0), {})
    audio = AudioInfo("aac", 44100, 2, 1.5)
    assert Probe().decode_result(INFO, []) == MediaInfo("video", "mp4", "h264", 64, 48, 1.5, None, audio)
    sound = ["audio", "mp4", "aac", 0, 0, 1.5, None, ["aac", 44100, 2, None]]
    assert Probe().decode_result(sound, []).kind == "audio"


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x04oops",
        b"\x00\x00\x00\x02{}",
        b"\x00\x00\x00\x02[]",
        b"\x00\x00\x10\x00" + b"[" * 4096,
    ],
    ids=["too long", "not JSON", "no blobs", "no object", "nested too deeply"],
)
def test_malformed_headers_are_rejected(data: bytes) -> None:
    here, there = socket.socketpair()
    with here, there:
        there.sendall(data)
        with pytest.raises(ProtocolError):
            receive_header(here, 4096, lambda: None)


def test_a_truncated_message_is_the_end_of_the_connection() -> None:
    here, there = socket.socketpair()
    with here:
        send(there, {"value": 1})
        there.sendall(b"\x00\x00")
        there.close()
        assert receive_header(here, 4096, lambda: None) == {"value": 1, "blobs": []}
        with pytest.raises(EOFError):
            receive_header(here, 4096, lambda: None)

"""A process that a file has taken over may say anything; only what was asked for is read."""

from __future__ import annotations

import socket
from typing import Any

import numpy as np
import pytest

from tests.vitascope.sandbox.conftest import any_file
from vitascope.media.limits import DEFAULT_LIMITS
from vitascope.media.probe import MediaInfo
from vitascope.sandbox.framing import Malformed, receive_header, send
from vitascope.sandbox.protocol import (
    Question,
    finding_shots,
    listing_subtitles,
    picturing,
    probing,
    reading_cues,
    sampling_part,
)

FILE = any_file("a.mp4")
PROBING = probing(FILE, DEFAULT_LIMITS)
SHOTS = finding_shots(FILE, 10.0, DEFAULT_LIMITS)
STREAMS = listing_subtitles(FILE, DEFAULT_LIMITS)
CUES = reading_cues(FILE, 2, DEFAULT_LIMITS)
PART = sampling_part(FILE, [], 1.0, 2.5, DEFAULT_LIMITS, 1)
TRUE = ["video", "mp4", "h264", 64, 48, 1.5, None, False]

LIES: list[tuple[Question[Any], Any]] = [
    (PROBING, None),
    (PROBING, {}),
    (PROBING, TRUE[:-1]),
    (PROBING, ["film", *TRUE[1:]]),
    (PROBING, [["video"], *TRUE[1:]]),
    (PROBING, ["video", "exe", *TRUE[2:]]),
    (PROBING, ["video", ["mp4"], *TRUE[2:]]),
    (PROBING, [*TRUE[:2], "h" * 1000, *TRUE[3:]]),
    (PROBING, [*TRUE[:3], 0, *TRUE[4:]]),
    (PROBING, [*TRUE[:3], True, *TRUE[4:]]),
    (PROBING, [*TRUE[:4], 10**12, *TRUE[5:]]),
    (PROBING, [*TRUE[:5], float("nan"), None, False]),
    (PROBING, [*TRUE[:5], float("inf"), None, False]),
    (PROBING, [*TRUE[:5], -1.0, None, False]),
    (PROBING, [*TRUE[:5], 1.5, -1, False]),
    (PROBING, [*TRUE[:7], "no"]),
    (SHOTS, []),
    (SHOTS, [0.5]),
    (SHOTS, [0.0, 2.0, 1.0]),
    (SHOTS, [0.0, "1"]),
    (SHOTS, [0.0, float("nan")]),
    (STREAMS, [[-1, "en", False]]),
    (STREAMS, [[0, "e" * 1000, False]]),
    (STREAMS, [[0, "en", 1]]),
    (STREAMS, [[0, "en", False]] * 5000),
    (PART, None),
    (PART, [1.0]),
    (PART, [1.0, "2"]),
    (PART, [0.5, 2.0]),
    (PART, [1.0, 3.0]),
    (PART, [1.0, 1.0]),
    (PART, [1.0, float("nan")]),
    (CUES, [[0.0, 1.0]]),
    (CUES, [[0.0, float("inf"), "a"]]),
    (CUES, [[0.0, 1.0, "a" * 1_000_000]]),
]


@pytest.mark.parametrize("number", range(len(LIES)))
def test_values_of_other_kinds_and_ranges_are_refused(number: int) -> None:
    question, value = LIES[number]
    with pytest.raises(Malformed):
        question.read(value, [])


def test_a_picture_has_to_be_a_jpeg() -> None:
    question = picturing(FILE, 0.0, 64, DEFAULT_LIMITS)
    with pytest.raises(Malformed):
        question.read(None, [np.frombuffer(b"<svg onload=x()/>", np.uint8)])


def test_what_is_true_is_believed() -> None:
    assert PART.read([1.0, 2.0], []) == ((1.0, 2.0), {})
    assert PROBING.read(TRUE, []) == MediaInfo("video", "mp4", "h264", 64, 48, 1.5, None, False)


@pytest.mark.parametrize(
    "written",
    [
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x04oops",
        b"\x00\x00\x00\x02{}",
        b"\x00\x00\x00\x02[]",
        b"\x00\x00\x10\x00" + b"[" * 4096,
    ],
)
def test_what_is_no_message_is_not_read_on(written: bytes) -> None:
    here, there = socket.socketpair()
    with here, there:
        there.sendall(written)
        with pytest.raises(Malformed):
            receive_header(here, 4096, lambda: None)


def test_a_message_that_breaks_off_is_the_end() -> None:
    here, there = socket.socketpair()
    with here:
        send(there, {"value": 1})
        there.sendall(b"\x00\x00")
        there.close()
        assert receive_header(here, 4096, lambda: None) == {"value": 1, "blobs": []}
        with pytest.raises(EOFError):
            receive_header(here, 4096, lambda: None)

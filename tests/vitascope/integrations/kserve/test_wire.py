"""Tensors travel unchanged, and an answer that does not hold what it states is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from vitascope.integrations.kserve.server import decode_response, encode_request

SPECIAL = np.array([[1.1, -0.0], [np.float32(1e-45), np.finfo(np.float32).max]], np.float32)


def answered(request: tuple[dict[str, str], bytes]) -> dict[str, np.ndarray]:
    """A request as the answer of a server that echoes."""
    headers, body = request
    length = headers.get("Inference-Header-Content-Length")
    end = len(body) if length is None else int(length)
    head = json.dumps({"outputs": json.loads(body[:end])["inputs"]}).encode()
    return decode_response(head + body[end:], None if length is None else str(len(head)))


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize(
    "array",
    [
        SPECIAL,
        np.array([[2**62, -1]], np.int64),
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4)[:, ::2],
        np.array([True, False]),
        np.zeros((0, 3), np.float32),
        np.arange(4, dtype=">f4"),
    ],
    ids=["float32", "int64", "strided", "bool", "empty", "big-endian"],
)
def test_what_is_sent_arrives_bit_by_bit(array: np.ndarray, binary: bool) -> None:
    if array.dtype.byteorder == ">" and not binary:
        array = array.astype("<f4")
    found = answered(encode_request({"first": array, "second": SPECIAL}, ["first"], binary=binary))
    assert found["first"].dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found["first"], array)
    np.testing.assert_array_equal(found["second"], SPECIAL)
    assert found["first"].flags.writeable


def told(**tensor: Any) -> bytes:
    return json.dumps({"outputs": [{"name": "x", "datatype": "FP32", "shape": [2], **tensor}]}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b'{"outputs": 3}',
        told(),
        told(data=[1.0]),
        told(data=["a", "b"]),
        told(data=[1.0, 2.0], datatype="BYTES"),
        told(data=[1.0, 2.0], shape=None),
        told(parameters={"binary_data_size": 8}),
        told(parameters={"binary_data_size": "8"}),
        told(parameters={"binary_data_size": 4}, shape=[1]),
        told(parameters={"binary_data_size": 8}, shape=[-2, -1]),
    ],
)
def test_an_answer_that_is_not_what_it_states(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"Error: "):
        decode_response(body, str(len(body)))

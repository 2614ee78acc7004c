"""Engine of an inference server: identity of the graphs, requests, failures; encoding of tensors."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_export.targets.triton import TritonOptions, write_repository
from tests.small_bundle import make_small_bundle
from tests.sockets import reserved_port
from tests.vitascope.integrations.kserve.conftest import MAX_BATCH
from tests.vitascope.integrations.kserve.protocol_server import Answer, ProtocolServer, serving
from tests.vitascope.test_model import colour_streams
from tests.waiting import PATIENCE
from vitascope.bundle.bundle import Bundle
from vitascope.cli.main import main
from vitascope.errors import EngineError, EngineUnavailable, InvalidInput
from vitascope.integrations.kserve.engine import check_server
from vitascope.integrations.kserve.server import InferenceServer, decode_response, encode_request
from vitascope.model import Model

FEW = ["a red ball", "two"]


@pytest.fixture
def server(repository: Path) -> Iterator[ProtocolServer]:
    with serving(repository) as server:
        yield server


@pytest.fixture
def model(server: ProtocolServer, small_bundle: Path) -> Model:
    return Model.open(small_bundle, engine=f"kserve:{server.url}")


def named(server: ProtocolServer, graph: str) -> str:
    return next(name for name in server.models if name.endswith(f"-{graph}"))


def at_infer(
    do: Callable[[Callable[[], Answer]], Answer | None],
) -> Callable[[str, Callable[[], Answer]], Answer | None]:
    return lambda path, answer: do(answer) if path.endswith("/infer") else answer()


# Identity of the graphs


def test_a_model_of_another_bundle_is_rejected_by_its_fingerprint(server: ProtocolServer, model: Model) -> None:
    server.models[named(server, "text")].fingerprint = "0" * 64
    with pytest.raises(
        EngineError, match=f"{server.url}: model 'small-colours-.*-text'.*0{{64}}; {model.bundle.fingerprint}"
    ):
        model.embed_text(FEW)
    assert not server.rows


def test_the_fingerprint_may_be_the_version_of_the_model(server: ProtocolServer, model: Model) -> None:
    served = server.models[named(server, "text")]
    served.fingerprint, served.versions = None, ["3", model.bundle.fingerprint]
    model.embed_text(FEW)
    assert len(server.rows) == 1
    served.versions = ["f" * 64]
    with pytest.raises(EngineError, match=r"f{64}"):
        Model.open(model.bundle.folder, engine=server.url).embed_text(FEW)


@pytest.mark.parametrize("graph", ["text", "video", "match", "answer"])
def test_without_a_fingerprint_outputs_are_compared(
    graph: str, server: ProtocolServer, small_bundle: Path, tmp_path: Path
) -> None:
    """Equal names, inputs and outputs, and other weights."""
    for served in server.models.values():
        served.fingerprint = None
    Model.open(small_bundle, engine=server.url).warm_up()
    assert set(server.rows) == {1, 2}  # the probe, then the warming
    other = Bundle.open(make_small_bundle(tmp_path / "other", seed=1))
    write_repository(other, tmp_path / "models", TritonOptions())
    with serving(tmp_path / "models") as wrong:
        server.models[named(server, graph)].session = wrong.models[named(wrong, graph)].session
    with pytest.raises(EngineError, match=f"-{graph}': states no fingerprint, and its outputs differ .*: {graph}: "):
        Model.open(small_bundle, engine=server.url).warm_up()


def test_inputs_and_outputs_must_be_those_of_the_manifest(server: ProtocolServer, model: Model, tmp_path: Path) -> None:
    wide = Bundle.open(make_small_bundle(tmp_path / "wide", width=24))
    write_repository(wide, tmp_path / "models", TritonOptions())
    with serving(tmp_path / "models") as wrong:
        text, match = named(server, "text"), named(server, "match")
        server.models[text].session = wrong.models[named(wrong, "text")].session
        server.models[match].session = wrong.models[named(wrong, "video")].session
    with pytest.raises(EngineError, match=r"-text': output 'vector' is float32 \(any, 24\); float32 \(any, 16\)"):
        model.embed_text(FEW)
    with pytest.raises(EngineError, match=r"-match': inputs \['high', 'low'\]; \['attention_mask', 'input_ids'"):
        model.run_graph("match", {})


@pytest.mark.parametrize("plain", [False, True])
def test_sound_is_embedded_at_a_server(plain: bool, tmp_path: Path) -> None:
    bundle = Bundle.open(make_small_bundle(tmp_path / "sound", tasks=["audio_retrieval"]))
    write_repository(bundle, tmp_path / "models", TritonOptions(max_batch=2))
    sounds = [np.sin(np.arange(3000, dtype=np.float32) * step) for step in (0.2, 0.4, 0.8)]
    with serving(tmp_path / "models", plain=plain) as server:
        remote = Model.open(bundle.folder, engine=f"kserve:{server.url}")
        remote.warm_up()
        np.testing.assert_allclose(
            remote.embed_audio(sounds).vectors, Model(bundle, threads=1).embed_audio(sounds).vectors, atol=1e-5
        )
        assert {difference.output for difference in check_server(bundle, server.url)} == {"vector", "audio_tokens"}


def test_captions_are_generated_in_this_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_small_bundle(tmp_path / "bundle", tasks=["retrieval", "captioning"])
    assert main(["triton", str(folder), "--out", str(tmp_path / "models")]) == 0
    assert "left out, as they run where the server is used: caption_prefill, caption_step" in capsys.readouterr().out
    with serving(tmp_path / "models") as server:
        model = Model.open(folder, engine=f"kserve:{server.url}")
        model.check_ready()
        model.warm_up()
        assert {name: placement.device for name, placement in model.placements.items()} == {
            **dict.fromkeys(("text", "video"), "remote"),
            **dict.fromkeys(("caption_prefill", "caption_step"), "cpu"),
        }
        red = model.embed_video(colour_streams("red")).visual_tokens
        assert [[caption.text for caption in row] for row in model.generate_captions(red)] == [["the red thing moves"]]
        assert {output.output for output in check_server(model.bundle, server.url)} == {"vector", "visual_tokens"}


def test_a_missing_model_names_the_command_that_exports_it(server: ProtocolServer, model: Model) -> None:
    name = named(server, "text")
    del server.models[name]
    with pytest.raises(EngineUnavailable, match=f"model '{name}': HTTP 404: .*unknown model.*vitascope triton"):
        model.embed_text(FEW)


def test_the_parity_check_detects_wrong_outputs(server: ProtocolServer, small_bundle: Path) -> None:
    def off(answer: Callable[[], Answer]) -> Answer:
        status, headers, body = answer()
        end = int(headers["Inference-Header-Content-Length"])
        return status, headers, body[:end] + np.frombuffer(body[end:], "<f4")[::-1].tobytes()

    assert len(check_server(Bundle.open(small_bundle), server.url)) == 5
    server.interfere = at_infer(off)
    with pytest.raises(EngineError, match=r"-answer': answer: answer_logits has cosine -?0\."):
        check_server(Bundle.open(small_bundle), server.url)


# Requests


def test_free_form_answers_are_scored_at_the_server(tmp_path: Path) -> None:
    folder = make_small_bundle(tmp_path / "bundle", tasks=["answering"], answers=None, free_form_answers=True)
    write_repository(Bundle.open(folder), tmp_path / "models", TritonOptions(max_batch=4, device="cpu"))
    with serving(tmp_path / "models") as server:
        outputs = check_server(Bundle.open(folder), server.url)
        assert {output.output for output in outputs} == {"visual_tokens", "answer_logits"}
        model = Model.open(folder, engine=f"kserve:{server.url}")
        red = model.embed_video(colour_streams("red")).visual_tokens
        assert model.answer_from_candidates(["what is it?"], red, ["a blue ball", "red"])[0][0].text == "red"


def test_batches_above_the_maximum_are_split(server: ProtocolServer, model: Model) -> None:
    ids = np.ones((2 * MAX_BATCH + 1, 3), np.int64)
    assert len(model.run_graph("text", {"input_ids": ids, "attention_mask": ids})["vector"]) == len(ids)
    assert server.rows == [MAX_BATCH, MAX_BATCH, 1]


def test_large_requests_are_split(server: ProtocolServer, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = {s.name: np.zeros((4, 1, s.frames, s.height, s.width, 3), np.uint8) for s in model.streams}
    monkeypatch.setattr(
        "vitascope.integrations.kserve.engine.MAX_REQUEST_BYTES", 2 * sum(array[0].nbytes for array in frames.values())
    )
    model.embed_video(frames)
    assert server.rows == [2, 2]


def test_connections_are_reused(server: ProtocolServer, model: Model) -> None:
    """Except after pauses in which idle connections expire."""
    times: list[float] = []

    def record(path: str, answer: Callable[[], Answer]) -> Answer:
        times.append(time.monotonic())
        return answer()

    server.interfere = record
    for number in range(10):
        model.embed_text([f"{number}"])
    assert server.connections <= 1 + sum(later - earlier > 4 for earlier, later in pairwise(times))
    assert server.requests[f"/v2/models/{named(server, 'text')}"] == 1


def test_the_token_is_sent_and_never_shown(
    server: ProtocolServer, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITASCOPE_ENGINE_TOKEN", "s3cret")
    Model.open(small_bundle, engine=server.url).embed_text(FEW)
    assert server.headers["authorization"] == "Bearer s3cret"
    monkeypatch.setenv("VITASCOPE_ENGINE_TOKEN", "s3cret\n")
    with pytest.raises(InvalidInput, match="VITASCOPE_ENGINE_TOKEN") as raised:
        Model.open(small_bundle, engine=server.url)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    "engine",
    [
        *("triton", "kserve:", "kserve:triton:8000", "http://", "http://u:p@triton:8000", "http://a:b", "ftp://a"),
        *("kserve:http://xn--/", "http://é..é", "http://a..b", "http://a\n", f"http://{'a' * 64}"),
    ],
)
def test_invalid_engines_are_rejected(engine: str, small_bundle: Path) -> None:
    with pytest.raises(InvalidInput, match="engine: ") as raised:
        Model.open(small_bundle, engine=engine)
    assert "u:p" not in str(raised.value)


@pytest.mark.parametrize("tail", ["", "/", "/v2", "/v2/"])
def test_the_url_may_end_in_the_path_of_the_protocol(tail: str, server: ProtocolServer, small_bundle: Path) -> None:
    assert Model.open(small_bundle, engine=f"kserve:{server.url}{tail}").embed_text(FEW).shape == (2, 16)


# Faults


def test_an_unreachable_server_is_named(small_bundle: Path) -> None:
    with reserved_port() as port:
        url = f"http://127.0.0.1:{port}"
        model = Model.open(small_bundle, engine=url)  # does not connect yet
        refused = f"{url}: model 'small-colours-.*-text': does not respond: ConnectError"
        with pytest.raises(EngineUnavailable, match=refused):
            model.embed_text(FEW)
        with pytest.raises(EngineUnavailable, match=url):
            model.check_ready()


@pytest.mark.parametrize(
    "fault", [None, (503, {}, b"starting"), (429, {"Retry-After": "0"}, b"")], ids=["cut", "503", "429"]
)
def test_failed_runs_are_retried(fault: Answer | None, server: ProtocolServer, model: Model) -> None:
    expected, faults = model.embed_text(FEW), [fault, fault]
    server.interfere = at_infer(lambda answer: faults.pop() if faults else answer())
    np.testing.assert_array_equal(model.embed_text(FEW), expected)
    assert server.requests[f"/v2/models/{named(server, 'text')}/infer"] == 4


def test_a_restarted_server_is_used_again(repository: Path, small_bundle: Path) -> None:
    with reserved_port() as port:
        with serving(repository, port=port) as first:
            model = Model.open(small_bundle, engine=first.url)
            expected = model.embed_text(FEW)
        with pytest.raises(EngineUnavailable):
            model.embed_text(FEW)
        with serving(repository, port=port):
            np.testing.assert_array_equal(model.embed_text(FEW), expected)


@pytest.mark.parametrize(("status", "kind"), [(400, EngineError), (500, EngineError), (504, EngineUnavailable)])
def test_rejected_runs_are_not_retried(
    status: int, kind: type[EngineError], server: ProtocolServer, model: Model
) -> None:
    model.embed_text(FEW)
    server.interfere = at_infer(lambda answer: (status, {}, json.dumps({"error": "out of memory"}).encode()))
    with pytest.raises(EngineError, match=f"-text': HTTP {status}: out of memory") as raised:
        model.embed_text(FEW)
    assert type(raised.value) is kind
    assert server.requests[f"/v2/models/{named(server, 'text')}/infer"] == 2


def test_timeouts_are_not_retried(server: ProtocolServer) -> None:
    arrived, released = threading.Event(), threading.Event()

    def slow(answer: Callable[[], Answer]) -> None:
        arrived.set()
        released.wait(PATIENCE)

    client, name = InferenceServer(server.url, seconds=0.2), named(server, "text")
    client.supports_binary = True  # known, so that only the run is sent
    server.interfere = at_infer(slow)
    ids = np.ones((1, 3), np.int64)
    with pytest.raises(EngineUnavailable, match="does not respond: ReadTimeout"):
        client.infer(name, {"input_ids": ids, "attention_mask": ids}, ["vector"])
    assert arrived.wait(PATIENCE)
    released.set()
    assert server.requests[f"/v2/models/{name}/infer"] == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"hello", "cannot be read"),
        (b'{"outputs": []}', "output 'vector' is missing"),
        (
            json.dumps({"outputs": [{"name": "vector", "datatype": "FP32", "shape": [2, 3], "data": [0] * 6}]}),
            "has shape",
        ),
        (
            json.dumps({"outputs": [{"name": "vector", "datatype": "FP32", "shape": [2, 16], "data": [None] * 32}]}),
            "not finite",
        ),
    ],
    ids=["nonsense", "missing", "shape", "nan"],
)
def test_invalid_responses_are_rejected(body: bytes | str, message: str, server: ProtocolServer, model: Model) -> None:
    model.embed_text(FEW)
    content = body.encode() if isinstance(body, str) else body
    server.interfere = at_infer(lambda answer: (200, {}, content))
    with pytest.raises(EngineError, match=message):
        model.embed_text(FEW)


def test_readiness_is_cached(server: ProtocolServer, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitascope.integrations.kserve.server.READY_CACHE_SECONDS", PATIENCE)
    for _ in range(5):
        model.check_ready()
    assert server.requests["/v2/health/ready"] == 1
    assert sum(count for path, count in server.requests.items() if path.endswith("/ready")) == 1 + len(server.models)


def test_a_model_that_is_not_ready_is_named(server: ProtocolServer, model: Model) -> None:
    name = named(server, "match")
    server.interfere = lambda path, answer: (400, {}, b"") if path.endswith(f"{name}/ready") else answer()
    with pytest.raises(EngineUnavailable, match=f"model '{name}': is not ready: HTTP 400"):
        model.check_ready()


# The command


def test_the_command_scores_through_a_server(
    server: ProtocolServer, small_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64), (220, 10, 10)).save(tmp_path / "red.png")
    words = ["score", str(tmp_path / "red.png"), "a red thing", "a blue thing", "--json", "--bundle", str(small_bundle)]
    assert main([*words, "--engine", f"kserve:{server.url}"]) == 0
    there = json.loads(capsys.readouterr().out)
    assert main(words) == 0
    here = json.loads(capsys.readouterr().out)
    for remote, local in zip(there["scores"], here["scores"], strict=True):
        assert remote["fused"] == pytest.approx(local["fused"], abs=1e-5)
    assert there["scores"][0]["fused"] > there["scores"][1]["fused"]
    assert server.rows


SPECIAL = np.array([[1.1, -0.0], [np.float32(1e-45), np.finfo(np.float32).max]], np.float32)


def echo(request: tuple[dict[str, str], bytes]) -> dict[str, np.ndarray]:
    """Return the tensors of a request as the response of a server that returns its inputs."""
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
def test_tensors_are_transferred_bit_by_bit(array: np.ndarray, binary: bool) -> None:
    if array.dtype.byteorder == ">" and not binary:
        array = array.astype("<f4")
    tensors = echo(encode_request({"first": array, "second": SPECIAL}, ["first"], binary=binary))
    assert tensors["first"].dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(tensors["first"], array)
    np.testing.assert_array_equal(tensors["second"], SPECIAL)
    assert tensors["first"].flags.writeable


def response(**tensor: Any) -> bytes:
    return json.dumps({"outputs": [{"name": "x", "datatype": "FP32", "shape": [2], **tensor}]}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b'{"outputs": 3}',
        response(),
        response(data=[1.0]),
        response(data=["a", "b"]),
        response(data=[1.0, 2.0], datatype="BYTES"),
        response(data=[1.0, 2.0], shape=None),
        response(parameters={"binary_data_size": 8}),
        response(parameters={"binary_data_size": "8"}),
        response(parameters={"binary_data_size": 4}, shape=[1]),
        response(parameters={"binary_data_size": 8}, shape=[-2, -1]),
    ],
)
def test_malformed_responses_are_rejected(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"Error: "):
        decode_response(body, str(len(body)))

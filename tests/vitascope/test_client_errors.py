"""Errors of the client: problem documents, error pages of proxies, timeouts."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.vitascope.local_server import client_of, problem
from vitascope import errors
from vitascope.client import ServiceError


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("collection_not_found", 404, errors.CollectionNotFound),
        ("collection_exists", 409, errors.CollectionExists),
        ("fingerprint_mismatch", 409, errors.FingerprintMismatch),
        ("media_corrupt", 422, errors.MediaCorrupt),
        ("task_missing", 409, errors.TaskMissing),
        ("invalid_filter", 422, errors.FilterError),
    ],
)
def test_problem_document_raises_the_error_of_its_code(
    code: str, status: int, kind: type[errors.VitascopeError]
) -> None:
    with (
        client_of(lambda request: problem(status, code, "the reason")) as client,
        pytest.raises(kind) as raised,
    ):
        client.search("videos", "a dog")
    assert type(raised.value) is kind
    assert str(raised.value) == "the reason"


def test_unknown_problem_raises_service_error_with_status_and_document() -> None:
    with (
        client_of(lambda request: problem(413, "payload_too_large", "too much")) as client,
        pytest.raises(ServiceError, match="too much") as raised,
    ):
        client.list_models()
    assert raised.value.status == 413
    assert raised.value.problem["code"] == "payload_too_large"


def test_error_page_of_a_proxy_is_reported_by_its_status() -> None:
    with (
        client_of(lambda request: httpx.Response(502, text="<h1>Bad Gateway</h1>")) as client,
        pytest.raises(ServiceError, match="502") as raised,
    ):
        client.list_models()
    assert raised.value.status == 502


def test_html_response_in_place_of_json_is_reported() -> None:
    with (
        client_of(lambda request: httpx.Response(200, text="<h1>Log in</h1>")) as client,
        pytest.raises(ServiceError, match="did not answer GET /v1/models with JSON"),
    ):
        client.list_models()


def test_unreachable_service_is_named() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    with client_of(refuse) as client:
        assert not client.is_ready()
        with pytest.raises(ServiceError, match="http://service cannot be reached"):
            client.list_models()


def test_timeout_names_the_service() -> None:
    def wait(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("too slow")

    with client_of(wait) as client, pytest.raises(ServiceError, match="in time"):
        client.list_models()


def test_wait_until_ready_ends_when_the_server_process_exits() -> None:
    with (
        client_of(lambda request: httpx.Response(503)) as client,
        pytest.raises(ServiceError, match="exited before it was ready"),
    ):
        client.wait_until_ready(timeout=3600, alive=lambda: False)


def test_unreadable_file_is_reported_before_a_request_is_sent(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise AssertionError("nothing should be sent")

    with client_of(answer) as client, pytest.raises(errors.InvalidInput, match=r"missing\.mp4"):
        client.score_file(tmp_path / "missing.mp4", ["a dog"])


def test_errors_of_a_progress_callback_are_not_reported_as_file_errors(tmp_path: Path) -> None:
    def show(sent: int, size: int) -> None:
        raise BrokenPipeError

    (tmp_path / "dog.mp4").write_bytes(b"not really a video")
    with client_of(lambda request: httpx.Response(201, json={})) as client, pytest.raises(BrokenPipeError):
        client.add_video("videos", tmp_path / "dog.mp4", progress=show)

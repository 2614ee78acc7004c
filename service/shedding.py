"""Refusing what a full service cannot take, in microseconds: else refusing would be what it is busy with."""

from __future__ import annotations

from random import getrandbits

import orjson

from service.app_state import Service
from service.http.auth import match_route, permission_of
from service.http.problems import CONTENT_TYPE, SECURITY_HEADERS, problem_body
from service.metrics import Metrics
from service.routes import ROUTES

_POST = b"POST /v1/"
_NOT_PLAIN = tuple(
    b"\r\n" + name + b":" for name in (b"transfer-encoding", b"connection", b"expect", b"origin", b"x-request-id")
)
"""Headers that the answer depends on: such requests take the longer way."""
_DETAIL = "as many requests are under way as the service takes; come back in a moment"
_HEAD = "".join(
    [
        "HTTP/1.1 503 Service Unavailable\r\n",
        *(f"{name}: {value}\r\n" for name, value in SECURITY_HEADERS.items()),
        f"content-type: {CONTENT_TYPE}\r\nretry-after: 1\r\n",
    ]
).encode()


class Shedding:
    """Decides which requests are answered in the place of the application."""

    def __init__(self, service: Service) -> None:
        self._backlog = service.backlog
        self._metrics = service.observer.metrics
        self._max_requests = service.settings.max_requests

    def refuse(self, data: bytes, under_way: int) -> bytes | None:
        """The whole answer to ``data`` where that is a plain POST which the service does not take while ``under_way``
        requests are; None where the application answers.
        """
        is_full = under_way >= self._max_requests
        if not (is_full or self._backlog.is_full) or not is_plain_post(data):
            return None
        path = data[5 : data.index(b" ", 5)].partition(b"?")[0].decode("latin-1")
        if not is_full:
            endpoint, _ = match_route(ROUTES, {"type": "http", "method": "POST", "path": path})
            if permission_of(endpoint).scope != "read":
                return None
        return _refusal(path, self._metrics)


def is_plain_post(data: bytes) -> bool:
    """Whether ``data`` is a POST to the API, the whole of one and nothing else. What is in doubt is none."""
    if not data.startswith(_POST):
        return False
    end = data.find(b"\r\n\r\n")
    head = data[: end + 2].lower()
    first, _, _ = head.partition(b"\r\n")
    if end < 0 or not first.endswith(b" http/1.1") or any(name in head for name in _NOT_PLAIN):
        return False
    before, found, after = head.partition(b"\r\ncontent-length:")
    stated = after.partition(b"\r\n")[0].strip(b" ")
    is_only = bool(found) and b"content-length" not in before + after
    return is_only and len(stated) < 10 and stated.isdigit() and end + 4 + int(stated) == len(data)


def _refusal(path: str, metrics: Metrics) -> bytes:
    """The whole answer; counted in ``metrics``, and not logged."""
    request_id = f"{getrandbits(128):032x}"
    body = orjson.dumps(problem_body(503, "overloaded", _DETAIL, path, request_id))
    metrics.record_request("POST", "none", 503, 0.0)
    return b"%bx-request-id: %b\r\ncontent-length: %d\r\n\r\n%b" % (_HEAD, request_id.encode(), len(body), body)

"""The cookie by which a browser plays media of a service that asks for keys."""

from __future__ import annotations

import httpx

from service.http.api_keys import Key
from service.http.auth import MEDIA_COOKIE, MEDIA_COOKIE_SECONDS, sign_media_cookie, verify_media_cookie
from tests.service.locked import ask, make_key, secret_of
from tests.service.running import Running
from tests.waiting import PATIENCE


def test_media_can_be_played_with_a_cookie_that_is_good_for_nothing_else(locked: Running) -> None:
    key = make_key(locked, "read", "write", collections=["palette"])
    answer = ask(locked, "POST", "/v1/media-cookie", key)
    assert answer.status_code == 204
    stated = answer.headers["set-cookie"].lower()
    assert all(part in stated for part in ("httponly", "samesite=strict", "path=/v1/collections", "max-age=3600"))
    value = answer.cookies[MEDIA_COOKIE]
    assert secret_of(key) not in value

    def get(path: str, method: str = "GET", cookie: str = value) -> int:
        headers = {"cookie": f"{MEDIA_COOKIE}={cookie}"}
        answer = httpx.request(method, f"{locked.client.base_url}{path}", headers=headers, timeout=PATIENCE)
        return answer.status_code

    video = "/v1/collections/palette/videos/1"
    assert get(f"{video}/media") == get(f"{video}/thumbnail") == get(f"{video}/media", "HEAD") == 200
    assert get(video) == get(video, "DELETE") == get("/v1/collections") == get(f"{video}/media", "DELETE") == 401
    assert get("/v1/collections/other/videos/1/media") == 403
    key_id, until, signature = value.split(".")
    for forged in (
        f"{key_id}.{int(until) + 1}.{signature}",
        f"environment.{until}.{signature}",
        f"{key_id}.{until}.",
        f"{key_id}.{'9' * 5000}.{signature}",
        f"{key_id}.\u00b2.{signature}",
    ):
        assert get(f"{video}/media", cookie=forged.encode("ascii", "replace").decode()) == 401
    locked.client.delete(f"/v1/keys/{key_id}")
    assert get(f"{video}/media") == 401


def test_a_media_cookie_ends() -> None:
    key = Key("abc", b"d" * 32, "a", frozenset(["read"]))
    value = sign_media_cookie(key, 1000.0)
    assert verify_media_cookie(value, {"abc": key}.get, 1000.0 + MEDIA_COOKIE_SECONDS - 1) == key
    assert verify_media_cookie(value, {"abc": key}.get, 1000.0 + MEDIA_COOKIE_SECONDS) is None
    assert verify_media_cookie(value, {}.get, 1000.0) is None

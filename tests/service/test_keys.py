"""API keys: authentication, permissions, storage and secrecy; the media cookie."""

from __future__ import annotations

import json
import logging
import sqlite3
import stat
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from starlette.routing import Match

from service.app import create_app
from service.http.api_keys import FILE_NAME, Key, KeyStore, digest, key_id_of
from service.http.auth import (
    MEDIA_COOKIE_PATH,
    MEDIA_COOKIE_PREFIX,
    MEDIA_COOKIE_SECONDS,
    match_route,
    permission_of,
    sign_media_cookie,
    verify_media_cookie,
)
from tests.service.running import JSON, Running, problem_of
from tests.service.secured import ADMIN, ask, make_key, secret_of
from tests.waiting import PATIENCE, wait_for
from vitascope.client import Client
from vitascope.errors import StorageError


def test_only_the_page_and_health_checks_are_public(locked: Running) -> None:
    for path in ("/livez", "/readyz", "/", "/static/app.js", "/openapi.json"):
        assert ask(locked, "GET", path, None).status_code == 200, path
    operations = [
        (method.upper(), path)
        for path, methods in ask(locked, "GET", "/openapi.json", None).json()["paths"].items()
        for method in methods
        if path not in ("/livez", "/readyz")
    ]
    assert len(operations) > 20
    for method, path in [*operations, ("GET", "/metrics"), ("GET", "/v1/nothing"), ("PUT", "/v1/collections")]:
        answer = ask(locked, method, path, None)
        problem = problem_of(answer, 401, "key_missing")
        assert answer.headers["www-authenticate"].startswith("Bearer"), (method, path)
        assert "Authorization" in problem["detail"]


def test_public_paths_are_those_of_the_security_page(locked: Running, running: Running) -> None:
    security = (Path(__file__).parents[2] / "SECURITY.md").read_text("utf-8")
    stated = security.partition("- Without a key")[2].partition("\n- ")[0]
    for path in ("/livez", "/readyz", "/", "/openapi.json"):
        assert f"`{path}`" in stated
    assert "`/static/…`" in stated
    for path in ("/", "/static/app.js", "/openapi.json"):  # of two services with other settings and collections
        assert ask(locked, "GET", path, None).content == ask(running, "GET", path, None).content


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer vsk_000000000000_" + "a" * 43},
        {"authorization": "Bearer"},
        {"authorization": "Basic YTpi"},
        {"authorization": ADMIN},
        {"authorization": f"Bearer {ADMIN}x"},
        {"x-api-key": "no"},
        {"x-api-key": "\xff"},
        {"cookie": f"vitascope_media={ADMIN}"},
    ],
)
def test_an_invalid_key_is_rejected(locked: Running, headers: dict[str, str]) -> None:
    coded = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = httpx.get(f"{locked.client.base_url}/v1/models", headers=coded, timeout=PATIENCE)
    assert answer.status_code == 401, answer.text
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_key_is_accepted_in_either_header(locked: Running) -> None:
    key = make_key(locked, "read")
    assert ask(locked, "GET", "/v1/models", key).status_code == 200
    behind_a_proxy = {"X-API-Key": key, "Authorization": "Basic cHJveHk6cHJveHk="}
    for headers in ({"X-API-Key": key}, {"Authorization": f"bearer {key}"}, behind_a_proxy):
        answer = httpx.get(f"{locked.client.base_url}/v1/models", headers=headers, timeout=PATIENCE)
        assert answer.status_code == 200, headers


def test_a_key_is_limited_to_its_scopes_and_the_error_names_the_missing_one(locked: Running, files: Path) -> None:
    keys = {scope: make_key(locked, scope) for scope in ("read", "write", "admin")}
    red = (files / "red.mp4").read_bytes()
    cases: list[tuple[str, str, str, dict[str, Any]]] = [
        ("read", "GET", "/v1/collections", {}),
        ("read", "GET", "/v1/collections/palette/videos/1/media", {}),
        ("read", "POST", "/v1/collections/palette/search", {"json": {"text": "a red thing"}}),
        ("write", "POST", "/v1/collections/other/videos", {"files": {"file": ("red.mp4", red)}}),
        ("write", "DELETE", "/v1/collections/other/videos/1", {}),
        ("admin", "POST", "/v1/collections", {"json": {"name": "made-by-a-key"}}),
        ("admin", "DELETE", "/v1/collections/made-by-a-key", {}),
        ("admin", "GET", "/v1/keys", {}),
        ("admin", "GET", "/metrics", {}),
    ]
    for scope, method, path, request in cases:
        for other in keys.keys() - {scope}:
            answer = ask(locked, method, path, keys[other], **request)
            assert repr(scope) in problem_of(answer, 403, "scope_missing")["detail"], (method, path)
            assert f'scope="{scope}"' in answer.headers["www-authenticate"]
        assert ask(locked, method, path, keys[scope], **request).is_success, (method, path)


def test_every_route_declares_its_permission(running: Running) -> None:
    app = create_app(running.settings)
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    assert len(routes) == len(app.routes)
    assert [route.path for route in routes if not hasattr(route.endpoint, "permission")] == []
    public = {route.path for route in routes if permission_of(route.endpoint).scope is None}
    assert public == {"/", "/static/{name}", "/static/{version}/{name}", "/openapi.json", "/livez", "/readyz"}
    for route in routes:
        permission = permission_of(route.endpoint)
        if permission.scope == "read":
            assert route.methods <= {"GET", "HEAD", "POST"}, route.path
        elif permission.scope == "write":
            assert "GET" not in route.methods, route.path
        if permission.media_cookie:
            assert route.methods <= {"GET", "HEAD"}, route.path
            assert route.path.startswith(f"{MEDIA_COOKIE_PATH}/"), route.path
        if permission.scope is not None and not permission.all_collections and "/collections/" in route.path:
            assert route.path.startswith("/v1/collections/{name}"), route.path


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/collections/a/jobs", "write"),
        ("DELETE", "/v1/collections/a/jobs/1", "write"),
        ("POST", "/v1/collections/a/jobs/1/retry", "write"),
        ("POST", "/v1/answers", "read"),
        ("POST", "/v1/caption-scores", "read"),
        ("GET", "/v1/models/9f0c", "read"),
        ("GET", "/v1/models/", "read"),  # redirected
        ("POST", "/v1/models", "admin"),
        ("POST", "/v1/models/9f0c/default", "admin"),
        ("DELETE", "/v1/models/9f0c", "admin"),
        ("GET", "/v1/keys/self", "read"),
        ("DELETE", "/v1/keys/self", "admin"),
        ("POST", "/v1/operations", "admin"),
        ("GET", "/v1/operations/1/files/palette.sqlite3", "admin"),
        # no route has these
        ("PUT", "/v1/collections/a", "admin"),
        ("POST", "/v1/collections/a/something-new", "admin"),
        ("POST", "/v1/something-new", "admin"),
        ("GET", "/v1/keys/../models", "admin"),
        ("GET", "/v1/something-new", "admin"),
        ("GET", "/v1/collections/a%2Fb/search", "admin"),
    ],
)
def test_a_request_needs_the_scope_of_its_route_or_else_admin(
    running: Running, method: str, path: str, scope: str
) -> None:
    endpoint, _ = match_route(create_app(running.settings).routes, method, path)
    assert permission_of(endpoint).scope == scope


def test_permissions_are_found_by_the_same_route_that_handles_the_request(running: Running) -> None:
    app = create_app(running.settings)
    paths = [route.path.replace("{name}", "a").replace("{video_id}", "1") for route in app.routes]
    for path in [*paths, "/", "/v1/collections/a\n", "/v1/collections/a/b/c", "/v1/collections//videos", "//v1/models"]:
        for method in ("GET", "HEAD", "POST", "PATCH", "DELETE", "PUT"):
            scope = {"type": "http", "method": method, "path": path}
            handler = next((route for route in app.routes if route.matches(scope)[0] is Match.FULL), None)
            endpoint, _ = match_route(app.routes, method, path)
            assert endpoint is (None if handler is None else handler.endpoint), (method, path)


def test_a_restricted_key_sees_no_other_collections(locked: Running) -> None:
    key = make_key(locked, "read", "write", "admin", collections=["palette", "later"])
    listed = ask(locked, "GET", "/v1/collections", key).json()["collections"]
    assert [each["name"] for each in listed] == ["palette"]
    assert ask(locked, "GET", "/v1/collections/palette/videos", key).status_code == 200
    about = {"collection": "other", "video_id": "1"}
    for method, path, body in (
        ("GET", "/v1/collections/other", None),
        ("GET", "/v1/collections/nowhere", None),
        ("POST", "/v1/collections/other/search", {"text": "a"}),
        ("POST", "/v1/caption-scores", {**about, "captions": ["a"]}),
        ("POST", "/v1/answers", {**about, "question": "what is it?"}),
        ("POST", "/v1/collections", {"name": "third"}),
    ):
        problem_of(ask(locked, method, path, key, json=body), 403, "collection_not_allowed")
    # Keys, metrics and backups would circumvent the restriction.
    problem_of(ask(locked, "POST", "/v1/keys", key, json={"name": "a", "scopes": ["read"]}), 403, "scope_missing")
    problem_of(ask(locked, "GET", "/metrics", key), 403, "scope_missing")
    backup = {"kind": "backup", "collection": "other"}
    problem_of(ask(locked, "POST", "/v1/operations", key, json=backup), 403, "scope_missing")


def test_a_key_can_query_its_permissions(locked: Running) -> None:
    key = make_key(locked, "write", "read", collections=["palette"], expires_in=3600)
    permissions = ask(locked, "GET", "/v1/keys/self", key).json()
    assert (permissions["keys_required"], permissions["name"], permissions["id"]) == (True, "a test", key_id_of(key))
    assert (permissions["scopes"], permissions["collections"]) == (["read", "write"], ["palette"])
    assert 3500 < permissions["expires_at"] - time.time() < 3601
    with Client(str(locked.client.base_url), api_key=key) as client:
        assert client.get_key_permissions() == permissions
    chosen = ask(locked, "GET", "/v1/keys/self", ADMIN).json()
    assert (chosen["scopes"], chosen["collections"], chosen["expires_at"]) == (["read", "write", "admin"], None, None)
    assert ADMIN not in str(chosen)


def test_without_keys_everything_is_permitted(running: Running) -> None:
    permissions = running.client.get("/v1/keys/self").json()
    assert permissions == {
        "keys_required": False,
        "id": None,
        "name": None,
        "scopes": ["read", "write", "admin"],
        "collections": None,
        "expires_at": None,
    }


def test_keys_are_created_listed_and_revoked(locked: Running) -> None:
    body = {"name": "the portal", "scopes": ["write", "read"], "collections": ["palette"], "rate": 5, "concurrency": 3}
    answer = locked.client.post("/v1/keys", json=body)
    made: JSON = answer.json()
    assert answer.headers["location"] == f"/v1/keys/{made['id']}"
    assert answer.headers["cache-control"] == "no-store"
    assert (made["scopes"], made["rate"], made["concurrency"]) == (["read", "write"], 5, 3)
    key = made.pop("key")
    assert key_id_of(key) == made["id"]
    path = "/v1/collections/palette/videos"
    assert ask(locked, "GET", path, key).status_code == 200

    def listed() -> JSON:
        keys: list[JSON] = locked.client.get("/v1/keys").json()["keys"]
        return next(each for each in keys if each["id"] == made["id"])

    wait_for(lambda: listed()["last_used_at"] is not None)
    assert listed() == {**made, "last_used_at": listed()["last_used_at"]}
    assert secret_of(key) not in locked.client.get("/v1/keys").text
    revoked = locked.client.delete(f"/v1/keys/{made['id']}").json()["revoked_at"]
    assert "revoked" in problem_of(ask(locked, "GET", path, key), 401, "key_invalid")["detail"]
    assert locked.client.delete(f"/v1/keys/{made['id']}").json()["revoked_at"] == revoked
    problem_of(locked.client.delete("/v1/keys/000000000000"), 404, "key_not_found")


@pytest.mark.parametrize(
    "wrong",
    [
        {"scopes": []},
        {"scopes": ["root"]},
        {"name": ""},
        {"name": "two\nlines"},
        {"collections": []},
        {"collections": ["../x"]},
        {"rate": 0},
        {"concurrency": 0},
        {"expires_in": -1},
        {"expires_in": 1e400},
    ],
)
def test_an_invalid_key_request_creates_no_key(locked: Running, wrong: JSON) -> None:
    before = len(locked.client.get("/v1/keys").json()["keys"])
    body = json.dumps({"name": "a", "scopes": ["read"], **wrong})
    answer = locked.client.post("/v1/keys", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert len(locked.client.get("/v1/keys").json()["keys"]) == before


def test_logs_contain_no_keys_and_no_queries(
    locked: Running, files: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    query = "a very private sentence"
    with caplog.at_level(logging.INFO):
        key = make_key(locked, "read", "write")
        for text in (key, f"{key[:-1]}-"):
            ask(locked, "POST", "/v1/collections/palette/search", text, json={"text": query})
            ask(locked, "GET", f"/?q={query}&key={text}", text)
            ask(locked, "GET", f"/v1/collections/palette/videos?filter={query}", text)
            ask(locked, "POST", "/v1/answers", text, json={"collection": "palette", "question": query})
            upload = {"file": ("red.mp4", (files / "red.mp4").read_bytes())}
            ask(locked, "POST", "/v1/collections/other/videos", text, files=upload, data={"title": query})
        [cookie] = ask(locked, "POST", "/v1/media-cookie", key).cookies.values()
    records = [record for record in caplog.records if not record.name.startswith("http")]  # the client's own
    logged = "\n".join(record.getMessage() for record in records) + "".join(capsys.readouterr())
    assert "POST /v1/collections/{name}/search 200" in logged
    assert "POST none 401" in logged
    assert str(key_id_of(key)) in logged
    for secret in (secret_of(key), ADMIN, digest(key).hex(), cookie.split(".")[-1], "private", "%20"):
        assert secret not in logged


def test_rejected_requests_are_counted(locked: Running) -> None:
    def rejected() -> float:
        name = 'vitascope_requests_total{method="GET",route="none",status="401"}'
        lines = locked.client.get("/metrics").text.splitlines()
        return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name)), 0.0)

    before = rejected()
    ask(locked, "GET", "/v1/models", None)
    assert rejected() == before + 1


def test_keys_cannot_be_managed_over_http_where_none_are_required(running: Running) -> None:
    for method, path in (("GET", "/v1/keys"), ("DELETE", "/v1/keys/1")):
        problem_of(running.client.request(method, path), 409, "keys_off")
    problem_of(running.client.post("/v1/keys", json={"name": "a", "scopes": ["read"]}), 409, "keys_off")
    assert "set-cookie" not in running.client.post("/v1/media-cookie").headers


def test_a_key_expires(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    key, text = store.create("short", ["read"], expires_in=60)
    assert key.expires_at is not None
    assert store.authenticate(text, key.expires_at - 1).id == key.id
    with pytest.raises(Exception, match="expired"):
        store.authenticate(text, key.expires_at)
    store.close()


def test_the_key_file_has_only_digests_and_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    key, text = store.create("a", ["read"])
    held = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert secret_of(text).encode() not in held
    assert digest(text) in held
    assert text not in repr(key)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    store.close()


def test_a_damaged_or_newer_key_file_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"noise" * 1000)
    with pytest.raises(Exception, match=FILE_NAME):
        KeyStore(tmp_path)
    newer = tmp_path / "newer"
    newer.mkdir()
    with sqlite3.connect(newer / FILE_NAME) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(Exception, match="version 99"):
        KeyStore(newer)


def test_requests_succeed_if_last_used_at_cannot_be_stored(
    locked: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object) -> None:
        raise StorageError("disk full")

    key = make_key(locked, "read")
    with monkeypatch.context() as patch:
        patch.setattr(KeyStore, "touch", fail)
        assert ask(locked, "GET", "/v1/models", key).status_code == 200
        wait_for(lambda: f"{key_id_of(key)} was not updated: disk full" in caplog.text)
    assert ask(locked, "GET", "/v1/models", key).status_code == 200


def test_authentication_is_fast_enough_for_the_event_loop(tmp_path: Path) -> None:
    """The event loop authenticates every request, so that must be fast, also with many keys."""
    store = KeyStore(tmp_path)
    texts = [store.create(f"key {number}", ["read"])[1] for number in range(50)]
    store.authenticate(texts[0], time.time())
    began = time.thread_time()
    for text in texts * 10:
        store.authenticate(text, time.time())
    assert (time.thread_time() - began) / 500 < 0.001
    store.close()


def test_the_media_cookie_permits_media_only(locked: Running) -> None:
    key = make_key(locked, "read", "write", collections=["palette"])
    answer = ask(locked, "POST", "/v1/media-cookie", key)
    assert answer.status_code == 204
    stated = answer.headers["set-cookie"].lower()
    assert all(part in stated for part in ("httponly", "samesite=strict", "path=/v1/collections", "max-age=3600"))
    [(name, value)] = answer.cookies.items()
    assert name == f"{MEDIA_COOKIE_PREFIX}_{key_id_of(key)}"
    assert secret_of(key) not in value

    def get(path: str, method: str = "GET", cookie: str = value) -> int:
        headers = {"cookie": f"{name}={cookie}"}
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


def test_media_cookies_of_several_keys_permit_the_media_of_each(locked: Running) -> None:
    cookies = httpx.Cookies()
    for collection in ("other", "palette"):
        key = make_key(locked, "read", collections=[collection])
        cookies.update(ask(locked, "POST", "/v1/media-cookie", key).cookies)
    forged = {name: f"{value}0" for name, value in cookies.items()}
    unknown = {f"{MEDIA_COOKIE_PREFIX}_x": "x.1.y"}
    for sent in (dict(cookies), dict(reversed(list(cookies.items()))), unknown | dict(cookies)):
        header = {"cookie": "; ".join(f"{name}={value}" for name, value in sent.items())}
        address = f"{locked.client.base_url}/v1/collections"
        assert httpx.get(f"{address}/palette/videos/1/media", headers=header, timeout=PATIENCE).status_code == 200
        assert httpx.get(f"{address}/other/videos/99/media", headers=header, timeout=PATIENCE).status_code == 404
        assert httpx.get(f"{address}/third/videos/1/media", headers=header, timeout=PATIENCE).status_code == 403
    header = {"cookie": "; ".join(f"{name}={value}" for name, value in forged.items())}
    assert httpx.get(f"{address}/palette/videos/1/media", headers=header, timeout=PATIENCE).status_code == 401


def test_a_media_cookie_expires() -> None:
    key = Key("abc", b"d" * 32, "a", frozenset(["read"]))
    value = sign_media_cookie(key, 1000.0)
    assert verify_media_cookie(value, {"abc": key}.get, 1000.0 + MEDIA_COOKIE_SECONDS - 1) == key
    assert verify_media_cookie(value, {"abc": key}.get, 1000.0 + MEDIA_COOKIE_SECONDS) is None
    assert verify_media_cookie(value, {}.get, 1000.0) is None

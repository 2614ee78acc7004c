"""API keys: who comes in, what they may do, and that nobody else ever sees a key."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from service.app import create_app
from service.http.api_keys import digest, key_id_of
from service.http.auth import MEDIA_COOKIE, MEDIA_COOKIE_PATH, match_route, permission_of
from tests.service.locked import ADMIN, ask, make_key, secret_of
from tests.service.running import JSON, Running, problem_of
from tests.waiting import PATIENCE, wait_for
from vitascope.client import Client


def test_without_a_key_nothing_but_page_and_health_answers(locked: Running) -> None:
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


def test_what_is_open_without_a_key_is_what_the_security_page_says(locked: Running, running: Running) -> None:
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
def test_a_wrong_key_is_refused(locked: Running, headers: dict[str, str]) -> None:
    coded = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = httpx.get(f"{locked.client.base_url}/v1/models", headers=coded, timeout=PATIENCE)
    assert answer.status_code == 401, answer.text
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_key_may_come_in_either_header(locked: Running) -> None:
    key = make_key(locked, "read")
    assert ask(locked, "GET", "/v1/models", key).status_code == 200
    behind_a_proxy = {"X-API-Key": key, "Authorization": "Basic cHJveHk6cHJveHk="}
    for headers in ({"X-API-Key": key}, {"Authorization": f"bearer {key}"}, behind_a_proxy):
        answer = httpx.get(f"{locked.client.base_url}/v1/models", headers=headers, timeout=PATIENCE)
        assert answer.status_code == 200, headers


def test_a_key_may_do_what_its_scopes_say_and_the_refusal_names_what_is_missing(locked: Running, files: Path) -> None:
    keys = {scope: make_key(locked, scope) for scope in ("read", "write", "admin")}
    red = (files / "red.mp4").read_bytes()
    tried: list[tuple[str, str, str, dict[str, Any]]] = [
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
    for scope, method, path, request in tried:
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
    endpoint, _ = match_route(create_app(running.settings).routes, {"type": "http", "method": method, "path": path})
    assert permission_of(endpoint).scope == scope


def test_a_key_for_some_collections_sees_no_others(locked: Running) -> None:
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
    # Who could make keys, read the metrics or fetch backups would get around the limit.
    problem_of(ask(locked, "POST", "/v1/keys", key, json={"name": "a", "scopes": ["read"]}), 403, "scope_missing")
    problem_of(ask(locked, "GET", "/metrics", key), 403, "scope_missing")
    backup = {"kind": "backup", "collection": "other"}
    problem_of(ask(locked, "POST", "/v1/operations", key, json=backup), 403, "scope_missing")


def test_a_key_is_told_what_it_may_do(locked: Running) -> None:
    key = make_key(locked, "write", "read", collections=["palette"], expires_in=3600)
    told = ask(locked, "GET", "/v1/keys/self", key).json()
    assert (told["asks_for_keys"], told["name"], told["id"]) == (True, "a test", key_id_of(key))
    assert (told["scopes"], told["collections"]) == (["read", "write"], ["palette"])
    assert 3500 < told["expires_at"] - time.time() < 3601
    with Client(str(locked.client.base_url), api_key=key) as client:
        assert client.get_key_permissions() == told
    chosen = ask(locked, "GET", "/v1/keys/self", ADMIN).json()
    assert (chosen["scopes"], chosen["collections"], chosen["expires_at"]) == (["read", "write", "admin"], None, None)
    assert ADMIN not in str(chosen)


def test_where_nobody_is_asked_for_a_key_everybody_may_do_all(running: Running) -> None:
    told = running.client.get("/v1/keys/self").json()
    assert told == {
        "asks_for_keys": False,
        "id": None,
        "name": None,
        "scopes": ["read", "write", "admin"],
        "collections": None,
        "expires_at": None,
    }


def test_keys_are_made_listed_and_revoked(locked: Running) -> None:
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
def test_a_key_that_makes_no_sense_is_not_made(locked: Running, wrong: JSON) -> None:
    before = len(locked.client.get("/v1/keys").json()["keys"])
    body = json.dumps({"name": "a", "scopes": ["read"], **wrong})
    answer = locked.client.post("/v1/keys", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert len(locked.client.get("/v1/keys").json()["keys"]) == before


def test_no_key_and_no_query_gets_into_the_log(
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
        cookie = ask(locked, "POST", "/v1/media-cookie", key).cookies[MEDIA_COOKIE]
    records = [record for record in caplog.records if not record.name.startswith("http")]  # the client's own
    logged = "\n".join(record.getMessage() for record in records) + "".join(capsys.readouterr())
    assert "POST /v1/collections/{name}/search 200" in logged
    assert "POST none 401" in logged
    assert str(key_id_of(key)) in logged
    for secret in (secret_of(key), ADMIN, digest(key).hex(), cookie.split(".")[-1], "private", "%20"):
        assert secret not in logged


def test_who_is_refused_is_counted(locked: Running) -> None:
    def refused() -> float:
        name = 'vitascope_requests_total{method="GET",route="none",status="401"}'
        lines = locked.client.get("/metrics").text.splitlines()
        return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name)), 0.0)

    before = refused()
    ask(locked, "GET", "/v1/models", None)
    assert refused() == before + 1


def test_without_keys_nobody_can_make_some_over_http(running: Running) -> None:
    for method, path in (("GET", "/v1/keys"), ("DELETE", "/v1/keys/1")):
        problem_of(running.client.request(method, path), 409, "keys_off")
    problem_of(running.client.post("/v1/keys", json={"name": "a", "scopes": ["read"]}), 409, "keys_off")
    assert "set-cookie" not in running.client.post("/v1/media-cookie").headers

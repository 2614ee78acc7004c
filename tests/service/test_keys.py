"""API keys: authentication, permissions, storage and secrecy; the media cookie; `vitascope keys`."""

from __future__ import annotations

import json
import logging
import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from starlette.routing import Match, Route

from service.app import create_app
from service.errors import KeyInvalid
from service.http import api_keys
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
from tests.service.running import ADMIN, JSON, Running, make_key, problem_of, secret_of, send
from tests.waiting import PATIENCE, wait_for
from vitascope.cli.main import main
from vitascope.client import Client, ServiceError
from vitascope.errors import InvalidInput, StorageError

PUBLIC_FILES = ("/", "/static/app.js", "/openapi.json")


def test_only_the_page_and_health_checks_are_public(locked: Running, running: Running) -> None:
    for path in ("/livez", "/readyz"):
        assert send(locked, "GET", path, None).status_code == 200, path
    for path in PUBLIC_FILES:  # the same for services with other settings and collections
        assert send(locked, "GET", path, None).content == running.client.get(path).content
    operations = [
        (method.upper(), path)
        for path, methods in running.client.get("/openapi.json").json()["paths"].items()
        for method in methods
        if path not in ("/livez", "/readyz")
    ]
    assert len(operations) > 20
    for method, path in [*operations, ("GET", "/metrics"), ("GET", "/v1/nothing"), ("PUT", "/v1/collections")]:
        response = send(locked, method, path, None)
        assert "Authorization" in problem_of(response, 401, "key_missing")["detail"]
        assert response.headers["www-authenticate"].startswith("Bearer"), (method, path)


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
    response = httpx.get(f"{locked.client.base_url}/v1/models", headers=coded, timeout=PATIENCE)
    assert response.status_code == 401, response.text
    assert response.headers["www-authenticate"].startswith("Bearer")


def test_a_key_is_accepted_in_either_header(locked: Running) -> None:
    key = make_key(locked, "read")
    assert send(locked, "GET", "/v1/models", key).status_code == 200
    behind_proxy = {"X-API-Key": key, "Authorization": "Basic cHJveHk6cHJveHk="}
    for headers in ({"X-API-Key": key}, {"Authorization": f"bearer {key}"}, behind_proxy):
        response = httpx.get(f"{locked.client.base_url}/v1/models", headers=headers, timeout=PATIENCE)
        assert response.status_code == 200, headers


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
            response = send(locked, method, path, keys[other], **request)
            assert repr(scope) in problem_of(response, 403, "scope_missing")["detail"], (method, path)
            assert f'scope="{scope}"' in response.headers["www-authenticate"]
        assert send(locked, method, path, keys[scope], **request).is_success, (method, path)


def test_every_route_declares_its_permission(running: Running) -> None:
    app = create_app(running.settings)
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    assert len(routes) == len(app.routes)
    assert [route.path for route in routes if not hasattr(route.endpoint, "permission")] == []
    public = {route.path for route in routes if permission_of(route).scope is None}
    assert public == {"/", "/static/{name}", "/static/{version}/{name}", "/openapi.json", "/livez", "/readyz"}
    for route in routes:
        permission = permission_of(route)
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
        ("GET", "/v1/models/", "read"),  # redirected
        ("GET", "/v1/keys/self", "read"),
        ("DELETE", "/v1/keys/self", "admin"),
        ("POST", "/v1/collections/a/jobs/1/retry", "write"),
    ],
)
def test_a_request_needs_the_scope_of_its_route(running: Running, method: str, path: str, scope: str) -> None:
    route, _ = match_route(create_app(running.settings).routes, method, path)
    assert permission_of(route).scope == scope


def test_a_request_without_a_route_needs_a_key_of_any_scope(locked: Running) -> None:
    key = make_key(locked, "read")
    for method, path, status, code in (
        ("PUT", "/v1/collections/a", 405, "method_not_allowed"),
        ("POST", "/v1/collections/a/something-new", 404, "route_not_found"),
        ("GET", "/v1/collections/a%2Fb/search", 404, "route_not_found"),
    ):
        problem_of(send(locked, method, path, key), status, code)
        problem_of(send(locked, method, path, None), 401, "key_missing")


def test_an_endpoint_without_a_declared_permission_needs_admin() -> None:
    assert permission_of(Route("/", lambda _: None)).scope == "admin"


def test_permissions_are_found_by_the_same_route_that_handles_the_request(running: Running) -> None:
    app = create_app(running.settings)
    paths = [route.path.replace("{name}", "a").replace("{video_id}", "1") for route in app.routes]
    for path in [*paths, "/", "/v1/collections/a\n", "/v1/collections/a/b/c", "/v1/collections//videos", "//v1/models"]:
        for method in ("GET", "HEAD", "POST", "PATCH", "DELETE", "PUT"):
            scope = {"type": "http", "method": method, "path": path}
            handler = next((route for route in app.routes if route.matches(scope)[0] is Match.FULL), None)
            route, _ = match_route(app.routes, method, path)
            assert route is handler, (method, path)


def test_a_restricted_key_sees_no_other_collections(locked: Running) -> None:
    key = make_key(locked, "read", "write", "admin", collections=["palette", "later"])
    listed = send(locked, "GET", "/v1/collections", key).json()["collections"]
    assert [each["name"] for each in listed] == ["palette"]
    assert send(locked, "GET", "/v1/collections/palette/videos", key).status_code == 200
    video = {"collection": "other", "video_id": "1"}
    for method, path, body in (
        ("GET", "/v1/collections/other", None),
        ("GET", "/v1/collections/nowhere", None),
        ("POST", "/v1/collections/other/search", {"text": "a"}),
        ("POST", "/v1/caption-scores", {**video, "captions": ["a"]}),
        ("POST", "/v1/answers", {**video, "question": "what is it?"}),
        ("POST", "/v1/entailment", {**video, "hypotheses": ["a"]}),
        ("POST", "/v1/moments", {**video, "texts": ["a"]}),
        ("POST", "/v1/captions", video),
        ("POST", "/v1/groundings", {**video, "phrases": ["a"]}),
        ("POST", "/v1/chapters", video),
        ("POST", "/v1/collections", {"name": "third"}),
    ):
        problem_of(send(locked, method, path, key, json=body), 403, "collection_not_allowed")
    # Keys, metrics and backups would circumvent the restriction.
    problem_of(send(locked, "POST", "/v1/keys", key, json={"name": "a", "scopes": ["read"]}), 403, "scope_missing")
    problem_of(send(locked, "GET", "/metrics", key), 403, "scope_missing")
    backup = {"kind": "backup", "collection": "other"}
    problem_of(send(locked, "POST", "/v1/operations", key, json=backup), 403, "scope_missing")


def test_a_key_can_query_its_permissions(locked: Running) -> None:
    key = make_key(locked, "write", "read", collections=["palette"], expires_in=3600)
    permissions = send(locked, "GET", "/v1/keys/self", key).json()
    assert (permissions["keys_required"], permissions["name"], permissions["id"]) == (True, "a test", key_id_of(key))
    assert (permissions["scopes"], permissions["collections"]) == (["read", "write"], ["palette"])
    assert 3500 < permissions["expires_at"] - time.time() < 3601
    with Client(str(locked.client.base_url), api_key=key) as client:
        assert client.get_key_permissions() == permissions
    admin = send(locked, "GET", "/v1/keys/self", ADMIN).json()
    assert (admin["scopes"], admin["collections"], admin["expires_at"]) == (["read", "write", "admin"], None, None)
    assert ADMIN not in str(admin)


def test_keys_are_created_listed_and_revoked(locked: Running) -> None:
    body = {"name": "the portal", "scopes": ["write", "read"], "collections": ["palette"], "rate": 5, "concurrency": 3}
    response = locked.client.post("/v1/keys", json=body)
    created: JSON = response.json()
    assert response.headers["location"] == f"/v1/keys/{created['id']}"
    assert response.headers["cache-control"] == "no-store"
    assert (created["scopes"], created["rate"], created["concurrency"]) == (["read", "write"], 5, 3)
    key = created.pop("key")
    assert key_id_of(key) == created["id"]
    path = "/v1/collections/palette/videos"
    assert send(locked, "GET", path, key).status_code == 200

    def listed() -> JSON:
        keys: list[JSON] = locked.client.get("/v1/keys").json()["keys"]
        return next(each for each in keys if each["id"] == created["id"])

    wait_for(lambda: listed()["last_used_at"] is not None)
    assert listed() == {**created, "last_used_at": listed()["last_used_at"]}
    assert secret_of(key) not in locked.client.get("/v1/keys").text
    revoked = locked.client.delete(f"/v1/keys/{created['id']}").json()["revoked_at"]
    assert "revoked" in problem_of(send(locked, "GET", path, key), 401, "key_invalid")["detail"]
    assert locked.client.delete(f"/v1/keys/{created['id']}").json()["revoked_at"] == revoked
    problem_of(locked.client.delete("/v1/keys/000000000000"), 404, "key_not_found")


@pytest.mark.parametrize(
    "invalid",
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
def test_an_invalid_key_request_creates_no_key(locked: Running, invalid: JSON) -> None:
    before = len(locked.client.get("/v1/keys").json()["keys"])
    body = json.dumps({"name": "a", "scopes": ["read"], **invalid})
    response = locked.client.post("/v1/keys", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 422, response.text
    assert len(locked.client.get("/v1/keys").json()["keys"]) == before


def test_logs_contain_no_keys_and_no_queries(
    locked: Running, files: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    query = "a very private sentence"
    with caplog.at_level(logging.INFO):
        key = make_key(locked, "read", "write")
        for text in (key, f"{key[:-1]}-"):
            send(locked, "POST", "/v1/collections/palette/search", text, json={"text": query})
            send(locked, "GET", f"/?q={query}&key={text}", text)
            send(locked, "GET", f"/v1/collections/palette/videos?filter={query}", text)
            send(locked, "POST", "/v1/answers", text, json={"collection": "palette", "question": query})
            upload = {"file": ("red.mp4", (files / "red.mp4").read_bytes())}
            send(locked, "POST", "/v1/collections/other/videos", text, files=upload, data={"title": query})
        [cookie] = send(locked, "POST", "/v1/media-cookie", key).cookies.values()
    records = [record for record in caplog.records if not record.name.startswith("http")]  # the client's own
    logged = "\n".join(record.getMessage() for record in records) + "".join(capsys.readouterr())
    assert "POST /v1/collections/{name}/search 200" in logged
    assert "POST /v1/collections/{name}/search 401" in logged
    assert str(key_id_of(key)) in logged
    for secret in (secret_of(key), ADMIN, digest(key).hex(), cookie.split(".")[-1], "private", "%20"):
        assert secret not in logged


def test_a_service_without_keys_permits_everything_but_their_management(running: Running) -> None:
    permissions = running.client.get("/v1/keys/self").json()
    assert (permissions.pop("keys_required"), permissions.pop("scopes")) == (False, ["read", "write", "admin"])
    assert set(permissions) == {"id", "name", "collections", "expires_at"}
    assert set(permissions.values()) == {None}
    for method, path in (("GET", "/v1/keys"), ("DELETE", "/v1/keys/1")):
        problem_of(running.client.request(method, path), 409, "keys_off")
    problem_of(running.client.post("/v1/keys", json={"name": "a", "scopes": ["read"]}), 409, "keys_off")
    assert "set-cookie" not in running.client.post("/v1/media-cookie").headers


def test_a_key_expires(tmp_path: Path) -> None:
    with closing(KeyStore(tmp_path)) as store:
        key, text = store.create("short", ["read"], expires_in=60)
        assert key.expires_at is not None
        assert store.authenticate(text, key.expires_at - 1).id == key.id
        with pytest.raises(KeyInvalid, match="expired"):
            store.authenticate(text, key.expires_at)


def test_only_valid_keys_count_and_others_are_deleted_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_keys, "MAX_KEYS", 2)
    now = time.time()
    with closing(KeyStore(tmp_path)) as store:
        store.create("old", ["read"], expires_in=60)
        store.revoke(store.create("revoked", ["read"])[0].id)
        store.create("a", ["read"])
        with pytest.raises(InvalidInput, match="2 valid keys exist"):
            store.create("b", ["read"])
        monkeypatch.setattr(time, "time", lambda: now + 24 * 3600)
        store.revoke(store.create("b", ["read"])[0].id)
        assert [key.name for key in store.all()] == ["old", "revoked", "a", "b"]
        monkeypatch.setattr(time, "time", lambda: now + 90.5 * 24 * 3600)
        store.create("c", ["read"])
        assert [key.name for key in store.all()] == ["a", "b", "c"]


def test_the_key_file_has_only_digests_and_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    with closing(KeyStore(tmp_path)) as store:
        key, text = store.create("a", ["read"])
        content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert secret_of(text).encode() not in content
        assert digest(text) in content
        assert text not in repr(key)
        assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize(("version", "message"), [(None, FILE_NAME), (99, "version 99")])
def test_a_damaged_or_newer_key_file_is_named(tmp_path: Path, version: int | None, message: str) -> None:
    if version is None:
        (tmp_path / FILE_NAME).write_bytes(b"noise" * 1000)
    else:
        with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection, connection:
            connection.execute(f"PRAGMA user_version = {version}")
    with pytest.raises(StorageError, match=message):
        KeyStore(tmp_path)


def test_requests_succeed_if_last_used_at_cannot_be_stored(
    locked: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object) -> None:
        raise StorageError("disk full")

    key = make_key(locked, "read")
    with monkeypatch.context() as patch:
        patch.setattr(KeyStore, "touch", fail)
        assert send(locked, "GET", "/v1/models", key).status_code == 200
        wait_for(lambda: f"{key_id_of(key)} was not updated: disk full" in caplog.text)
    assert send(locked, "GET", "/v1/models", key).status_code == 200


def test_the_media_cookie_permits_media_only(locked: Running) -> None:
    key = make_key(locked, "read", "write", collections=["palette"])
    response = send(locked, "POST", "/v1/media-cookie", key)
    assert response.status_code == 204
    attributes = response.headers["set-cookie"].lower()
    assert all(part in attributes for part in ("httponly", "samesite=strict", "path=/v1/collections", "max-age=3600"))
    [(name, value)] = response.cookies.items()
    assert name == f"{MEDIA_COOKIE_PREFIX}_{key_id_of(key)}"
    assert secret_of(key) not in value

    def get(path: str, method: str = "GET", cookie: str = value) -> int:
        headers = {"cookie": f"{name}={cookie}"}
        response = httpx.request(method, f"{locked.client.base_url}{path}", headers=headers, timeout=PATIENCE)
        return response.status_code

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
        cookies.update(send(locked, "POST", "/v1/media-cookie", key).cookies)

    def get(path: str, sent: dict[str, str]) -> int:
        headers = {"cookie": "; ".join(f"{name}={value}" for name, value in sent.items())}
        url = f"{locked.client.base_url}/v1/collections/{path}/media"
        return httpx.get(url, headers=headers, timeout=PATIENCE).status_code

    unknown = {f"{MEDIA_COOKIE_PREFIX}_x": "x.1.y"}
    for sent in (dict(cookies), dict(reversed(list(cookies.items()))), unknown | dict(cookies)):
        assert get("palette/videos/1", sent) == 200
        assert get("other/videos/99", sent) == 404
        assert get("third/videos/1", sent) == 403
    assert get("palette/videos/1", {name: f"{value}0" for name, value in cookies.items()}) == 401


def test_a_media_cookie_expires() -> None:
    key = Key("abc", b"d" * 32, "a", frozenset(["read"]))
    value = sign_media_cookie(key, 1000.0)
    assert verify_media_cookie(value, {"abc": key}.get, 1000.0 + MEDIA_COOKIE_SECONDS - 1) == key
    assert verify_media_cookie(value, {"abc": key}.get, 1000.0 + MEDIA_COOKIE_SECONDS) is None
    assert verify_media_cookie(value, {}.get, 1000.0) is None


def run_command(capsys: pytest.CaptureFixture[str], *arguments: str) -> JSON:
    assert main(["keys", *arguments, "--json"]) == 0
    response: JSON = json.loads(capsys.readouterr().out)
    return response


@pytest.mark.parametrize("way", ["--data", "--server"])
def test_the_command_creates_lists_and_revokes_keys(
    way: str, locked: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the data folder, or through the service with a key of the scope admin."""
    monkeypatch.setenv("VITASCOPE_API_KEY", ADMIN)
    at = [way, str(locked.settings.data_dir) if way == "--data" else str(locked.client.base_url)]
    created = run_command(capsys, "create", "camera", "--scopes", "write, read", "--expires", "90d", "--rate", "2", *at)
    assert send(locked, "GET", "/v1/models", created["key"]).status_code == 200
    assert created["expires_at"] - created["created_at"] == pytest.approx(90 * 86400)
    listed = {key["id"]: key["rate"] for key in run_command(capsys, "list", *at)["keys"]}
    assert listed[created["id"]] == 2
    run_command(capsys, "revoke", created["id"], *at)
    problem_of(send(locked, "GET", "/v1/models", created["key"]), 401, "key_invalid")
    assert main(["keys", "list", *at]) == 0
    shown = capsys.readouterr().out
    assert "camera" in shown
    assert "revoked" in shown
    assert created["key"] not in shown


@pytest.mark.parametrize("invalid", [["--scopes", "all"], ["--expires", "soon"], ["--collections", "A B"]])
def test_errors_of_keys_name_the_option(invalid: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "create", "a", *invalid, "--data", str(tmp_path)]) == 2
    assert invalid[0].strip("-") in capsys.readouterr().err


def test_keys_creates_no_data_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = tmp_path / "nowhere"
    for arguments in (["list"], ["revoke", "000000000000"]):
        assert main(["keys", *arguments, "--data", str(nowhere)]) == 2
        assert "nowhere" in capsys.readouterr().err
    assert not nowhere.exists()


def test_client_and_command_send_the_api_key(
    locked: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = str(locked.client.base_url)
    key = make_key(locked, "read")
    with Client(url, api_key=key) as client:
        assert client.list_models()["models"]
    monkeypatch.setenv("VITASCOPE_API_KEY", key)
    assert main(["search", "a red thing", "--collection", "palette", "--server", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"]
    monkeypatch.delenv("VITASCOPE_API_KEY")
    with Client(url) as client, pytest.raises(ServiceError, match="VITASCOPE_API_KEY") as raised:
        client.list_models()
    assert raised.value.status == 401
    with pytest.raises(InvalidInput) as refused:
        Client(url, api_key="geheim\u00fc\n")
    assert "geheim" not in str(refused.value)

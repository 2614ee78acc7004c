"""API keys: who comes in, what they may do, and that nobody else ever sees a key."""

from __future__ import annotations

import json
import logging
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.gate import media_cookie
from service.gate.access import needed
from service.gate.keys import FILE_NAME, Key, KeyStore
from service.gate.secrets import digest, id_in
from service.run import serve
from service.settings import read_settings
from tests.service.conftest import fill, settings_for
from tests.service.running import JSON, Running, problem_of, process, serving, wait_for
from vitascope.client import Client, ServiceError
from vitascope.command import main
from vitascope.errors import InvalidInput, StorageError

ADMIN = "the-admin-key-of-these-tests-0123456789abcdef"


@pytest.fixture(scope="module")
def locked(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[Running]:
    """A service that asks for keys, with the collections `palette` and `other`; the client has the admin key."""
    settings = settings_for(
        small_bundle, tmp_path_factory.mktemp("locked"), allow_unauthenticated=False, admin_key=ADMIN
    )
    with serving(settings) as running:
        running.client.headers["authorization"] = f"Bearer {ADMIN}"
        for name in ("palette", "other"):
            assert running.client.post("/v1/collections", json={"name": name}).status_code == 201
        fill(running, "palette", files)
        yield running


def make_key(running: Running, *scopes: str, **given: object) -> str:
    """The text of a new key."""
    made = running.client.post("/v1/keys", json={"name": "a test", "scopes": scopes, **given})
    assert made.status_code == 201, made.text
    text: str = made.json()["key"]
    return text


def secret_of(key: str) -> str:
    """The part of a key that nobody else may know; it may have underscores of its own."""
    return key.split("_", 2)[2]


def ask(running: Running, method: str, path: str, key: str | None, **request: Any) -> httpx.Response:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.request(method, f"{running.client.base_url}{path}", headers=headers, timeout=60, **request)


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
    answer = httpx.get(f"{locked.client.base_url}/v1/models", headers=coded)
    assert answer.status_code == 401, answer.text
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_key_may_come_in_either_header(locked: Running) -> None:
    key = make_key(locked, "read")
    assert ask(locked, "GET", "/v1/models", key).status_code == 200
    assert httpx.get(f"{locked.client.base_url}/v1/models", headers={"X-API-Key": key}).status_code == 200
    assert httpx.get(f"{locked.client.base_url}/v1/models", headers={"Authorization": f"bearer {key}"}).is_success
    behind_a_proxy = {"X-API-Key": key, "Authorization": "Basic cHJveHk6cHJveHk="}
    assert httpx.get(f"{locked.client.base_url}/v1/models", headers=behind_a_proxy).is_success


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


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/collections/a/jobs", "write"),
        ("DELETE", "/v1/collections/a/jobs/1", "write"),
        ("POST", "/v1/collections/a/jobs/1/retry", "write"),
        ("PATCH", "/v1/collections/a/videos/1", "write"),
        ("POST", "/v1/answers", "read"),
        ("POST", "/v1/caption-scores", "read"),
        ("PUT", "/v1/collections/a", "admin"),
        ("POST", "/v1/collections/a/something-new", "admin"),
        ("POST", "/v1/something-new", "admin"),
        ("GET", "/v1/keys/../models", "admin"),
        ("GET", "/v1/models/9f0c", "read"),
        ("POST", "/v1/models", "admin"),
        ("POST", "/v1/models/9f0c/default", "admin"),
        ("DELETE", "/v1/models/9f0c", "admin"),
        ("GET", "/v1/keys/self", "read"),
        ("DELETE", "/v1/keys/self", "admin"),
        ("GET", "/v1/something-new", "admin"),
        ("POST", "/v1/operations", "admin"),
        ("GET", "/v1/operations/1/files/palette.sqlite3", "admin"),
    ],
)
def test_what_a_request_needs(method: str, path: str, scope: str) -> None:
    assert needed(method, path).scope == scope


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
    assert (told["asks_for_keys"], told["name"], told["id"]) == (True, "a test", id_in(key))
    assert (told["scopes"], told["collections"]) == (["read", "write"], ["palette"])
    assert 3500 < told["expires_at"] - time.time() < 3601
    with Client(str(locked.client.base_url), api_key=key) as client:
        assert client.rights() == told
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
    assert id_in(key) == made["id"]
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


def test_a_key_expires(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    key, text = store.create("short", ["read"], expires_in=60)
    assert key.expires_at is not None
    assert store.recognise(text, key.expires_at - 1).id == key.id
    with pytest.raises(Exception, match="expired"):
        store.recognise(text, key.expires_at)
    store.close()


def test_the_file_of_keys_has_no_key_and_is_for_its_owner(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    key, text = store.create("a", ["read"])
    held = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert secret_of(text).encode() not in held
    assert digest(text) in held
    assert text not in repr(key)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    store.close()


def test_a_file_of_keys_that_is_damaged_or_newer_is_named(tmp_path: Path) -> None:
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


def run_command(capsys: pytest.CaptureFixture[str], *arguments: str) -> JSON:
    assert main(["keys", *arguments, "--json"]) == 0
    answer: JSON = json.loads(capsys.readouterr().out)
    return answer


@pytest.mark.parametrize("way", ["--data", "--server"])
def test_the_command_makes_and_revokes_keys_of_a_running_service(
    way: str, locked: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its data folder, or by itself for who has a key with the scope admin."""
    monkeypatch.setenv("VITASCOPE_API_KEY", ADMIN)
    at = [way, str(locked.settings.data_dir) if way == "--data" else str(locked.client.base_url)]
    made = run_command(capsys, "create", "camera", "--scopes", "write, read", "--expires", "90d", "--rate", "2", *at)
    assert ask(locked, "GET", "/v1/models", made["key"]).status_code == 200
    assert made["expires_at"] - made["created_at"] == pytest.approx(90 * 86400)
    listed = {key["id"]: key["rate"] for key in run_command(capsys, "list", *at)["keys"]}
    assert listed[made["id"]] == 2
    run_command(capsys, "revoke", made["id"], *at)
    problem_of(ask(locked, "GET", "/v1/models", made["key"]), 401, "key_invalid")
    assert main(["keys", "list", *at]) == 0
    shown = capsys.readouterr().out
    assert "camera" in shown
    assert "revoked" in shown
    assert made["key"] not in shown


@pytest.mark.parametrize("wrong", [["--scopes", "all"], ["--expires", "soon"], ["--collections", "A B"]])
def test_the_command_names_mistakes(wrong: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "create", "a", *wrong, "--data", str(tmp_path)]) == 2
    assert wrong[0].strip("-") in capsys.readouterr().err


def test_the_command_makes_no_data_folder_where_there_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = tmp_path / "nowhere"
    for arguments in (["list"], ["revoke", "000000000000"]):
        assert main(["keys", *arguments, "--data", str(nowhere)]) == 2
        assert "nowhere" in capsys.readouterr().err
    assert not nowhere.exists()


def test_the_use_of_a_key_that_cannot_be_noted_stops_nothing(
    locked: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object) -> None:
        raise StorageError("disk full")

    key = make_key(locked, "read")
    with monkeypatch.context() as patch:
        patch.setattr(KeyStore, "note_use", fail)
        assert ask(locked, "GET", "/v1/models", key).status_code == 200
        wait_for(lambda: f"{id_in(key)} was not noted: disk full" in caplog.text)
    assert ask(locked, "GET", "/v1/models", key).status_code == 200


def test_the_client_and_the_command_send_the_key(
    locked: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = str(locked.client.base_url)
    key = make_key(locked, "read")
    with Client(url, api_key=key) as client:
        assert client.models()["models"]
    monkeypatch.setenv("VITASCOPE_API_KEY", key)
    assert main(["search", "a red thing", "--collection", "palette", "--server", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"]
    monkeypatch.delenv("VITASCOPE_API_KEY")
    with Client(url) as client, pytest.raises(ServiceError, match="VITASCOPE_API_KEY") as raised:
        client.models()
    assert raised.value.status == 401
    with pytest.raises(InvalidInput) as refused:
        Client(url, api_key="geheim\u00fc\n")
    assert "geheim" not in str(refused.value)


def test_media_can_be_played_with_a_cookie_that_is_good_for_nothing_else(locked: Running) -> None:
    key = make_key(locked, "read", "write", collections=["palette"])
    answer = ask(locked, "POST", "/v1/media-cookie", key)
    assert answer.status_code == 204
    stated = answer.headers["set-cookie"].lower()
    assert all(part in stated for part in ("httponly", "samesite=strict", "path=/v1/collections", "max-age=3600"))
    value = answer.cookies[media_cookie.NAME]
    assert secret_of(key) not in value

    def get(path: str, method: str = "GET", cookie: str = value) -> int:
        headers = {"cookie": f"{media_cookie.NAME}={cookie}"}
        return httpx.request(method, f"{locked.client.base_url}{path}", headers=headers).status_code

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
    value = media_cookie.made(key, 1000.0)
    assert media_cookie.key_of(value, {"abc": key}.get, 1000.0 + media_cookie.SECONDS - 1) == key
    assert media_cookie.key_of(value, {"abc": key}.get, 1000.0 + media_cookie.SECONDS) is None
    assert media_cookie.key_of(value, {}.get, 1000.0) is None


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
        cookie = ask(locked, "POST", "/v1/media-cookie", key).cookies[media_cookie.NAME]
    records = [record for record in caplog.records if not record.name.startswith("http")]  # the client's own
    logged = "\n".join(record.getMessage() for record in records) + "".join(capsys.readouterr())
    assert "POST /v1/collections/{name}/search 200" in logged
    assert "POST none 401" in logged
    assert str(id_in(key)) in logged
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


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "search.example"])
def test_an_address_that_others_reach_needs_keys(small_bundle: Path, tmp_path: Path, host: str) -> None:
    settings = settings_for(small_bundle, tmp_path / "data", host=host)
    with pytest.raises(InvalidInput, match="no-keys"):
        serve(settings)
    settings_for(small_bundle, tmp_path, host=host, allow_unauthenticated=False).check_reach()


def test_a_service_that_nobody_could_use_does_not_start(small_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="vitascope keys create"):
        serve(settings_for(small_bundle, tmp_path / "data", allow_unauthenticated=False))


def test_an_admin_key_that_could_be_guessed_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VITASCOPE_ADMIN_KEY", "hunter2")
    with pytest.raises(InvalidInput, match="admin_key") as raised:
        read_settings()
    assert "hunter2" not in str(raised.value)
    assert raised.value.__cause__ is None
    monkeypatch.setenv("VITASCOPE_ADMIN_KEY", ADMIN)
    settings = read_settings()
    assert ADMIN not in repr(settings) + settings.model_dump_json()
    (tmp_path / "key").write_text(f"{ADMIN}\n")
    with pytest.raises(InvalidInput, match="one of them") as both:
        read_settings(admin_key_file=tmp_path / "key")
    assert ADMIN not in str(both.value)
    monkeypatch.delenv("VITASCOPE_ADMIN_KEY")
    assert read_settings(admin_key_file=tmp_path / "key").admin_digest() == digest(ADMIN)
    with pytest.raises(InvalidInput, match="nowhere"):
        read_settings(admin_key_file=tmp_path / "nowhere").admin_digest()


def test_the_environments_key_works_in_a_process_of_its_own(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(small_bundle, tmp_path / "data", allow_unauthenticated=False)
    monkeypatch.setenv("VITASCOPE_ADMIN_KEY", ADMIN)
    with process(settings) as (client, server):
        assert client.get("/v1/models").status_code == 401
        assert client.get("/v1/models", headers={"x-api-key": ADMIN}).status_code == 200
        assert server.poll() is None
    assert ADMIN.encode() not in b"".join(p.read_bytes() for p in (tmp_path / "data").glob("*.sqlite3*"))


def test_a_portal_of_another_origin_learns_why_it_was_refused(small_bundle: Path, tmp_path: Path) -> None:
    portal = "https://portal.example"
    settings = settings_for(
        small_bundle, tmp_path / "data", cors_origins=[portal], allow_unauthenticated=False, admin_key=ADMIN
    )
    with serving(settings) as running:
        asking = {
            "origin": portal,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization, idempotency-key",
        }
        assert running.client.options("/v1/collections", headers=asking).status_code == 200
        refused = running.client.get("/v1/models", headers={"origin": portal})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, portal)


@pytest.mark.parametrize(("trusted", "client"), [([], "127.0.0.1"), (["127.0.0.1"], "192.0.2.7")])
def test_forwarded_addresses_count_only_from_trusted_proxies(
    small_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, trusted: list[str], client: str
) -> None:
    with (
        serving(settings_for(small_bundle, tmp_path, trusted_proxies=trusted), ready=False) as running,
        caplog.at_level(logging.INFO, "vitascope.requests"),
    ):
        running.client.get("/v1/models", headers={"x-forwarded-for": "192.0.2.7"})
        wait_for(lambda: "GET /v1/models 200" in caplog.text)
        assert f" of {client}\n" in caplog.text


def test_a_key_is_recognised_while_the_event_loop_waits_for_it(tmp_path: Path) -> None:
    """The event loop recognises the key of every request, so it must cost next to nothing, also among many keys."""
    store = KeyStore(tmp_path)
    texts = [store.create(f"key {number}", ["read"])[1] for number in range(50)]
    store.recognise(texts[0], time.time())
    began = time.thread_time()
    for text in texts * 10:
        store.recognise(text, time.time())
    assert (time.thread_time() - began) / 500 < 0.001
    store.close()

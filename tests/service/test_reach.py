"""Access from other machines, other origins and through proxies."""

from __future__ import annotations

import logging
import signal
from pathlib import Path

import pytest

from service.http.api_keys import digest
from service.run import serve
from service.settings import read_settings
from tests.service.conftest import settings_for
from tests.service.running import ADMIN, process, serving
from tests.waiting import PATIENCE, wait_for
from vitascope.errors import InvalidInput


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "search.example"])
def test_a_reachable_address_requires_keys(small_bundle: Path, tmp_path: Path, host: str) -> None:
    settings = settings_for(small_bundle, tmp_path / "data", host=host)
    with pytest.raises(InvalidInput, match="no-keys"):
        serve(settings)
    settings_for(small_bundle, tmp_path, host=host, allow_unauthenticated=False).check_exposure()


def test_a_service_without_any_key_does_not_start(small_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="vitascope keys create"):
        serve(settings_for(small_bundle, tmp_path / "data", allow_unauthenticated=False))


def test_a_weak_admin_key_is_rejected_and_not_repeated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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


def test_the_admin_key_works_and_sigterm_ends_the_process_cleanly(
    small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(small_bundle, tmp_path / "data", allow_unauthenticated=False)
    monkeypatch.setenv("VITASCOPE_ADMIN_KEY", ADMIN)
    with process(settings, within=[]) as (client, server):
        assert client.get("/v1/models").status_code == 401
        assert client.get("/v1/models", headers={"x-api-key": ADMIN}).status_code == 200
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE) == 0
    assert ADMIN.encode() not in b"".join(p.read_bytes() for p in (tmp_path / "data").glob("*.sqlite3*"))


def test_an_allowed_origin_can_read_error_responses(small_bundle: Path, tmp_path: Path) -> None:
    portal = "https://portal.example"
    settings = settings_for(
        small_bundle, tmp_path / "data", cors_origins=[portal], allow_unauthenticated=False, admin_key=ADMIN
    )
    with serving(settings) as running:
        preflight = {
            "origin": portal,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization, idempotency-key",
        }
        assert running.client.options("/v1/collections", headers=preflight).status_code == 200
        rejected = running.client.get("/v1/models", headers={"origin": portal})
        assert (rejected.status_code, rejected.headers["access-control-allow-origin"]) == (401, portal)
        long = running.client.post("/v1/collections", content=b" " * 2**21, headers={"origin": portal})
        assert (long.status_code, long.headers["access-control-allow-origin"]) == (413, portal)


@pytest.mark.parametrize(("trusted", "client"), [([], "127.0.0.1"), (["127.0.0.1"], "192.0.2.7")])
def test_forwarded_addresses_are_used_from_trusted_proxies_only(
    small_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, trusted: list[str], client: str
) -> None:
    with (
        serving(settings_for(small_bundle, tmp_path, trusted_proxies=trusted), ready=False) as running,
        caplog.at_level(logging.INFO, "vitascope.requests"),
    ):
        running.client.get("/v1/models", headers={"x-forwarded-for": "192.0.2.7"})
        wait_for(lambda: "GET /v1/models 200" in caplog.text)
        assert f" of {client}\n" in caplog.text


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *(
            ("cors_origins", [value], "an origin as browsers send it")
            for value in ("https://a.example/", "*", "a.example", "HTTPS://A.example", "https://a.example:443")
        ),
        *(
            ("allowed_hosts", [value], "without scheme, port and wildcard")
            for value in ("a.example:8000", "[fd00::5]:8000", "https://a.example", "*", "*.a.example")
        ),
        ("trusted_proxies", ["proxy.example"], "IPv4 or IPv6 network"),
        ("trusted_proxies", ["10.0.0.0/33"], "IPv4 or IPv6 network"),
        ("trusted_proxies", ["10.0.0.1/8"], "host bits set"),
        ("trusted_proxies", ["*", "10.0.0.0/8"], "IPv4 or IPv6 network"),
        ("otlp_endpoint", "collector:4318", "a URL with http or https was expected"),
        ("health_port", 8000, "and port are both 8000"),
    ],
)
def test_a_setting_without_effect_is_rejected(name: str, value: object, expected: str) -> None:
    with pytest.raises(InvalidInput, match=f"{name}.*{expected}"):
        read_settings(**{name: value})


def test_unusual_hosts_origins_and_proxies_are_accepted() -> None:
    settings = read_settings(
        allowed_hosts=["Portal.Example", "[fd00::5]", "fd00::5", "10.0.0.1"],
        cors_origins=["https://portal.example:8443", "chrome-extension://abc", "null"],
        trusted_proxies=["10.0.0.0/8", "fd00::1"],
    )
    assert settings.cors_origins[0] == "https://portal.example:8443"
    assert read_settings(trusted_proxies=["*"]).trusted_proxies == ["*"]

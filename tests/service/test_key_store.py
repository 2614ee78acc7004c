"""Keys as they are kept: in a file that has none of them, recognised at once, good until they expire."""

from __future__ import annotations

import sqlite3
import stat
import time
from pathlib import Path

import pytest

from service.http.api_keys import FILE_NAME, KeyStore, digest, key_id_of
from tests.service.locked import ask, make_key, secret_of
from tests.service.running import Running
from tests.waiting import wait_for
from vitascope.errors import StorageError


def test_a_key_expires(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    key, text = store.create("short", ["read"], expires_in=60)
    assert key.expires_at is not None
    assert store.authenticate(text, key.expires_at - 1).id == key.id
    with pytest.raises(Exception, match="expired"):
        store.authenticate(text, key.expires_at)
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


def test_the_use_of_a_key_that_cannot_be_noted_stops_nothing(
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


def test_a_key_is_recognised_while_the_event_loop_waits_for_it(tmp_path: Path) -> None:
    """The event loop recognises the key of every request, so it must cost next to nothing, also among many keys."""
    store = KeyStore(tmp_path)
    texts = [store.create(f"key {number}", ["read"])[1] for number in range(50)]
    store.authenticate(texts[0], time.time())
    began = time.thread_time()
    for text in texts * 10:
        store.authenticate(text, time.time())
    assert (time.thread_time() - began) / 500 < 0.001
    store.close()

"""What one service knows of who may come in, and of how much is under way."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request
from starlette.datastructures import Headers
from starlette.types import Scope

from service.http import media_cookie
from service.http.api_keys import SCOPES, Key, KeyStore
from service.http.concurrency import Admission
from service.http.errors import CHALLENGE, ScopeMissing, Unauthenticated
from service.http.idempotency import Idempotency
from service.http.idempotency_store import AnswerStore
from service.http.permissions import Need
from service.http.rate_limits import Share, Shares
from service.settings import Settings

_KEYS_OFF = Key("", b"", "", frozenset(SCOPES))


@dataclass(frozen=True)
class Caller:
    """Who sends a request. ``client``: what it is counted by, and named by in the log."""

    client: str
    key: Key


class Gate:
    """The keys, counts and answers of one data folder."""

    def __init__(self, settings: Settings) -> None:
        """Raises StorageError."""
        self._settings = settings
        self.keys = KeyStore(settings.data_dir, settings.admin_digest())
        self._answers = AnswerStore(settings.data_dir, settings.max_kept_answers)
        self.idempotency = Idempotency(self._answers)
        self.admission = Admission(
            settings.max_requests, settings.max_requests_bytes, settings.max_writes, settings.max_body_bytes
        )
        self.shares = Shares()

    def close(self) -> None:
        self.keys.close()
        self._answers.close()

    @property
    def asks_for_keys(self) -> bool:
        """Whether a request must carry a key."""
        return not self._settings.allow_unauthenticated

    def caller(self, scope: Scope, need: Need, cookie: str | None) -> Caller:
        """Who sends this request, if it may. Raises Unauthenticated, KeyInvalid, ScopeMissing, CollectionNotAllowed
        and StorageError.
        """
        if not self.asks_for_keys:
            return Caller(address_of(scope), _KEYS_OFF)
        headers = Headers(scope=scope)
        now = time.time()
        text = _key_text(headers)
        if text is not None:
            key: Key | None = self.keys.recognise(text, now)
        else:
            key = media_cookie.key_of(cookie, self.keys.find, now) if cookie and need.is_picture else None
        if key is None:
            raise Unauthenticated(
                "a key was expected, as `Authorization: Bearer vsk_…` or `X-API-Key: vsk_…` "
                "(the vitascope command and client take it from VITASCOPE_API_KEY)"
            )
        _check(key, need)
        return Caller(key.id, key)

    def share(self, key: Key) -> Share:
        """How much a client may have."""
        settings = self._settings
        return Share(
            settings.client_rate if key.rate is None else key.rate,
            settings.client_concurrency if key.concurrency is None else key.concurrency,
        )


def address_of(scope: Scope) -> str:
    """Where a request comes from; what a trusted proxy says, if one is in front."""
    return scope["client"][0] if scope.get("client") else "local"


def _key_text(headers: Headers) -> str | None:
    """The key that a request carries; None without one. Raises Unauthenticated for another kind of login.

    X-API-Key comes first: a proxy may have a use of its own for Authorization.
    """
    text = headers.get("x-api-key")
    stated = headers.get("authorization")
    if text is not None or stated is None:
        return text
    kind, _, text = stated.strip().partition(" ")
    if kind.lower() != "bearer":
        raise Unauthenticated("Authorization: another kind of login; `Bearer` and a key were expected")
    return text.strip()


def _check(key: Key, need: Need) -> None:
    if need.scope is not None and need.scope not in key.scopes:
        has = ", ".join(scope for scope in SCOPES if scope in key.scopes)
        challenge = f'{CHALLENGE}, error="insufficient_scope", scope="{need.scope}"'
        raise ScopeMissing(
            f"this needs a key with the scope {need.scope!r}; this one has {has}", {"WWW-Authenticate": challenge}
        )
    if need.collection is not None:
        key.require(need.collection)
    if need.every_collection and key.collections is not None:
        raise ScopeMissing("this needs a key for all collections; this one is for some")


def callers_key(request: Request) -> Key:
    """What the caller's key may do; all, where nobody is asked for one."""
    return cast(Caller, request.state.caller).key


CallersKey = Annotated[Key, Depends(callers_key)]
"""For routes that name collections elsewhere than in their path: what the caller's key may do."""

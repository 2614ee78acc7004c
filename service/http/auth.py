"""Authentication by API key or media cookie, and the permissions that routes declare with ``requires``."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, TypeVar, cast

from fastapi import Depends, Request
from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Route
from starlette.types import Scope as ASGIScope

from service.errors import CHALLENGE, ScopeMissing, Unauthenticated
from service.http.api_keys import SCOPES, Key, KeyStore, Scope

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

MEDIA_COOKIE_PREFIX = "vitascope_media"
MAX_MEDIA_COOKIES = 32
MEDIA_COOKIE_PATH = "/v1/collections"
MEDIA_COOKIE_SECONDS = 3600

_NO_KEY = Key("", b"", "", frozenset(SCOPES))
"""The caller's key if the service requires no keys."""


@dataclass(frozen=True)
class Permission:
    """Requirements of a route on the caller's key.

    Attributes:
        scope: The scope; None for public routes.
        all_collections: Whether a key that is restricted to some collections is rejected.
        media_cookie: Whether the media cookie is accepted in place of a key.
        public_if: Name of a boolean setting that makes the route public.
        uses_model: Whether a POST runs the model, so that a full queue rejects it.
    """

    scope: Scope | None
    all_collections: bool = False
    media_cookie: bool = False
    public_if: str | None = None
    uses_model: bool = True

    def is_queued(self, method: str) -> bool:
        """Return whether a request of ``method`` waits in the queue of the model."""
        return self.scope == "read" and method == "POST" and self.uses_model


UNDECLARED = Permission("admin", all_collections=True)
"""Default permission of endpoints without ``requires``."""

NO_ROUTE = Permission(None)
"""Permission of requests that match no route: callers with a valid key get the 404 or 405."""


def requires(
    scope: Scope | None,
    *,
    all_collections: bool = False,
    media_cookie: bool = False,
    public_if: str | None = None,
    uses_model: bool = True,
) -> Callable[[Endpoint], Endpoint]:
    """Declare the permission of an endpoint. Apply below the router's decorator.

    Unless ``all_collections`` is set, a path parameter ``name`` is the name of a collection that the key must allow.
    """
    permission = Permission(scope, all_collections, media_cookie, public_if, uses_model)

    def declare(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, "permission", permission)  # noqa: B010
        return endpoint

    return declare


def permission_of(route: Route | None) -> Permission:
    """Return the permission that a route's endpoint declares. ``route``: None for a request that matches no route."""
    return NO_ROUTE if route is None else getattr(route.endpoint, "permission", UNDECLARED)


def match_route(routes: Iterable[BaseRoute], method: str, path: str) -> tuple[Route | None, dict[str, str]]:
    """Return the route and the path parameters of a request; (None, {}) if no route has this method and path.

    Matches like the router, in a tenth of its time. A trailing slash is ignored, as the router redirects to the path
    without it.
    """
    if len(path) > 1:
        path = path.rstrip("/")
    for route in routes:
        if isinstance(route, Route) and method in (route.methods or ()) and (match := route.path_regex.match(path)):
            return route, match.groupdict()
    return None, {}


@dataclass(frozen=True)
class Caller:
    """The sender of a request. ``client``: id of the key, or the client's address if no keys are required."""

    client: str
    key: Key


class Authenticator:
    """Identifies callers by their API keys."""

    def __init__(self, keys: KeyStore, *, requires_keys: bool) -> None:
        self.keys = keys
        self.requires_keys = requires_keys

    def authenticate(
        self, scope: ASGIScope, permission: Permission, collection: str | None, cookies: Sequence[str] = ()
    ) -> Caller:
        """Identify the caller of a request; ``authorize`` then checks its permission.

        Args:
            scope: ASGI scope of the request.
            permission: Permission of its route, which is not public.
            collection: Collection in its path; None: there is none.
            cookies: Values of media cookies; the first cookie whose key permits the request is used.

        Raises:
            Unauthenticated, KeyInvalid: No valid key.
            StorageError: The keys cannot be read.
        """
        if not self.requires_keys:
            return Caller(client_address(scope), _NO_KEY)
        now = time.time()
        text = _presented_key(Headers(scope=scope))
        if text is not None:
            keys = [self.keys.authenticate(text, now)]
        else:
            accepted = cookies if permission.media_cookie else ()
            verified = (verify_media_cookie(cookie, self.keys.get, now) for cookie in accepted)
            keys = [key for key in verified if key is not None]
        if not keys:
            raise Unauthenticated(
                "an API key was expected, as `Authorization: Bearer vsk_…` or `X-API-Key: vsk_…` "
                "(the vitascope command and client read it from VITASCOPE_API_KEY)"
            )
        key = next((key for key in keys if collection is None or key.allows(collection)), keys[0])
        return Caller(key.id, key)

    def is_valid(self, key: Key) -> bool:
        """Return whether the key of a caller is still valid. Raises StorageError."""
        current = self.keys.get(key.id)
        return not self.requires_keys or (current is not None and current.is_valid(time.time()))


def client_address(scope: ASGIScope) -> str:
    """Return the client's address; behind a trusted proxy, the forwarded one."""
    return scope["client"][0] if scope.get("client") else "local"


def _presented_key(headers: Headers) -> str | None:
    """Return the text of the key in the headers, or None. Raises Unauthenticated for an unknown scheme.

    X-API-Key takes precedence, as a proxy may use Authorization for itself.
    """
    text = headers.get("x-api-key")
    authorization = headers.get("authorization")
    if text is not None or authorization is None:
        return text
    scheme, _, text = authorization.strip().partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated("Authorization: unknown scheme; `Bearer` and an API key were expected")
    return text.strip()


def authorize(key: Key, permission: Permission, collection: str | None) -> None:
    """Raise ScopeMissing or CollectionNotAllowed unless the key permits a request, which may name a collection."""
    if permission.scope is not None and permission.scope not in key.scopes:
        challenge = f'{CHALLENGE}, error="insufficient_scope", scope="{permission.scope}"'
        raise ScopeMissing(
            f"a key with the scope {permission.scope!r} is required; this key has {', '.join(key.ordered_scopes())}",
            {"WWW-Authenticate": challenge},
        )
    if permission.all_collections and key.collections is not None:
        raise ScopeMissing("a key for all collections is required; this key is restricted to some")
    if collection is not None:
        key.require_collection(collection)


def caller_key(request: Request) -> Key:
    """Return the caller's key; if the service requires no keys, a key with all scopes."""
    return cast(Caller, request.state.caller).key


CallerKey = Annotated[Key, Depends(caller_key)]
"""Dependency of routes whose requests name collections outside of the path."""


# Media cookies let a browser load media, as tags such as <video> cannot send a key. A cookie contains a key's id and an
# expiry time, signed with the key's digest: it becomes invalid with the key, and no further secret is needed. Its name
# contains the id, too, so that tabs of one browser can use different keys at the same time.


def media_cookie_name(key: Key) -> str:
    """Return the name of a key's media cookie."""
    return f"{MEDIA_COOKIE_PREFIX}_{key.id}"


def sign_media_cookie(key: Key, now: float) -> str:
    """Return the value of a media cookie that is valid for ``MEDIA_COOKIE_SECONDS``."""
    expires = int(now) + MEDIA_COOKIE_SECONDS
    return f"{key.id}.{expires}.{_cookie_signature(key, expires)}"


def verify_media_cookie(value: str, get_key: Callable[[str], Key | None], now: float) -> Key | None:
    """Return the valid key of a media cookie; None for a forged, expired or malformed cookie."""
    key_id, _, rest = value.partition(".")
    expires, _, signature = rest.partition(".")
    key = get_key(key_id)
    if key is None or not expires.isdecimal() or len(expires) > 12 or not signature.isascii():
        return None
    if not hmac.compare_digest(signature, _cookie_signature(key, int(expires))):
        return None
    return key if now < int(expires) and key.is_valid(now) else None


def pop_media_cookies(scope: ASGIScope) -> list[str]:
    """Remove all cookies from a request and return the values of the first ``MAX_MEDIA_COOKIES`` media cookies.

    FastAPI parses the cookies of every request, although no route uses them, and unquoting takes quadratic time in the
    standard library before Python 3.11.10 and 3.12.6: 20 s for 60 KB. Media cookies need no unquoting.
    """
    header = Headers(scope=scope).get("cookie")
    if header is None:
        return []
    scope["headers"] = [item for item in scope["headers"] if item[0] != b"cookie"]
    pairs = (pair.partition("=") for pair in header.split(";"))
    values = (value.strip() for name, _, value in pairs if name.strip().startswith(MEDIA_COOKIE_PREFIX))
    return list(islice(values, MAX_MEDIA_COOKIES))


def _cookie_signature(key: Key, expires: int) -> str:
    return hmac.new(key.digest, f"media cookie {expires}".encode(), hashlib.sha256).hexdigest()

"""The part of the client that is about keys. All but ``rights`` needs a key with the scope admin."""

from __future__ import annotations

from collections.abc import Sequence

from vitascope.client import response_types
from vitascope.client.asynchronous.caller import Caller
from vitascope.client.request_building import address, given
from vitascope.client.request_types import Scope


class Keys(Caller):
    """Who may do what."""

    async def keys(self) -> response_types.Keys:
        """All keys without their texts, revoked ones, too."""
        return await self._call(response_types.Keys, "GET", address("keys"))

    async def rights(self) -> response_types.Rights:
        """What the key of this client may do."""
        return await self._call(response_types.Rights, "GET", address("keys", "self"))

    async def create_key(
        self,
        name: str,
        scopes: Sequence[Scope],
        *,
        collections: Sequence[str] | None = None,
        rate: float | None = None,
        concurrency: int | None = None,
        expires_in: float | None = None,
    ) -> response_types.MadeKey:
        """This answer alone has the ``key`` itself.

        ``collections``: it is for these alone; ``rate``: requests a second; ``concurrency``: requests under way;
        ``expires_in``: seconds from now.
        """
        named = None if collections is None else list(collections)
        limits = given(collections=named, rate=rate, concurrency=concurrency, expires_in=expires_in)
        body = {"name": name, "scopes": list(scopes), **limits}
        return await self._call(response_types.MadeKey, "POST", address("keys"), json=body)

    async def revoke_key(self, key_id: str) -> response_types.KeyInfo:
        return await self._call(response_types.KeyInfo, "DELETE", address("keys", key_id))

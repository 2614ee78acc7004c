"""Why a URL was not asked for, or did not answer."""

from __future__ import annotations

from vitascope.errors import VitascopeError


class UrlRefused(VitascopeError):
    """A URL that the rules forbid. Nothing was sent; trying again is of no use."""

    code = "url_refused"


class UrlFailed(VitascopeError):
    """A permitted URL that did not give what was asked for. ``is_temporary``: trying again later may help."""

    code = "url_failed"

    def __init__(self, message: str, *, is_temporary: bool) -> None:
        super().__init__(message)
        self.is_temporary = is_temporary


class Stopped(Exception):
    """Whoever asked does not want it any longer."""

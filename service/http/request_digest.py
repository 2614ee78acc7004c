"""Whether two requests are the same: a digest of method, path, query and body as they come in.

Clients choose a new boundary for the parts of a form every time, so the boundary does not count.
"""

from __future__ import annotations

import hashlib

from python_multipart.multipart import parse_options_header
from starlette.types import Scope


class Fingerprint:
    """Of one request; feed it the body."""

    def __init__(self, scope: Scope, content_type: str) -> None:
        kind, options = parse_options_header(content_type)
        self._boundary = options.get(b"boundary", b"")
        self._tail = b""
        self._digest = hashlib.sha256()
        for part in (scope["method"].encode(), scope["path"].encode(), scope.get("query_string", b""), kind):
            self._digest.update(b"%d:%b" % (len(part), part))

    def feed(self, chunk: bytes) -> None:
        """The next bytes of the body, cut however they come."""
        if not self._boundary:
            self._digest.update(chunk)
            return
        pieces = (self._tail + chunk).split(self._boundary)
        for piece in pieces[:-1]:
            self._digest.update(piece)
        # The end may be the beginning of a boundary.
        keep = len(self._boundary) - 1
        last = pieces[-1]
        cut = max(0, len(last) - keep)
        self._digest.update(last[:cut])
        self._tail = last[cut:]

    def digest(self) -> bytes:
        """32 bytes, once all is fed."""
        final = self._digest.copy()
        final.update(self._tail)
        return final.digest()

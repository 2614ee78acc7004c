"""The runtime that every room shares: bundles, decoding, tokenising and running graphs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitascope.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]

# ONNX Runtime would report its use to its makers, and keep a database of that in the user's home. It reads this when it
# is loaded, so it is said before any of our modules can; telling it later (`disable_telemetry_events`) is too late.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def __getattr__(name: str) -> Any:
    """The clients, imported by those alone who ask for them: the runtime needs no HTTP."""
    if name in __all__:
        from vitascope import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Vitascope's runtime: bundles, engines, media decoding, models and the Python client."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitascope.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]

# ONNX Runtime would send telemetry, and keep a database of it in the home folder. It reads this variable when it is
# imported; `disable_telemetry_events` would be too late.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def __getattr__(name: str) -> Any:
    """Import the clients on first use, since the runtime needs no HTTP."""
    if name in __all__:
        from vitascope import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

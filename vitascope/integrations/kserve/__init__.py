"""Inference on a server with the Open Inference Protocol (KServe, Triton): server address and model names."""

from __future__ import annotations

from urllib.parse import urlsplit

from vitascope.bundle.manifest import Manifest
from vitascope.errors import InvalidInput
from vitascope.network import parse_url

ONNXRUNTIME = "onnxruntime"
PREFIX = "kserve:"
TOKEN_VARIABLE = "VITASCOPE_ENGINE_TOKEN"
"""Environment variable with the bearer token for the server; it is stored nowhere else."""
_EXPECTED = f"{ONNXRUNTIME}, or {PREFIX} and the URL of a server such as {PREFIX}http://triton:8000, was expected"


def server_url(engine: str) -> str | None:
    """Return the server's URL, without a trailing slash, of ``kserve:URL`` or ``URL``; None for ``onnxruntime``.

    Raises InvalidInput for anything else, and for a URL with credentials, which the message does not repeat.
    """
    if engine == ONNXRUNTIME:
        return None
    url = engine.removeprefix(PREFIX)
    try:
        parts = urlsplit(url)
        _ = parts.port, parse_url(url)
    except ValueError as error:
        raise InvalidInput(f"engine: not a URL ({error}); {_EXPECTED}") from error
    if "@" in parts.netloc:
        raise InvalidInput(
            f"engine: a URL with credentials; a token was expected in the environment, as {TOKEN_VARIABLE}"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise InvalidInput(f"engine: {engine!r}; {_EXPECTED}")
    return url.rstrip("/").removesuffix("/v2")


def served_name(manifest: Manifest, graph: str) -> str:
    """Return the model name of a bundle's graph on a server. It is unique for each version of the bundle."""
    return f"{manifest.name}-{manifest.fingerprint()[:12]}-{graph}"

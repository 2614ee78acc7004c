"""Who runs a model's graphs: ONNX Runtime in this process, or a server of the Open Inference Protocol."""

from __future__ import annotations

from urllib.parse import urlsplit

from vitascope.bundle.manifest import Manifest
from vitascope.errors import InvalidInput

ONNXRUNTIME = "onnxruntime"
PREFIX = "kserve:"
TOKEN_VARIABLE = "VITASCOPE_ENGINE_TOKEN"
"""Of the environment: sent to the server as a bearer token. It is kept nowhere else."""
_EXPECTED = f"{ONNXRUNTIME}, or {PREFIX} and the URL of a server such as {PREFIX}http://triton:8000, was expected"


def server_url(engine: str) -> str | None:
    """The URL of the server that ``engine`` names (``kserve:http://triton:8000``; the prefix may be left out), without
    a slash at its end; None for ``onnxruntime``.

    Raises InvalidInput, also for a URL with credentials, which it does not repeat.
    """
    if engine == ONNXRUNTIME:
        return None
    url = engine.removeprefix(PREFIX)
    try:
        parts = urlsplit(url)
        _ = parts.port
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
    """What a server calls a graph of this bundle. Two versions of a bundle may be there side by side."""
    return f"{manifest.name}-{manifest.fingerprint()[:12]}-{graph}"

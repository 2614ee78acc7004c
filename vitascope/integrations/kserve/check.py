"""A server and this process beside each other, graph by graph, whatever the server says of itself."""

from __future__ import annotations

from vitascope.bundle.bundle import Bundle
from vitascope.bundle.graph_spec import graph_of
from vitascope.errors import EngineError, EngineUnavailable, InvalidInput
from vitascope.integrations.kserve.address import server_url
from vitascope.integrations.kserve.engine import open_at_server
from vitascope.integrations.kserve.probe import Agreement, agreements
from vitascope.integrations.kserve.server import InferenceServer


def check_server(bundle: Bundle, engine: str) -> list[Agreement]:
    """How far every output of every graph is from what ONNX Runtime computes here.

    Raises InvalidInput for an ``engine`` that is no server, EngineUnavailable, and EngineError where a graph is
    missing, does not fit the manifest, is of another bundle, or is further off than is allowed.
    """
    url = server_url(engine)
    if url is None:
        raise InvalidInput(f"engine: {engine!r} is no server; kserve:http://HOST:PORT was expected")
    server = InferenceServer(url)
    found: list[Agreement] = []
    for graph in sorted(bundle.manifest.graphs):
        opened = open_at_server(server, bundle, graph, graph_of(bundle, graph))
        try:
            found += agreements(bundle, graph, opened)
        except EngineUnavailable:
            raise
        except EngineError as error:
            raise EngineError(f"{url}: model {opened.model!r}: {error}") from error
    return found

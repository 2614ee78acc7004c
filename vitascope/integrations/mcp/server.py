"""MCP server: tools, one resource per collection, and the transports (standard input and output, HTTP)."""

from __future__ import annotations

import base64
import hmac
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, unquote

import anyio
import mcp_types as types
import uvicorn
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError
from pydantic.json_schema import GenerateJsonSchema
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from vitascope.client import AsyncClient, RetryConfig
from vitascope.errors import InvalidInput, VitascopeError
from vitascope.integrations.mcp.responses import FrameImage, ToolResponse
from vitascope.integrations.mcp.tools import (
    TOOLS,
    UNTRUSTED_CONTENT_NOTICE,
    ListVideosArguments,
    Tool,
    list_videos,
)
from vitascope.network import is_loopback
from vitascope.text_format import format_validation_error

_log = logging.getLogger("vitascope.integrations.mcp")
Context = ServerRequestContext[AsyncClient, Any]

INSTRUCTIONS = (
    "Finds moments in collections of videos and images, and answers questions about them. Use list_collections first, "
    "then search_videos; show_moment to see a result; ask_video and score_captions to check it; find_moments "
    "for when exactly something happens in a video; generate_captions for what happens in it; ground_phrases for where "
    "something is in a frame. All tools are read-only. Times are seconds from the beginning of a video. "
    f"{UNTRUSTED_CONTENT_NOTICE}"
)
READ_ONLY = types.ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
URI_PREFIX = "vitascope://collections/"
RESOURCE_VIDEOS = 100
"""Maximum number of videos that the resource of a collection lists."""
RETRIES = RetryConfig(max_attempts=3, max_elapsed=10.0)
"""Fewer and shorter than the client's default, as a user waits for the assistant."""
PATH = "/mcp"
SHUTDOWN_SECONDS = 5
"""Seconds that running calls have to finish when the server stops."""
LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")

DEFECT_MESSAGE = "the tool failed unexpectedly; the log of `vitascope mcp` says more"


class _JsonSchema(GenerateJsonSchema):
    """Generator of JSON schemas without field titles: they repeat the names and would cost tokens."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def make_server(url: str, version: str) -> Server[AsyncClient]:
    """Create an MCP server for the service at ``url``. It can run only once.

    Args:
        url: URL of the service; the API key is VITASCOPE_API_KEY.
        version: version that the MCP server reports.

    Raises:
        InvalidInput: the API key cannot be sent in a header.
    """
    client = AsyncClient(url, retries=RETRIES)
    tools = [_to_mcp_tool(name, tool) for name, tool in TOOLS.items()]

    @asynccontextmanager
    async def lifespan(server: Server[AsyncClient]) -> AsyncIterator[AsyncClient]:
        async with client:
            yield client

    async def list_tools(context: Context, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=tools)

    async def call_tool(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        tool = TOOLS.get(params.name)
        if tool is None:
            raise MCPError(types.INVALID_PARAMS, f"tool: {params.name!r}; one of {', '.join(TOOLS)} was expected")
        try:
            arguments = tool.arguments.model_validate(params.arguments or {})
        except ValidationError as error:
            return _error_result(format_validation_error(error, max_errors=10))
        try:
            return _to_mcp_result(await tool.run(client, arguments))
        except VitascopeError as error:
            return _error_result(str(error))
        except Exception:
            _log.exception("the tool %r failed", params.name)
            return _error_result(DEFECT_MESSAGE)

    async def list_resources(
        context: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        try:
            collections = (await client.list_collections())["collections"]
        except VitascopeError as error:
            raise MCPError(types.INTERNAL_ERROR, str(error)) from error
        return types.ListResourcesResult(resources=[_to_resource(collection) for collection in collections])

    async def read_resource(context: Context, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        uri = str(params.uri)
        try:
            arguments = ListVideosArguments(collection=_collection_name_from_uri(uri), limit=RESOURCE_VIDEOS)
            page = await list_videos(client, arguments)
        except VitascopeError as error:
            raise MCPError(types.INVALID_PARAMS, str(error)) from error
        text = types.TextResourceContents(uri=uri, mime_type="application/json", text=page.model_dump_json())
        return types.ReadResourceResult(contents=[text])

    return Server(
        "vitascope",
        version=version,
        title="Vitascope",
        instructions=INSTRUCTIONS,
        lifespan=lifespan,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_read_resource=read_resource,
    )


def _to_mcp_tool(name: str, tool: Tool) -> types.Tool:
    return types.Tool(
        name=name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.arguments.model_json_schema(schema_generator=_JsonSchema),
        output_schema=tool.response.model_json_schema(schema_generator=_JsonSchema, mode="serialization"),
        annotations=READ_ONLY,
    )


def _to_mcp_result(response: ToolResponse) -> types.CallToolResult:
    content: list[types.ContentBlock] = [types.TextContent(text=response.to_text())]
    if isinstance(response, FrameImage):
        content.append(types.ImageContent(data=base64.b64encode(response.jpeg).decode(), mime_type="image/jpeg"))
    return types.CallToolResult(content=content, structured_content=response.model_dump(mode="json"))


def _error_result(message: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=message)], is_error=True)


def _to_resource(collection: Any) -> types.Resource:
    name, videos = collection["name"], collection["videos"]
    return types.Resource(
        uri=URI_PREFIX + quote(name, safe=""),
        name=name,
        description=f"Collection of {videos} videos; lists the first {RESOURCE_VIDEOS}. {UNTRUSTED_CONTENT_NOTICE}",
        mime_type="application/json",
    )


def _collection_name_from_uri(uri: str) -> str:
    """Return the collection name in a resource URI. Raises InvalidInput."""
    if not uri.startswith(URI_PREFIX):
        raise InvalidInput(f"uri: {uri!r}; {URI_PREFIX}NAME was expected")
    return unquote(uri.removeprefix(URI_PREFIX))


def serve_stdio(server: Server[Any]) -> None:
    """Serve the assistant that started this process until it closes standard input.

    Standard output carries only the protocol; other output goes to standard error.
    """
    if sys.stdin.isatty():
        print("Waiting for an assistant on standard input (assistants start this command).", file=sys.stderr)
    anyio.run(_serve_stdio, server)


async def _serve_stdio(server: Server[Any]) -> None:
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def serve_http(server: Server[Any], address: str, allowed_hosts: Sequence[str] = ()) -> None:
    """Serve over HTTP at ``address`` until SIGINT or SIGTERM.

    If other machines can reach the address, requests must send this process's API key as a bearer token.

    Args:
        server: the server.
        address: HOST:PORT; port 0 chooses a free port.
        allowed_hosts: further host names that are accepted in the Host header, besides HOST and loopback names. Others
            are rejected against DNS rebinding.

    Raises:
        InvalidInput: the address cannot be used, or needs an API key and there is none.
    """
    host, port = _parse_address(address)
    key = None if is_loopback(host) else os.environ.get("VITASCOPE_API_KEY", "")
    if key == "":
        raise InvalidInput(
            f"http: {address!r} can be reached by other machines, and VITASCOPE_API_KEY is not set; a key, which "
            "assistants must send, or a loopback address such as 127.0.0.1:8765 was expected"
        )
    hosts = [*LOCAL_HOSTS, f"[{host}]" if ":" in host else host, *allowed_hosts]
    hosts_and_ports = [pattern for name in hosts for pattern in (name, f"{name}:*")]
    security = TransportSecuritySettings(
        allowed_hosts=hosts_and_ports,
        allowed_origins=[f"{scheme}://{name}" for scheme in ("http", "https") for name in hosts_and_ports],
    )
    # Stateless: the server can be restarted and replicated.
    app: ASGIApp = server.streamable_http_app(
        streamable_http_path=PATH, stateless_http=True, json_response=True, transport_security=security
    )
    with _bind(host, port) as listener:
        shown = f"[{host}]" if ":" in host else host
        print(f"Vitascope's tools are at http://{shown}:{listener.getsockname()[1]}{PATH}", file=sys.stderr, flush=True)
        config = uvicorn.Config(
            app if key is None else _require_bearer_key(key, app),
            log_config=None,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
        if threading.current_thread() is threading.main_thread():
            # uvicorn stops cleanly on SIGTERM and then raises the signal again; that must not end the process.
            signal.signal(signal.SIGTERM, lambda number, frame: None)
        uvicorn.Server(config).run(sockets=[listener])


def _parse_address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdecimal() and int(port) < 2**16):
        raise InvalidInput(f"http: {text!r}; HOST:PORT, such as 127.0.0.1:8765, was expected")
    return host.strip("[]"), int(port)


def _bind(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise InvalidInput(
            f"http: cannot listen on {host} port {port}: {error.strerror or error}; a free port of this machine was "
            "expected"
        ) from error


def _require_bearer_key(key: str, app: ASGIApp) -> ASGIApp:
    """Wrap ``app`` so that requests need ``key`` as a bearer token."""
    expected = f"Bearer {key}".encode()

    async def authenticated(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            sent = Headers(scope=scope).get("authorization", "").encode()
            if not hmac.compare_digest(sent, expected):
                message = "Authorization: Bearer with the API key of `vitascope mcp` was expected\n"
                await PlainTextResponse(message, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
                return
        await app(scope, receive, send)

    return authenticated

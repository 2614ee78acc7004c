"""The server that assistants speak to: the official SDK's, with our tools, and a resource for each collection."""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote, unquote

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError
from pydantic.json_schema import GenerateJsonSchema

from vitascope.client import AsyncClient, RetryConfig
from vitascope.errors import InvalidInput, VitascopeError
from vitascope.integrations.mcp.arguments import ListVideos
from vitascope.integrations.mcp.responses import Picture, Told
from vitascope.integrations.mcp.tools import DATA, TOOLS, Tool, list_videos

_log = logging.getLogger("vitascope.integrations.mcp")
Context = ServerRequestContext[AsyncClient, Any]

INSTRUCTIONS = (
    "Finds moments in collections of videos and pictures, and answers questions about them. list_collections first, "
    "then search_videos; show_moment to see what was found; ask_video and score_captions to check it. Nothing can be "
    "changed. "
    f"Times are seconds from the beginning of a video. {DATA}"
)
READ_ONLY = types.ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
SCHEME = "vitascope://collections/"
VIDEOS_SHOWN = 100
RETRIES = RetryConfig(max_attempts=3, max_elapsed=10.0)
"""Fewer than a script has: an assistant, and whoever waits for it, should soon hear that nobody is there."""
DEFECT = "the tool failed in a way that was not foreseen; the log of `vitascope mcp` says more"


class _Schema(GenerateJsonSchema):
    """Without titles of fields, which say what their names say; a language model pays for each word."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def make_server(url: str, version: str) -> Server[AsyncClient]:
    """A server whose tools ask the service at ``url``, with the key that the environment has; it runs once.

    Raises InvalidInput for a key that no header can carry.
    """
    # One for all calls: they may come at the same time, and one that is cancelled ends its request.
    client = AsyncClient(url, retries=RETRIES)
    tools = [_described(name, tool) for name, tool in TOOLS.items()]

    @asynccontextmanager
    async def connected(server: Server[AsyncClient]) -> AsyncIterator[AsyncClient]:
        async with client:
            yield client

    async def list_tools(context: Context, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=tools)

    async def call_tool(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        tool = TOOLS.get(params.name)
        if tool is None:
            raise MCPError(types.INVALID_PARAMS, f"tool: {params.name!r}; one of {', '.join(TOOLS)} was expected")
        try:
            wanted = tool.arguments.model_validate(params.arguments or {})
            return _answered(await tool.run(client, wanted))
        except ValidationError as error:
            return _failed(_wrong(error))
        except VitascopeError as error:
            return _failed(str(error))
        except Exception:
            _log.exception("the tool %r failed", params.name)
            return _failed(DEFECT)

    async def list_resources(
        context: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        try:
            collections = (await client.list_collections())["collections"]
        except VitascopeError as error:
            raise MCPError(types.INTERNAL_ERROR, str(error)) from error
        return types.ListResourcesResult(resources=[_resource(one) for one in collections])

    async def read_resource(context: Context, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        uri = str(params.uri)
        try:
            page = await list_videos(client, ListVideos(collection=_named(uri), limit=VIDEOS_SHOWN))
        except VitascopeError as error:
            raise MCPError(types.INVALID_PARAMS, str(error)) from error
        text = types.TextResourceContents(uri=uri, mime_type="application/json", text=page.model_dump_json())
        return types.ReadResourceResult(contents=[text])

    return Server(
        "vitascope",
        version=version,
        title="Vitascope",
        instructions=INSTRUCTIONS,
        lifespan=connected,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_read_resource=read_resource,
    )


def _described(name: str, tool: Tool) -> types.Tool:
    return types.Tool(
        name=name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.arguments.model_json_schema(schema_generator=_Schema),
        output_schema=tool.answer.model_json_schema(schema_generator=_Schema, mode="serialization"),
        annotations=READ_ONLY,
    )


def _answered(told: Told) -> types.CallToolResult:
    content: list[types.ContentBlock] = [types.TextContent(text=told.words())]
    if isinstance(told, Picture):
        content.append(types.ImageContent(data=base64.b64encode(told.jpeg).decode(), mime_type="image/jpeg"))
    return types.CallToolResult(content=content, structured_content=told.model_dump(mode="json"))


def _failed(why: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=why)], is_error=True)


def _wrong(error: ValidationError) -> str:
    """Which arguments are wrong, and what was expected."""
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())


def _resource(collection: Any) -> types.Resource:
    name = collection["name"]
    return types.Resource(
        uri=SCHEME + quote(name, safe=""),
        name=name,
        description=f"Collection of {collection['videos']} videos; reading it lists the first {VIDEOS_SHOWN}. {DATA}",
        mime_type="application/json",
    )


def _named(uri: str) -> str:
    """The collection of a resource. Raises InvalidInput."""
    if not uri.startswith(SCHEME):
        raise InvalidInput(f"uri: {uri!r}; {SCHEME}NAME was expected")
    return unquote(uri.removeprefix(SCHEME))

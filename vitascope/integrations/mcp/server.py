"""The MCP server: the SDK's low-level server with the tools, and a resource per collection."""

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
from vitascope.integrations.mcp.responses import FrameImage, ToolResponse
from vitascope.integrations.mcp.tools import (
    TOOLS,
    UNTRUSTED_CONTENT_NOTICE,
    ListVideosArguments,
    Tool,
    list_videos,
)

_log = logging.getLogger("vitascope.integrations.mcp")
Context = ServerRequestContext[AsyncClient, Any]

INSTRUCTIONS = (
    "Finds moments in collections of videos and images, and answers questions about them. Use list_collections first, "
    "then search_videos; show_moment to see a result; ask_video and score_captions to check it. All tools are "
    f"read-only. Times are seconds from the beginning of a video. {UNTRUSTED_CONTENT_NOTICE}"
)
READ_ONLY = types.ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
URI_PREFIX = "vitascope://collections/"
RESOURCE_VIDEOS = 100
"""Videos in the resource of a collection."""
RETRIES = RetryConfig(max_attempts=3, max_elapsed=10.0)
"""Shorter than the default: a user waits for the assistant."""
DEFECT_MESSAGE = "the tool failed unexpectedly; the log of `vitascope mcp` says more"


class _JsonSchema(GenerateJsonSchema):
    """JSON schemas without titles of fields, which repeat the names; a language model pays for each token."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def make_server(url: str, version: str) -> Server[AsyncClient]:
    """Return a server for the service at ``url``, with the API key of the environment; it can run once.

    Raises InvalidInput for a key that cannot be sent in a header.
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
            return _error_result(_format_validation_error(error))
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


def _format_validation_error(error: ValidationError) -> str:
    """Return each wrong argument with what was expected, on one line."""
    return "; ".join(f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors())


def _to_resource(collection: Any) -> types.Resource:
    name, videos = collection["name"], collection["videos"]
    return types.Resource(
        uri=URI_PREFIX + quote(name, safe=""),
        name=name,
        description=f"Collection of {videos} videos; lists the first {RESOURCE_VIDEOS}. {UNTRUSTED_CONTENT_NOTICE}",
        mime_type="application/json",
    )


def _collection_name_from_uri(uri: str) -> str:
    """Return the name of the collection of a resource. Raises InvalidInput."""
    if not uri.startswith(URI_PREFIX):
        raise InvalidInput(f"uri: {uri!r}; {URI_PREFIX}NAME was expected")
    return unquote(uri.removeprefix(URI_PREFIX))

"""Sessions with `vitascope mcp` through the SDK's client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from mcp import Client
from mcp_types import CallToolResult, TextContent

from tests.waiting import PATIENCE


def collect_errors(protocol_errors: list[Exception]) -> Callable[[Any], Awaitable[None]]:
    """Return a message handler that collects protocol errors."""

    async def note(message: Any) -> None:
        if isinstance(message, Exception):
            protocol_errors.append(message)

    return note


def run_session(server: Any, session: Callable[[Client], Awaitable[None]], mode: str = "auto") -> list[Exception]:
    """Run a session; return the protocol errors."""
    protocol_errors: list[Exception] = []

    async def speak() -> None:
        with anyio.fail_after(PATIENCE):
            async with Client(server, mode=mode, message_handler=collect_errors(protocol_errors)) as client:
                await session(client)

    anyio.run(speak)
    return protocol_errors


async def call_tool(client: Client, tool: str, **arguments: Any) -> tuple[dict[str, Any], str]:
    """Return the structured response, which the SDK validates, and the text."""
    result = await client.call_tool(tool, arguments)
    text = text_of(result)
    assert not result.is_error, text
    assert isinstance(result.structured_content, dict)
    return result.structured_content, text


def text_of(result: CallToolResult) -> str:
    first = result.content[0]
    assert isinstance(first, TextContent)
    return first.text


async def call_tool_error(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    return text_of(result)

"""Conversations with `vitascope mcp` by the official SDK's client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from mcp import Client
from mcp_types import CallToolResult, TextContent

from tests.waiting import PATIENCE


def noting(strange: list[Exception]) -> Callable[[Any], Awaitable[None]]:
    """What hears all messages, and keeps what was no message of the protocol."""

    async def note(message: Any) -> None:
        if isinstance(message, Exception):
            strange.append(message)

    return note


def spoken(server: Any, conversation: Callable[[Client], Awaitable[None]], mode: str = "auto") -> list[Exception]:
    """Have a conversation; what came that was no message of the protocol."""
    strange: list[Exception] = []

    async def speak() -> None:
        with anyio.fail_after(PATIENCE):
            async with Client(server, mode=mode, message_handler=noting(strange)) as client:
                await conversation(client)

    anyio.run(speak)
    return strange


async def answer_of(client: Client, tool: str, **arguments: Any) -> tuple[dict[str, Any], str]:
    """What is structured, and the text. The SDK's client holds the former to the schema that was listed."""
    result = await client.call_tool(tool, arguments)
    text = text_of(result)
    assert not result.is_error, text
    assert isinstance(result.structured_content, dict)
    return result.structured_content, text


def text_of(result: CallToolResult) -> str:
    first = result.content[0]
    assert isinstance(first, TextContent)
    return first.text


async def refusal_of(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    return text_of(result)

"""A small MCP server for tests: `python mcp_server.py`, over stdio, or with a port over streamable HTTP."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("sample")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
async def steps(count: int, context: Context[Any, Any]) -> str:
    """Tell of steps."""
    for step in range(count):
        await context.report_progress(step, count, f"step {step}")
        await asyncio.sleep(0.06)
    return "done"


@server.tool()
async def large(size: int, context: Context[Any, Any]) -> str:
    """Tell of a step, so that the answer comes as an event, and return that many characters."""
    await context.report_progress(1, 1, "")
    return "x" * size


@server.tool()
def fail() -> str:
    """Fail."""
    raise ToolError("the server says no")


@server.tool()
def secret() -> str:
    """Return what only the server's environment has."""
    return str(len(os.environ.get("SERVER_SECRET", "")))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run("stdio")

"""Tools of MCP servers, over stdio or streamable HTTP, by the official package `mcp` (extra ``[mcp]``)."""

from __future__ import annotations

import asyncio
import base64
import inspect
import logging
import re
import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, TextIO

from sandbox_kernel.errors import ConfigurationError, ToolExecutionError

from .context import RuntimeContext
from .tool import Arguments

START_TIMEOUT = 30.0
"""Seconds in which a server must have told its tools."""
CLOSE_TIMEOUT = 5.0
"""Seconds in which a server must have ended by itself, and then by force."""
MAX_PAGES = 100
EVENT_LIMIT = "max_sse_event_size"
"""How the package calls the bytes of an answer that comes as an event; releases before 2.3 take 1 MiB, and no word."""
LIMIT_HINT = " (releases of the package mcp before 2.3 take answers of 1 MiB at most over HTTP)"
_ODD = re.compile(r"[^A-Za-z0-9_-]")


def tool_name(server: str, name: str) -> str:
    """Return under which name cells know a tool of a server."""
    return f"{server}_{_ODD.sub('_', name)}"[:64]


class McpServer:
    """A connection to one server. It is made and ended by one task, as the package's cancel scopes want it."""

    def __init__(self, name: str, entry: Mapping[str, Any]) -> None:
        self._name = name
        self._entry = entry
        self._client: Any = None
        self._ending = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_there = False
        # What a server writes there would stand in the notebook's server's log, if anywhere.
        self._complaints: TextIO = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - open while it runs

    async def start(self) -> list[Any]:
        """Connect; return the server's tools, as the package describes them. Raises ConfigurationError."""
        ready: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._task = asyncio.ensure_future(self._run(ready))
        waited: set[asyncio.Future[Any]] = {ready, self._task}
        done, _ = await asyncio.wait(waited, timeout=START_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        if ready in done:
            return await ready
        reason = f"it did not answer within {START_TIMEOUT:g} s"
        if self._task.done() and (error := self._task.exception()) is not None:
            reason = _reason(error)
        reason += self._last_words()
        await self.close()
        raise ConfigurationError(f"Tools.mcp_servers: the server {self._name!r} cannot be used: {reason}.")

    async def _run(self, ready: asyncio.Future[list[Any]]) -> None:
        from mcp import Client

        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(Client(await self._target(stack)))
            self._client = client
            found: list[Any] = []
            page = await client.list_tools()
            for _ in range(MAX_PAGES):
                found.extend(page.tools)
                if not page.next_cursor:
                    break
                page = await client.list_tools(cursor=page.next_cursor)
            self._is_there = True
            ready.set_result(found)
            await self._ending.wait()

    async def _target(self, stack: AsyncExitStack) -> Any:
        # What the package logs would otherwise reach the notebook's standard error.
        logging.getLogger("mcp").setLevel(logging.CRITICAL)
        if "url" in self._entry:
            from mcp.client.streamable_http import streamable_http_client
            from mcp.shared._httpx_utils import create_mcp_http_client

            made = create_mcp_http_client(headers=dict(self._entry.get("headers") or {}))
            client = await stack.enter_async_context(made)
            limit: Any = {}
            if EVENT_LIMIT in inspect.signature(streamable_http_client).parameters:
                # Who calls has a limit of its own (Tools.max_result).
                limit = {EVENT_LIMIT: None}
            return streamable_http_client(str(self._entry["url"]), http_client=client, **limit)
        from mcp import StdioServerParameters, stdio_client

        program, *arguments = [str(word) for word in self._entry["command"]]
        environment = {str(key): str(value) for key, value in (self._entry.get("env") or {}).items()}
        server = StdioServerParameters(command=program, args=arguments, env=environment)
        return stdio_client(server, errlog=self._complaints)

    async def call(self, name: str, arguments: Arguments, context: RuntimeContext) -> Any:
        """Call a tool. Raises ToolExecutionError with what the server says."""
        from mcp import MCPError

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            if context.on_progress is not None:
                context.on_progress(progress / total if total else None, message or "")

        if self._client is None:
            raise ToolExecutionError(f"the MCP server {self._name!r} is gone")
        try:
            result = await self._client.call_tool(name, arguments, progress_callback=on_progress)
        except MCPError as exc:
            hint = LIMIT_HINT if "stream ended" in str(exc) else ""
            raise ToolExecutionError(f"{exc}{hint}") from exc
        if result.is_error:
            raise ToolExecutionError(_text(result.content) or "the tool failed without a word")
        if result.structured_content is not None:
            content = dict(result.structured_content)
            # How the protocol wraps what is no object.
            return content["result"] if set(content) == {"result"} else content
        return _value(result.content)

    async def close(self) -> None:
        """End the connection. Idempotent."""
        self._ending.set()
        if self._task is not None:
            if self._is_there:
                await asyncio.wait([self._task], timeout=CLOSE_TIMEOUT)
            # One that never answered has nothing to end by itself.
            self._task.cancel()
            await asyncio.wait([self._task], timeout=CLOSE_TIMEOUT)
            if self._task.done() and not self._task.cancelled():
                # Looked at, whatever it is: nobody waits for it any more.
                self._task.exception()
        self._client = None
        self._complaints.close()

    def _last_words(self) -> str:
        self._complaints.seek(0)
        lines = self._complaints.read()[-2000:].strip().splitlines()
        return f" (it wrote: {lines[-1][:300]})" if lines else ""


def _reason(error: BaseException) -> str:
    while inner := getattr(error, "exceptions", None):
        # A group, of which Python 3.10 has no type.
        error = inner[0]
    if isinstance(error, ImportError):
        return "the package mcp is not installed; `pip install 'sandbox-kernel[mcp]'` installs it"
    return f"{type(error).__name__}: {str(error)[:300]}"


def _text(content: Any) -> str:
    return "\n".join(block.text for block in content if block.type == "text")


def _value(content: Any) -> Any:
    """Return what blocks of content are: text, bytes, or a list of such."""
    found = [_block(block) for block in content]
    if all(isinstance(one, str) for one in found):
        return "\n".join(found)
    return found[0] if len(found) == 1 else found


def _block(block: Any) -> Any:
    match block.type:
        case "text":
            return block.text
        case "image" | "audio":
            return base64.b64decode(block.data)
        case "resource":
            resource = block.resource
            return resource.text if hasattr(resource, "text") else base64.b64decode(resource.blob)
    return block.model_dump(mode="json")

"""Serves registered tools, and the running of code in a sandbox, to MCP clients and over HTTP (extra ``[mcp]``)."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from sandbox_kernel import __version__
from sandbox_kernel.errors import (
    SandboxKernelError,
    ToolArgumentsError,
    ToolExecutionError,
    ToolTimeoutError,
    UnknownToolError,
)
from sandbox_kernel.tools.context import RuntimeContext
from sandbox_kernel.tools.schema import check_arguments
from sandbox_kernel.tools.tool import Tool

from . import openapi
from .lifecycle import Workshop

if TYPE_CHECKING:
    from mcp.server.lowlevel import Server

MAX_BODY = 4 * 1024 * 1024
RUN_CODE = "run_code"
T = TypeVar("T")
_STATUS: dict[type[Exception], int] = {ToolArgumentsError: 422, UnknownToolError: 404, ToolTimeoutError: 504}


class ToolServer:
    """The tools of a workshop's owner, as they are at the moment of each request."""

    def __init__(self, workshop: Workshop, *, url: str = "", key: str = "") -> None:
        """``url`` is where HTTP clients reach it; who does not send ``key`` as a bearer token is refused."""
        self._workshop = workshop
        self._url = url
        self._key = key
        self._running: set[asyncio.Task[Any]] = set()

    async def tools(self) -> list[Tool]:
        """Return what is served."""
        schema = {
            "type": "object",
            "properties": {"code": {"type": "string", "description": "Python; the last expression is the result"}},
            "required": ["code"],
            "additionalProperties": False,
        }
        text = "Run Python code in a fresh sandbox without network; returns what it printed, its result and its error."
        own = Tool(RUN_CODE, text, schema, self._run_code, blocking=False, source="server")
        return [own, *(one for one in await self._workshop.tools() if one.name != RUN_CODE)]

    async def call(self, name: str, arguments: dict[str, Any]) -> Any:
        """Call one. Raises UnknownToolError, ToolArgumentsError, and what the tool raises."""
        running = asyncio.ensure_future(self._call(name, arguments))
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        try:
            await asyncio.wait([running])
            if running.cancelled():
                raise ToolExecutionError("The server was ended.")
            return running.result()
        finally:
            running.cancel()

    def end_calls(self) -> None:
        """End what runs; who waits for it is told."""
        for running in self._running:
            running.cancel()

    async def _call(self, name: str, arguments: dict[str, Any]) -> Any:
        for tool in await self.tools():
            if tool.name == name:
                check_arguments(tool.validator, arguments)
                made: Any = tool.call
                return await made(arguments, RuntimeContext())
        raise UnknownToolError(f"There is no tool {name[:80]!r}.")

    async def _run_code(self, arguments: dict[str, Any], _: RuntimeContext) -> dict[str, Any]:
        async with contextlib.aclosing(self._workshop.runner.fresh()) as sandboxes:
            async for sandbox in sandboxes:
                timeout = self._workshop.settings.execution_timeout
                result = await sandbox.run(arguments["code"], timeout=timeout)
                error = f"{result.error.name}: {result.error.value}" if result.error else None
                return {"stdout": result.stdout, "stderr": result.stderr, "result": result.text, "error": error}
        raise AssertionError("there is one")

    def mcp(self) -> Server[Any]:
        """Return the MCP server."""
        from mcp import types
        from mcp.server.lowlevel import Server

        async def list_tools(_context: Any, _params: Any) -> types.ListToolsResult:
            return types.ListToolsResult(
                tools=[
                    types.Tool(name=one.name, description=one.description, input_schema=dict(one.input_schema))
                    for one in await self.tools()
                ]
            )

        async def call_tool(_context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
            try:
                value = await self.call(params.name, dict(params.arguments or {}))
            except SandboxKernelError as exc:
                said = types.TextContent(type="text", text=f"{type(exc).__name__}: {exc}")
                return types.CallToolResult(content=[said], is_error=True)
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            said = types.TextContent(type="text", text=text)
            return types.CallToolResult(content=[said], structured_content={"result": value})

        return Server("sandbox-kernel", version=__version__, on_list_tools=list_tools, on_call_tool=call_tool)

    async def serve_stdio(self) -> None:
        """Serve one client over standard input and output, until it leaves."""
        from mcp.server.stdio import stdio_server

        server = self.mcp()
        async with stdio_server() as (reader, writer):
            await server.run(reader, writer, server.create_initialization_options())

    def app(self, host: str) -> Any:
        """Return the ASGI application: MCP at ``/mcp``, OpenAPI at ``/openapi.json``, and each tool's own path."""
        from starlette.routing import Route

        routes = [
            Route("/openapi.json", self._describe, methods=["GET"]),
            Route("/tools/{name}/execute", self._execute, methods=["POST"]),
        ]
        # No events: official clients take none of more than 1 MiB, and nothing is told before the answer.
        app = self.mcp().streamable_http_app(host=host, custom_starlette_routes=routes, json_response=True)
        return _Guarded(app, self._key)

    async def _describe(self, _request: Any) -> Any:
        from starlette.responses import JSONResponse

        return JSONResponse(openapi.document(await self.tools(), self._url, secured=bool(self._key)))

    async def _execute(self, request: Any) -> Any:
        from starlette.responses import JSONResponse

        try:
            arguments = json.loads(await _body(request))
            if not isinstance(arguments, dict):
                raise ToolArgumentsError("The body is a JSON object of arguments.")
            value = await _while_there(request, self.call(request.path_params["name"], arguments))
        except (ValueError, RecursionError) as exc:
            return JSONResponse({"error": "ToolArgumentsError", "message": f"The body is no JSON: {exc}"}, 400)
        except SandboxKernelError as exc:
            said = {"error": type(exc).__name__, "message": str(exc)}
            return JSONResponse(said, _STATUS.get(type(exc), 500))
        return JSONResponse({"value": value})


async def _while_there(request: Any, work: Coroutine[Any, Any, T]) -> T:
    """Return what the work returns; it ends when the client leaves. The body must have been read."""
    running = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait([running, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            raise ToolExecutionError("The client has left.")
        return running.result()
    finally:
        leaving.cancel()
        running.cancel()


async def _left(request: Any) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body(request: Any) -> bytes:
    data = b""
    pieces: AsyncIterator[bytes] = request.stream()
    async for piece in pieces:
        data += piece
        if len(data) > MAX_BODY:
            raise ToolArgumentsError(f"The body has more than {MAX_BODY} bytes.")
    return data


class _Guarded:
    """Lets only those pass who know the key."""

    def __init__(self, app: Any, key: str) -> None:
        self._app = app
        self._expected = key.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            # The scheme's name may be written in any way (RFC 9110, section 11.1).
            scheme, _, sent = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
            is_known = hmac.compare_digest(sent.strip(b" "), self._expected)
            if scheme.lower() != b"bearer" or not is_known:
                from starlette.responses import JSONResponse

                said = {
                    "error": "AuthenticationError",
                    "message": "The key is missing or wrong (Authorization: Bearer …).",
                }
                await JSONResponse(said, 401)(scope, receive, send)
                return
        await self._app(scope, receive, send)

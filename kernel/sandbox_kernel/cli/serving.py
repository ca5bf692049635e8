"""`jupyter sandbox mcp`: the tools that were written in notebooks, and the running of code, for other programs."""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from sandbox_kernel.errors import CommandError, ConfigurationError

if TYPE_CHECKING:
    import uvicorn

    from sandbox_kernel.tools.workshop.server import ToolServer


GRACE = 3
"""Seconds that calls under way get to end when the server is ended."""
FORCE = 5
"""Seconds after which connections that are still open then are closed."""


def add_commands(families: Any) -> None:
    """Add the subcommand to the program's parser."""
    text = "serve your registered tools, and code in a sandbox, to MCP clients: over stdio, or with --http over HTTP"
    parser = families.add_parser(
        "mcp",
        help=text,
        description=f"{text}. HTTP clients need WorkshopSettings.server_key; without one, a key is made and shown.",
    )
    parser.add_argument("--http", action="store_true", help="streamable HTTP at /mcp, and OpenAPI at /openapi.json")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="of --http; default: this machine only")
    parser.add_argument("--port", type=int, default=8765, metavar="NUMBER", help="of --http; default: 8765")
    parser.add_argument("--url", default="", metavar="URL", help="where clients reach --http, if it is somewhere else")
    parser.add_argument("--config", metavar="FILE", help="a configuration file besides Jupyter's own")
    parser.set_defaults(run=serve)


def serve(arguments: Namespace) -> int:
    """Serve until the client leaves, or for good."""
    try:
        import mcp  # noqa: F401 - whether it is there
    except ImportError as exc:
        raise ConfigurationError("The package mcp is not installed: `pip install 'sandbox-kernel[mcp]'`.") from exc
    if arguments.url and not arguments.http:
        raise CommandError("--url is for --http.")
    asyncio.run(_serve(arguments))
    return 0


async def _serve(arguments: Namespace) -> None:
    from sandbox_kernel.configuration import load_configuration
    from sandbox_kernel.tools.workshop import Workshop
    from sandbox_kernel.tools.workshop.server import ToolServer

    config, said = load_configuration(["--config", arguments.config] if arguments.config else [])
    if said.error is not None:
        raise said.error
    workshop = Workshop(config=config)
    try:
        if not arguments.http:
            await ToolServer(workshop).serve_stdio()
            return
        key = workshop.settings.server_key or secrets.token_urlsafe(32)
        url = arguments.url or f"http://{arguments.host}:{arguments.port}"
        # One that was set is known to who set it, and need not stand in a log.
        shown = "" if workshop.settings.server_key else f"; key: {key}"
        print(f"MCP at {url}/mcp, OpenAPI at {url}/openapi.json{shown}", file=sys.stderr, flush=True)  # noqa: T201
        await _serve_http(ToolServer(workshop, url=url, key=key), arguments)
    finally:
        await workshop.close()


async def _serve_http(server: ToolServer, arguments: Namespace) -> None:
    import uvicorn

    settings = uvicorn.Config(
        server.app(arguments.host),
        host=arguments.host,
        port=arguments.port,
        log_level="warning",
        timeout_graceful_shutdown=GRACE + FORCE,
    )
    http = uvicorn.Server(settings)
    ending = asyncio.ensure_future(_end_calls(http, server))
    # Once it has ended by a signal, uvicorn sends that again; sandboxes are still to be given back then.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        await http.serve()
    finally:
        ending.cancel()
        signal.signal(signal.SIGTERM, before)


async def _end_calls(http: uvicorn.Server, server: ToolServer) -> None:
    while not http.should_exit:  # noqa: ASYNC110 - uvicorn has nothing to wait for
        await asyncio.sleep(0.2)
    await asyncio.sleep(GRACE)
    server.end_calls()

"""`jupyter sandbox emulate agentcore`: its options, and how it runs."""
# ruff: noqa: T201 - a program prints

from __future__ import annotations

import asyncio
import signal
from argparse import ArgumentParser, Namespace

from sandbox_kernel.errors import CommandError

SUMMARY = "the Code Interpreter of AWS AgentCore, on this machine"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the emulator's options."""
    parser.add_argument("--host", default="127.0.0.1", metavar="HOST", help="where to listen (%(default)s)")
    parser.add_argument("--port", type=int, default=0, metavar="N", help="the port; by default a free one")
    parser.add_argument("--latency", type=float, default=0.0, metavar="S", help="seconds that each call takes longer")
    parser.add_argument("--quiet", action="store_true", help="print the address and no calls")


def run(arguments: Namespace) -> int:
    """Serve until SIGINT or SIGTERM. Raises CommandError."""
    try:
        asyncio.run(_serve(arguments))
    except OSError as exc:
        raise CommandError(f"jupyter sandbox emulate: {arguments.host}:{arguments.port}: {exc}") from exc
    return 0


async def _serve(arguments: Namespace) -> None:
    from .service import Service

    service = Service(trace=_nothing if arguments.quiet else _show)
    service.behaviour = service.behaviour.changed({"latency": arguments.latency})
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    port = await service.start(arguments.host, arguments.port)
    print(f"AgentCore Code Interpreter at http://{arguments.host}:{port}", flush=True)
    if not arguments.quiet:
        print(_HINT.format(url=f"http://{arguments.host}:{port}"), flush=True)
    await ended.wait()
    await service.close()


_HINT = """\
Any credentials do. For this kernel, boto3 and the vendor's own package:
  export AWS_ENDPOINT_URL_BEDROCK_AGENTCORE={url} AWS_ENDPOINT_URL_BEDROCK_AGENTCORE_CONTROL={url}
  export BEDROCK_AGENTCORE_DP_ENDPOINT={url} BEDROCK_AGENTCORE_CP_ENDPOINT={url}
  export AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any AWS_REGION=us-west-2
Faults and the clock: POST to {url}/_emulator/faults, behaviour, clock, reset; GET calls."""


def _show(line: str) -> None:
    print(line, flush=True)


def _nothing(line: str) -> None:
    """Say nothing of a call."""

"""`jupyter sandbox emulate e2b`: its options, and how it runs."""
# ruff: noqa: T201 - a program prints

from __future__ import annotations

import asyncio
import signal
from argparse import ArgumentParser, Namespace

from sandbox_kernel.errors import ConfigurationError

from .settings import Settings

SUMMARY = "the control plane and the sandboxes of E2B, PPIO and Novita, on this machine"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the emulator's options."""
    default = Settings()
    parser.add_argument("--host", default=default.host, help="where to listen; default: this machine only")
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    parser.add_argument("--domain", default=default.domain, help="sandboxes are at PORT-ID.DOMAIN, too")
    parser.add_argument("--certificate", default="", metavar="FILE", help="speak TLS, with this certificate (PEM)")
    parser.add_argument("--private-key", default="", metavar="FILE", help="its private key (PEM)")
    parser.add_argument("--key", action="append", default=[], metavar="KEY", help="take this API key and no other")
    parser.add_argument("--latency", type=float, default=0.0, metavar="S", help="seconds there and back")
    parser.add_argument("--max-sandboxes", type=int, default=default.max_sandboxes, metavar="N")
    parser.add_argument("--rate", type=float, default=0.0, metavar="N", help="refuse more than N calls per second")
    parser.add_argument("--memory", default=default.memory, metavar="SIZE", help="of each sandbox")


def run(arguments: Namespace) -> int:
    """Serve until SIGINT or SIGTERM. Raises ConfigurationError."""
    if bool(arguments.certificate) != bool(arguments.private_key):
        raise ConfigurationError("--certificate and --private-key belong together.")
    settings = Settings(
        host=arguments.host,
        port=arguments.port,
        domain=arguments.domain,
        certificate_file=arguments.certificate,
        private_key_file=arguments.private_key,
        keys=tuple(arguments.key),
        latency=arguments.latency,
        max_sandboxes=arguments.max_sandboxes,
        rate=arguments.rate,
        memory=arguments.memory,
    )
    asyncio.run(_serve(settings))
    return 0


async def _serve(settings: Settings) -> None:
    from .server import Emulator

    emulator = Emulator(settings)
    try:
        port = await emulator.start()
    except OSError as exc:
        raise ConfigurationError(f"The emulator cannot listen at {settings.host}:{settings.port}: {exc}") from exc
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    print(_explained(settings, port), flush=True)
    await ended.wait()
    await emulator.close()


def _explained(settings: Settings, port: int) -> str:
    scheme = "https" if settings.certificate_file else "http"
    url = f"{scheme}://{settings.host}:{port}"
    return (
        f"The emulator listens at {url}\n"
        f"  kernel:  E2B_API_KEY=local SANDBOX_KERNEL_PROVIDER=e2b with E2BProvider.api_url={url} "
        f"E2BProvider.sandbox_url={url}\n"
        f"  vendor's SDK:  E2B_API_KEY=e2b_{'0' * 40} E2B_API_URL={url} E2B_SANDBOX_URL={url}"
    )

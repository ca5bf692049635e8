"""What gRPC is told before it is imported: in a process of its own, and for versions that are not here."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sandbox_kernel.executor_api import grpc_settings
from sandbox_kernel.executor_api.grpc_settings import KNOWN_VERSIONS, POLLING

ONE_CALL = """
from sandbox_kernel.executor_api import grpc_settings
grpc_settings.set_up()
import asyncio, os, grpc

async def main():
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            await channel.unary_unary("/no/method")(b"")
        except grpc.aio.AioRpcError as exc:
            print(exc.code().name, os.environ.get("GRPC_EXPERIMENTS", ""))
    await server.stop(0)

asyncio.run(main())
"""


def test_grpc_takes_it_and_says_nothing() -> None:
    pytest.importorskip("grpc")
    first, last = KNOWN_VERSIONS
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
    ran = subprocess.run(
        [sys.executable, "-c", ONE_CALL], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    known = first <= grpc_settings._grpc_version() <= last
    assert (ran.stdout.strip(), ran.stderr) == (f"UNIMPLEMENTED {POLLING if known else ''}".strip(), "")


@pytest.mark.parametrize(
    ("version", "wanted"),
    [("1.76.0", POLLING), ("1.85.9rc1", POLLING), ("1.75.1", None), ("1.86.0", None), ("2.0.0", None), ("?", None)],
)
def test_only_known_versions_get_switches(monkeypatch: pytest.MonkeyPatch, version: str, wanted: str | None) -> None:
    for name in ("GRPC_VERBOSITY", "GRPC_EXPERIMENTS"):
        # What is set from here on is taken back.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(grpc_settings, "version", lambda name: version)
    grpc_settings.set_up()
    assert os.environ.get("GRPC_EXPERIMENTS") == wanted
    assert os.environ["GRPC_VERBOSITY"] == "NONE"


def test_what_the_user_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPC_VERBOSITY", "DEBUG")
    monkeypatch.setenv("GRPC_EXPERIMENTS", "")
    grpc_settings.set_up()
    assert (os.environ["GRPC_VERBOSITY"], os.environ["GRPC_EXPERIMENTS"]) == ("DEBUG", "")

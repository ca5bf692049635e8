"""The emulator of AgentCore's Code Interpreter as tests use it: a process of its own, and its switches.

The emulator itself is part of the package (`jupyter sandbox emulate agentcore`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from traitlets.config import Config

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIAEMULATOR00000000",
    "AWS_SECRET_ACCESS_KEY": "emulated-secret-key",
    "AWS_REGION": "us-west-2",
    "AWS_DEFAULT_REGION": "us-west-2",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass
class AgentCore:
    """An emulator that runs."""

    url: str

    def tell(self, switch: str, **content: object) -> Any:
        """Turn one of its switches, or ask for what it knows."""
        body = json.dumps(content).encode()
        request = urllib.request.Request(f"{self.url}/_emulator/{switch}", body)  # noqa: S310 - it is HTTP
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.load(answer)

    def plan(self, kind: str, **details: object) -> None:
        """Have a fault happen."""
        self.tell("faults", kind=kind, **details)

    def behave(self, **changes: object) -> None:
        """Have it behave otherwise."""
        self.tell("behaviour", **changes)

    def calls(self, operation: str = "InvokeCodeInterpreter") -> list[dict[str, Any]]:
        """Return the calls that came, since it was reset."""
        return [call for call in self.tell("calls") if operation in ("", call["operation"])]

    def config(self, **options: object) -> Config:
        """Return a configuration of kernels that use it."""
        own = {"endpoint_url": self.url, "region": "us-west-2", **options}
        return Config({"AgentCoreProvider": own, "Workspace": {"mode": "private"}})

    @property
    def environment(self) -> dict[str, str]:
        """What boto3 and the vendor's package need to find it."""
        return {
            **CREDENTIALS,
            "AWS_ENDPOINT_URL_BEDROCK_AGENTCORE": self.url,
            "AWS_ENDPOINT_URL_BEDROCK_AGENTCORE_CONTROL": self.url,
            "BEDROCK_AGENTCORE_DP_ENDPOINT": self.url,
            "BEDROCK_AGENTCORE_CP_ENDPOINT": self.url,
        }


@contextmanager
def emulating(folder: Path, *options: str) -> Iterator[AgentCore]:
    """Run an emulator; what it prints goes to a file in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "JUPYTER_DATA_DIR": str(folder), "JUPYTER_RUNTIME_DIR": str(folder)}
    with (folder / "emulator.log").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "sandbox_kernel.cli", "emulate", "agentcore", "--quiet", *options],
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline().decode()
            assert "http://" in line, (folder / "emulator.log").read_text()
            yield AgentCore(line.split()[-1])
        finally:
            process.terminate()
            process.wait(20)
            process.stdout.close()

"""Users whose kernels have sandboxes that outlive them: what holds these, and the folder with their settings.

`KeeperWorld` holds plain processes and breaks connections when it is told to; `ExecutorWorld` is a real executor
behind a proxy that does that.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from sandbox_kernel.records import RecordFile, SessionRecord
from tests.keeper import tell
from tests.ports import write_connection

from .client import PATIENCE, KernelProcess, kernel_environment, spawn_with

ROOT = Path(__file__).parent.parent.parent
ENTRY = "[sandbox_kernel.providers]\nkeeper = tests.keeper:KeeperProvider\n"


class World(ABC):
    """One user with some kernels."""

    provider: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kernels: list[KernelProcess] = []
        self.records = RecordFile(folder / "data" / "sandbox" / "sessions.sqlite")

    # ---- the sandboxes

    @property
    @abstractmethod
    def sandboxes(self) -> list[str]:
        """The ids of those that there are."""

    @abstractmethod
    def cut(self) -> None:
        """Break the connections that there are."""

    @abstractmethod
    def part(self) -> None:
        """Break them, and let no others be made."""

    @abstractmethod
    def join(self) -> None:
        """Let connections be made again."""

    @abstractmethod
    def kill_sandbox(self, sandbox_id: str) -> None:
        """End one with all that runs in it, as an accident does."""

    # ---- the kernels

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Return the provider's options."""

    def environment(self) -> dict[str, str]:
        """Return what kernels and commands need in their environment."""
        return {}

    def kernel(self, name: str = "a", *arguments: str, notebook: str = "") -> KernelProcess:
        """Start a kernel process; NAME is its connection file's."""
        path = self.folder / f"{name}.json"
        environment = self.environment()
        if notebook:
            environment["JPY_SESSION_NAME"] = notebook
        if not path.exists():
            write_connection(path)
        options = [f"--{self._section}.{name}={value}" for name, value in self.options().items()]
        kernel = spawn_with(path, "--provider", self.provider, *options, *arguments, environment=environment)
        self.kernels.append(kernel)
        return kernel

    def shutdown_policy(self, policy: str) -> str:
        """Return the option that says what becomes of sandboxes on shutdown."""
        return f"--SandboxSession.on_shutdown={json.dumps({self.provider: policy})}"

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `jupyter sandbox …` as this user."""
        config = self.folder / "config"
        config.mkdir(exist_ok=True)
        (config / "jupyter_sandbox_config.json").write_text(json.dumps({self._section: self.options()}))
        return subprocess.run(
            [sys.executable, "-m", "sandbox_kernel.cli", *arguments],
            env={**kernel_environment(self.folder), **self.environment()},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )

    @property
    def _section(self) -> str:
        return f"{self.provider.capitalize()}Provider"

    # ---- the records

    def record(self, sandbox_id: str) -> SessionRecord:
        """What is recorded of a sandbox."""
        (found,) = self.records.find(sandbox_id)
        return found

    def sandbox_of(self, kernel: KernelProcess) -> str:
        """The id of the sandbox that a kernel process has, which it may just be writing down."""
        ids: list[str] = []

        def find() -> bool:
            ids[:] = [record.sandbox_id for record in self.records.all() if record.kernel_pid == kernel.pid]
            return bool(ids)

        self.until(find)
        return ids[0]

    def until(self, condition: Callable[[], Any]) -> None:
        """Wait for something."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def log(self) -> str:
        """What the kernels have logged."""
        return "".join(path.read_text() for path in (self.folder / "runtime").glob("*.log"))

    def close(self) -> None:
        """End it all."""
        for kernel in self.kernels:
            if kernel.process.poll() is None:
                kernel.process.kill()
            kernel.end()


class KeeperWorld(World):
    """The sandboxes are processes that a process of the tests holds."""

    provider = "keeper"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.address = str(folder / "keeper")
        self._plugins = folder / "plugins"
        info = self._plugins / "keeper-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: keeper\nVersion: 1\n")
        (info / "entry_points.txt").write_text(ENTRY)
        self._keeper = subprocess.Popen(
            [sys.executable, "-m", "tests.keeper", self.address],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.readline()

    @property
    def sandboxes(self) -> list[str]:
        ids: list[str] = tell(self.address, "list")["ids"]
        return ids

    def cut(self) -> None:
        tell(self.address, "cut")

    def part(self) -> None:
        tell(self.address, "cut", away=True)

    def join(self) -> None:
        tell(self.address, "cut")

    def kill_sandbox(self, sandbox_id: str) -> None:
        psutil.Process(tell(self.address, "find", id=sandbox_id)["pid"]).kill()

    def options(self) -> dict[str, Any]:
        return {"address": self.address}

    def environment(self) -> dict[str, str]:
        return {"PYTHONPATH": f"{self._plugins}{os.pathsep}{ROOT}"}

    def close(self) -> None:
        super().close()
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.close()
        self._keeper.stdout.close()
        self._keeper.wait()


class ExecutorWorld(World):
    """The sandboxes are an executor's, in their isolation."""

    provider = "executor"

    def __init__(self, folder: Path) -> None:
        # Imported here: without grpc there is still the keeper.
        from tests.chaos.proxy import ChaosProxy
        from tests.executor_process import ExecutorProcess

        super().__init__(folder)
        self.executor = ExecutorProcess(folder / "executor")
        self.proxy = ChaosProxy(lambda: ("127.0.0.1", self.executor.port))
        self.changed: dict[str, Any] = {}
        """Options that are others for the next kernel or command."""

    @property
    def sandboxes(self) -> list[str]:
        return asyncio.run(self._list())

    async def _list(self) -> list[str]:
        from sandbox_kernel.providers.executor.provider import ExecutorProvider

        provider = ExecutorProvider(config=self.executor.config())
        return [record.sandbox_id for record in await provider.list()]

    def cut(self) -> None:
        self.proxy.break_off()

    def part(self) -> None:
        self.proxy.break_off(refuse=True)

    def join(self) -> None:
        self.proxy.go_on()

    def kill_sandbox(self, sandbox_id: str) -> None:
        # Which process is whose, only the executor knows.
        assert self.sandboxes == [sandbox_id]
        assert self.executor.process is not None
        for process in psutil.Process(self.executor.process.pid).children():
            process.kill()

    def options(self) -> dict[str, Any]:
        return {
            "address": f"localhost:{self.proxy.port}",
            "key_file": self.executor.key_file(),
            "keepalive": 1.0,
            "keepalive_timeout": 1.0,
            **self.changed,
        }

    def close(self) -> None:
        super().close()
        self.proxy.close()
        self.executor.end()


WORLDS: dict[str, type[World]] = {"keeper": KeeperWorld, "executor": ExecutorWorld}

"""Executors for tests: `jupyter sandbox serve` as a process of its own, with keys, certificates and options."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from traitlets.config import Config

PATIENCE = 60.0
"""Seconds after which a test gives up; nothing takes so long."""


class ExecutorProcess:
    """A running executor whose files lie in one folder."""

    def __init__(self, folder: Path, address: str = "127.0.0.1:0", **sections: Mapping[str, Any]) -> None:
        """SECTIONS are those of its configuration: ``Executor={"max_sandboxes": 2}``."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "executor.log"
        self._config = folder / "executor.json"
        executor = {"keys_file": str(folder / "keys"), "drain_timeout": 0.2, **sections.pop("Executor", {})}
        self._config.write_text(json.dumps({"Executor": executor, **sections}))
        self.keys: dict[str, str] = {}
        self.add_key("ann")
        self._address = address
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.start()

    @property
    def address(self) -> str:
        """Where clients find it."""
        return f"localhost:{self.port}"

    def start(self) -> None:
        """Start it, on the same port as before where it has had one."""
        host = self._address.rpartition(":")[0]
        command = ["serve", "--config", str(self._config), "--address"]
        self.process = self._run([*command, f"{host}:{self.port}" if self.port else self._address])
        self.port = self._wait_for_port(len(self.events("listening")) if self.port else 0)

    def configure(self, executor: Mapping[str, Any]) -> None:
        """Change its options, for the next start."""
        config = json.loads(self._config.read_text())
        config["Executor"].update(executor)
        self._config.write_text(json.dumps(config))

    def add_key(self, owner: str) -> str:
        """Make a key for an owner; return it."""
        command = [sys.executable, "-m", "sandbox_kernel.cli", "key", "add", "--config", str(self._config), owner]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)
        self.keys[owner] = done.stdout.strip()
        return self.keys[owner]

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the lines of its log that tell of this event."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        events = [json.loads(line) for line in lines if line.startswith("{")]
        return [event for event in events if event["event"] == name]

    def terminate(self) -> int:
        """Have it drain and end; return its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """End it without a word."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """End it, so that no test burdens the next."""
        if self.process is None or self.process.poll() is not None:
            return
        left = psutil.Process(self.process.pid).children(recursive=True)
        # A second signal ends the waiting for clients.
        for _ in range(2):
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
        psutil.wait_procs(left, timeout=5)

    def config(self, owner: str = "ann", **options: Any) -> Config:
        """Return a configuration of the provider, for tests without a kernel process."""
        given = {"address": self.address, "key_file": self.key_file(owner), **options}
        # Most tests look at an empty work folder; the notebook's has tests of its own.
        return Config(ExecutorProvider=given, Workspace={"mode": "private"})

    def key_file(self, owner: str = "ann") -> str:
        """Return the path of a file with an owner's key."""
        file = self.folder / f"key-{owner}"
        file.touch(mode=0o600)
        file.write_text(self.keys[owner])
        return str(file)

    def arguments(self, **options: Any) -> list[str]:
        """Return the command line of a kernel process that uses it."""
        given = {"address": self.address, "key_file": self.key_file(), **options}
        return ["--provider=executor", *(f"--ExecutorProvider.{name}={value}" for name, value in given.items())]

    def _run(self, words: list[str]) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "sandbox_kernel.cli", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={name: value for name, value in os.environ.items() if not name.startswith("SANDBOX_")},
                start_new_session=True,
            )

    def _wait_for_port(self, before: int) -> int:
        assert self.process is not None
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = re.findall(r"listens on port (\d+)", self.log.read_text())
            if len(found) > before:
                return int(found[-1])
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)
        raise AssertionError(f"the executor does not start: {self.log.read_text()}")


@contextmanager
def serving(folder: Path, **sections: Mapping[str, Any]) -> Iterator[ExecutorProcess]:
    """Give an executor for one block."""
    executor = ExecutorProcess(folder, **sections)
    try:
        yield executor
    finally:
        executor.end()

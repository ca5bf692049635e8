"""A real Ray cluster of two nodes for tests: started by Ray's own command line, ended node by node."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.ports import free_port

PATIENCE = 120.0
MIB = 1024**2
_PORTS = (
    "node-manager-port object-manager-port runtime-env-agent-port dashboard-agent-listen-port "
    "dashboard-agent-grpc-port metrics-export-port"
).split()


class Node:
    """One node: its raylet and what that started."""

    def __init__(self, name: str, folder: Path, *options: str, cpus: int, environment: dict[str, str]) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        ports = [f"--{one}={free_port()}" for one in _PORTS]
        sizes = [f"--num-cpus={cpus}", f"--memory={4096 * MIB}", f"--object-store-memory={80 * MIB}"]
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--node-name={name}"),
            *("--node-ip-address=127.0.0.1", "--disable-usage-stats", "--min-worker-port=0"),
            # Workers take what the system gives them.
            *("--max-worker-port=0", *ports, *sizes, *options),
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def kill(self) -> None:
        """End the whole node without a word, as where its machine fails."""
        family = [self.process, *_children(self.process.pid)]
        for one in family:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                one.kill()
        self.process.wait()
        psutil.wait_procs([one for one in family if isinstance(one, psutil.Process)], timeout=10)


class RayCluster:
    """A head node and another one. `ray://` is served by the head's client server."""

    def __init__(self, folder: Path, *, cpus: int = 8) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # Sockets lie in it, whose paths may have a hundred characters.
        self.temporary = Path(tempfile.mkdtemp(prefix="rt", dir="/tmp"))
        self.temporary.chmod(0o755)
        self.cpus = cpus
        self.port, self.client_port = free_port(), free_port()
        # A token of this cluster's own: Ray listens on every interface, and whoever reaches it runs programs. Neither
        # does it depend then on what the user who tests has set up for other clusters.
        self.access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.urandom(32).hex()}
        self._environment = {**_environment(), **self.access}
        self._number = 1
        self.head = Node(
            "head",
            folder,
            *("--head", f"--port={self.port}", f"--ray-client-server-port={self.client_port}"),
            *("--include-dashboard=false", f"--temp-dir={self.temporary}"),
            cpus=cpus,
            environment=self._environment,
        )
        self._nodes = [self.head]
        try:
            self._wait(self.head, "Ray runtime started")
            self.second = self.add_node()
        except BaseException:
            self.end()
            raise

    @property
    def address(self) -> str:
        """Where it is for this machine."""
        return f"127.0.0.1:{self.port}"

    @property
    def client_address(self) -> str:
        """Where it is for other machines."""
        return f"ray://127.0.0.1:{self.client_port}"

    def add_node(self, *options: str) -> Node:
        """Start another node."""
        self._number += 1
        node = Node(
            f"node{self._number}",
            self.folder,
            f"--address={self.address}",
            *options,
            cpus=self.cpus,
            environment=self._environment,
        )
        self._nodes.insert(0, node)
        self._wait(node, "Ray runtime started")
        return node

    def hosts(self) -> list[psutil.Process]:
        """Return the processes of the sandboxes' actors."""
        family = [one for node in self._nodes for one in _children(node.process.pid)]
        return [one for one in family if _title(one).startswith("ray::SandboxHost")]

    def options(self, **options: Any) -> dict[str, Any]:
        """The options of a provider that uses it."""
        return {"address": self.address, "cpus": 1, **options}

    def arguments(self, **options: Any) -> list[str]:
        """The command line of a kernel process that uses it."""
        given = self.options(**options)
        return ["--provider=ray", *(f"--RayProvider.{name}={value}" for name, value in given.items())]

    def _wait(self, node: Node, words: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while words not in node.log.read_text(errors="replace"):
            assert node.process.poll() is None, node.log.read_text(errors="replace")
            assert time.monotonic() < deadline, f"{node.name} does not start: {node.log.read_text(errors='replace')}"
            time.sleep(0.1)

    def end(self) -> None:
        """End it all."""
        # At once: to leave in order takes Ray seconds, and nothing of it is kept.
        for node in self._nodes:
            node.kill()
        shutil.rmtree(self.temporary, ignore_errors=True)


@contextmanager
def clustered(folder: Path, *, cpus: int = 8) -> Iterator[RayCluster]:
    """Give a cluster for one block, in which this process, and those that it starts, may use it."""
    cluster = RayCluster(folder, cpus=cpus)
    before = {name: os.environ.get(name) for name in cluster.access}
    os.environ.update(cluster.access)
    try:
        yield cluster
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        cluster.end()


def _children(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def _title(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess, IndexError):
        return str(process.cmdline()[0])
    return ""


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "JUPYTER_", "SANDBOX_"))}
    # A node that has died is noticed within seconds; ours is a small machine, which need not be asked how it is.
    quick = {"health_check_period_ms": "500", "health_check_timeout_ms": "2000", "health_check_failure_threshold": "4"}
    return {
        **kept,
        **{f"RAY_{name}": value for name, value in quick.items()},
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_memory_monitor_refresh_ms": "0",
        # A machine on which much else is tested takes longer than Ray waits for itself.
        "RAY_raylet_start_wait_time_s": "100",
        # Processes that are started ahead take the time of those that are wanted.
        "RAY_prestart_worker_first_driver": "0",
        "RAY_enable_worker_prestart": "0",
    }

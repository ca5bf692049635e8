"""Kernel processes, started from their kernelspec as a front end starts them, each the same way."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager
from tests.ports import CHANNELS, free_port

from kernel_bench.wire import SilentKernelError, Wire

STOP_SECONDS = 10


@dataclass(frozen=True)
class Contender:
    """One kernelspec that takes part, with options of its own, and the folder its processes work in."""

    name: str
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    folder: Path

    @classmethod
    def of(cls, text: str, folder: Path) -> Contender:
        """`NAME` or `NAME --option ...`; NoSuchKernel if no kernelspec has the name."""
        name, *options = shlex.split(text)
        spec = KernelSpecManager().get_kernel_spec(name)
        argv = [word.replace("{resource_dir}", spec.resource_dir) for word in (*spec.argv, *options)]
        interpreter = sys.executable if argv[0] in {"python", "python3"} else argv[0]
        return cls(name + "+" * bool(options), (interpreter, *argv[1:]), tuple(spec.env.items()), folder)


class Kernel:
    """One running kernel process with a client connected to it."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        self._folder = Path(tempfile.mkdtemp(prefix="kernel-", dir=contender.folder))
        for name in ("work", "tmp"):
            (self._folder / name).mkdir()
        self.connection_file = self._folder / "connection.json"
        self.connection = _connection()
        self.connection_file.write_text(json.dumps(self.connection))
        self.connection_file.chmod(0o600)
        self.spawn()

    def spawn(self) -> None:
        """Start the process (again) and a client that connects as soon as the ports are there."""
        self.spawned = time.perf_counter()
        argv = [word.replace("{connection_file}", str(self.connection_file)) for word in self.contender.argv]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder / "work",
                env=self._environment(),
                start_new_session=True,
            )
        self.wire = Wire(self.connection, lambda: self._process.poll() is None)

    def _environment(self) -> dict[str, str]:
        # A fresh IPython folder, so that neither the user's start-up files nor a large history take part;
        # a temporary folder of its own, as ipykernel leaves things there.
        return {
            **os.environ,
            **dict(self.contender.env),
            "JPY_PARENT_PID": str(os.getpid()),
            "IPYTHONDIR": str(self.contender.folder / "ipython"),
            "TMPDIR": str(self._folder / "tmp"),
        }

    @property
    def pid(self) -> int:
        """Process id of the kernel process itself."""
        return self._process.pid

    def shut_down(self, *, restart: bool = False) -> None:
        """Ask for the end and wait for it; a kernel that does not go within 10 s is an error."""
        self.wire.request("control", "shutdown_request", {"restart": restart}, STOP_SECONDS)
        self._process.wait(STOP_SECONDS)
        self.wire.close()

    def close(self) -> None:
        """End the process in any case, by its own handle."""
        if self._process.poll() is None:
            with suppress(TimeoutError, subprocess.TimeoutExpired):
                self.shut_down()
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(STOP_SECONDS)
        self.wire.close()

    def log_tail(self, lines: int = 5) -> str:
        """The last lines the process wrote to its terminal."""
        return "\n".join((self._folder / "log").read_text(errors="replace").splitlines()[-lines:])


def _connection() -> dict[str, Any]:
    ports = {f"{channel}_port": free_port() for channel in CHANNELS}
    return {
        **ports,
        "ip": "127.0.0.1",
        "transport": "tcp",
        "key": str(uuid.uuid4()),
        "signature_scheme": "hmac-sha256",
    }


@contextmanager
def spawned(contender: Contender) -> Iterator[Kernel]:
    """A kernel whose process has just been started; it may not be ready."""
    kernel = Kernel(contender)
    try:
        yield kernel
    except SilentKernelError as exc:
        if exc.wire is not kernel.wire:
            raise
        raise TimeoutError(f"{contender.name}: {exc}; its log ends: {kernel.log_tail() or '(empty)'}") from exc
    finally:
        kernel.close()


@contextmanager
def running(contenders: Sequence[Contender]) -> Iterator[list[Kernel]]:
    """One kernel of each contender, ready: its first cells have run."""
    with ExitStack() as stack:
        kernels = [stack.enter_context(spawned(contender)) for contender in contenders]
        for kernel in kernels:
            kernel.wire.run("1")
        yield kernels

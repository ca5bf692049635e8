"""Does in the arena what a test asks for, a line of JSON at a time: runs programs and cells, starts kernels, looks."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .kernels import Kernel
from .world import World

CONTROL_TIMEOUT = 30


class Driver:
    """Each public method is a request; what it returns is the answer."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._base = Path(plan["base"])
        self._world = World(self._base, os.environ["AWS_SECRET_ACCESS_KEY"], plan["address"])
        self._kernels: dict[str, Kernel] = {}
        self._kernelspec = plan["kernelspec"]
        self._inherited = self._open_what_is_inherited()

    def _open_what_is_inherited(self) -> list[int]:
        """A careless parent leaves these open in what it starts: a secret file, its folder, one end of a connection."""
        facts = self._world.facts
        files = [os.open(facts["home_secret"], os.O_RDONLY), os.open(facts["home"], os.O_RDONLY)]
        self._connection = socket.socketpair()
        return [*files, self._connection[1].fileno()]

    # -- attacks

    def facts(self) -> dict[str, Any]:
        return self._world.facts

    def observe(self) -> dict[str, Any]:
        return self._world.observe()

    def run_outside(self, program: str, expected_trace: str = "") -> dict[str, Any]:
        """Run the program as the user who would start the kernel; tell what it printed and what changed out here."""
        path = self._base / "control.py"
        path.write_text(program)
        with self._traces(expected_trace) as traces:
            done = subprocess.run(
                [sys.executable, str(path)],
                cwd=self._world.facts["notebook_folder"],
                pass_fds=self._inherited,
                stdin=self._world.terminal_end,
                check=False,
                capture_output=True,
                text=True,
                timeout=CONTROL_TIMEOUT,
                start_new_session=True,
            )
        return {"stdout": done.stdout, "stderr": done.stderr, "traces": traces}

    def run_cell_and_observe(self, kernel: str, code: str, timeout: float) -> dict[str, Any]:
        with self._traces() as traces:
            outcome = self._kernels[kernel].run(code, timeout)
        return outcome | {"traces": traces}

    @contextlib.contextmanager
    def _traces(self, expected: str = "") -> Iterator[list[str]]:
        """Fill the list with the names of the observations that changed meanwhile."""
        traces: list[str] = []
        before = self._world.observe()
        yield traces
        deadline = time.monotonic() + (2 if expected else 0)
        while True:
            after = self._world.observe()
            changed = [name for name in before if _differ(before[name], after[name])]
            if expected in (*changed, "") or time.monotonic() > deadline:
                break
            time.sleep(0.01)
        traces.extend(changed)
        self._world.tidy()

    # -- kernels

    def start_kernel(self, name: str, options: list[str]) -> dict[str, Any]:
        facts = self._world.facts
        connection_file = f"{facts['runtime_folder']}/kernel-{name}-{len(self._kernels)}.json"
        kernel = Kernel(self._kernelspec, options, facts["notebook_folder"], connection_file, self._world.secret)
        kernel.start(pass_fds=self._inherited, stdin=self._world.terminal_end, stderr=self._world.terminal_end)
        self._kernels[name] = kernel
        facts["kernel_pid"] = kernel.pid
        return {"pid": kernel.pid}

    def run_cell(self, kernel: str, code: str, timeout: float) -> dict[str, Any]:
        return self._kernels[kernel].run(code, timeout)

    def begin_cell(self, kernel: str, code: str, until: str, timeout: float) -> dict[str, Any]:
        """Run a cell until it has printed the text; it goes on by itself."""
        return self._kernels[kernel].begin(code, until, timeout)

    def stop_kernel(self, kernel: str) -> None:
        self._kernels[kernel].stop()

    def forget_kernel(self, kernel: str) -> None:
        """Let go of a kernel that the test ended in its own way."""
        self._kernels.pop(kernel).forget()

    # -- the machine

    def send_signal(self, pids: list[int], number: int) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.Signals(number))

    def processes(self) -> dict[str, dict[str, Any]]:
        """Return all processes of the arena, those in sandboxes included, by process id."""
        names = [path.name for path in Path("/proc").glob("[0-9]*")]
        return {name: found for name in names if (found := _process(int(name)))}

    def mounts(self) -> list[str]:
        return [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]

    def existing(self, paths: list[str]) -> list[str]:
        return [path for path in paths if os.path.lexists(path)]

    def write_file(self, path: str, text: str) -> None:
        Path(path).write_text(text)

    def control_groups(self, paths: list[str]) -> list[str]:
        """Return which of these control groups (as a process's `cgroup` file names them) exist in any hierarchy."""
        hierarchies = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*/")]
        return [path for path in paths if any((root / path.lstrip("/")).is_dir() for root in hierarchies)]

    def make_room_slowly(self, megabytes: int) -> None:
        """Somebody else gives room on the disk back, about 100 MB each second; returns when it begins."""
        path = self._base / "room"
        with path.open("wb") as file:
            for _ in range(megabytes):
                file.write(bytes(1 << 20))
            os.fsync(file.fileno())

        def shrink() -> None:
            for left in range(megabytes, 0, -4):
                os.truncate(path, left << 20)
                time.sleep(0.04)
            path.unlink()

        threading.Thread(target=shrink).start()

    def files(self, folder: str) -> list[str]:
        # Walked in a way that does not mind when a folder goes away meanwhile.
        return sorted(f"{path}/{name}" for path, folders, names in os.walk(folder) for name in (*folders, *names))


def _differ(before: Any, after: Any) -> bool:
    if isinstance(before, dict):
        return any(before[name] != after[name] for name in before if name in after)
    return bool(before != after)


def _process(pid: int) -> dict[str, Any] | None:
    folder = Path(f"/proc/{pid}")
    try:
        # The name in parentheses may hold anything; the state follows it.
        state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        groups = [line.split(":", 2)[1:] for line in (folder / "cgroup").read_text().splitlines()]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return {"parent": int(parent), "state": state, "command": command, "cgroups": groups}


def main(plan: dict[str, Any]) -> None:
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    # Whatever else prints or reads must not reach the test's pipes.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    driver = Driver(plan)
    for line in requests:
        request = json.loads(line)
        try:
            answer = {"result": getattr(driver, request["request"])(**request["arguments"])}
        except Exception as exc:  # noqa: BLE001 - the test is told
            answer = {"error": f"{type(exc).__name__}: {exc}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

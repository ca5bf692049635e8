"""The inner ipykernel as the bridge sees it: a process group, its connection file and five sockets."""

from __future__ import annotations

import os
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# Imported, not run as a script, which Python would compile each time.
LAUNCH = f"import sys; sys.path[0] = {ROOT!r}; from sandbox_kernel.bridge.launcher import main; main()"
STDERR_TAIL = 2000
"""Bytes of the process's own error output that are reported when it dies."""
SIGINT, SIGKILL = 2, 9
"""As POSIX has them; the module signal would bring enum along."""
NUDGES = (0.05, 0.25, 1.0)
"""Seconds after an interrupt at which Python is made to look for it (see `InnerKernel.nudge`)."""
PORTS = {"shell": 1, "iopub": 2, "stdin": 3, "control": 4, "hb": 5}

TYPE_CHECKING = False
if TYPE_CHECKING:
    # The real one is not imported: every import comes before the kernel's start.
    from typing import Any


class InnerKernel:
    """One life of the ipykernel, from its spawning on. Nothing but os is needed for that."""

    def __init__(self, runtime: str, number: int, options: list[str], *, lively: bool = False) -> None:
        """``lively``: it is to say whether something goes on when its cells have ended."""
        self.ready = False
        self.sockets: dict[str, Any] = {}
        self._exit_code: int | None = None
        self._nudges: list[float] = []
        self._address = f"{runtime}/kernel-{number}"
        self._stderr = f"{self._address}.stderr"
        self.tools = f"{self._address}-tools"
        """Where the bridge takes the calls of this life's cells."""
        self._lively = f"{self._address}-lively"
        if lively:
            with open(self._lively, "wb") as file:
                file.write(b"0")
        # No key: the transport is private to this sandbox, and a cell could read the key anyway.
        ports = "".join(f', "{name}_port": {port}' for name, port in PORTS.items())
        with open(f"{self._address}.json", "w", encoding="utf-8") as file:
            file.write(f'{{"transport": "ipc", "ip": "{self._address}", "key": ""{ports}}}')
        self.ready_fd, child_end = os.pipe()
        self.pid = self._spawn(child_end, options)
        os.close(child_end)

    def _spawn(self, child_end: int, options: list[str]) -> int:
        os.set_inheritable(child_end, True)
        command = [sys.executable, "-c", LAUNCH, str(child_end), "-f", f"{self._address}.json"]
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        return os.posix_spawn(
            sys.executable,
            [*command, "--HistoryManager.hist_file=:memory:", *options],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, self._stderr, flags, 0o600),
            ],
            # A group of its own, so that an interrupt reaches what the cell started and not the bridge.
            setsid=True,
            # Whatever the bridge does with it, an interrupt finds Python's own handling in the kernel.
            setsigdef=[SIGINT],
        )

    def is_lively(self) -> bool:
        """Whether something of the cells' goes on, such as a thread."""
        try:
            with open(self._lively, "rb") as file:
                return file.read(1) == b"1"
        except OSError:
            return False

    def connect(self, context: Any) -> None:
        """Open the sockets. Call it when READY_FD said that the other ends are bound."""
        import zmq

        os.close(self.ready_fd)
        self.ready_fd = -1
        for name in ("iopub", "shell", "stdin", "control", "aside"):
            sock = context.socket(zmq.SUB if name == "iopub" else zmq.DEALER)
            sock.linger = 0
            if name == "iopub":
                sock.rcvhwm = 50
                sock.subscribe(b"")
            else:
                # Without limits: flow is controlled by the link, and by what ZeroMQ keeps on the kernel's side.
                sock.sndhwm = sock.rcvhwm = 0
                sock.identity = b"aside" if name == "aside" else b"bridge"
            port = PORTS["control" if name == "aside" else name]
            sock.connect(f"ipc://{self._address}-{port}")
            self.sockets[name] = sock

    def interrupt(self) -> None:
        """SIGINT to the whole process group."""
        self._signal(SIGINT)
        now = time.monotonic()
        self._nudges = [now + delay for delay in NUDGES]

    @property
    def nudge_due(self) -> float | None:
        """The monotonic time at which `nudge` is to be called next."""
        return self._nudges[0] if self._nudges else None

    def nudge(self, now: float) -> None:
        """Make Python's main thread look for an interrupt, if one was sent a moment ago.

        A signal that comes just before the thread begins to wait, or that another thread takes, is noted and wakes
        nobody. This one, which launcher.py makes a handler for that does nothing, ends the wait, and nothing else.
        """
        if self._nudges and now >= self._nudges[0]:
            import signal

            del self._nudges[0]
            if self.exit_code() is None:
                os.kill(self.pid, signal.SIGURG)

    def kill(self) -> None:
        """SIGKILL to the whole process group. Idempotent."""
        self._signal(SIGKILL)

    def _signal(self, number: int) -> None:
        if self.exit_code() is None:
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                pass

    def exit_code(self, *, wait: bool = False) -> int | None:
        """Exit status, negative for a signal; None while it lives."""
        if self._exit_code is None:
            pid, status = os.waitpid(self.pid, 0 if wait else os.WNOHANG)
            if pid:
                self._exit_code = os.waitstatus_to_exitcode(status)
        return self._exit_code

    def last_words(self) -> str:
        """Return the end of what the process wrote to its own standard error."""
        try:
            with open(self._stderr, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - STDERR_TAIL))
                return file.read(STDERR_TAIL).decode(errors="replace").strip()
        except OSError:
            return ""

    def close(self) -> None:
        """Kill it, close the sockets and remove its files."""
        self.ready = False
        self.kill()
        self.exit_code(wait=True)
        for sock in self.sockets.values():
            sock.close()
        self.sockets.clear()
        if self.ready_fd >= 0:
            os.close(self.ready_fd)
            self.ready_fd = -1
        paths = [f"{self._address}-{port}" for port in PORTS.values()]
        for path in (f"{self._address}.json", self._stderr, self._lively, *paths):
            if os.path.exists(path):
                os.unlink(path)

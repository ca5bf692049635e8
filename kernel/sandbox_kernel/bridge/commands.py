"""Programs that the bridge runs, such as the shell of `%sandbox shell`, their output sent on while they run."""

from __future__ import annotations

import os
import signal
import subprocess

READ_SIZE = 64 * 1024


class ShellCommand:
    """One command in a process group of its own; its output and errors in one pipe, in the order of writing."""

    def __init__(self, number: int, arguments: list[str]) -> None:
        self.number = number
        self._process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._pipe = self._process.stdout
        os.set_blocking(self.fd, False)

    @property
    def fd(self) -> int:
        """The pipe to poll."""
        return self._pipe.fileno()

    def read(self) -> bytes | None:
        """Return output that is there; b"" at its end; None if there is none now."""
        try:
            return os.read(self.fd, READ_SIZE)
        except BlockingIOError:
            return None

    def finish(self) -> int:
        """Wait for the process, whose output has ended, and return its exit status."""
        self._pipe.close()
        return self._process.wait()

    def exited(self) -> bool:
        """Whether the shell itself has ended; what it left in the background may still hold the pipe."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """End it and what it started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)

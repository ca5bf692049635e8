"""Runs a shell command behind a terminal, inside an emulator's sandbox, as executeCommand does.

Arguments: "die" or "live" (what becomes of processes that are left), the command. Standard output and errors are one
stream with the line ends of a terminal; the exit status is the command's.
"""

from __future__ import annotations

import os
import sys

PR_SET_CHILD_SUBREAPER, SIGKILL = 36, 9
BLOCK = 65536


def main() -> None:
    """Run it."""
    children, command = sys.argv[1:3]
    if children == "die":
        # What a command leaves behind, daemons too, becomes a child of this process.
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    leader, follower = os.openpty()
    pid = os.fork()
    if not pid:
        os.close(leader)
        _login_tty(follower)
        os.execv("/bin/sh", ["sh", "-c", command])  # noqa: S606 - it is the shell
    os.close(follower)
    _copy(leader, pid)
    _, status = os.waitpid(pid, 0)
    if children == "die":
        _kill_rest()
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _login_tty(follower: int) -> None:
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(follower, termios.TIOCSCTTY, 0)
    for fd in range(3):
        os.dup2(follower, fd)
    if follower > 2:
        os.close(follower)


def _copy(leader: int, pid: int) -> None:
    """Pass on what comes until the shell has ended and nothing more is there."""
    import select

    while True:
        ready, _, _ = select.select([leader], [], [], 0.02)
        if ready:
            try:
                data = os.read(leader, BLOCK)
            except OSError:
                # Nobody holds the terminal any more.
                return
            if not data:
                return
            view = memoryview(data)
            while view:
                view = view[os.write(1, view) :]
        elif _has_ended(pid):
            return


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill_rest() -> None:
    """Kill every process that descends from this one, until there is none."""
    while True:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            children = [int(number) for number in file.read().split()]
        if not children:
            return
        for child in children:
            os.kill(child, SIGKILL)
            os.waitpid(child, 0)


if __name__ == "__main__":
    main()

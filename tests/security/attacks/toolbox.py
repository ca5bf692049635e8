"""What an attack is made of. Imports the standard library only: the text of this file travels into the sandbox."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import re
import select
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

World = Mapping[str, Any]
"""What the test prepared outside: paths, ports, process ids. Never the secret itself."""
Verdict = tuple[bool, str]
"""Whether the attack succeeded, and what it saw."""

SECRET = re.compile(rb"host-secret-[0-9a-f]{32}")
PATIENCE = 5.0
"""Seconds that an attack waits for anything."""
BLOCKED = (OSError, MemoryError)
"""Errors by which a system refuses. Any other error is a fault of the attack and fails the test."""

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


class UnavailableError(Exception):
    """This machine has not got what the attack is about, so nobody could succeed on it."""


@dataclass(frozen=True)
class Attack:
    """One thing that a cell must not be able to do."""

    name: str
    function: Callable[[World], Verdict]
    root: bool = False
    """Only the real root can do it outside the sandbox, so there is no control as anybody else."""
    real_root: bool = False
    """Outside, it takes a program that becomes root, which a user namespace of the test's own would not let happen."""
    harmless: bool = False
    """Not an attack: it must succeed in a cell too."""
    ends_sandbox: bool = False
    """Inside, a watchdog may have to end the whole sandbox to stop it."""
    trace: str = ""
    """The observation from outside (`world.py`) that changes when it succeeds."""

    @property
    def module(self) -> str:
        return self.function.__module__


ATTACKS: dict[str, Attack] = {}


def attack(**properties: Any) -> Callable[[Callable[[World], Verdict]], Callable[[World], Verdict]]:
    """Register the function as an attack named like it, with properties of `Attack`."""

    def register(function: Callable[[World], Verdict]) -> Callable[[World], Verdict]:
        ATTACKS[function.__name__] = Attack(function.__name__, function, **properties)
        return function

    return register


def run(name: str, world: World) -> dict[str, Any]:
    """Run one attack. `succeeded` is None where the machine has not got what the attack is about."""
    try:
        succeeded, detail = ATTACKS[name].function(world)
    except UnavailableError as exc:
        return {"succeeded": None, "detail": str(exc)}
    except BLOCKED as exc:
        return {"succeeded": False, "detail": f"{type(exc).__name__}: {exc}"}
    return {"succeeded": succeeded, "detail": detail}


def stolen(loot: bytes, otherwise: str = "no secret in what was read") -> Verdict:
    """Judge a theft by what it brought."""
    found = SECRET.search(loot)
    return (True, found.group().decode()) if found else (False, otherwise)


def read(path: str, limit: int = 1 << 22, dir_fd: int | None = None) -> bytes:
    """Read a file without ever waiting for it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=dir_fd)
    found = b""
    try:
        # Some files of /proc give a page at a time.
        while len(found) < limit and (more := os.read(descriptor, limit - len(found))):
            found += more
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)
    return found


def steal_any(paths: Iterable[str]) -> Verdict:
    """Read each of the paths until one holds the secret."""
    refused = "nothing to read"
    for path in paths:
        try:
            found, detail = stolen(read(path))
        except BLOCKED as exc:
            refused = str(exc)
            continue
        if found:
            return True, f"{detail} from {path}"
    return False, refused


def first_success(attempt: Callable[[str], Any], names: Iterable[str]) -> Verdict:
    """Make the attempt with each name until one raises nothing, and tell which."""
    refusals = []
    for name in names:
        try:
            attempt(name)
        except BLOCKED as exc:
            refusals.append(f"{name}: {exc}")
        else:
            return True, name
    return False, "; ".join(refusals) or "nothing to try"


def must(verdict: Verdict) -> Verdict:
    """Turn a failure into an error, for use among attempts."""
    if not verdict[0]:
        raise OSError(verdict[1])
    return verdict


def open_and_close(path: str, flags: int = os.O_RDONLY) -> None:
    os.close(os.open(path, flags))


def process_ids() -> list[int]:
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def checked(result: int, what: str) -> int:
    """Turn a C function's -1 into the error it stands for."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


_NUMBERS = {
    # Numbers from 424 on are the same on every architecture.
    "x86_64": {"bpf": 321, "userfaultfd": 323, "perf_event_open": 298, "add_key": 248, "keyctl": 250, "mknodat": 259},
    "aarch64": {"bpf": 280, "userfaultfd": 282, "perf_event_open": 241, "add_key": 217, "keyctl": 219, "mknodat": 33},
}
_COMMON = {
    "io_uring_setup": 425,
    "fsopen": 430,
    "pidfd_open": 434,
    "clone3": 435,
    "pidfd_getfd": 438,
    "memfd_secret": 447,
}


def system_call(name: str, *arguments: Any) -> int:
    """Make a system call that Python and the C library do not offer."""
    numbers = _COMMON | _NUMBERS.get(platform.machine(), {})
    if name not in numbers:
        raise UnavailableError(f"the number of {name} on {platform.machine()} is not known here")
    as_longs = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = libc.syscall(ctypes.c_long(numbers[name]), *as_longs)
    return checked(int(result), name)


def in_child(function: Callable[[], Verdict], seconds: float = PATIENCE) -> Verdict:
    """Run a part of an attack that changes or may end its process in a child, for a bounded time."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _answer_and_exit(function, writing)
    os.close(writing)
    try:
        if not select.select([reading], [], [], seconds)[0]:
            return False, f"no answer within {seconds} s"
        answer = os.read(reading, 1 << 16)
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    if not answer:
        return False, f"the child ended with wait status {status}"
    succeeded, detail = json.loads(answer)
    if succeeded is None:
        raise UnavailableError(detail)
    return succeeded, detail


def _answer_and_exit(function: Callable[[], Verdict], writing: int) -> None:
    try:
        verdict: tuple[bool | None, str] = function()
    except UnavailableError as exc:
        verdict = None, str(exc)
    except BLOCKED as exc:
        verdict = False, f"{type(exc).__name__}: {exc}"
    except BaseException as exc:  # noqa: BLE001
        # Not a refusal: the parent must fail too, so it gets an answer that it cannot read.
        os.write(writing, repr(exc).encode())
        os._exit(1)
    os.write(writing, json.dumps(verdict).encode())
    os._exit(0)

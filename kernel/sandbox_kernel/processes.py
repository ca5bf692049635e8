"""Whether the process that wrote a process id down is the one that has this id now."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def start_mark(pid: int) -> str:
    """Return a text that tells this life of a process id from any other one; "" if no such process runs."""
    if pid <= 0:
        return ""
    if sys.platform == "linux":
        return _linux_mark(pid)
    if sys.platform == "win32":
        return _windows_mark(pid)
    found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def is_same_process(pid: int, mark: str) -> bool:
    """Whether the process that `start_mark` was asked about still runs."""
    return mark != "" and start_mark(pid) == mark


def host_name() -> str:
    """Return this machine's name, which tells it from others that share the home folder."""
    import socket

    return socket.gethostname()


def _linux_mark(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        return ""
    # The name, in brackets, may hold blanks and brackets itself; field 3 (state) is the first one after it.
    state, *fields = stat[stat.rindex(")") + 2 :].split()
    # Field 22: clock ticks from boot to the start of the process.
    return "" if state in "ZX" else f"{boot[:8]}-{fields[18]}"


def _windows_mark(pid: int) -> str:
    if sys.platform != "win32":
        return ""
    import ctypes
    from ctypes import wintypes

    query_limited_information, still_active = 0x1000, 259
    kernel32 = ctypes.WinDLL("kernel32")
    kernel32.OpenProcess.restype = wintypes.HANDLE
    handle = wintypes.HANDLE(kernel32.OpenProcess(query_limited_information, False, pid))
    if not handle:
        return ""
    code, times = wintypes.DWORD(), [wintypes.FILETIME() for _ in range(4)]
    try:
        known = kernel32.GetExitCodeProcess(handle, ctypes.byref(code)) and code.value == still_active
        known = known and kernel32.GetProcessTimes(handle, *(ctypes.byref(one) for one in times))
    finally:
        kernel32.CloseHandle(handle)
    return f"{times[0].dwHighDateTime}-{times[0].dwLowDateTime}" if known else ""

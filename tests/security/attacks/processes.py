"""Attacks on the processes of the host."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

from .toolbox import (
    Verdict,
    World,
    attack,
    checked,
    first_success,
    in_child,
    libc,
    process_ids,
    read,
    steal_any,
    stolen,
    system_call,
)

PTRACE_PEEKDATA, PTRACE_ATTACH, PTRACE_DETACH = 2, 16, 17


@attack()
def sees_a_process_of_the_host(world: World) -> Verdict:
    marker = world["victim_marker"].encode()
    seen = [pid for pid in process_ids() if pid != os.getpid() and marker in _command_line(pid)]
    return bool(seen), f"processes {seen}"


def _command_line(pid: int) -> bytes:
    try:
        return read(f"/proc/{pid}/cmdline")
    except OSError:
        return b""


@attack(trace="victim signals")
def signals_a_process_of_the_host(world: World) -> Verdict:
    os.kill(world["victim_pid"], signal.SIGUSR1)
    return True, "sent"


@attack(trace="victim signals")
def signals_a_process_of_the_host_by_descriptor(world: World) -> Verdict:
    process = os.pidfd_open(world["victim_pid"])
    try:
        signal.pidfd_send_signal(process, signal.SIGUSR1)
    finally:
        os.close(process)
    return True, "sent"


@attack()
def signals_what_holds_the_sandbox(world: World) -> Verdict:
    """The process that started this one outside, by its number there. Signal 0 only asks whether one could."""
    os.kill(world["kernel_pid"], 0)
    return True, "could be signalled"


@attack()
def reads_memory_by_ptrace(world: World) -> Verdict:
    pid, address, size = world["victim_pid"], world["victim_address"], world["victim_size"]
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    libc.ptrace.restype = ctypes.c_long

    def trace() -> Verdict:
        checked(libc.ptrace(PTRACE_ATTACH, pid, None, None), "attach")
        os.waitpid(pid, 0x40000000)
        words = (libc.ptrace(PTRACE_PEEKDATA, pid, address + offset, None) for offset in range(0, size, 8))
        loot = b"".join((word & 0xFFFFFFFFFFFFFFFF).to_bytes(8, sys.byteorder) for word in words)
        checked(libc.ptrace(PTRACE_DETACH, pid, None, None), "detach")
        return stolen(loot)

    return in_child(trace)


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


@attack()
def reads_memory_by_process_vm_readv(world: World) -> Verdict:
    size = world["victim_size"]
    buffer = ctypes.create_string_buffer(size)
    local, remote = _Vector(ctypes.addressof(buffer), size), _Vector(world["victim_address"], size)
    arguments = (world["victim_pid"], ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    checked(libc.process_vm_readv(*arguments), "process_vm_readv")
    return stolen(buffer.raw)


@attack()
def writes_memory_by_process_vm_writev(world: World) -> Verdict:
    text = ctypes.create_string_buffer(b"written by an attack")
    local, remote = _Vector(ctypes.addressof(text), 8), _Vector(world["victim_scratch_address"], 8)
    arguments = (world["victim_pid"], ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    return checked(libc.process_vm_writev(*arguments), "process_vm_writev") == 8, "written"


@attack()
def reads_memory_by_its_file(world: World) -> Verdict:
    descriptor = os.open(f"/proc/{world['victim_pid']}/mem", os.O_RDONLY)
    try:
        return stolen(os.pread(descriptor, world["victim_size"], world["victim_address"]))
    finally:
        os.close(descriptor)


@attack()
def finds_a_secret_in_the_memory_of_any_process(world: World) -> Verdict:
    """Its own included: what the process had before it became this one may still lie there."""
    pids = [os.getpid()] if world["outside"] else process_ids()
    return next((verdict for verdict in map(_search_memory, pids) if verdict[0]), (False, f"searched {pids}"))


def _search_memory(pid: int) -> Verdict:
    try:
        areas = read(f"/proc/{pid}/maps").decode(errors="replace").splitlines()
        descriptor = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    except OSError as exc:
        return False, str(exc)
    try:
        return next((verdict for area in areas if (verdict := _search_area(descriptor, area))[0]), (False, "no secret"))
    finally:
        os.close(descriptor)


def _search_area(descriptor: int, area: str) -> Verdict:
    span, permissions = area.split()[:2]
    start, end = (int(text, 16) for text in span.split("-"))
    if not permissions.startswith("rw") or end - start > 1 << 26:
        return False, "not searched"
    try:
        return stolen(os.pread(descriptor, end - start, start))
    except (OSError, OverflowError) as exc:
        return False, str(exc)


@attack()
def steals_a_descriptor_of_a_process(world: World) -> Verdict:
    process = system_call("pidfd_open", world["victim_pid"], 0)
    try:
        copy = system_call("pidfd_getfd", process, world["victim_descriptor"], 0)
    finally:
        os.close(process)
    return stolen(os.pread(copy, 4096, 0))


@attack()
def opens_a_descriptor_of_a_process_by_its_path(world: World) -> Verdict:
    return steal_any([f"/proc/{world['victim_pid']}/fd/{world['victim_descriptor']}"])


@attack()
def changes_the_limits_of_a_process(world: World) -> Verdict:
    soft, hard = resource.prlimit(world["victim_pid"], resource.RLIMIT_CORE)
    resource.prlimit(world["victim_pid"], resource.RLIMIT_CORE, (soft, hard))
    return True, "set to what they were"


@attack()
def opens_the_namespace_of_a_process(world: World) -> Verdict:
    """One that is not its own; joining it would be the next step. Outside, a process is in another network."""
    own = os.readlink("/proc/self/ns/net")
    return first_success(lambda path: _open_foreign(path, own), (f"/proc/{pid}/ns/net" for pid in process_ids()))


def _open_foreign(path: str, own: str) -> None:
    if os.readlink(path) == own:
        raise PermissionError(f"{path} is its own")
    os.close(os.open(path, os.O_RDONLY))


@attack(trace="victim niceness")
def slows_a_process_of_the_host_down(world: World) -> Verdict:
    nice = os.getpriority(os.PRIO_PROCESS, world["victim_pid"])
    os.setpriority(os.PRIO_PROCESS, world["victim_pid"], nice + 1)
    return True, f"niceness {nice + 1}"

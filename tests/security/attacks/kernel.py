"""Attacks on the settings of the machine's kernel, and on parts of it that are no business of a cell."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import socket
from collections.abc import Callable

from .toolbox import (
    PATIENCE,
    UnavailableError,
    Verdict,
    World,
    attack,
    checked,
    first_success,
    in_child,
    libc,
    open_and_close,
    read,
    system_call,
)


@attack(root=True)
def may_write_a_setting_of_the_kernel(world: World) -> Verdict:
    """Opens for writing and writes nothing: `core_pattern` alone lets its writer run a program as the host's root."""
    names = (
        "sys/kernel/core_pattern",
        "sys/kernel/modprobe",
        "sysrq-trigger",
        "sys/vm/drop_caches",
        "sys/fs/suid_dumpable",
    )
    return first_success(lambda name: open_and_close(f"/proc/{name}", os.O_WRONLY), names)


@attack(root=True, trace="host name")
def writes_a_setting_of_the_kernel(world: World) -> Verdict:
    """The host's name is one that the throw-away namespaces have for themselves."""
    with open("/proc/sys/kernel/hostname", "w") as file:
        file.write("renamed-by-an-attack")
    return True, "written"


@attack(root=True, trace="host name")
def renames_the_host(world: World) -> Verdict:
    name = b"renamed-by-system-call"
    checked(libc.sethostname(name, len(name)), "sethostname")
    return True, "renamed"


@attack(root=True)
def may_write_what_the_kernel_shows_in_sys(world: World) -> Verdict:
    names = (
        "kernel/mm/transparent_hugepage/enabled",
        "power/state",
        "kernel/uevent_helper",
        "module/printk/parameters/time",
    )
    return first_success(lambda name: open_and_close(f"/sys/{name}", os.O_WRONLY), names)


@attack(root=True)
def reads_the_kernels_memory_or_log(world: World) -> Verdict:
    buffer = ctypes.create_string_buffer(4096)
    read_all = 3
    attempts: dict[str, Callable[[], object]] = {
        "/proc/kcore": lambda: read("/proc/kcore", 64),
        "/dev/kmsg": lambda: read("/dev/kmsg", 4096),
        "klogctl": lambda: checked(libc.klogctl(read_all, buffer, len(buffer)), "klogctl"),
    }
    return first_success(lambda name: attempts[name](), attempts)


@attack(root=True)
def may_make_the_calls_of_an_administrator(world: World) -> Verdict:
    """Each is made with arguments that are refused after the right to call it was checked, so none has an effect."""
    calls: dict[str, tuple[Callable[..., object], tuple[object, ...]]] = {
        "reboot": (libc.syscall, (_number("reboot"), 1, 2, 3, 0)),
        "swapon": (libc.swapon, (None, 0)),
        "delete_module": (libc.delete_module, (None, 0)),
        "init_module": (libc.init_module, (None, 0, None)),
    }
    return first_success(lambda name: _must_be_allowed(*calls[name]), calls)


def _number(name: str) -> ctypes.c_long:
    return ctypes.c_long({"x86_64": 169, "aarch64": 142}.get(platform.machine(), -1))


def _must_be_allowed(function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    function(*arguments)
    if (number := ctypes.get_errno()) in (errno.EPERM, errno.ENOSYS, errno.EACCES):
        raise OSError(number, os.strerror(number))


@attack()
def keeps_a_key_in_the_kernels_keyring(world: World) -> Verdict:
    process_keyring = -2
    number = system_call("add_key", b"user", b"attack", b"text", 4, process_keyring)
    return True, f"key {number}"


@attack(root=True)
def loads_a_program_into_the_kernel(world: World) -> Verdict:
    """A map is the harmless half of it."""
    create_map, array = 0, 2
    attributes = (ctypes.c_uint32 * 32)(array, 4, 4, 1)
    os.close(system_call("bpf", create_map, ctypes.byref(attributes), ctypes.sizeof(attributes)))
    return True, "map made"


@attack()
def watches_the_processor(world: World) -> Verdict:
    software, exclude_kernel_and_hypervisor = 1, 0b1100000
    attributes = (ctypes.c_uint64 * 16)(software | 128 << 32, 0, 0, 0, 0, exclude_kernel_and_hypervisor)
    try:
        os.close(system_call("perf_event_open", ctypes.byref(attributes), 0, -1, -1, 0))
    except OSError as exc:
        if world["outside"] and os.getuid() and exc.errno in (errno.EACCES, errno.EPERM, errno.ENOENT):
            raise UnavailableError("kernel.perf_event_paranoid keeps this from users") from exc
        raise
    return True, "event opened"


@attack()
def handles_page_faults_itself(world: World) -> Verdict:
    user_mode_only = 1
    os.close(_existing(world, "userfaultfd", user_mode_only | os.O_CLOEXEC))
    return True, "opened"


@attack()
def makes_a_ring_of_system_calls(world: World) -> Verdict:
    """Calls made through a ring pass no system call filter."""
    parameters = ctypes.create_string_buffer(120)
    os.close(_existing(world, "io_uring_setup", 1, parameters))
    return True, "made"


def _existing(world: World, name: str, *arguments: object) -> int:
    try:
        return system_call(name, *arguments)
    except OSError as exc:
        if world["outside"] and exc.errno in (errno.ENOSYS, errno.EPERM):
            raise UnavailableError(f"this kernel does not offer {name}") from exc
        raise


@attack()
def passes_the_filter_by_calls_of_a_foreign_architecture(world: World) -> Verdict:
    """A 32-bit call has other numbers; here it asks for a socket that a filter of the 64-bit calls would refuse."""
    if platform.machine() != "x86_64":
        raise UnavailableError("only x86-64 has a second set of calls like this")
    descriptor = in_child(lambda: _opened(_call_32_bit(359, socket.AF_VSOCK, socket.SOCK_STREAM)), PATIENCE)
    if world["outside"] and not descriptor[0]:
        raise UnavailableError("this kernel has no 32-bit calls")
    return descriptor


def _opened(result: int) -> Verdict:
    return result >= 0, f"the call returned {result}"


def _call_32_bit(number: int, first: int, second: int) -> int:
    """Run six machine instructions: load the registers, `int 0x80`, return."""
    parts = (b"\x53\xb8", number, b"\xbb", first, b"\xb9", second, b"\x31\xd2\xcd\x80\x5b\xc3")
    code = b"".join(part.to_bytes(4, "little") if isinstance(part, int) else part for part in parts)
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return int(ctypes.CFUNCTYPE(ctypes.c_int)(address)())


@attack()
def makes_a_secret_area_of_memory(world: World) -> Verdict:
    """Locked memory that no limit of the address space counts until it is mapped."""
    os.close(_existing(world, "memfd_secret", 0))
    return True, "made"

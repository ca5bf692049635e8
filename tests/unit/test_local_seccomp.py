"""The seccomp filter, run by an interpreter of classic BPF as the kernel's documentation describes it."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

import pytest

from sandbox_kernel.providers.local import seccomp
from sandbox_kernel.providers.local.syscalls import LAST_KNOWN, NUMBERS

ALLOWED, KILLED = "allowed", "killed"
MACHINES = ("x86_64", "aarch64")
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def decide(program: bytes, number: int, arguments: tuple[int, ...] = (), arch: int = ARCH["x86_64"]) -> str | int:
    """Return what the filter does with a call: ALLOWED, KILLED or the error's number."""
    filled = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("=iIQ6Q", ctypes.c_int32(number).value, arch, 0, *filled)
    instructions: list[tuple[int, int, int, int]] = list(struct.iter_unpack("=HBBI", program))
    accumulator = position = 0
    while True:
        code, then, otherwise, value = instructions[position]
        position += 1
        if code == 0x20:  # BPF_LD | BPF_W | BPF_ABS
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif code == 0x06:  # BPF_RET | BPF_K
            actions: dict[int, str | int] = {0x7FFF0000: ALLOWED, 0x80000000: KILLED}
            return actions.get(value, value & 0xFFFF)
        else:
            tests = {0x15: accumulator == value, 0x25: accumulator > value, 0x45: bool(accumulator & value)}
            position += then if tests[code] else otherwise


def number_of(name: str, machine: str) -> int:
    number = NUMBERS[name][MACHINES.index(machine)]
    assert number is not None
    return number


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def decision(machine: str, name: str, *arguments: int) -> str | int:
    return decide(seccomp.assemble(machine), number_of(name, machine), arguments, ARCH[machine])


def test_program_fits_what_the_kernel_takes(machine: str) -> None:
    program = seccomp.assemble(machine)
    assert len(program) % 8 == 0
    assert len(program) // 8 <= 4096


@pytest.mark.parametrize("name", ["ptrace", "bpf", "mount", "keyctl", "userfaultfd", "unshare", "setns", "shmget"])
def test_dangerous_call_is_refused(machine: str, name: str) -> None:
    assert decision(machine, name) == errno.EPERM


@pytest.mark.parametrize("name", ["clone3", "memfd_create", "io_uring_setup"])
def test_call_that_has_a_substitute_does_not_exist(machine: str, name: str) -> None:
    assert decision(machine, name) == errno.ENOSYS


def test_call_that_nobody_knew_does_not_exist(machine: str) -> None:
    program = seccomp.assemble(machine)
    assert decide(program, LAST_KNOWN, arch=ARCH[machine]) == ALLOWED
    assert decide(program, LAST_KNOWN + 1, arch=ARCH[machine]) == errno.ENOSYS


def test_ordinary_calls_are_allowed() -> None:
    program = seccomp.assemble("x86_64")
    ordinary = {"read": 0, "mmap": 9, "execve": 59, "futex": 202, "epoll_wait": 232, "pidfd_open": 434}
    assert {decide(program, number) for number in ordinary.values()} == {ALLOWED}


def test_foreign_architecture_and_x32_are_killed() -> None:
    program = seccomp.assemble("x86_64")
    i386 = 0x40000003
    assert decide(program, 0, arch=i386) == KILLED
    assert decide(program, 0x40000000) == KILLED
    assert decide(program, -1) == KILLED
    assert decide(seccomp.assemble("aarch64"), 0, arch=ARCH["x86_64"]) == KILLED


@pytest.mark.parametrize("flag", [0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000])
def test_clone_into_a_new_namespace_is_refused(machine: str, flag: int) -> None:
    thread = 0x003D0F00
    assert decision(machine, "clone", thread) == ALLOWED
    assert decision(machine, "clone", thread | flag) == errno.EPERM


@pytest.mark.parametrize(
    ("family", "protocol", "decided"),
    [
        (1, 0, ALLOWED),  # AF_UNIX
        (2, 0, ALLOWED),  # AF_INET
        (2, 6, ALLOWED),  # TCP
        (10, 17, ALLOWED),  # AF_INET6, UDP
        (2, 262, errno.EPROTONOSUPPORT),  # MPTCP
        (2, 132, errno.EPROTONOSUPPORT),  # SCTP
        (16, 0, ALLOWED),  # AF_NETLINK, routing
        (16, 12, errno.EPROTONOSUPPORT),  # AF_NETLINK, netfilter
        (40, 0, errno.EAFNOSUPPORT),  # AF_VSOCK
        (38, 0, errno.EAFNOSUPPORT),  # AF_ALG
        (17, 0, errno.EAFNOSUPPORT),  # AF_PACKET
    ],
)
def test_sockets_are_of_few_kinds(machine: str, family: int, protocol: int, decided: str | int) -> None:
    stream = 1
    assert decision(machine, "socket", family, stream, protocol) == decided
    # The kernel reads 32 bits of each.
    assert decision(machine, "socket", family | 1 << 32, stream, protocol | 1 << 40) == decided


def test_input_cannot_be_pushed_into_a_terminal(machine: str) -> None:
    tiocsti, tcgets = 0x5412, 0x5401
    assert decision(machine, "ioctl", 0, tcgets) == ALLOWED
    assert decision(machine, "ioctl", 0, tiocsti) == errno.EPERM
    assert decision(machine, "ioctl", 0, tiocsti | 1 << 32) == errno.EPERM


def test_further_calls_can_be_refused(machine: str) -> None:
    number = number_of("sched_setaffinity", machine)
    assert decide(seccomp.assemble(machine), number, arch=ARCH[machine]) == ALLOWED
    assert decide(seccomp.assemble(machine, ["sched_setaffinity"]), number, arch=ARCH[machine]) == errno.EPERM


@pytest.mark.skipif(not seccomp.supports(os.uname().machine), reason="there is no filter for this machine")
def test_numbers_are_those_of_this_machine() -> None:
    """The numbers of calls that glibc knows by name, checked by what they do."""
    libc = ctypes.CDLL(None, use_errno=True)
    column = MACHINES.index(os.uname().machine)
    # Calls with arguments that fail in a way of their own, so that no other call is taken for them.
    failing = {"setns": ((-1, 0), errno.EBADF), "umount2": ((b"/nowhere", 0), errno.ENOENT)}
    for name, (arguments, expected) in failing.items():
        ctypes.set_errno(0)
        assert libc.syscall(NUMBERS[name][column], *arguments) == -1
        assert ctypes.get_errno() in (expected, errno.EPERM)

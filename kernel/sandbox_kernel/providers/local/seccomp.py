"""The seccomp filter of a local sandbox: a small assembler for classic BPF, and the program it makes.

A network namespace and an empty set of capabilities leave doors that only a filter shuts: AF_VSOCK, the kernel's key
rings, io_uring, userfaultfd, bpf, and memory that no limit counts (memfd, System V). See docs/security.md.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence

from sandbox_kernel.providers.local.syscalls import LAST_KNOWN, NUMBERS

# struct seccomp_data (linux/seccomp.h): int nr; __u32 arch; __u64 instruction_pointer; __u64 args[6].
_NUMBER, _ARCH, _ARG = 0, 4, (16, 24, 32)

# linux/bpf_common.h
_LOAD, _EQUAL, _GREATER, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06

# linux/seccomp.h
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000

# linux/audit.h, and the column in NUMBERS
ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_X32 = 0x40000000

_CLONE_NEW = 0x7E020000
"""Every CLONE_NEW* flag that clone(2) takes."""
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16
_INET_PROTOCOLS = (0, 1, 6, 17, 58)
"""Default, ICMP, TCP, UDP, ICMPv6. Others (SCTP, DCCP, MPTCP, raw) would load modules of the host's kernel."""

_REFUSED = """
    ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp pidfd_getfd bpf perf_event_open
    userfaultfd keyctl add_key request_key mount umount2 pivot_root chroot move_mount open_tree open_tree_attr
    fsopen fsconfig fsmount fspick mount_setattr statmount listmount unshare setns init_module finit_module
    delete_module create_module query_module get_kernel_syms kexec_load kexec_file_load reboot swapon swapoff acct
    quotactl quotactl_fd settimeofday clock_settime adjtimex clock_adjtime sethostname setdomainname syslog vhangup
    iopl ioperm modify_ldt uselib ustat sysfs _sysctl name_to_handle_at open_by_handle_at fanotify_init vmsplice
    move_pages migrate_pages personality mq_open shmget semget msgget lookup_dcookie nfsservctl
""".split()
"""EPERM."""

_ABSENT = ["io_uring_setup", "io_uring_enter", "io_uring_register", "clone3", "memfd_create", "memfd_secret"]
"""ENOSYS: callers have another way. glibc then uses clone, whose flags a filter can read."""


class _Program:
    """Instructions with labels, which are resolved at the end."""

    def __init__(self) -> None:
        self._instructions: list[tuple[int, int, str, str]] = []
        self._labels: dict[str, int] = {}

    def label(self, name: str) -> None:
        self._labels[name] = len(self._instructions)

    def load(self, offset: int) -> None:
        self._instructions.append((_LOAD, offset, "", ""))

    def jump(self, test: int, value: int, then: str, otherwise: str = "") -> None:
        """Jump to a label if the test holds, else to the other; an empty name is the next instruction."""
        self._instructions.append((test, value, then, otherwise))

    def give(self, action: int) -> None:
        self._instructions.append((_RETURN, action, "", ""))

    def refuse(self, number: int) -> None:
        self.give(_ERRNO | number)

    def assemble(self) -> bytes:
        # struct sock_filter (linux/filter.h): __u16 code; __u8 jt; __u8 jf; __u32 k. Jumps are relative.
        return b"".join(
            struct.pack("=HBBI", code, self._distance(index, then), self._distance(index, otherwise), value)
            for index, (code, value, then, otherwise) in enumerate(self._instructions)
        )

    def _distance(self, index: int, name: str) -> int:
        return self._labels[name] - index - 1 if name else 0


def supports(machine: str) -> bool:
    """Whether there is a filter for this machine, as `os.uname().machine` names it."""
    return machine in ARCHITECTURES


def assemble(machine: str, also_refused: Sequence[str] = ()) -> bytes:
    """Return the filter for `bwrap --seccomp`: an array of ``struct sock_filter``."""
    arch, column = ARCHITECTURES[machine]
    program = _Program()
    program.load(_ARCH)
    program.jump(_EQUAL, arch, "", "kill")
    program.load(_NUMBER)
    if machine == "x86_64":
        program.jump(_GREATER, _X32 - 1, "kill")
    program.jump(_GREATER, LAST_KNOWN, "absent")
    checked = {"clone": "clone", "socket": "socket", "ioctl": "ioctl"}
    refused = dict.fromkeys([*_REFUSED, *also_refused], "refused")
    for name, label in {**checked, **refused, **dict.fromkeys(_ABSENT, "absent")}.items():
        number = NUMBERS[name][column]
        if number is not None:
            program.jump(_EQUAL, number, label)
    program.give(_ALLOW)
    _check_arguments(program)
    _finish(program)
    return program.assemble()


def _check_arguments(program: _Program) -> None:
    program.label("clone")
    program.load(_ARG[0])
    program.jump(_ANY_BIT, _CLONE_NEW, "refused", "allow")
    program.label("ioctl")
    program.load(_ARG[1])
    program.jump(_EQUAL, _TIOCSTI, "refused")
    program.jump(_EQUAL, _TIOCLINUX, "refused", "allow")
    program.label("socket")
    program.load(_ARG[0])
    program.jump(_EQUAL, _UNIX, "allow")
    program.jump(_EQUAL, _INET, "inet")
    program.jump(_EQUAL, _INET6, "inet")
    # libzmq and getifaddrs(3) need the routing protocol, which is 0; the others are kernel surface.
    program.jump(_EQUAL, _NETLINK, "", "family")
    program.load(_ARG[2])
    program.jump(_EQUAL, 0, "allow", "protocol")
    program.label("inet")
    program.load(_ARG[2])
    for protocol in _INET_PROTOCOLS:
        program.jump(_EQUAL, protocol, "allow")
    program.label("protocol")
    program.refuse(errno.EPROTONOSUPPORT)


def _finish(program: _Program) -> None:
    program.label("allow")
    program.give(_ALLOW)
    program.label("refused")
    program.refuse(errno.EPERM)
    program.label("absent")
    program.refuse(errno.ENOSYS)
    program.label("family")
    program.refuse(errno.EAFNOSUPPORT)
    program.label("kill")
    program.give(_KILL_PROCESS)

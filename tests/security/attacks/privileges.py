"""Attacks that try to gain rights: namespaces of their own, mounts, set-user-id programs, capabilities."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import time
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
    must,
    open_and_close,
    read,
    system_call,
)

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x00020000, 0x10000000, 0x20000000
CLONE_FLAGS = {"user": CLONE_NEWUSER, "mount": CLONE_NEWNS, "process": CLONE_NEWPID}
FSOPEN_CLOEXEC = 1
CAP_SYS_RESOURCE = 24


@attack()
def makes_a_user_namespace_by_unshare(world: World) -> Verdict:
    return in_child(_unshare_user)


def _unshare_user() -> Verdict:
    checked(libc.unshare(CLONE_NEWUSER), "unshare")
    return True, "made"


@attack()
def makes_a_user_namespace_by_clone3(world: World) -> Verdict:
    """A filter cannot look into this call's arguments, which lie in memory."""

    def clone() -> Verdict:
        # struct clone_args: flags first, the signal at its end fifth.
        arguments = (ctypes.c_uint64 * 11)(CLONE_NEWUSER, 0, 0, 0, signal.SIGCHLD)
        child = system_call("clone3", ctypes.byref(arguments), ctypes.sizeof(arguments))
        if child == 0:
            os._exit(0)
        return True, f"process {child} is in one"

    return in_child(clone)


@attack()
def mounts_over_a_folder(world: World) -> Verdict:
    folder = os.path.realpath(".")
    attempts = {
        "directly": lambda: must(in_child(lambda: _mount(folder))),
        "in a user namespace": lambda: must(in_child(lambda: _mount_in_user_namespace(folder))),
    }
    return first_success(lambda name: attempts[name](), attempts)


def _mount(folder: str) -> Verdict:
    checked(libc.mount(b"none", folder.encode(), b"tmpfs", 0, b"size=4k"), "mount")
    libc.umount2(folder.encode(), 2)
    return True, "mounted"


def _mount_in_user_namespace(folder: str) -> Verdict:
    checked(libc.unshare(CLONE_NEWUSER | CLONE_NEWNS), "unshare")
    return _mount(folder)


@attack()
def opens_a_file_system_by_the_new_mount_calls(world: World) -> Verdict:
    attempts: dict[str, Callable[[], Verdict]] = {
        "directly": _open_file_system,
        "in a user namespace": lambda: must(in_child(_open_file_system_in_user_namespace)),
    }
    return first_success(lambda name: attempts[name](), attempts)


def _open_file_system() -> Verdict:
    os.close(system_call("fsopen", b"tmpfs", FSOPEN_CLOEXEC))
    return True, "opened"


def _open_file_system_in_user_namespace() -> Verdict:
    checked(libc.unshare(CLONE_NEWUSER | CLONE_NEWNS), "unshare")
    return _open_file_system()


@attack(root=True)
def removes_a_mount(world: World) -> Verdict:
    """Of its own namespace: what is mounted read-only or hidden there may have something else below."""

    def unmount() -> Verdict:
        points = [line.split()[4] for line in read("/proc/self/mountinfo").decode().splitlines()]
        if world["outside"]:
            # One of its own making: the machine's are left alone.
            checked(libc.unshare(CLONE_NEWNS), "unshare")
            checked(libc.mount(b"none", world["playground"].encode(), b"tmpfs", 0, b"size=4k"), "mount")
            points = [world["playground"]]
        return first_success(lambda path: checked(libc.umount2(path.encode(), 2), path), reversed(points))

    return in_child(unmount)


@attack(root=True)
def makes_a_mount_writable(world: World) -> Verdict:
    """Remounts what is read-only, or binds it elsewhere."""
    remount, bind = 0x20 | 0x1000, 0x1000

    def change() -> Verdict:
        points = ["/", "/usr"]
        if world["outside"]:
            checked(libc.unshare(CLONE_NEWNS), "unshare")
            points = [world["playground"]]
            checked(libc.mount(points[0].encode(), points[0].encode(), None, bind, None), "bind")
        return first_success(lambda path: checked(libc.mount(None, path.encode(), None, remount, None), path), points)

    return in_child(change)


@attack(real_root=True)
def runs_a_program_that_becomes_root(world: World) -> Verdict:
    """`su` waits for a password; meanwhile its effective user is looked at."""
    program = next((path for path in ("/usr/bin/su", "/bin/su") if os.path.exists(path)), "")
    if not program:
        raise UnavailableError("this machine has no su")
    return _becomes_root(program), program


def _becomes_root(program: str) -> bool:
    quiet = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([program], **quiet) as child:  # type: ignore[call-overload]
        try:
            deadline = time.monotonic() + PATIENCE
            while child.poll() is None and time.monotonic() < deadline:
                if _effective_user(child.pid) == 0:
                    return True
        finally:
            child.stdin.close()
            child.kill()
    return False


def _effective_user(pid: int) -> int:
    lines = read(f"/proc/{pid}/status").decode().splitlines()
    return next(int(line.split()[2]) for line in lines if line.startswith("Uid:"))


@attack()
def may_gain_rights_by_running_a_program(world: World) -> Verdict:
    """What a set-user-id program needs: the process has not given up new privileges."""
    return libc.prctl(39, 0, 0, 0, 0) == 0, "no_new_privs is not set"


@attack(root=True)
def has_a_capability(world: World) -> Verdict:
    sets = {name: _capabilities(name) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    return any(sets.values()), str({name: hex(value) for name, value in sets.items()})


def _capabilities(name: str) -> int:
    lines = read("/proc/self/status").decode().splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith(f"{name}:"))


@attack(root=True)
def becomes_another_user(world: World) -> Verdict:
    def become() -> Verdict:
        target = 0 if os.getuid() else 12345
        os.setresuid(target, target, target)
        return True, f"user {target}"

    return in_child(become)


@attack(root=True)
def joins_a_group(world: World) -> Verdict:
    def join() -> Verdict:
        os.setgroups([0, 6])
        return True, "groups set"

    return in_child(join)


@attack(root=True)
def leaves_its_control_group(world: World) -> Verdict:
    """Opening the file that moves processes is enough; nothing is moved."""
    folders = [folder for folder, _, names in os.walk("/sys/fs/cgroup") if "cgroup.procs" in names][:50]
    if not folders and world["outside"]:
        raise UnavailableError("no control groups are mounted on this machine")
    return first_success(lambda folder: open_and_close(f"{folder}/cgroup.procs", os.O_WRONLY), folders)


@attack(root=True)
def raises_a_limit(world: World) -> Verdict:
    def raise_one() -> Verdict:
        if world["outside"]:
            if not _capabilities("CapEff") & 1 << CAP_SYS_RESOURCE:
                raise UnavailableError("this machine's root may not raise limits either")
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        names = ("RLIMIT_NPROC", "RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_AS", "RLIMIT_CORE")
        return first_success(lambda name: _raise(getattr(resource, name)), names)

    return in_child(raise_one)


def _raise(which: int) -> None:
    soft, hard = resource.getrlimit(which)
    if hard == resource.RLIM_INFINITY:
        raise OSError("is infinite")
    try:
        resource.setrlimit(which, (soft, hard + 1))
    except ValueError as exc:
        raise OSError(str(exc)) from exc

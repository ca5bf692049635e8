"""Root mode: mounts in which the files of the notebook's owner belong to the sandbox's user.

In root mode cells run as a user that owns nothing. An id-mapped mount (mount_setattr(2), Linux 5.19 under an overlay)
shows him the owner's files as his own; what he writes lies in the layer, so nothing of the owner's is changed.
"""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

from sandbox_kernel.providers.local.syscalls import NUMBERS
from sandbox_kernel.providers.local.view import View
from sandbox_kernel.workspace.layers import Layer

_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_REC, _MS_SLAVE = 0x4000, 0x80000
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_MOUNT_ATTR_IDMAP = 0x00100000
_LAST_ID = 0xFFFFFFFE


@dataclass(frozen=True)
class MappedMount:
    """A folder to be mounted with another owner."""

    source: str
    target: str
    user: int
    """Who owns the files on the disk."""
    group: int


def lend(view: View, layer: Layer | None, private: str, user: int, *, mapped: bool) -> Callable[[], None] | None:
    """Let the notebook's folder and its layer belong to ``user``; return what mounts the folder so, if anything has to.

    Where there are no such mounts, he may change those of the notebook's files that everyone may, and replace those in
    folders that the layer has.
    """
    if layer is not None and os.stat(layer.upper).st_uid != user:
        subprocess.run(["chown", "-hR", f"{user}:{user}", layer.upper], check=True, capture_output=True)
    if not mapped:
        return None
    owner = os.stat(view.source)
    target = os.path.join(private, "lower")
    os.mkdir(target)
    source, view.source = view.source, target
    return mounting([MappedMount(source, target, owner.st_uid, owner.st_gid)], user)


def mounting(mounts: Sequence[MappedMount], user: int) -> Callable[[], None]:
    """Return what mounts these, with ``user`` for the owner, in a mount namespace of the process that calls it.

    It raises OSError where the kernel or the file system cannot do it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    machine = ("x86_64", "aarch64").index(os.uname().machine)
    number = {name: NUMBERS[name][machine] for name in ("open_tree", "mount_setattr", "move_mount")}

    def check(result: int) -> int:
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result

    def mount() -> None:
        check(libc.unshare(_CLONE_NEWNS))
        check(libc.mount(None, b"/", None, _MS_REC | _MS_SLAVE, None))
        for one in mounts:
            namespace = _user_namespace(lambda: check(libc.unshare(_CLONE_NEWUSER)), one, user)
            flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC
            tree = check(libc.syscall(number["open_tree"], _AT_FDCWD, os.fsencode(one.source), flags))
            attributes = struct.pack("QQQQ", _MOUNT_ATTR_IDMAP, 0, 0, namespace)
            check(libc.syscall(number["mount_setattr"], tree, b"", _AT_EMPTY_PATH, attributes, len(attributes)))
            target = os.fsencode(one.target)
            check(libc.syscall(number["move_mount"], tree, b"", _AT_FDCWD, target, _MOVE_MOUNT_F_EMPTY_PATH))
            os.close(tree)
            os.close(namespace)

    return mount


def _user_namespace(unshare: Callable[[], object], mount: MappedMount, user: int) -> int:
    """Return a descriptor of a user namespace that exchanges the owner and ``user``."""
    entered, waiting = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(waiting[1])
            unshare()
            os.write(entered[1], b"1")
            os.read(waiting[0], 1)
        finally:
            os._exit(0)
    os.close(entered[1])
    os.close(waiting[0])
    with closing(os.fdopen(entered[0], "rb")) as told, closing(os.fdopen(waiting[1], "wb")):
        if not told.read(1):
            raise OSError("the kernel makes no user namespace")
        for name, owner in (("uid_map", mount.user), ("gid_map", mount.group)):
            with open(f"/proc/{child}/{name}", "w", encoding="ascii") as file:
                file.write(_exchange(owner, user))
        namespace = os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    os.waitpid(child, 0)
    return namespace


def _exchange(first: int, second: int) -> str:
    """Return a map of ids in which two have changed places, and all others stay."""
    lines, position = [], 0
    for low, other in sorted([(first, second), (second, first)]):
        if low > position:
            lines.append((position, position, low - position))
        if low >= position:
            lines.append((low, other, 1))
        position = low + 1
    lines.append((position, position, _LAST_ID - position))
    return "".join(f"{inside} {outside} {count}\n" for inside, outside, count in lines)
